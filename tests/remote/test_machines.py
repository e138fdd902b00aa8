"""What the settings of a machine do to its worker while it works: pause, drain, hours, removal, and a hung engine."""

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from diffusion_local.actor import LOCAL, NOBODY, acting, run_as
from diffusion_local.compose import Services
from diffusion_local.dispatch import slots
from diffusion_local.domain import DeviceMemory, Flags, Lane, State
from diffusion_local.engine.fake import FakeEngine
from diffusion_local.errors import InvalidParams, LeaseLost, LostClaim, Unauthorized
from diffusion_local.messages import message
from diffusion_local.queue.jobs import Selection
from diffusion_local.remote.dispatch import RemoteDispatch
from diffusion_local.worker import saving
from diffusion_local.worker.__main__ import keep_publishing_files, send_heartbeats
from diffusion_local.worker.runner import Runner
from diffusion_local.worker.sources import SourcePictures
from diffusion_local.worker.stopping import Stop
from tests.remote.farm import Studio, joined, runner
from tests.support import enqueue, eventually
from tests.web.conftest import client_of


def registered(studio: Studio, files: Any, machine: str = "attic") -> Any:
    dispatch = joined(studio, files, machine)
    dispatch.register(1, "cpu", DeviceMemory("cpu", 2**33))
    return dispatch


def test_a_machine_appears_with_its_worker(services: Services, studio: Studio, files: Any) -> None:
    dispatch = registered(studio, files)
    dispatch.report_status("busy", "starter")
    [machine] = services.studio.machines.all()
    assert (machine.name, machine.connected, machine.account) == ("attic", True, "ann")
    assert machine.version
    assert machine.models == ["starter"]
    assert machine.slots[0].model == "starter"
    dispatch.leave()
    assert not services.studio.machines.get("attic").connected


@pytest.mark.parametrize("verb", ["pause", "drain"])
def test_one_that_is_paused_or_drained_claims_nothing(
    services: Services, studio: Studio, files: Any, verb: str
) -> None:
    enqueue(services.jobs)
    dispatch = registered(studio, files)
    machines = services.studio.machines
    getattr(machines, verb)("attic")
    assert dispatch.claim("") == []
    assert registered(studio, files, "cellar").claim("")
    machines.resume("attic")
    enqueue(services.jobs)
    assert dispatch.claim("")


@pytest.mark.parametrize(("verb", "state"), [("pause", State.QUEUED), ("drain", State.RUNNING)])
def test_a_pause_gives_running_jobs_back_and_a_drain_does_not(
    services: Services, studio: Studio, files: Any, verb: str, state: State
) -> None:
    [job_id] = enqueue(services.jobs, steps=400)
    stop = Stop()
    worker = runner(registered(studio, files), services, FakeEngine(0.02), stop)
    working = threading.Thread(target=worker.serve)
    working.start()
    eventually(lambda: services.jobs.get(job_id).step > 0)
    getattr(services.studio.machines, verb)("attic")
    if state is State.QUEUED:
        eventually(lambda: services.jobs.get(job_id).state is state, 30)
    else:
        seen = services.jobs.get(job_id).step
        eventually(lambda: services.jobs.get(job_id).step > seen + 10, 30)
        assert services.jobs.get(job_id).state is state
    stop.request()
    working.join(30)
    worker.close()
    assert services.jobs.get(job_id).crashes == 0


def test_bad_settings_are_refused_by_name(services: Services, studio: Studio, files: Any) -> None:
    registered(studio, files)
    machines = services.studio.machines
    for field, value in (("hours", "25:00-26:00"), ("hours", "x" * 500), ("gpu_share", "perhaps")):
        with pytest.raises(InvalidParams, match=field):
            machines.change("attic", **{field: value})
    assert machines.change("attic", hours="00:00-24:00").hours == "00:00-24:00"
    assert machines.change("attic", hours="").hours == ""


def test_removing_a_machine_in_the_middle_of_a_picture(services: Services, studio: Studio, files: Any) -> None:
    """Its token is dead, its job waits for others at once, and what it still sends is refused."""
    accounts = services.studio.accounts
    accounts.add("ann", "correct horse")
    token, secret = accounts.add_token("ann", "worker attic", ["worker"])
    who = accounts.by_token(secret)
    assert who is not None
    studio.who = who
    [job_id] = enqueue(services.jobs)
    dispatch = registered(studio, files)
    [job] = dispatch.claim("")
    services.studio.machines.remove("attic")
    found = services.jobs.get(job_id)
    assert (found.state, found.crashes) == (State.QUEUED, 0)
    assert accounts.by_token(secret) is None
    assert token.id not in {each.id for each in accounts.tokens("ann")}
    assert services.studio.machines.all() == []
    assert services.studio.workers() == []
    with pytest.raises((LostClaim, LeaseLost)):
        dispatch.stop(job.claim)


