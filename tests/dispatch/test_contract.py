"""The contract of the dispatch, over the stores themselves and by way of JSON."""

import ast
import inspect
import io
import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PIL

from diffusion_local.compose import Services
from diffusion_local.dispatch import Dispatch, Finished, OutputTerms, ProgressReport
from diffusion_local.dispatch.local import LocalDispatch
from diffusion_local.dispatch.wire import CALLS, from_plain, pack, to_plain, type_hints, unpack
from diffusion_local.domain import Claim, DeviceMemory, Failure, Fit, Flags, Image, Job, Kind, Lane, State, utc_now
from diffusion_local.errors import DatabaseProblem, HomeInUse, LostClaim, NotFound, StorageProblem
from diffusion_local.gallery.image_formats import encode
from diffusion_local.messages import message, serialize
from diffusion_local.options.types import Reference
from diffusion_local.queue.estimates import JobTimings
from tests.dispatch.wire import Wire
from tests.support import FAILURE, enqueue, eventually, params, sql

PICTURE = PIL.radial_gradient("L").resize((128, 128)).convert("RGB")


def open_both(services: Services, slot: str, by_wire: bool) -> tuple[Dispatch, LocalDispatch]:
    local = LocalDispatch(services, slot)
    return (Wire(local) if by_wire else local), local


@pytest.fixture(params=["local", "wire"])
def by_wire(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "wire")


@pytest.fixture
def dispatch(services: Services, by_wire: bool) -> Iterator[Dispatch]:
    opened, local = open_both(services, "cpu0", by_wire)
    yield opened
    local._storage.close()


@pytest.fixture
def other(services: Services, by_wire: bool) -> Iterator[Dispatch]:
    """The dispatch of another slot."""
    opened, local = open_both(services, "cpu1", by_wire)
    yield opened
    local._storage.close()


def finished(**changes: Any) -> Finished:
    encoded = encode(PICTURE, {"parameters": "a red apple"}, "png", True)
    return replace(
        Finished(encoded, 128, 128, utc_now(), JobTimings(0.5, 0.25, 0.7, "resident"), {"a": [1]}), **changes
    )


def pictures(services: Services) -> list[Path]:
    return sorted(services.settings.gallery_folder.rglob("*.png"))


def claimed(dispatch: Dispatch) -> Job:
    [job] = dispatch.claim("")
    return job


# -- the protocol ----------------------------------------------------------------------------------------------------


def test_nothing_of_it_needs_the_same_machine() -> None:
    """By its types: no path, no function, no open file."""
    named = {
        node.id
        for call in CALLS.values()
        for node in ast.walk(ast.parse(inspect.getsource(call).strip()))
        if isinstance(node, ast.Name)
    }
    assert not named & {"Path", "Callable", "IO", "BinaryIO", "Iterator", "Any"}
    assert len(CALLS) >= 20


def test_both_take_the_same_calls() -> None:
    for name, call in CALLS.items():
        assert inspect.signature(getattr(LocalDispatch, name)) == inspect.signature(call), name


def test_nouns_come_back_as_they_were(services: Services) -> None:
    enqueue(services.jobs, prompt="ein Ä 🍎", negative="n")
    job = claimed(LocalDispatch(services, "cpu0"))
    for kind, value in ((Job, job), (Finished, finished()), (Fit, Fit("m", Kind.INPAINT, 1, 2, "d"))):
        blobs: list[bytes] = []
        head, found = unpack(pack({"value": to_plain(value, blobs)}, blobs))
        assert from_plain(kind, head["value"], iter(found)) == value
    assert type_hints(CALLS["claim"])["return"] == list[Job]


@pytest.mark.parametrize("value", [Path("x"), io.BytesIO(), print, [Path("x")]])
def test_what_cannot_travel_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="cannot travel"):
        to_plain(value, [])


# -- the slot --------------------------------------------------------------------------------------------------------


def test_a_slot_is_held_by_one_and_free_after_it_left(services: Services, dispatch: Dispatch, by_wire: bool) -> None:
    assert dispatch.take(0) == OutputTerms("png", False, 1)
    again, local = open_both(services, "cpu0", by_wire)
    with pytest.raises(HomeInUse, match="cpu0"):
        again.take(0)
    dispatch.leave()
    again.take(0)
    again.leave()
    local._storage.close()


