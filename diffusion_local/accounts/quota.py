"""Account quotas, checked in the transaction that inserts the jobs, so that concurrent submits cannot both fit."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta

from diffusion_local import actor
from diffusion_local.db.database import Transaction
from diffusion_local.domain import Job, Params
from diffusion_local.errors import InvalidParams, LimitReached
from diffusion_local.messages import message

RETRY_SECONDS = 30  # seconds until a retry is worthwhile


def check(db: Transaction, count: int) -> None:
    """Raise LimitReached if ``count`` more pictures exceed the quota of queued pictures or of today (UTC)."""
    who = actor.current()
    if who.allowance.queued:
        waiting = db.scalar("SELECT count(*) FROM jobs WHERE state = 'queued' AND owner = :owner", owner=who.name)
        if waiting + count > who.allowance.queued:
            raise LimitReached(
                message("quota_waiting", name=who.name, most=who.allowance.queued, waiting=waiting, asked=count),
                RETRY_SECONDS,
            )
    if who.allowance.per_day:
        used = used_today(db, who.name)
        if used + count > who.allowance.per_day:
            raise LimitReached(
                message("quota_day", name=who.name, most=who.allowance.per_day, today=used, asked=count),
                seconds_to_midnight(),
            )


def used_today(db: Transaction, owner: str) -> int:
    day = datetime.now(UTC).date().isoformat()
    return db.scalar("SELECT pictures FROM usage WHERE owner = :owner AND day = :day", owner=owner, day=day) or 0


def seconds_to_midnight() -> int:
    now = datetime.now(UTC)
    midnight = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    return max(1, round((midnight - now).total_seconds()))


def check_sizes(jobs: Iterable[Job]) -> Iterator[Job]:
    """Pass the jobs through. Raises InvalidParams at one that exceeds the account's picture size."""
    for job in jobs:
        check_size(job.params)
        yield job


def check_size(params: Params) -> None:
    """Raise InvalidParams if a picture exceeds the account's size limit."""
    who = actor.current()
    most = who.allowance.pixels
    width, height = params.final_size
    if most and width * height > most:
        size = f"{width}x{height}"
        raise InvalidParams("width", message("pixels", most=most, model=who.name, got=size))
