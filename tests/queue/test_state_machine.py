"""Any interleaving of the verbs keeps the invariants: a random walk of the store beside a model of a few lines."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from diffusion_local.db.database import Database
from diffusion_local.domain import FINAL, Claim, Job, State
from diffusion_local.errors import LostClaim
from diffusion_local.queue.jobs import CRASH_LIMIT, JobStore, Selection
from tests.support import FAILURE, enqueue, image_of

#: What jobs are counted by in job_counts.
BY = "state, model, kind, pixels, steps"
WORKERS = st.sampled_from(["cpu0", "cpu1"])


class Modelled:
    """What the model knows of a job."""

    def __init__(self) -> None:
        self.state = State.QUEUED
        self.worker: str | None = None
        self.attempt = 0
        self.crashes = 0
        self.cancel = False

    def fits(self, claim: Claim) -> bool:
        return self.state is State.RUNNING and (self.worker, self.attempt) == (claim.worker, claim.attempt)

    def end(self, state: State) -> None:
        self.state, self.worker = state, None


class Walk(RuleBasedStateMachine):
    claims = Bundle("claims")  # every claim ever given, good or stale: whoever holds one may write at any time

    @initialize()
    def open(self) -> None:
        self.folder = TemporaryDirectory()
        self.database = Database.open(Path(self.folder.name) / "app.db")
        with self.database.write() as db:
            assert db.execute("SELECT count(*) FROM jobs").fetchone()[0] == 0
        with self.database.outside_transaction() as connection:
            connection.execute("PRAGMA synchronous = OFF")  # speed; nothing here loses power
        self.store = JobStore(self.database)
        self.jobs: dict[str, Modelled] = {}
        self.ended: dict[str, Job] = {}

    def teardown(self) -> None:
        if hasattr(self, "database"):
            self.database.close()
            self.folder.cleanup()

    @rule(count=st.integers(1, 3))
    def submit(self, count: int) -> None:
        self.jobs |= {job_id: Modelled() for job_id in enqueue(self.store, count)}

    @rule(target=claims, worker=WORKERS)
    def claim(self, worker: str) -> Claim:
        job = self.store.claim_next(worker)
        due = [job_id for job_id, model in self.jobs.items() if model.state is State.QUEUED]
        if job is None:
            assert not due
            return Claim("nobody", worker, 1)
        assert job.id == due[0]  # the oldest
        model = self.jobs[job.id]
        model.state, model.worker, model.attempt = State.RUNNING, worker, model.attempt + 1
        assert job.attempt == model.attempt
        return job.claim

    def settle(self, claim: Claim, write: Any) -> Modelled | None:
        """Do it; the model's job if the claim was good, None if it was refused as stale."""
        model = self.jobs.get(claim.job_id)
        good = model is not None and model.fits(claim)
        try:
            write()
        except LostClaim:
            assert not good
            return None
        assert good
        return model

    @rule(claim=claims, step=st.integers(1, 4))
    def report(self, claim: Claim, step: int) -> None:
        heard = []
        model = self.settle(claim, lambda: heard.append(self.store.report(claim, step)))
        if model:
            assert heard[0].cancel == model.cancel
            assert self.store.get(claim.job_id).step == step

    @rule(claim=claims)
    def finish(self, claim: Claim) -> None:
        if claim.job_id in self.jobs:
            image = image_of(self.store.get(claim.job_id))
            if model := self.settle(claim, lambda: self.store.finish(claim, image)):
                model.cancel = False
                model.end(State.DONE)

    @rule(claim=claims)
    def fail(self, claim: Claim) -> None:
        if model := self.settle(claim, lambda: self.store.fail(claim, FAILURE)):
            model.cancel = False
            model.end(State.FAILED)

    @rule(claim=claims)
    def stop(self, claim: Claim) -> None:
        if model := self.settle(claim, lambda: self.store.stop(claim)):
            model.end(State.CANCELLED)

    @rule(claim=consumes(claims))
    def requeue(self, claim: Claim) -> None:
        if model := self.settle(claim, lambda: self.store.requeue(claim, "given back")):
            model.end(State.CANCELLED if model.cancel else State.QUEUED)

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if not self.jobs:
            return
        job_id = data.draw(st.sampled_from(sorted(self.jobs)))
        model = self.jobs[job_id]
        touched = self.store.cancel(Selection((job_id,)))
        assert touched == ([] if model.state in FINAL else [job_id])
        if model.state is State.QUEUED:
            model.end(State.CANCELLED)
        elif model.state is State.RUNNING:
            model.cancel = True

    @rule(worker=WORKERS)
    def recover(self, worker: str) -> None:
        left = [model for model in self.jobs.values() if model.worker == worker]
        assert len(self.store.recover(worker, FAILURE)) == len(left)
        for model in left:
            model.crashes += 1
            failed = model.crashes >= CRASH_LIMIT
            model.end(State.CANCELLED if model.cancel else State.FAILED if failed else State.QUEUED)

    @invariant()
    def the_kept_counts_are_those_of_the_rows(self) -> None:
        if hasattr(self, "database"):
            with self.database.read() as db:
                kept = db.execute(f"SELECT {BY}, jobs FROM job_counts WHERE jobs != 0").fetchall()
                assert kept == db.execute(f"SELECT {BY}, count(*) FROM jobs GROUP BY {BY} ORDER BY {BY}").fetchall()

    @invariant()
    def the_store_agrees(self) -> None:
        if not hasattr(self, "jobs"):
            return
        with self.database.read() as db:
            pictures = [row["job_id"] for row in db.query("SELECT job_id FROM images")]
        assert sorted(pictures) == sorted(i for i, model in self.jobs.items() if model.state is State.DONE)
        for job_id, model in self.jobs.items():
            job = self.store.get(job_id)
            assert (job.state, job.worker, job.attempt, job.crashes) == (
                model.state,
                model.worker,
                model.attempt,
                model.crashes,
            )
            assert (job.state is State.RUNNING) == (job.worker is not None)
            if job.final:
                assert self.ended.setdefault(job_id, job) == job  # final is final


TestWalk = Walk.TestCase
TestWalk.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