def test_the_terms_are_the_studios(services: Services, by_wire: bool) -> None:
    settings = replace(services.settings, image_format="webp", sidecar="on", preview_every=5)
    opened, _ = open_both(replace(services, settings=settings), "cpu0", by_wire)
    assert opened.take(0) == OutputTerms("webp", True, 5)
    opened.leave()


def test_who_takes_a_slot_recovers_what_its_last_holder_left(
    services: Services, dispatch: Dispatch, other: Dispatch
) -> None:
    enqueue(services.jobs, 2)
    lost, kept = claimed(dispatch), claimed(other)
    dispatch.take(0)
    assert (services.jobs.get(lost.id).state, services.jobs.get(lost.id).crashes) == (State.QUEUED, 1)
    assert services.jobs.get(kept.id).state is State.RUNNING
    dispatch.leave()


def test_a_worker_is_seen_with_what_it_does(services: Services, dispatch: Dispatch) -> None:
    dispatch.register(os.getpid(), "a device", DeviceMemory("cuda", 10**10, True))
    dispatch.report_status("loading", "starter", 5)
    dispatch.report_status("busy", "starter")
    [worker] = services.workers.list_all()
    assert (worker.slot, worker.device, worker.room) == ("cpu0", "a device", DeviceMemory("cuda", 10**10, True))
    assert (worker.status, worker.model, worker.free_bytes) == ("busy", "starter", 5)
    dispatch.heartbeat()
    assert services.workers.list_all()[0].seen_at >= worker.seen_at
    dispatch.leave()
    assert services.workers.list_all()[0].status == "stopped"


# -- claims ----------------------------------------------------------------------------------------------------------


def test_a_claim_takes_the_next_job_and_none_twice(services: Services, dispatch: Dispatch, other: Dispatch) -> None:
    ids = enqueue(services.jobs, 2)
    assert [dispatch.claim("")[0].id, other.claim("")[0].id] == ids
    assert dispatch.claim("") == []
    assert [job.id for job in dispatch.running()] == ids[:1]
    assert services.jobs.get(ids[1]).worker == "cpu1"


def test_a_claim_may_take_several_that_go_together(services: Services, dispatch: Dispatch) -> None:
    alike = enqueue(services.jobs, 5, lane=Lane.BATCH)
    wider = enqueue(services.jobs, 2, lane=Lane.BATCH, width=256)
    assert [job.id for job in dispatch.claim("starter", 3)] == alike[:3]
    assert [job.id for job in dispatch.claim("starter", 8)] == alike[3:]  # not with those of another size
    assert [job.id for job in dispatch.claim("starter", 8)] == wider
    assert {(job.attempt, job.worker, job.state) for job in dispatch.running()} == {(1, "cpu0", State.RUNNING)}


def test_several_keep_the_order_and_the_fair_shares_of_the_line(services: Services, dispatch: Dispatch) -> None:
    anns, bobs = (enqueue(services.jobs, 3, lane=Lane.BATCH, owner=name) for name in ("ann", "bob"))
    assert [job.id for job in dispatch.claim("starter", 4)] == [anns[0], bobs[0], anns[1], bobs[1]]


def test_jobs_are_taken_beside_one_that_is_held(services: Services, dispatch: Dispatch, other: Dispatch) -> None:
    ids = enqueue(services.jobs, 4, lane=Lane.BATCH)
    [first] = dispatch.claim("starter")
    assert [job.id for job in dispatch.claim("starter", 2, first.claim)] == ids[1:3]
    enqueue(services.jobs)
    assert dispatch.claim("starter", 2, first.claim) == []  # somebody waits
    with pytest.raises(LostClaim):
        other.claim("starter", 2, first.claim)
    services.jobs.recover("cpu0", FAILURE)
    with pytest.raises(LostClaim):
        dispatch.claim("starter", 2, first.claim)


def test_whoever_has_other_wishes_is_passed_over_for_one_pass_only(services: Services, dispatch: Dispatch) -> None:
    anns = enqueue(services.jobs, 4, lane=Lane.BATCH, owner="ann")
    bobs = enqueue(services.jobs, 4, lane=Lane.BATCH, owner="bob", steps=9)
    assert [job.id for job in dispatch.claim("starter", 2)] == anns[:2]
    assert [job.id for job in dispatch.claim("starter", 2)] == bobs[:2]
    assert [job.id for job in dispatch.claim("starter", 2)] == anns[2:]
    assert [job.id for job in dispatch.claim("starter", 2)] == bobs[2:]


