"""Waiting for jobs, limited in time and number, with progress reports to the caller."""

import contextlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.to_thread

from diffusion_local.actor import current
from diffusion_local.domain import FINAL, Job, State
from diffusion_local.errors import LimitReached
from diffusion_local.messages import message
from diffusion_local.studio import MAX_JOBS_BY_ID

POLL_SECONDS = 0.5
MOST_WAITS = 50  # waiting calls per account
MOST_JOBS = MAX_JOBS_BY_ID  # per response

Report = Callable[[float, float, str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Context:
    """One call: its studio, and the function that reports progress (done, total, text)."""

    studio: Any
    report: Report
    stopping: Callable[[], bool]


_waits: Counter[str] = Counter()  # by account; used in the event loop only


@contextlib.contextmanager
def one_more_wait() -> Iterator[None]:
    """Count a waiting call. Raises LimitReached if the account already has too many."""
    name = current().name
    if _waits[name] >= MOST_WAITS:
        raise LimitReached(message("waits_most", most=MOST_WAITS), retry_after=30)
    _waits[name] += 1
    try:
        yield
    finally:
        _waits[name] -= 1
        if not _waits[name]:
            del _waits[name]


async def until_ended(context: Context, job_ids: list[str], seconds: float) -> tuple[list[Job], bool]:
    """(the jobs, whether all have ended), once all have ended, time is up, or the server stops."""

    def poll() -> tuple[list[Job], float, str]:
        jobs = context.studio.jobs(ids=job_ids)
        return jobs, sum(map(share_done, jobs)), progress_of(jobs)

    jobs = await polled(context, poll, all_ended, len(job_ids), seconds)
    return jobs, all_ended(jobs)


def all_ended(jobs: list[Job]) -> bool:
    return all(job.final for job in jobs)


async def until_batch_ended(context: Context, batch_id: str, seconds: float) -> tuple[list[Job], bool]:
    """As ``until_ended``, for a batch: (its first MOST_JOBS jobs, whether all have ended)."""
    batch, _ = await anyio.to_thread.run_sync(context.studio.batch, batch_id)

    def poll() -> tuple[int, float, str]:
        counts = context.studio.batch(batch_id)[1]
        left = sum(count for state, count in counts.items() if state not in FINAL)
        return left, float(batch.count - left), message("mcp_progress", done=batch.count - left, total=batch.count)

    left = await polled(context, poll, lambda left: left == 0, batch.count, seconds)
    jobs = await anyio.to_thread.run_sync(lambda: context.studio.jobs(batch_id=batch_id, limit=MOST_JOBS))
    return jobs, left == 0


async def polled(
    context: Context, poll: Callable[[], Any], over: Callable[[Any], bool], total: int, seconds: float
) -> Any:
    """The result of ``poll`` once it is ``over`` or time is up; each change is reported."""
    deadline = time.monotonic() + seconds
    before: tuple[float, str] | None = None
    while True:
        state, done, words = await anyio.to_thread.run_sync(poll)
        if before is None or (done > before[0] or words != before[1]):
            done = max(done, before[0] if before else 0.0)  # the protocol requires progress to increase
            await context.report(done, float(total), words)
            before = done, words
        left = deadline - time.monotonic()
        if over(state) or left <= 0 or context.stopping():
            return state
        await anyio.sleep(min(POLL_SECONDS, left))


def share_done(job: Job) -> float:
    if job.final:
        return 1.0
    return min(job.step / job.params.total_steps, 1.0) if job.state is State.RUNNING and job.params.steps else 0.0


def progress_of(jobs: list[Job]) -> str:
    counts = {"done": sum(job.final for job in jobs), "total": len(jobs)}
    running = next((job for job in jobs if job.state is State.RUNNING), None)
    if running and running.step:
        return message("mcp_progress_step", **counts, step=running.step, steps=running.params.total_steps)
    return message("mcp_progress" if running or all_ended(jobs) else "mcp_progress_waiting", **counts)
