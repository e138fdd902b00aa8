"""A worker on another machine, by HTTP: its lease, what it is given, and what it does while the studio is away."""

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from PIL import Image as PIL

from diffusion_local.actor import SCOPES, Actor, Role
from diffusion_local.actor import Scope as Scopes
from diffusion_local.compose import Services
from diffusion_local.dispatch import Finished, slots, wire
from diffusion_local.domain import Job, State, utc_now, utc_text
from diffusion_local.errors import HomeInUse, InvalidParams, LostClaim, ServerProblem
from diffusion_local.gallery.image_formats import encode
from diffusion_local.queue.estimates import JobTimings
from diffusion_local.remote.dispatch import RemoteDispatch, StudioUnavailable
from tests.remote.farm import ROBOT, Studio, joined, runner
from tests.support import enqueue, eventually, sql


def expire(services: Services, slot: str = "attic.cpu0") -> None:
    past = utc_text(datetime.now(UTC) - timedelta(seconds=1))
    with sql(services.settings) as db:
        db.execute("UPDATE leases SET expires_at = ? WHERE slot = ?", [past, slot])


def test_a_remote_worker_makes_what_waits(services: Services, studio: Studio, files: Any) -> None:
    ids = enqueue(services.jobs, 3)
    worker = runner(joined(studio, files), services)
    worker.run_due_jobs()
    worker.close()
    assert {services.jobs.get(job_id).state for job_id in ids} == {State.DONE}
    assert len(list(services.settings.gallery_folder.rglob("*.png"))) == 3


def test_it_is_given_only_what_it_has_byte_for_byte(services: Services, studio: Studio, files: Any) -> None:
    enqueue(services.jobs)
    other = {kind: dict.fromkeys(names, "0" * 64) for kind, names in files.items()}
    for offered in (None, {}, other):
        assert joined(studio, offered, f"m{id(offered)}").claim("") == []
    [job] = joined(studio, files, "full").claim("")
    assert isinstance(job, Job)


def test_a_slot_is_held_by_one_session_and_each_machine_has_its_own(studio: Studio) -> None:
    joined(studio)
    with pytest.raises(HomeInUse, match=r"attic\.cpu0"):
        joined(studio)
    joined(studio, machine="cellar").leave()
    joined(studio, machine="cellar")


@pytest.mark.parametrize("slot", ["cpu0", "gpu0", "../x.cpu0", "Attic.cpu0", "a.b.cpu0", "attic.", ""])
def test_a_slot_of_the_studios_own_cannot_be_named(studio: Studio, slot: str) -> None:
    with pytest.raises(InvalidParams, match="slot"):
        RemoteDispatch(studio, slot).take(0)  # type: ignore[arg-type]


def test_an_expired_lease_frees_the_jobs_and_fences_what_is_late(
    services: Services, studio: Studio, files: Any
) -> None:
    [job_id] = enqueue(services.jobs)
    lost = joined(studio, files)
    [job] = lost.claim("")
    assert slots.recover_expired(services) == []
    assert slots.recover_if_free(services, "attic.cpu0") == []
    expire(services)
    assert [each.id for each in slots.recover_expired(services)] == [job_id]
    assert services.jobs.get(job_id).state is State.QUEUED
    with pytest.raises(LostClaim):
        lost.stop(job.claim)
    [again] = joined(studio, files, "cellar").claim("")
    assert (again.id, again.claim.attempt) == (job_id, job.claim.attempt + 1)


def test_a_worker_whose_lease_is_over_takes_its_slot_again(services: Services, studio: Studio, files: Any) -> None:
    [job_id] = enqueue(services.jobs)
    dispatch = joined(studio, files)
    [job] = dispatch.claim("")
    expire(services)
    slots.recover_expired(services)
    eventually(lambda: dispatch.flags([job.claim]) == [None])
    [again] = dispatch.claim("")
    assert (again.id, again.claim.attempt) == (job_id, job.claim.attempt + 1)
    dispatch.stop(again.claim)
    assert services.jobs.get(job_id).state is State.CANCELLED


def test_it_ends_where_another_worker_has_its_slot_by_then(services: Services, studio: Studio) -> None:
    dispatch = joined(studio)
    expire(services)
    joined(studio)
    with pytest.raises(HomeInUse):
        dispatch.heartbeat()


def test_a_lease_that_ran_over_is_renewed_where_nobody_took_the_slot(services: Services, studio: Studio) -> None:
    dispatch = joined(studio)
    expire(services)
    dispatch.heartbeat()
    assert slots.recover_expired(services) == []


def test_a_restarted_studio_knows_the_session_by_its_lease(services: Services, studio: Studio, files: Any) -> None:
    [job_id] = enqueue(services.jobs)
    dispatch = joined(studio, files)
    [job] = dispatch.claim("")
    dispatch._client = Studio(services)
    assert dispatch.flags([job.claim]) == services.jobs.flags_of([job.claim])
    dispatch.stop(job.claim)
    assert services.jobs.get(job_id).state is State.CANCELLED


def test_another_credential_cannot_use_a_session(studio: Studio, files: Any) -> None:
    dispatch = joined(studio, files)
    for who in (replace(ROBOT, token="t2"), replace(ROBOT, name="bob")):
        studio.who = who
        with pytest.raises(HomeInUse, match="Another worker"):
            dispatch.claim("")


@pytest.mark.parametrize("role", list(Role))
def test_other_scopes_do_not_let_in(studio: Studio, role: Role) -> None:
    studio.who = Actor("ann", role, SCOPES[role] - {Scopes.WORKER}, source="token", token="t1")
    with pytest.raises(ServerProblem, match="worker"):
        joined(studio)