def test_only_of_the_interactive_lane_where_that_is_asked_for(services: Services, dispatch: Dispatch) -> None:
    enqueue(services.jobs, lane=Lane.BATCH)
    assert not dispatch.urgent()
    assert dispatch.claim("", urgent=True) == []
    [waited_for] = enqueue(services.jobs)
    assert dispatch.urgent()
    services.control.pause()
    assert not dispatch.urgent()
    services.control.resume()
    assert [job.id for job in dispatch.claim("", urgent=True)] == [waited_for]
    assert not dispatch.urgent()


@pytest.mark.parametrize(
    "changes", [{"steps": 9}, {"guidance": 1.0}, {"sampler": "Euler"}, {"height": 192}, {"place": "1/2"}, {"gpus": 2}]
)
def test_what_differs_in_more_than_prompts_and_seed_does_not_go_together(
    services: Services, dispatch: Dispatch, changes: dict[str, Any]
) -> None:
    first = enqueue(services.jobs, lane=Lane.BATCH, prompt="one", negative="not")
    with_it = enqueue(services.jobs, lane=Lane.BATCH, prompt="two", seed=99)
    enqueue(services.jobs, lane=Lane.BATCH, **changes)
    assert [job.id for job in dispatch.claim("starter", 3)] == first + with_it


def test_what_somebody_waits_for_and_what_killed_a_worker_is_taken_alone(
    services: Services, dispatch: Dispatch
) -> None:
    enqueue(services.jobs, 2)
    assert len(dispatch.claim("starter", 4)) == 1
    assert len(dispatch.claim("starter", 4)) == 1
    enqueue(services.jobs, 3, lane=Lane.BATCH)
    dispatch.claim("starter")
    services.jobs.recover("cpu0", FAILURE)
    services.control.pause()
    assert dispatch.claim("starter", 4) == []
    services.control.resume()
    sizes = []
    while jobs := dispatch.claim("starter", 4):
        sizes.append(len(jobs))
        assert len(jobs) == 1 or not any(job.crashes for job in jobs)
    assert sum(sizes) == 5


def test_a_worker_may_put_jobs_aside_and_report_on_all_of_them(services: Services, dispatch: Dispatch) -> None:
    enqueue(services.jobs, 2, lane=Lane.BATCH)
    held = dispatch.claim("starter", 2)
    [urgent_id] = enqueue(services.jobs)
    [urgent] = dispatch.claim("starter")  # while the others wait
    assert urgent.id == urgent_id
    reports = [
        ProgressReport(held[0].claim, 3, "aside"),
        ProgressReport(held[1].claim, 2, "aside"),
        ProgressReport(urgent.claim, 1),
    ]
    assert dispatch.report(reports) == [Flags(False)] * 3
    found = [services.jobs.get(job.id) for job in (*held, urgent)]
    assert [(job.step, job.phase) for job in found] == [(3, "aside"), (2, "aside"), (1, "")]
    dispatch.finish(urgent.claim, finished())
    services.studio.queue.cancel([held[0].id])
    services.jobs.recover("cpu1", FAILURE)
    claims = [job.claim for job in (*held, urgent)]
    assert dispatch.flags(claims) == [Flags(True), Flags(False), None]
    assert dispatch.report([ProgressReport(claim, 4) for claim in claims]) == [Flags(True), Flags(False), None]


def test_a_pause_is_heard_in_both_ways(services: Services, dispatch: Dispatch) -> None:
    enqueue(services.jobs)
    job = claimed(dispatch)
    assert not dispatch.paused()
    services.control.pause(give_back=True)
    assert dispatch.paused()
    assert dispatch.flags([job.claim]) == [Flags(False, True)]


def test_a_ring_ends_the_wait(services: Services, dispatch: Dispatch) -> None:
    assert not dispatch.wait(0.05)
    services.queue.ring()
    assert dispatch.wait(60)


def test_a_delivery_claims_the_next_job_if_it_is_asked_to(services: Services, dispatch: Dispatch) -> None:
    ids = [enqueue(services.jobs)[0] for _ in range(3)]
    first = claimed(dispatch)
    [second] = dispatch.finish(first.claim, finished(), "")
    assert (second.id, second.state, second.worker) == (ids[1], State.RUNNING, "cpu0")
    assert dispatch.finish(second.claim, finished()) == []
    assert [services.jobs.get(each).state for each in ids] == [State.DONE, State.DONE, State.QUEUED]