def test_a_revoked_token_ends_the_worker_with_a_sentence(services: Services, studio: Studio, files: Any) -> None:
    accounts = services.studio.accounts
    accounts.add("ann", "correct horse")
    token, secret = accounts.add_token("ann", "worker attic", ["worker"])

    run_as(NOBODY)
    try:
        with client_of(services) as client:
            client.headers["Authorization"] = f"Bearer {secret}"
            dispatch: Any = RemoteDispatch(client, "attic.cpu0")  # type: ignore[arg-type]
            dispatch.take(0)
            with acting(LOCAL):
                accounts.remove_token("ann", token.id)
            with pytest.raises(Unauthorized, match="it was revoked"):
                dispatch.heartbeat()
    finally:
        run_as(LOCAL)


def test_a_refused_worker_ends_with_one_sentence_and_no_traceback(
    services: Services, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its other threads stop; the main thread, which hears the refusal at its own next call, says why it ends."""
    dispatch = joined(studio)

    def refused(*_: object) -> None:
        raise Unauthorized(message("token_unknown"))

    for call in ("heartbeat", "missing_files", "publish_files"):
        monkeypatch.setattr(dispatch, call, refused, raising=False)
    send_heartbeats(dispatch)
    keep_publishing_files(dispatch, services.catalog, services.settings)


def test_a_worker_that_hangs_is_told_to_end(services: Services, studio: Studio, files: Any) -> None:
    reports: list[bool] = []
    [job_id] = enqueue(services.jobs)
    dispatch = joined(studio, files, on_hung=lambda: reports.append(True))
    dispatch.claim("")
    slots.recover_hung(services, "attic.cpu0")
    assert services.jobs.get(job_id).state is State.QUEUED
    dispatch.heartbeat()  # its heartbeat hears it; a real one ends its process
    assert reports == [True]


def test_a_cancel_is_heard_within_a_second(services: Services, studio: Studio, files: Any) -> None:
    enqueue(services.jobs)
    dispatch = registered(studio, files)
    [job] = dispatch.claim("")
    services.jobs.cancel(Selection(ids=(job.id,)))
    assert eventually(lambda: dispatch.flags([job.claim]) == [Flags(cancel=True)], 5)


def test_a_pass_of_the_batch_lane_makes_room_for_somebody_who_waits(
    services: Services, studio: Studio, files: Any
) -> None:
    enqueue(services.jobs, lane=Lane.BATCH)
    dispatch = registered(studio, files)
    [job] = dispatch.claim("")
    dispatch.flags([job.claim])
    assert not dispatch.urgent()
    enqueue(services.jobs)
    eventually(dispatch.urgent, 5)
    [urgent] = dispatch.claim("starter", urgent=True)
    assert urgent.lane is Lane.INTERACTIVE


def test_steps_do_not_wait_for_the_network(services: Services, studio: Studio, files: Any) -> None:
    """A picture costs a few requests, however many steps it has."""
    enqueue(services.jobs, steps=150)
    dispatch = registered(studio, files)
    worker = runner(dispatch, services)
    before = studio.requests
    worker.run_due_jobs()
    worker.close()
    assert studio.requests - before < 30


def test_a_picture_gets_the_studios_time_though_the_workers_clock_is_off(
    services: Services, studio: Studio, files: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Late(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) - timedelta(hours=1)

    monkeypatch.setattr(saving, "datetime", Late)
    monkeypatch.setattr(
        "diffusion_local.remote.dispatch.datetime", type("D", (Late,), {"fromisoformat": datetime.fromisoformat})
    )
    [job_id] = enqueue(services.jobs)

    dispatch: Any = RemoteDispatch(studio, "attic.cpu0")  # type: ignore[arg-type]
    terms = dispatch.take(0)
    assert 3590 < terms.clock_offset < 3610
    dispatch.publish_files(files)
    worker = Runner(dispatch, terms, FakeEngine(0), services.catalog, Stop(), inputs=SourcePictures(dispatch))
    worker.run_due_jobs()
    worker.close()
    image = services.studio.image(job_id)
    assert abs(datetime.fromisoformat(image.created_at) - datetime.now(UTC)) < timedelta(minutes=1)
    recipe = services.files.picture(image.key).read_bytes()
    assert image.created_at[:16].encode() in recipe
