"""What a person can ask for, over the real database: what is acknowledged is kept, what is refused leaves nothing."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from diffusion_local.compose import House, open_house
from diffusion_local.domain import Lane, State
from diffusion_local.errors import Conflict, InvalidParams, NotFound, QueueBlocked, QueueFull, UserError
from diffusion_local.options.values import MAX_SEED
from diffusion_local.store.batch_rows import BatchRows
from diffusion_local.studio import Studio
from tests.options.test_validate import png
from tests.support import FAILURE, claimed, image_of, soon, sql
from tests.test_catalog import model_folder


def nothing_is_there(house: House) -> bool:
    with sql(house.settings.database) as db:
        rows = [db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("jobs", "batches")]
    return rows == [0, 0] and house.queue.waiting() == 0


def made(house: House, count: int = 1) -> list[str]:
    """Ids of jobs whose pictures are done, with files that are not there."""
    ids = house.studio.submit("a red apple", count=count, seed=7).job_ids
    for _ in ids:
        job = claimed(house.jobs)
        house.jobs.finish(job.claim, image_of(job))
    return ids


def test_a_submit_is_a_batch_of_jobs_with_consecutive_seeds(house: House) -> None:
    receipt = house.studio.submit("a red apple", count=3, seed=7, name="fruit", owner="me", priority=5)
    jobs = [house.studio.job(job_id) for job_id in receipt.job_ids]
    assert [job.params.seed for job in jobs] == [7, 8, 9]
    assert [job.index for job in jobs] == [0, 1, 2]
    assert {(job.state, job.batch_id, job.owner, job.priority) for job in jobs} == {
        (State.QUEUED, receipt.batch_id, "me", 5)
    }
    assert receipt.warnings == []
    assert house.queue.waiting() == 3


def test_no_seed_is_a_random_one_and_so_is_minus_one(studio: Studio) -> None:
    jobs = [studio.job(studio.submit("x", seed=seed).job_ids[0]) for seed in (None, -1, None)]
    assert len({job.params.seed for job in jobs}) == 3
    assert all(0 <= job.params.seed <= MAX_SEED for job in jobs)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"count": 0}, "count"),
        ({"count": 101}, "count"),
        ({"count": 1.5}, "count"),
        ({"width": 260}, "width"),
        ({"height": 4096}, "height"),
        ({"steps": 0}, "steps"),
        ({"guidance": 99}, "guidance"),
        ({"model": "nobody"}, "model"),
        ({"sampler": "Magic"}, "sampler"),
        ({"prompt": "  "}, "prompt"),
        ({"prompt": "\ud800"}, "prompt"),
        ({"seed": -2}, "seed"),
        ({"seed": MAX_SEED + 1}, "seed"),
        ({"seed": MAX_SEED, "count": 2}, "seed"),
        ({"seed": "x"}, "seed"),
        ({"priority": 101}, "priority"),
        ({"name": "\ud800"}, "name"),
        ({"owner": "\ud800"}, "owner"),
        ({"idempotency_key": "\ud800"}, "idempotency_key"),
        ({"stepz": 3}, "stepz"),
    ],
)
def test_bad_input_names_its_field_and_enqueues_nothing(house: House, given: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidParams) as refused:
        house.studio.submit(**{"prompt": "a red apple"} | given)
    assert refused.value.field == field
    assert nothing_is_there(house)


def test_a_model_that_is_not_ready_is_refused_with_why(house: House) -> None:
    (house.settings.models / "broken").mkdir()
    with pytest.raises(InvalidParams, match=r"model: broken is not ready: model_index.json is missing"):
        house.studio.submit("x", model="broken")
    assert nothing_is_there(house)


def test_a_full_queue_refuses_and_says_its_limit(house: House) -> None:
    small = open_house(replace(house.settings, max_queued=3))
    small.studio.submit("x", count=2)
    with pytest.raises(QueueFull, match="room for 3 waiting jobs"):
        small.studio.submit("x", count=2)
    assert len(small.studio.jobs()) == 2
    small.studio.submit("x")


ENQUEUES: dict[str, Any] = {
    "submit": lambda studio, batch_id, file: studio.submit("x"),
    "again": lambda studio, batch_id, file: studio.again(batch_id=batch_id, state="queued"),
    "batches.duplicate": lambda studio, batch_id, file: studio.batches.duplicate(batch_id),
    "grids.submit": lambda studio, batch_id, file: studio.grids.submit("x", x="steps: 2,3"),
    "lists.submit": lambda studio, batch_id, file: studio.lists.submit("x"),
    "queue_file.take": lambda studio, batch_id, file: studio.queue_file.take(file.replace("cat", "dog")),
}


@pytest.mark.parametrize("name", ENQUEUES)
def test_while_the_queue_is_blocked_nothing_is_enqueued(house: House, name: str) -> None:
    batch_id = house.studio.submit("cat", idempotency_key="k", seed=1).batch_id
    file = "".join(house.studio.queue_file.export())
    house.control.block("less than 500 MB are free")
    with pytest.raises(QueueBlocked, match="500 MB"):
        ENQUEUES[name](house.studio, batch_id, file)
    assert [job.params.prompt for job in house.studio.jobs()] == ["cat"]
    assert house.studio.submit("cat", idempotency_key="k", seed=1).batch_id == batch_id  # it is stored already
    house.control.block("")
    ENQUEUES[name](house.studio, batch_id, file)
    assert len(house.studio.jobs()) > 1


def test_the_last_seed_may_be_used(studio: Studio) -> None:
    assert studio.job(studio.submit("x", seed=MAX_SEED).job_ids[0]).params.seed == MAX_SEED
    assert len(studio.submit("x", seed=MAX_SEED - 1, count=2).job_ids) == 2


def test_a_prompt_too_long_for_the_encoder_is_made_and_warned_of(studio: Studio) -> None:
    receipt = studio.submit("apple " * 500)
    assert len(receipt.job_ids) == 1
    assert "parts" in receipt.warnings[0]


def test_a_submit_sent_twice_is_one(studio: Studio) -> None:
    first = studio.submit("x", count=2, idempotency_key="k")
    again = studio.submit("x", count=2, idempotency_key="k")
    assert (again.batch_id, again.job_ids) == (first.batch_id, first.job_ids)
    with pytest.raises(Conflict):
        studio.submit("y", count=2, idempotency_key="k")
    assert len(studio.jobs()) == 2
    assert studio.submit("x", idempotency_key="").job_ids != studio.submit("x", idempotency_key="").job_ids


def test_a_damaged_tokenizer_does_not_fail_a_submit(house: House) -> None:
    """It raised after the commit: the caller heard of an error, and sent the same again."""
    folder = model_folder(house.settings, "mine", {"_class_name": "StableDiffusionPipeline"}) / "tokenizer"
    folder.mkdir()
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 77}')
    (folder / "tokenizer.json").write_text("{}")
    assert len(house.studio.submit("a cat", model="mine").job_ids) == 1
    assert house.studio.grids.submit("a cat", x="seed: 1,2", model="mine").warnings == []
    assert house.studio.lists.submit("a cat", model="mine").warnings == []
    assert house.studio.snapshot().counts[State.QUEUED] == 4


@pytest.mark.parametrize("submit", ["picture", "grid", "list"])
def test_warnings_come_before_the_commit(house: House, monkeypatch: pytest.MonkeyPatch, submit: str) -> None:
    """Whatever a warning is made from may fail; then nothing is enqueued."""

    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr("diffusion_local.prompts.count_read", broken)
    call = {
        "picture": lambda: house.studio.submit("a cat"),
        "grid": lambda: house.studio.grids.submit("a cat", x="seed: 1,2"),
        "list": lambda: house.studio.lists.submit("a cat"),
    }[submit]
    with pytest.raises(RuntimeError):
        call()
    assert nothing_is_there(house)


def test_an_estimate_that_fails_after_the_commit_is_no_failed_submit(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(BatchRows, "get", broken)
    receipt = house.studio.submit("a cat", finish_by="23:00")
    assert (len(receipt.job_ids), receipt.warnings) == (1, [])
    assert "could not be estimated" in caplog.text


def test_an_option_without_effect_is_named(house: House) -> None:
    source = house.sources.add(png()).id
    receipt = house.studio.submit("", kind="upscale", source=source, vae="bright", clip_skip=2)
    assert receipt.warnings == [
        "vae: has no effect where kind is upscale; it is ignored.",
        "clip_skip: has no effect where kind is upscale; it is ignored.",
    ]


def test_what_text_can_hold_is_kept_as_it_is(studio: Studio) -> None:
    prompt = "a 🍎, \"quoted\", 'single'; DROP TABLE jobs; -- \\ % _ \u202e abc\ncombining é"
    assert studio.job(studio.submit(prompt).job_ids[0]).params.prompt == prompt.strip()


# -- again -----------------------------------------------------------------------------------------------------------


def test_again_makes_new_jobs_from_old_recipes_and_leaves_the_old(house: House) -> None:
    old_ids = made(house, 2)
    before = [house.studio.job(job_id) for job_id in old_ids]
    receipt = house.studio.again(old_ids)
    new = [house.studio.job(job_id) for job_id in receipt.job_ids]
    assert [job.params for job in new] == [job.params for job in before]
    assert [job.from_job for job in new] == old_ids
    assert {job.state for job in new} == {State.QUEUED}
    assert [house.studio.job(job_id) for job_id in old_ids] == before


def test_again_may_mean_every_failed_job_or_a_batchs(house: House) -> None:
    batches = [house.studio.submit("x", count=2) for _ in range(2)]
    for _ in range(4):
        house.jobs.fail(claimed(house.jobs).claim, FAILURE)
    assert len(house.studio.again(batch_id=batches[0].batch_id).job_ids) == 2
    assert len(house.studio.again(failed=True).job_ids) == 2  # the other batch's: the first's were made again just now
    house.studio.cancel(waiting=True)
    assert len(house.studio.again(state="cancelled").job_ids) == 4


def test_again_of_nothing_is_refused(house: House) -> None:
    with pytest.raises(UserError):
        house.studio.again(failed=True)
    with pytest.raises(NotFound):
        house.studio.again(["nobody"])
    assert nothing_is_there(house)


# -- wait ------------------------------------------------------------------------------------------------------------


def test_wait_returns_at_once_when_all_have_ended_and_at_its_limit_otherwise(house: House) -> None:
    done = made(house)
    started = time.monotonic()
    assert [job.state for job in house.studio.wait(done, 60)] == [State.DONE]
    assert time.monotonic() - started < soon(1)
    waiting = house.studio.submit("x").job_ids
    started = time.monotonic()
    assert [job.state for job in house.studio.wait(done + waiting, 0.3)] == [State.DONE, State.QUEUED]
    assert 0.3 <= time.monotonic() - started < soon(2)


@pytest.mark.parametrize("timeout", [-1, 3601, "long", float("nan"), None])
def test_wait_is_bounded(studio: Studio, timeout: Any) -> None:
    with pytest.raises(InvalidParams, match="timeout"):
        studio.wait([], timeout)


# -- cancel and the rest of the queue --------------------------------------------------------------------------------


def test_cancel_ends_what_waits_and_flags_what_runs(house: House) -> None:
    ids = house.studio.submit("x", count=2).job_ids
    running = claimed(house.jobs)
    assert sorted(house.studio.cancel(ids)) == sorted(ids)
    assert house.studio.job(ids[1]).state is State.CANCELLED
    assert (house.studio.job(running.id).state, house.studio.job(running.id).cancel_requested) == (State.RUNNING, True)


def test_cancel_of_what_has_ended_is_a_conflict_alone_and_left_out_of_a_selection(house: House) -> None:
    [done] = made(house)
    with pytest.raises(Conflict, match="done"):
        house.studio.cancel([done])
    [waiting] = house.studio.submit("x").job_ids
    assert house.studio.cancel([done, waiting]) == [waiting]


def test_cancel_waiting_lets_the_running_go_on(house: House) -> None:
    ids = house.studio.submit("x", count=3).job_ids
    running = claimed(house.jobs)
    assert sorted(house.studio.cancel(waiting=True)) == sorted(ids[1:])
    assert not house.studio.job(running.id).cancel_requested


def test_nothing_named_is_refused(studio: Studio) -> None:
    for ask in (studio.cancel, lambda: studio.move("top"), lambda: studio.set_priority(3), studio.forget):
        with pytest.raises(InvalidParams, match="job_ids"):
            ask()


def test_an_unknown_id_is_not_found_and_nothing_else_is_touched(house: House) -> None:
    studio = house.studio
    [kept] = studio.submit("x").job_ids
    for ask in (
        lambda: studio.job("nobody"),
        lambda: studio.events("nobody"),
        lambda: studio.wait(["nobody"], 1),
        lambda: studio.cancel([kept, "nobody"]),
        lambda: studio.cancel(batch_id="nobody"),
        lambda: studio.again([kept, "nobody"]),
        lambda: studio.move("up", ["nobody"]),
        lambda: studio.pause_batch("nobody"),
        lambda: studio.image("nobody"),
        lambda: studio.star("nobody"),
        lambda: studio.picture_file("nobody"),
        lambda: studio.preview_file("nobody"),
    ):
        with pytest.raises(NotFound, match="nobody"):
            ask()
    assert studio.job(kept).state is State.QUEUED


def test_lists_are_bounded_and_states_known(studio: Studio) -> None:
    for ask in (lambda: studio.jobs(limit=0), lambda: studio.jobs(limit=5000), lambda: studio.gallery(limit=0)):
        with pytest.raises(InvalidParams, match="limit"):
            ask()
    with pytest.raises(InvalidParams, match="must be one of queued, running"):
        studio.jobs(state="sleeping")


def test_move_and_priority_change_what_is_claimed_next(house: House) -> None:
    studio = house.studio
    first, second, third, fourth = studio.submit("x", count=4).job_ids
    assert studio.move("top", [third]) == [third]
    assert studio.move("up", [second]) == [second]
    assert studio.set_priority(9, [fourth]) == [fourth]
    assert [claimed(house.jobs).id for _ in range(4)] == [fourth, third, second, first]
    with pytest.raises(InvalidParams, match="to"):
        studio.move("left", [first])
    with pytest.raises(InvalidParams, match="one job"):
        studio.move("up", [first, second])


def test_pause_holds_the_queue_until_resume_which_rings(house: House) -> None:
    house.studio.submit("x")
    house.studio.pause()
    assert house.studio.snapshot().paused
    assert house.jobs.claim_next("cpu0") is None
    rings = house.queue.waiting()
    house.studio.resume()
    assert house.queue.waiting() == rings + 1
    assert not house.studio.snapshot().paused
    assert house.jobs.claim_next("cpu0") is not None


def test_forget_takes_ended_jobs_and_leaves_their_pictures(house: House) -> None:
    [done] = made(house)
    [waiting] = house.studio.submit("x").job_ids
    with pytest.raises(Conflict, match="has not ended: it is"):
        house.studio.forget([waiting])
    assert house.studio.forget(ended=True) == [done]
    assert [job.id for job in house.studio.jobs()] == [waiting]
    assert [image.id for image in house.studio.gallery()] == [done]


def test_a_lane_for_lists_comes_after_what_somebody_waits_for(house: House) -> None:
    [listed] = house.studio.submit("x", lane=Lane.BATCH).job_ids
    [asked] = house.studio.submit("x").job_ids
    assert [claimed(house.jobs).id, claimed(house.jobs).id] == [asked, listed]


def test_a_picture_whose_file_is_gone_is_not_found(house: House) -> None:
    [done] = made(house)
    for ask in (house.studio.picture_file, house.studio.thumbnail_file):
        with pytest.raises(NotFound, match="not there"):
            ask(done)


def test_two_processes_see_one_studio(house: House) -> None:
    other = open_house(house.settings).studio
    [job_id] = house.studio.submit("x").job_ids
    assert other.job(job_id) == house.studio.job(job_id)
    before = other.revision()
    house.studio.cancel([job_id])
    assert other.revision() > before
    assert other.job(job_id).state is State.CANCELLED


def test_eight_submitters_at_once_lose_and_double_nothing(house: House) -> None:
    """With one key they make one batch; without one each makes its own, and no place in line is given twice."""
    with ThreadPoolExecutor(8) as many:
        same = list(many.map(lambda _: house.studio.submit("x", count=3, idempotency_key="k"), range(8)))
        own = list(many.map(lambda number: house.studio.submit(f"x {number}", count=3), range(8)))
    assert len({receipt.batch_id for receipt in same}) == 1
    assert len({job_id for receipt in own for job_id in receipt.job_ids}) == 24
    jobs = house.studio.jobs(limit=100)
    assert len(jobs) == 27
    assert len({job.position for job in jobs}) == 27