def test_a_delivery_with_a_lost_claim_claims_nothing(services: Services, dispatch: Dispatch) -> None:
    lost, waiting = [enqueue(services.jobs)[0] for _ in range(2)]
    job = claimed(dispatch)
    services.jobs.requeue(job.claim, "taken away")
    with pytest.raises(LostClaim):
        dispatch.finish(job.claim, finished(), "")
    assert {services.jobs.get(each).state for each in (lost, waiting)} == {State.QUEUED}


def test_nothing_is_claimed_with_a_delivery_while_the_queue_is_paused(services: Services, dispatch: Dispatch) -> None:
    enqueue(services.jobs, 2)
    job = claimed(dispatch)
    services.control.pause()
    assert dispatch.finish(job.claim, finished(), "") == []


# -- settling --------------------------------------------------------------------------------------------------------


def test_a_finished_picture_is_in_the_gallery_as_it_was_handed_in(services: Services, dispatch: Dispatch) -> None:
    enqueue(services.jobs)
    job = claimed(dispatch)
    dispatch.save_preview(job.claim, b"preview")
    picture = finished()
    dispatch.finish(job.claim, picture)
    assert services.jobs.get(job.id).state is State.DONE
    image: Image = services.images.get(job.id)
    [path] = pictures(services)
    assert path.read_bytes() == picture.encoded.data
    assert path.with_suffix(".webp").read_bytes() == picture.encoded.thumbnail
    assert path.with_suffix(".json").read_bytes() == picture.encoded.sidecar
    assert (image.width, image.height, image.bytes) == (128, 128, len(picture.encoded.data))
    assert (image.created_at, image.seconds, image.facts) == (picture.created_at, 0.75, {"a": [1]})
    assert list(services.settings.previews.iterdir()) == []
    with sql(services.settings) as db:
        row = db.execute("SELECT run_seconds, load_seconds, expected_seconds, rung FROM jobs").fetchone()
    assert tuple(row) == (0.5, 0.25, 0.7, "resident")


def settle(dispatch: Dispatch, claim: Claim, verb: str) -> object:
    match verb:
        case "finish":
            return dispatch.finish(claim, finished())
        case "fail":
            return dispatch.fail(claim, FAILURE)
        case "stop":
            return dispatch.stop(claim)
    return dispatch.requeue(claim, "back")


@pytest.mark.parametrize("verb", ["finish", "fail", "stop", "requeue"])
def test_a_claim_that_is_lost_writes_nothing(
    services: Services, dispatch: Dispatch, other: Dispatch, verb: str
) -> None:
    """The job was recovered and is another worker's now."""
    enqueue(services.jobs)
    job = claimed(dispatch)
    services.jobs.recover("cpu0", FAILURE)
    again = claimed(other)
    assert again.id == job.id
    with pytest.raises(LostClaim):
        settle(dispatch, job.claim, verb)
    assert dispatch.report([ProgressReport(job.claim, 3)]) == [None]
    assert services.jobs.get(job.id) == again
    assert pictures(services) == []


@pytest.mark.parametrize("verb", ["finish", "fail", "stop", "requeue"])
def test_nobody_settles_with_the_claim_of_another_slot(
    services: Services, dispatch: Dispatch, other: Dispatch, verb: str
) -> None:
    enqueue(services.jobs)
    job = claimed(other)
    with pytest.raises(LostClaim):
        settle(dispatch, job.claim, verb)
    assert dispatch.flags([job.claim]) == [None]
    assert dispatch.report([ProgressReport(job.claim, 3)]) == [None]
    dispatch.save_preview(job.claim, b"preview")
    assert services.jobs.get(job.id) == job
    assert (pictures(services), list(services.settings.previews.iterdir())) == ([], [])


@pytest.mark.parametrize("verb", ["finish", "fail", "stop", "requeue"])
def test_a_job_is_settled_once(services: Services, dispatch: Dispatch, verb: str) -> None:
    enqueue(services.jobs)
    job = claimed(dispatch)
    settle(dispatch, job.claim, verb)
    after = services.jobs.get(job.id)
    for each in ("finish", "fail", "stop", "requeue"):
        with pytest.raises(LostClaim):
            settle(dispatch, job.claim, each)
    assert services.jobs.get(job.id) == after
    assert len(pictures(services)) == (verb == "finish")


