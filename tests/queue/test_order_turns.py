"""Fairness between owners and grouping by model, as counts over a simulated line."""

from collections import Counter
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from diffusion_local.queue.order import FairShares, QueueHead, choose_head


class Simulated:
    """A line of (owner, model) jobs, and one worker that takes them."""

    def __init__(self, jobs: list[tuple[str, str]], streak: int = 16) -> None:
        self.line = [QueueHead(str(place), owner, model, place) for place, (owner, model) in enumerate(jobs)]
        self.turns, self.loaded, self.streak, self.loads = FairShares(), "", streak, 0

    def take(self) -> QueueHead:
        heads: dict[tuple[str, str], QueueHead] = {}
        for job in self.line:
            heads.setdefault((job.owner, job.model), job)
        head, passed_over = choose_head(heads.values(), self.turns, self.loaded, self.streak)
        self.turns = self.turns.after(head, passed_over, self.loaded)
        self.loads += head.model != self.loaded
        self.loaded = head.model
        self.line.remove(head)
        return head

    def taken(self, count: int) -> list[QueueHead]:
        return [self.take() for _ in range(count)]


def test_owners_take_turns_however_many_jobs_each_has() -> None:
    line = Simulated([("ann", "m")] * 90 + [("bob", "m")] * 10)
    assert [job.owner for job in line.taken(20)] == ["ann", "bob"] * 10
    assert {job.owner for job in line.taken(10)} == {"ann"}


def test_one_who_comes_late_is_next_and_gets_no_credit_for_the_time_before() -> None:
    line = Simulated([("ann", "m")] * 100)
    line.taken(50)
    line.line += [QueueHead(f"bob{place}", "bob", "m", 1000 + place) for place in range(50)]
    assert Counter(job.owner for job in line.taken(20)) == {"ann": 10, "bob": 10}


def test_owners_with_different_models_get_equal_shares_with_few_loads() -> None:
    line = Simulated([("ann", "a"), ("bob", "b")] * 200)
    assert abs(Counter(job.owner for job in line.taken(340))["ann"] - 170) <= 17
    assert line.loads <= 340 / 16


def test_two_owners_of_one_model_and_one_of_another_get_a_third_each() -> None:
    line = Simulated([("ann", "a"), ("bob", "a"), ("cid", "c")] * 200)
    shares = Counter(job.owner for job in line.taken(450))
    assert all(abs(count - 150) <= 17 for count in shares.values()), shares


def test_a_model_that_is_mixed_into_a_list_is_not_loaded_for_each_picture() -> None:
    mixed = Simulated([("", "a"), ("", "b")] * 200)
    mixed.taken(400)
    assert mixed.loads <= 400 / 16
    plain = Simulated([("", "a"), ("", "b")] * 200, streak=0)
    plain.taken(400)
    assert plain.loads == 400  # what it would be without


OWNERS, MODELS = st.sampled_from("abc"), st.sampled_from("xyz")


@given(st.lists(st.tuples(OWNERS, MODELS), min_size=1, max_size=60), st.integers(0, 5))
def test_all_are_taken_once_and_between_two_loads_few_are_out_of_turn(jobs: list[tuple[str, str]], streak: int) -> None:
    line = Simulated(jobs, streak)
    taken, out_of_turn, loads = [], 0, 0
    while line.line:
        due = min((job for job in line.line), key=line.turns.rank)
        taken.append(line.take())
        if line.loads > loads:
            loads, out_of_turn = line.loads, 0
        out_of_turn += taken[-1] is not due
        assert out_of_turn <= streak
    assert sorted(int(job.job_id) for job in taken) == list(range(len(jobs)))


@given(st.lists(st.tuples(OWNERS, MODELS), min_size=1, max_size=60))
def test_without_grouping_no_two_owners_with_work_differ_by_more_than_one(jobs: list[tuple[str, str]]) -> None:
    line = Simulated(jobs, streak=0)
    served: Counter[str] = Counter()
    while {job.owner for job in line.line} == {owner for owner, _ in jobs}:
        served[line.take().owner] += 1
        assert max(served.values()) - min(served[owner] for owner, _ in jobs) <= 1


def test_a_model_among_two_owners_jobs_of_another_is_not_put_off_for_ever() -> None:
    line = Simulated([("bob", "b")] + [("ann", "a"), ("bob", "a")] * 300)
    line.loaded = "a"
    assert [job.model for job in line.taken(50)].index("b") <= 2 * 16 + 1


def waits(interleave: Callable[[int], bool], streak: int) -> int:
    """The longest time, in picks of the lane, for which the job whose turn it is waits beside a busy other model."""
    line = Simulated([("", "a")] * 300 + [("", "b")], streak)
    line.line.insert(1, line.line.pop())  # second in line by position too
    line.line = [QueueHead(job.job_id, "", job.model, place) for place, job in enumerate(line.line)]
    for pick in range(301):
        if interleave(pick):
            line.loaded = "a"  # an interactive job of the other lane had it loaded
        if line.take().model == "b":
            return pick
    raise AssertionError


def test_a_streak_is_bounded_also_when_interactive_jobs_load_the_model_anew() -> None:
    assert waits(lambda pick: False, 16) == 17
    assert waits(lambda pick: pick % 10 == 0, 16) == 17
    assert waits(lambda pick: True, 16) == 17
