"""Two workers share their GPUs, here with the fake engine: every way in which a loan can end."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from diffusion_local.compose import Services
from diffusion_local.dispatch.local import LocalDispatch
from diffusion_local.domain import USED, Job, State
from diffusion_local.engine.fake import FakeEngine
from diffusion_local.worker.runner import Runner
from diffusion_local.worker.sharing import Sharing
from diffusion_local.worker.stopping import Stop
from tests.conftest import StartWorker
from tests.support import eventually, sql
from tests.workers import open_runner

NUMBERS: dict[str, Any] = {"width": 128, "height": 128, "steps": 6, "guidance": 5, "seed": 7}


class Watched(FakeEngine):
    """``at[step]`` is done before that step of the next picture; ``helped``: the slots that help with its steps."""

    def __init__(self, size: int = 100) -> None:
        super().__init__(0)
        self.at: dict[int, Callable[[], object]] = {}
        self.helped: list[str] = []
        self.dropped = 0
        self.size = size

    def run(self, crew: Any) -> None:
        helper = crew.helper
        if helper is not None:
            crew.helper = self
            self._inner = helper
            self.helped = []
        super().run(crew)

    def slot(self) -> str:
        self.at.pop(len(self.helped) + 1, lambda: None)()
        self._inner._read_at = 0.0  # looks at each step, however fast
        self.helped.append(self._inner.slot())
        return self.helped[-1]

    def refuse(self) -> None:
        self._inner.refuse()

    def helper_bytes(self, model: Any, params: Any) -> int:
        return self.size

    def drop_helper(self) -> None:
        super().drop_helper()
        self.dropped += 1


class Pair:
    """Workers of two slots in this process, each with the lock of its slot."""

    def __init__(self, services: Services, enabled: str = "auto", least: float = 0.0) -> None:
        self.services = services
        self.engines = [Watched(), Watched()]
        self.stops = [Stop(), Stop()]
        self.runners: list[Runner] = []
        for number, (engine, stop) in enumerate(zip(self.engines, self.stops, strict=True)):
            runner = open_runner(services, f"cpu{number}", engine, stop)
            dispatch: Any = runner._dispatch
            assert isinstance(dispatch, LocalDispatch)
            dispatch.take(0)
            dispatch.register(os.getpid(), engine.device, engine.room)
            dispatch.report_status("idle")
            runner._sharing = Sharing(dispatch, engine, services.catalog, stop, enabled, least)
            self.runners.append(runner)

    def draw(self, prompt: str = "a red apple", **changes: Any) -> Job:
        """Make a picture on cpu0."""
        [job_id] = self.services.studio.submit(prompt, **NUMBERS | changes).job_ids
        self.runners[0].run_due_jobs()
        return self.services.jobs.get(job_id)

    def facts(self, job: Job) -> dict[str, Any]:
        assert job.state is State.DONE
        return self.services.studio.images_of([job])[job.id].facts

    def lend(self) -> None:
        self.runners[1].run_due_jobs()

    def loans(self) -> list[str]:
        """The states of the loans to cpu0."""
        with sql(self.services.settings) as db:
            rows = db.execute("SELECT state FROM loans WHERE borrower LIKE '%cpu0'")
            return [row["state"] for row in rows]

    def close(self) -> None:
        for runner in self.runners:
            runner.close()
            lock = runner._dispatch._lock  # type: ignore[attr-defined]
            lock.release()


@pytest.fixture
def pair(services: Services) -> Iterator[Pair]:
    opened = Pair(services)
    opened.draw()  # teaches the estimates how long a picture takes
    yield opened
    opened.close()


def test_an_idle_worker_helps_from_the_next_step_on_and_stays_for_the_next_picture(pair: Pair) -> None:
    alone = pair.draw(gpus=2)
    pair.engines[0].at[3] = pair.lend
    job = pair.draw()
    assert pair.engines[0].helped == ["", "", "cpu1", "cpu1", "cpu1", "cpu1"]
    assert (pair.facts(job)["gpus"], pair.facts(job)["helped_steps"]) == (2, 4)
    assert pair.facts(alone)["gpus"] == 2
    pair.draw()
    assert pair.engines[0].helped == ["cpu1"] * 6
    assert pair.loans() == [USED]


def test_a_picture_over_two_gpus_is_made_again_exactly_by_one(pair: Pair) -> None:
    pair.engines[0].at[1] = pair.lend
    job = pair.draw()
    pair.runners[0]._sharing.give_back()
    [again] = pair.services.studio.queue.again([job.id], exactly=True).job_ids
    assert pair.services.jobs.get(again).params.gpus == 2


def test_estimates_do_not_learn_from_pictures_that_had_help(pair: Pair) -> None:
    pair.engines[0].at[1] = pair.lend
    helped = pair.draw()
    with sql(pair.services.settings) as db:
        found = dict(db.execute("SELECT id, together FROM jobs").fetchall())
    assert found.pop(helped.id) == 0
    assert set(found.values()) == {1}


def test_a_job_that_arrives_gets_the_lent_gpu_within_a_step(pair: Pair) -> None:
    engine, services = pair.engines[0], pair.services
    engine.at[1] = pair.lend
    arrived: list[str] = []
    workers: list[threading.Thread] = []

    def arrive() -> None:
        arrived.extend(services.studio.submit("somebody waits", **NUMBERS).job_ids)
        workers.append(threading.Thread(target=pair.lend))
        workers[0].start()
        eventually(lambda: pair.loans() == ["recalled"])

    engine.at[3] = arrive
    job = pair.draw()
    workers[0].join(30)
    assert engine.helped == ["cpu1", "cpu1", "", "", "", ""]
    assert engine.dropped == 1
    assert pair.facts(job)["helped_steps"] == 2
    other = services.jobs.get(arrived[0])
    assert other.state is State.DONE
    assert pair.loans() == []


def test_a_loan_that_is_not_used_is_given_back(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.engines[0].at[1] = pair.lend
    pair.draw()
    sharing = pair.runners[0]._sharing
    sharing.between_pictures()
    assert pair.loans() == [USED]
    monkeypatch.setattr("diffusion_local.worker.sharing.UNUSED_SECONDS", 0.0)
    sharing.between_pictures()
    assert pair.loans() == []


def test_a_loan_ends_before_a_picture_that_cannot_use_it(pair: Pair) -> None:
    pair.engines[0].at[1] = pair.lend
    pair.draw()
    pair.engines[0].size = 0
    job = pair.draw()
    assert "gpus" not in pair.facts(job)
    assert pair.loans() == []


def test_a_gpu_that_cannot_be_used_is_given_back_and_not_asked_for_again(pair: Pair) -> None:
    pair.engines[0].at[1] = pair.lend
    pair.engines[0].at[3] = pair.runners[0]._sharing.refuse
    pair.draw()
    assert pair.engines[0].helped == ["cpu1", "cpu1", "", "", "", ""]
    assert pair.loans() == []
    assert "gpus" not in pair.facts(pair.draw())


def test_a_worker_without_room_does_not_lend(pair: Pair) -> None:
    pair.engines[0].size = 2**60
    pair.engines[0].at[1] = pair.lend
    pair.draw()
    assert pair.engines[0].helped == [""] * 6
    assert pair.loans() == []


def test_short_pictures_stay_on_one_gpu(services: Services) -> None:
    pair = Pair(services, least=60.0)
    pair.draw()
    assert "gpus" not in pair.facts(pair.draw())
    pair.close()


def test_nothing_is_shared_unless_the_setting_says_so(services: Services) -> None:
    pair = Pair(services, enabled="off")
    pair.draw()
    assert "gpus" not in pair.facts(pair.draw())
    assert pair.loans() == []
    assert services.settings.share_gpus == "off"
    pair.close()


# -- processes that die --------------------------------------------------------------------------------------------


def start(worker_process: StartWorker, slot: str) -> Any:
    return worker_process(slot, share_gpus="auto", share_gpus_seconds=0.0, fake_step_seconds=0.02)


def submit(services: Services, prompt: str = "a red apple", **changes: Any) -> str:
    return services.studio.submit(prompt, **NUMBERS | changes).job_ids[0]


def done(services: Services, job_id: str) -> Job:
    def look() -> Job | None:
        job = services.jobs.get(job_id)
        return job if job.final else None

    job = eventually(look, 60)
    assert job.state is State.DONE
    return job


def lent(services: Services) -> tuple[str, str] | None:
    """(slot, borrower) of the loan in use."""
    with sql(services.settings) as db:
        found = db.execute("SELECT slot, borrower FROM loans WHERE state = 'used'").fetchone()
    return None if found is None else (found["slot"], found["borrower"])


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("victim", ["borrower", "lender"])
def test_the_death_of_either_side_blocks_nothing(services: Services, worker_process: StartWorker, victim: str) -> None:
    children = {slot: start(worker_process, slot) for slot in ("cpu0", "cpu1")}
    done(services, submit(services))
    long = submit(services, "[slow:0.1] a long picture", steps=60)
    slot, borrower = eventually(lambda: lent(services), 30)
    dying = borrower if victim == "borrower" else slot
    children[dying].send_signal(signal.SIGKILL)
    children[dying].wait(10)
    if victim == "lender":
        start(worker_process, dying)  # as its supervisor does
    other = submit(services, "somebody waits")
    done(services, other)
    finished = done(services, long)
    assert (finished.attempt, finished.crashes) == ((2, 1) if victim == "borrower" else (1, 0))
    eventually(lambda: lent(services) is None or lent(services) != (slot, borrower), 30)