def test_a_failure_is_told_with_paths_below_the_home(services: Services, dispatch: Dispatch) -> None:
    enqueue(services.jobs)
    job = claimed(dispatch)
    text = f"{services.settings.home}/gallery/x.png cannot be used."
    dispatch.fail(job.claim, Failure("storage_error", text, "traceback"))
    assert services.jobs.get(job.id).failure == Failure("storage_error", "gallery/x.png cannot be used.", "traceback")


def test_messages_keep_their_id_and_parameters_all_the_way(services: Services, dispatch: Dispatch) -> None:
    """So that a person reads them in another language."""
    enqueue(services.jobs, 2)
    first, second = claimed(dispatch), claimed(dispatch)
    loading = message("phase_loading", model="starter", share=0.5)
    dispatch.report([ProgressReport(first.claim, 0, loading)])
    assert serialize(services.jobs.get(first.id).phase) == serialize(loading)
    file = f"{services.settings.home}/gallery/x.png"
    dispatch.fail(first.claim, Failure("x", message("storage_fault", file=file, reason="r", remedy="m")))
    failure = services.jobs.get(first.id).failure
    assert failure is not None
    assert serialize(failure.message)["params"]["file"] == "gallery/x.png"
    dispatch.requeue(second.claim, message("event_given_back", reason="pause"))
    assert serialize(services.studio.events(second.id)[-1].note)["id"] == "event_given_back"
    with pytest.raises(NotFound) as refused:
        dispatch.source(claimed(dispatch).claim, "none")
    assert serialize(refused.value.message)["id"] == "no_source_picture"


def test_a_job_that_is_given_back_waits_its_pause_and_counts_its_tries(services: Services, dispatch: Dispatch) -> None:
    enqueue(services.jobs)
    before = datetime.now(UTC)
    job = claimed(dispatch)
    assert dispatch.requeue(job.claim, "engine_error: not now", 100.0, tries=1, faults=2) is State.QUEUED
    found = services.jobs.get(job.id)
    assert (found.tries, found.faults, found.worker) == (1, 2, None)
    assert found.not_before is not None
    assert datetime.fromisoformat(found.not_before) >= before + timedelta(seconds=99)
    assert dispatch.claim("") == []


def test_a_job_to_be_cancelled_is_not_given_back(services: Services, dispatch: Dispatch) -> None:
    enqueue(services.jobs)
    job = claimed(dispatch)
    services.studio.queue.cancel([job.id])
    assert dispatch.requeue(job.claim, "returned to the queue: pause") is State.CANCELLED


def test_what_is_given_back_at_the_end_counts_no_crash(services: Services, dispatch: Dispatch) -> None:
    enqueue(services.jobs, 2)
    jobs = [claimed(dispatch), claimed(dispatch)]
    dispatch.give_back([job.claim for job in jobs])
    assert {(services.jobs.get(job.id).state, services.jobs.get(job.id).crashes) for job in jobs} == {(State.QUEUED, 0)}


@pytest.mark.sqlite
def test_what_could_not_be_given_back_counts_no_crash_either(services: Services, dispatch: Dispatch) -> None:
    enqueue(services.jobs)
    job = claimed(dispatch)
    services.database.close()
    away = services.settings.home / "away.db"
    services.settings.database_file.rename(away)
    with pytest.raises(DatabaseProblem):
        dispatch.give_back([job.claim])
    away.rename(services.settings.database_file)
    dispatch.take(0)
    assert (services.jobs.get(job.id).state, services.jobs.get(job.id).crashes) == (State.QUEUED, 0)
    dispatch.leave()


# -- previews, sources, storage, memory ------------------------------------------------------------------------------


def test_a_preview_is_shown_while_the_claim_holds(services: Services, dispatch: Dispatch) -> None:
    enqueue(services.jobs)
    job = claimed(dispatch)
    dispatch.save_preview(job.claim, b"preview")
    assert [path.read_bytes() for path in services.settings.previews.iterdir()] == [b"preview"]
    dispatch.requeue(job.claim, "back")
    dispatch.save_preview(job.claim, b"too late")
    assert list(services.settings.previews.iterdir()) == []