def test_a_worker_reads_the_sources_of_its_own_claims_only(services: Services, studio: Studio, files: Any) -> None:
    enqueue(services.jobs, 2)
    [mine], [theirs] = joined(studio, files).claim(""), joined(studio, files, "cellar").claim("")
    with pytest.raises(LostClaim):
        joined(studio, files, "third").source(theirs.claim, "a" * 64)
    assert mine.id != theirs.id


def test_while_the_studio_is_away_a_worker_waits_and_hands_in_later(
    services: Services, studio: Studio, files: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffusion_local.worker.saving.TRY_SECONDS", 0.05)
    [job_id] = enqueue(services.jobs)
    dispatch = joined(studio, files)
    finish = dispatch._call

    def cut(name: str, args: Any, kwargs: Any) -> Any:
        if name == "finish" and not gone.is_set():
            studio.away = True
            gone.set()
        return finish(name, args, kwargs)

    gone = threading.Event()
    monkeypatch.setattr(dispatch, "_call", cut)
    worker = runner(dispatch, services)
    working = threading.Thread(target=worker.run_due_jobs)
    working.start()
    assert gone.wait(30)
    assert [dispatch.check_storage(), dispatch.wait(0.01)] == [False, False]
    with pytest.raises(StudioUnavailable):
        dispatch.report_status("idle")
    assert services.jobs.get(job_id).state is State.RUNNING
    studio.away = False
    eventually(lambda: services.jobs.get(job_id).state is State.DONE, 30)
    working.join(30)
    worker.close()


def test_an_unreadable_request_is_refused_by_name(studio: Studio) -> None:
    answer = studio.post("/api/v1/worker", content=b"nonsense")
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "body")
    head, blobs = wire.unpack(wire.request("heartbeat", (), {}))
    answer = studio.post("/api/v1/worker", content=wire.pack(head | {"protocol": 0}, blobs))
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "protocol")


def test_a_ring_wakes_a_waiting_worker(services: Services, studio: Studio, files: Any) -> None:
    dispatch = joined(studio, files)
    assert not dispatch.wait(0.05)
    rung: list[bool] = []
    waiting = threading.Thread(target=lambda: rung.append(dispatch.wait(20)))
    waiting.start()
    while waiting.is_alive():
        enqueue(services.jobs)
        waiting.join(0.3)
    assert rung == [True]


def test_a_worker_that_leaves_ends_its_threads(services: Services, studio: Studio, files: Any) -> None:
    [job_id] = enqueue(services.jobs)
    dispatch = joined(studio, files)
    before = set(threading.enumerate())
    assert [each.id for each in dispatch.claim("")] == [job_id]
    assert not dispatch.wait(0.01)
    begun = set(threading.enumerate()) - before
    assert {"pulse", "bell"} <= {each.name for each in begun}
    dispatch.leave()
    eventually(lambda: not any(each.is_alive() for each in begun if each.name in ("pulse", "bell")), 60)


@pytest.mark.parametrize(
    "wrong",
    [
        {"encoded": {"data": b"<script>alert(1)</script>"}},
        {"encoded": {"form": "../../x"}},
        {"encoded": {"form": "webp"}},
        {"encoded": {"thumbnail": b"no picture"}},
        {"encoded": {"sidecar": b"x" * 300_000}},
        {"width": 64},
        {"facts": {"model_hash": "x" * 300_000}},
    ],
    ids=str,
)
def test_what_is_no_picture_of_the_job_is_not_kept(
    services: Services, studio: Studio, files: Any, wrong: dict[str, Any]
) -> None:
    [job_id] = enqueue(services.jobs)
    dispatch = joined(studio, files)
    [job] = dispatch.claim("")
    encoded = encode(PIL.new("RGB", (128, 128)), {"parameters": "a"})
    good = Finished(encoded, 128, 128, utc_now(), JobTimings(1, 1, 1, "resident"))
    bad = replace(good, **wrong | ({"encoded": replace(encoded, **wrong["encoded"])} if "encoded" in wrong else {}))
    with pytest.raises(InvalidParams):
        dispatch.finish(job.claim, bad)
    assert [path for path in services.settings.gallery_folder.rglob("*") if path.is_file()] == []
    dispatch.save_preview(job.claim, b"<html>")
    assert not services.files.preview(job_id).exists()
    dispatch.finish(job.claim, good)
    assert services.jobs.get(job_id).state is State.DONE


def test_a_worker_whose_credential_ends_does_not_go_on(services: Services, studio: Studio, files: Any) -> None:
    [job_id] = enqueue(services.jobs)
    worker = runner(joined(studio, files), services)
    studio.who = replace(ROBOT, scopes=frozenset({Scopes.READ}))
    with pytest.raises(ServerProblem, match="refuses this worker"):
        worker.run_due_jobs()
    studio.who = ROBOT
    worker.close()
    assert services.jobs.get(job_id).state is State.QUEUED


@pytest.mark.parametrize(("status", "words"), [(413, "client_max_body_size"), (404, "status 404"), (403, "status 403")])
def test_what_a_proxy_answers_does_not_end_the_worker(status: int, words: str) -> None:
    proxy = httpx.MockTransport(lambda request: httpx.Response(status, text="<h1>nginx</h1>"))
    dispatch = RemoteDispatch(httpx.Client(base_url="http://studio", transport=proxy), "attic.cpu0")
    with pytest.raises(StudioUnavailable, match=words):
        dispatch.take(0)
