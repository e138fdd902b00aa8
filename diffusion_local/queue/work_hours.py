"""How slots spend their time on the batch lane: making pictures, between pictures, and lost to disturbances.

A slot's time counts from a claim until its worker runs out of due jobs, so pauses, closed windows and an empty queue do
not count. Time that killed workers, interactive jobs and rests of the hardware cost is recorded as lost.
"""

from dataclasses import dataclass
from datetime import datetime

from diffusion_local.db.database import Transaction
from diffusion_local.domain import Job, Lane
from diffusion_local.queue.estimates import JobTimings

#: A longer standstill is ignored: the machine slept or was switched off.
LONGEST_LOSS = 3600.0
#: Working time in seconds after which the weight of a loss halves.
HALF_LIFE = 12 * 3600.0
#: Loss-free working time, in seconds, assumed before any is recorded; it shrinks with each loss.
PRIOR = 600.0
#: Pictures after which the weight of a gap halves.
GAP_HALF_LIFE = 400
LEARNED_HOURS = 300


@dataclass(frozen=True, slots=True)
class Overhead:
    """Time of the batch lane beyond making pictures. ``gap``: seconds per picture; ``lost``: share of working time."""

    gap: float = 0.0
    lost: float = 0.0


def begin_work(db: Transaction, slot: str, now: str) -> None:
    """Start accounting for a slot's time when its worker claims a job; no-op if it has started."""
    db.execute("UPDATE workers SET accounted_at = ? WHERE slot = ? AND accounted_at IS NULL", [now, slot])


def end_work(db: Transaction, slot: str) -> None:
    """End accounting when a worker runs out of due jobs or stops; no-op for a worker that is starting."""
    ended = "accounted_at = NULL, open_seconds = 0, open_pictures = 0, disturbed = 0"
    db.execute(f"UPDATE workers SET {ended} WHERE slot = ? AND status != 'starting'", [slot])


def disturb(db: Transaction, slot: str) -> None:
    """Mark that a working slot's time until its next batch pass ends is not due to that pass alone."""
    db.execute("UPDATE workers SET disturbed = 1 WHERE slot = ? AND accounted_at IS NOT NULL", [slot])


def account(
    db: Transaction, slot: str, job: Job, timings: JobTimings, now: str, usual_seconds: float | None = None
) -> None:
    """Account for a slot's time since its last batch picture, when it finishes a job.

    The pictures of one pass end within a moment of each other, so time is written once per pass. ``usual_seconds``: the
    usual share in a pass of a picture that took longer for a reason that is not its own; the rest of its time is lost.
    """
    if job.lane is not Lane.BATCH:
        disturb(db, slot)
        return
    query = "SELECT accounted_at, open_seconds, open_pictures, disturbed FROM workers WHERE slot = ?"
    found = db.execute(query, [slot]).fetchone()
    if found is None:
        return
    since, seconds, pictures, disturbed = found
    run = timings.run if usual_seconds is None else min(usual_seconds, timings.run)
    untypical = run < timings.run
    passed = seconds_from(max(since, job.created_at), now) if since else timings.run + timings.load
    if passed - timings.run > LONGEST_LOSS:
        passed = timings.run
    # After a restart, or a turn of another model, the disturbance caused the load, so it counts as lost time.
    seconds += passed - run - (0.0 if disturbed else timings.load)
    pictures += 1
    complete = pictures >= timings.together
    values = {"slot": slot, "now": now, "seconds": seconds, "pictures": pictures, "disturbed": disturbed}
    if complete:
        values |= {"seconds": 0.0, "pictures": 0, "disturbed": 0}
    if complete and (disturbed or untypical):
        # A slow first pass occurs at most once per kind and start, so it does not show how often disturbances occur.
        add_hour(db, slot, now, run=run, lost=seconds, losses=int(disturbed and seconds > 0))
    elif complete:
        add_hour(db, slot, now, run=run, gap=seconds, pictures=pictures)
    else:
        add_hour(db, slot, now, run=run)
    db.execute(
        "UPDATE workers SET accounted_at = CASE WHEN accounted_at IS NOT NULL THEN :now END, "
        "open_seconds = :seconds, open_pictures = :pictures, disturbed = :disturbed WHERE slot = :slot",
        values,
    )


def add_hour(
    db: Transaction,
    slot: str,
    now: str,
    pictures: int = 0,
    gap: float = 0.0,
    lost: float = 0.0,
    run: float = 0.0,
    losses: int = 0,
) -> None:
    db.execute(
        "INSERT INTO work_hours (slot, hour, pictures, run_seconds, gap_seconds, lost_seconds, losses) "
        "VALUES (:slot, :hour, :pictures, :run, :gap, :lost, :losses) ON CONFLICT (hour, slot) DO UPDATE SET "
        "pictures = work_hours.pictures + :pictures, run_seconds = work_hours.run_seconds + :run, "
        "gap_seconds = work_hours.gap_seconds + :gap, lost_seconds = work_hours.lost_seconds + :lost, "
        "losses = work_hours.losses + :losses",
        {
            "slot": slot,
            "hour": now[: len("2026-11-30T09")],
            "pictures": pictures,
            "run": run,
            "gap": gap,
            "lost": lost,
            "losses": losses,
        },
    )


def overhead_of(db: Transaction) -> Overhead:
    """Overhead learned from all slots; newer hours count more."""
    hours = db.execute(
        "SELECT sum(pictures), sum(run_seconds), sum(gap_seconds), sum(lost_seconds), sum(losses) FROM work_hours "
        f"GROUP BY hour ORDER BY hour DESC LIMIT {LEARNED_HOURS}"
    ).fetchall()
    counted = worked = 0.0
    gap = pictures = lost = losses = work = 0.0
    for count, run, between, gone, times in hours:
        weight = 0.5 ** (counted / GAP_HALF_LIFE)
        gap, pictures, counted = gap + weight * between, pictures + weight * count, counted + count
        weight, undisturbed = 0.5 ** (worked / HALF_LIFE), run + max(0.0, between)
        lost, losses, work = lost + weight * gone, losses + weight * times, work + weight * undisturbed
        worked += undisturbed
    share = max(0.0, lost) / (work + PRIOR / (1 + losses))
    return Overhead(max(0.0, gap / pictures) if pictures else 0.0, share)


def seconds_from(start: str, end: str) -> float:
    return max(0.0, (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds())