def test_a_worker_reads_the_sources_of_its_jobs_and_no_other(services: Services, dispatch: Dispatch) -> None:
    file = io.BytesIO()
    PICTURE.save(file, "PNG")
    own = services.sources.add(file.getvalue()).id
    other = services.sources.add(encode(PICTURE.rotate(90), {}).data).id
    enqueue(services.jobs, kind=Kind.IMG2IMG, source=own, strength=0.5)
    job = claimed(dispatch)
    with PIL.open(io.BytesIO(dispatch.source(job.claim, own))) as picture:
        assert picture.tobytes() == PICTURE.tobytes()
    for wrong in (other, "", "../../app.db"):
        with pytest.raises(NotFound):
            dispatch.source(job.claim, wrong)
    enqueue(services.jobs, references=(Reference(own, mask=other),))
    beside = claimed(dispatch)
    assert all(dispatch.source(beside.claim, each) for each in (own, other))
    next(services.settings.sources.rglob(f"{own}.png")).unlink()
    with pytest.raises(NotFound):
        dispatch.source(job.claim, own)
    dispatch.stop(job.claim)
    with pytest.raises(LostClaim):
        dispatch.source(job.claim, own)


def test_a_gallery_that_cannot_be_written_holds_the_queue_until_it_can(
    services: Services, dispatch: Dispatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffusion_local.dispatch.storage_faults.PROBE_SECONDS", 0.0)
    enqueue(services.jobs)
    job = claimed(dispatch)
    gallery, away = services.settings.gallery_folder, services.settings.home / "away"
    assert (dispatch.ready(), dispatch.check_storage()) == (True, True)
    gallery.rename(away)
    with pytest.raises(StorageProblem, match="mounted"):
        dispatch.finish(job.claim, finished())
    assert not dispatch.check_storage(10_000)
    assert "continues by itself" in services.control.blocked_reason()
    assert not dispatch.ready()
    assert dispatch.claim("") == []
    away.rename(gallery)
    assert dispatch.ready()
    assert services.control.blocked_reason() == ""
    dispatch.finish(job.claim, finished())  # the same call again
    assert len(pictures(services)) == 1


@pytest.mark.sqlite
def test_a_studio_whose_database_is_away_says_so(services: Services, dispatch: Dispatch) -> None:
    enqueue(services.jobs)
    job = claimed(dispatch)
    services.database.close()
    services.settings.database_file.rename(services.settings.home / "away.db")
    for call in (
        lambda: dispatch.claim(""),
        lambda: dispatch.flags([job.claim]),
        lambda: dispatch.report([ProgressReport(job.claim, 1)]),
        lambda: dispatch.finish(job.claim, finished()),
        lambda: dispatch.requeue(job.claim, "back"),
        dispatch.running,
        dispatch.heartbeat,
    ):
        with pytest.raises(DatabaseProblem):
            call()
    assert not dispatch.check_storage()
    dispatch.save_preview(job.claim, b"preview")  # losing one raises nothing
    assert pictures(services) == []
    (services.settings.home / "away.db").rename(services.settings.database_file)


def test_what_was_learned_about_memory_is_known_again(dispatch: Dispatch) -> None:
    fit = Fit("starter", Kind.TXT2IMG, 128, 128, "a device", "model_offload", 10**9, "resident", 10**8)
    assert dispatch.fits("starter", "a device") == []
    dispatch.record_fit(fit)
    [known] = dispatch.fits("starter", "a device")
    assert replace(known, at="") == fit


def test_the_time_of_a_picture_is_expected_from_those_before(services: Services, dispatch: Dispatch) -> None:
    assert dispatch.estimate_seconds(params(), "starter") is None
    assert dispatch.shares(params()) == []
    enqueue(services.jobs)
    job = claimed(dispatch)
    dispatch.finish(job.claim, finished())
    assert eventually(lambda: dispatch.estimate_seconds(job.params, "starter")) == pytest.approx(0.5)


def test_an_idle_worker_lends_its_gpu_until_it_recalls_it(dispatch: Dispatch, other: Dispatch) -> None:
    for each in (dispatch, other):
        each.take(0)
        each.register(os.getpid(), "a device", DeviceMemory())
        each.report_status("idle")
    assert dispatch.loan(True) is None
    asked = dispatch.borrow(1000)
    assert asked is not None
    assert (asked.slot, asked.borrower, asked.size) == ("cpu1", "cpu0", 1000)
    assert other.asked_loan() == asked
    other.lend("cpu0", True)
    used = dispatch.loan(True)
    assert used is not None
    assert used.state == "used"
    while dispatch.wait(0):  # rings for the lending worker
        pass
    assert other.recall_loan()
    assert dispatch.wait(5)  # an idle borrower learns of it at once
    recalled = dispatch.loan(True)
    assert recalled is not None
    assert recalled.state == "recalled"
    dispatch.give_back_loan()
    assert not other.recall_loan()
    dispatch.leave()
    other.leave()
