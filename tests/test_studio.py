"""What a person can ask for, over the real database: what is acknowledged is kept, what is refused leaves nothing."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from diffusion_local.compose import Services, open_services
from diffusion_local.domain import Lane, State
from diffusion_local.errors import Conflict, InvalidParams, NotFound, QueueBlocked, QueueFull, UserError
from diffusion_local.options.values import MAX_SEED
from diffusion_local.queue.batches import BatchRows
from diffusion_local.studio import Studio
from tests.models.test_catalog import model_folder
from tests.options.test_validate import png
from tests.support import FAILURE, claimed, image_of, refused, soon, sql


def nothing_is_there(services: Services) -> bool:
    with sql(services.settings) as db:
        rows = [db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("jobs", "batches")]
    return rows == [0, 0] and services.queue.pending() == 0


def made(services: Services, count: int = 1) -> list[str]:
    """Ids of jobs whose pictures are done, with files that are not there."""
    ids = services.studio.submit("a red apple", count=count, seed=7).job_ids
    for _ in ids:
        job = claimed(services.jobs)
        services.jobs.finish(job.claim, image_of(job))
    return ids


def test_a_submit_is_a_batch_of_jobs_with_consecutive_seeds(services: Services) -> None:
    receipt = services.studio.submit("a red apple", count=3, seed=7, name="fruit", owner="me", priority=5)
    jobs = [services.studio.job(job_id) for job_id in receipt.job_ids]
    assert [job.params.seed for job in jobs] == [7, 8, 9]
    assert [job.index for job in jobs] == [0, 1, 2]
    assert {(job.state, job.batch_id, job.owner, job.priority) for job in jobs} == {
        (State.QUEUED, receipt.batch_id, "me", 5)
    }
    assert receipt.warnings == []
    assert services.queue.pending() == 3


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
def test_bad_input_names_its_field_and_enqueues_nothing(services: Services, given: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidParams) as refused:
        services.studio.submit(**{"prompt": "a red apple"} | given)
    assert refused.value.field == field
    assert nothing_is_there(services)


def test_a_model_that_is_not_ready_is_refused_with_why(services: Services) -> None:
    (services.settings.models / "broken").mkdir()
    with refused(InvalidParams, "not_ready", field="model"):
        services.studio.submit("x", model="broken")
    assert nothing_is_there(services)


def test_a_full_queue_refuses_and_says_its_limit(services: Services) -> None:
    small = open_services(replace(services.settings, max_queued=3))
    small.studio.submit("x", count=2)
    with pytest.raises(QueueFull, match="room for 3 waiting jobs"):
        small.studio.submit("x", count=2)
    assert len(small.studio.jobs()) == 2
    small.studio.submit("x")


ENQUEUES: dict[str, Any] = {
    "submit": lambda studio, batch_id, file: studio.submit("x"),
    "again": lambda studio, batch_id, file: studio.queue.again(batch_id=batch_id, state="queued"),
    "batches.duplicate": lambda studio, batch_id, file: studio.batches.duplicate(batch_id),
    "grids.submit": lambda studio, batch_id, file: studio.grids.submit("x", x="steps: 2,3"),
    "lists.submit": lambda studio, batch_id, file: studio.lists.submit("x"),
    "queue_file.take": lambda studio, batch_id, file: studio.queue_file.take(file.replace("cat", "dog")),
}


@pytest.mark.parametrize("name", ENQUEUES)
def test_while_the_queue_is_blocked_nothing_is_enqueued(services: Services, name: str) -> None:
    batch_id = services.studio.submit("cat", idempotency_key="k", seed=1).batch_id
    file = "".join(services.studio.queue_file.export())
    services.control.block("less than 500 MB are free")
    with pytest.raises(QueueBlocked, match="500 MB"):
        ENQUEUES[name](services.studio, batch_id, file)
    assert [job.params.prompt for job in services.studio.jobs()] == ["cat"]
    assert services.studio.submit("cat", idempotency_key="k", seed=1).batch_id == batch_id  # it is stored already
    services.control.block("")
    ENQUEUES[name](services.studio, batch_id, file)
    assert len(services.studio.jobs()) > 1


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


def test_a_damaged_tokenizer_does_not_fail_a_submit(services: Services) -> None:
    """It raised after the commit: the caller heard of an error, and sent the same again."""
    folder = model_folder(services.settings, "mine", {"_class_name": "StableDiffusionPipeline"}) / "tokenizer"
    folder.mkdir()
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 77}')
    (folder / "tokenizer.json").write_text("{}")
    assert len(services.studio.submit("a cat", model="mine").job_ids) == 1
    assert services.studio.grids.submit("a cat", x="seed: 1,2", model="mine").warnings == []
    assert services.studio.lists.submit("a cat", model="mine").warnings == []
    assert services.studio.snapshot().counts[State.QUEUED] == 4


@pytest.mark.parametrize("submit", ["picture", "grid", "list"])
def test_warnings_come_before_the_commit(services: Services, monkeypatch: pytest.MonkeyPatch, submit: str) -> None:
    """Whatever a warning is made from may fail; then nothing is enqueued."""

    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr("diffusion_local.models.prompt_limits.count_read", broken)
    call = {
        "picture": lambda: services.studio.submit("a cat"),
        "grid": lambda: services.studio.grids.submit("a cat", x="seed: 1,2"),
        "list": lambda: services.studio.lists.submit("a cat"),
    }[submit]
    with pytest.raises(RuntimeError):
        call()
    assert nothing_is_there(services)


def test_an_estimate_that_fails_after_the_commit_is_no_failed_submit(
    services: Services, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(BatchRows, "get", broken)
    receipt = services.studio.submit("a cat", finish_by="23:00")
    assert (len(receipt.job_ids), receipt.warnings) == (1, [])
    assert "could not be estimated" in caplog.text


def test_an_option_without_effect_is_named(services: Services) -> None:
    source = services.sources.add(png()).id
    receipt = services.studio.submit("", kind="upscale", source=source, vae="bright", clip_skip=2)
    assert receipt.warnings == [
        "vae: has no effect for kind upscale; it is ignored.",
        "clip_skip: has no effect for kind upscale; it is ignored.",
    ]


def test_what_text_can_hold_is_kept_as_it_is(studio: Studio) -> None:
    prompt = "a 🍎, \"quoted\", 'single'; DROP TABLE jobs; -- \\ % _ \u202e abc\ncombining é"
    assert studio.job(studio.submit(prompt).job_ids[0]).params.prompt == prompt.strip()


# -- again -----------------------------------------------------------------------------------------------------------


def test_again_makes_new_jobs_from_old_recipes_and_leaves_the_old(services: Services) -> None:
    old_ids = made(services, 2)
    before = [services.studio.job(job_id) for job_id in old_ids]
    receipt = services.studio.queue.again(old_ids)
    new = [services.studio.job(job_id) for job_id in receipt.job_ids]
    assert [job.params for job in new] == [job.params for job in before]
    assert [job.from_job for job in new] == old_ids
    assert {job.state for job in new} == {State.QUEUED}
    assert [services.studio.job(job_id) for job_id in old_ids] == before


def test_again_may_mean_every_failed_job_or_a_batchs(services: Services) -> None:
    batches = [services.studio.submit("x", count=2) for _ in range(2)]
    for _ in range(4):
        services.jobs.fail(claimed(services.jobs).claim, FAILURE)
    assert len(services.studio.queue.again(batch_id=batches[0].batch_id).job_ids) == 2
    assert (
        len(services.studio.queue.again(failed=True).job_ids) == 2
    )  # the other batch's: the first's were made again just now
    services.studio.queue.cancel(waiting=True)
    assert len(services.studio.queue.again(state="cancelled").job_ids) == 4


def test_again_of_nothing_is_refused(services: Services) -> None:
    with pytest.raises(UserError):
        services.studio.queue.again(failed=True)
    with pytest.raises(NotFound):
        services.studio.queue.again(["nobody"])
    assert nothing_is_there(services)


# -- wait ------------------------------------------------------------------------------------------------------------


def test_wait_returns_at_once_when_all_have_ended_and_at_its_limit_otherwise(services: Services) -> None:
    done = made(services)
    started = time.monotonic()
    assert [job.state for job in services.studio.wait(done, 60)] == [State.DONE]
    assert time.monotonic() - started < soon(1)
    waiting = services.studio.submit("x").job_ids
    started = time.monotonic()
    assert [job.state for job in services.studio.wait(done + waiting, 0.3)] == [State.DONE, State.QUEUED]
    assert 0.3 <= time.monotonic() - started < soon(2)


@pytest.mark.parametrize("timeout", [-1, 3601, "long", float("nan"), None])
def test_wait_is_bounded(studio: Studio, timeout: Any) -> None:
    with pytest.raises(InvalidParams, match="timeout"):
        studio.wait([], timeout)


# -- cancel and the rest of the queue --------------------------------------------------------------------------------


def test_cancel_ends_what_waits_and_flags_what_runs(services: Services) -> None:
    ids = services.studio.submit("x", count=2).job_ids
    running = claimed(services.jobs)
    assert sorted(services.studio.queue.cancel(ids)) == sorted(ids)
    assert services.studio.job(ids[1]).state is State.CANCELLED
    assert (services.studio.job(running.id).state, services.studio.job(running.id).cancel_requested) == (
        State.RUNNING,
        True,
    )


def test_cancel_of_what_has_ended_is_a_conflict_alone_and_left_out_of_a_selection(services: Services) -> None:
    [done] = made(services)
    with refused(Conflict, "ended_already"):
        services.studio.queue.cancel([done])
    [waiting] = services.studio.submit("x").job_ids
    assert services.studio.queue.cancel([done, waiting]) == [waiting]


def test_cancel_waiting_lets_the_running_go_on(services: Services) -> None:
    ids = services.studio.submit("x", count=3).job_ids
    running = claimed(services.jobs)
    assert sorted(services.studio.queue.cancel(waiting=True)) == sorted(ids[1:])
    assert not services.studio.job(running.id).cancel_requested


def test_nothing_named_is_refused(studio: Studio) -> None:
    for ask in (
        studio.queue.cancel,
        lambda: studio.queue.move("top"),
        lambda: studio.queue.set_priority(3),
        studio.queue.forget,
    ):
        with refused(InvalidParams, "name_a_job", field="job_ids"):
            ask()


def test_an_unknown_id_is_not_found_and_nothing_else_is_touched(services: Services) -> None:
    studio = services.studio
    [kept] = studio.submit("x").job_ids
    for ask in (
        lambda: studio.job("nobody"),
        lambda: studio.events("nobody"),
        lambda: studio.wait(["nobody"], 1),
        lambda: studio.queue.cancel([kept, "nobody"]),
        lambda: studio.queue.cancel(batch_id="nobody"),
        lambda: studio.queue.again([kept, "nobody"]),
        lambda: studio.queue.move("up", ["nobody"]),
        lambda: studio.queue.pause_batch("nobody"),
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
        with refused(InvalidParams, "range", field="limit"):
            ask()
    with refused(InvalidParams, "one_of", field="state"):
        studio.jobs(state="sleeping")


def test_move_and_priority_change_what_is_claimed_next(services: Services) -> None:
    studio = services.studio
    first, second, third, fourth = studio.submit("x", count=4).job_ids
    assert studio.queue.move("top", [third]) == [third]
    assert studio.queue.move("up", [second]) == [second]
    assert studio.queue.set_priority(9, [fourth]) == [fourth]
    assert [claimed(services.jobs).id for _ in range(4)] == [fourth, third, second, first]
    with refused(InvalidParams, "move_to", field="to"):
        studio.queue.move("left", [first])
    with refused(InvalidParams, "move_one", field="job_ids"):
        studio.queue.move("up", [first, second])


def test_pause_holds_the_queue_until_resume_which_rings(services: Services) -> None:
    services.studio.submit("x")
    services.studio.queue.pause()
    assert services.studio.snapshot().paused
    assert services.jobs.claim_next("cpu0") is None
    rings = services.queue.pending()
    services.studio.queue.resume()
    assert services.queue.pending() == rings + 1
    assert not services.studio.snapshot().paused
    assert services.jobs.claim_next("cpu0") is not None


def test_forget_takes_ended_jobs_and_leaves_their_pictures(services: Services) -> None:
    [done] = made(services)
    [waiting] = services.studio.submit("x").job_ids
    with refused(Conflict, "job_not_ended"):
        services.studio.queue.forget([waiting])
    assert services.studio.queue.forget(ended=True) == [done]
    assert [job.id for job in services.studio.jobs()] == [waiting]
    assert [image.id for image in services.studio.gallery()] == [done]


def test_a_lane_for_lists_comes_after_what_somebody_waits_for(services: Services) -> None:
    [listed] = services.studio.submit("x", lane=Lane.BATCH).job_ids
    [asked] = services.studio.submit("x").job_ids
    assert [claimed(services.jobs).id, claimed(services.jobs).id] == [asked, listed]


def test_a_picture_whose_file_is_gone_is_not_found(services: Services) -> None:
    [done] = made(services)
    for ask in (services.studio.picture_file, services.studio.thumbnail_file):
        with refused(NotFound, "file_gone"):
            ask(done)


def test_two_processes_see_one_studio(services: Services) -> None:
    other = open_services(services.settings).studio
    [job_id] = services.studio.submit("x").job_ids
    assert other.job(job_id) == services.studio.job(job_id)
    before = other.revision()
    services.studio.queue.cancel([job_id])
    assert other.revision() > before
    assert other.job(job_id).state is State.CANCELLED


def test_eight_submitters_at_once_lose_and_double_nothing(services: Services) -> None:
    """With one key they make one batch; without one each makes its own, and no place in line is given twice."""
    with ThreadPoolExecutor(8) as many:
        same = list(many.map(lambda _: services.studio.submit("x", count=3, idempotency_key="k"), range(8)))
        own = list(many.map(lambda number: services.studio.submit(f"x {number}", count=3), range(8)))
    assert len({receipt.batch_id for receipt in same}) == 1
    assert len({job_id for receipt in own for job_id in receipt.job_ids}) == 24
    jobs = services.studio.jobs(limit=100)
    assert len(jobs) == 27
    assert len({job.position for job in jobs}) == 27
