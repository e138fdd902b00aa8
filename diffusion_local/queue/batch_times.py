"""When a batch may run, and by when it should be done: what a person asks for, checked and resolved to the clock."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, tzinfo
from typing import Any
from urllib.parse import urlsplit

from diffusion_local.db.database import Database
from diffusion_local.domain import Batch, Lane, utc_now, utc_text
from diffusion_local.errors import InvalidParams, echo
from diffusion_local.messages import message
from diffusion_local.options.table import BATCH_OPTIONS
from diffusion_local.queue import schedule
from diffusion_local.queue.order import OrderRules

MAX_URL_CHARS = 2000


@dataclass(frozen=True, slots=True)
class Timing:
    """Fields of a Batch; moments in UTC."""

    window: str = ""
    start_at: str | None = None
    finish_by: str | None = None
    webhook: str = ""

    def fields(self) -> dict[str, Any]:
        """Arguments of a Batch."""
        return asdict(self)

    def windows(self, *others: str) -> tuple[schedule.TimeWindow, ...]:
        return tuple(schedule.parse_window(text) for text in (self.window, *others) if text)

    def done_at(self, now: datetime, seconds: float, zone: tzinfo, *others: str) -> datetime:
        """When so many seconds of work are done, resting outside the windows."""
        return schedule.finished_at(now, seconds, moment(self.start_at), self.windows(*others), zone)


def timing(
    now: datetime,
    zone: tzinfo,
    queue_window: str = "",
    *,
    start_at: str | None = None,
    window: str | None = None,
    finish_by: str | None = None,
    webhook: str | None = None,
) -> Timing:
    """Check the times of a batch; empty ones are as if left out. ``queue_window`` is the one that holds for the lane.

    Raises InvalidParams, also for what could never begin, or not before it should be done.
    """
    for field, value in {"start_at": start_at, "window": window, "finish_by": finish_by, "webhook": webhook}.items():
        if value is not None and not isinstance(value, str):
            raise InvalidParams(field, message("text"))
    hours = schedule.parse_window(window).text if window and window.strip() else ""
    begin = schedule.parse_moment("start_at", start_at, now, zone) if start_at and start_at.strip() else None
    asked = Timing(hours, utc_text(begin) if begin else None)
    first = schedule.allowed_from(now, begin, asked.windows(queue_window), zone)
    end = None
    if finish_by and finish_by.strip():
        bare = len(finish_by.strip()) <= len("23:00")  # an hour alone is the next one after the beginning
        end = schedule.parse_moment("finish_by", finish_by, first if bare else now, zone)
        if end <= first:
            raise InvalidParams("finish_by", message("later_than_work", after=schedule.local(first, zone)))
    return Timing(hours, asked.start_at, utc_text(end) if end else None, checked_url(webhook))


def checked_url(url: str | None) -> str:
    """An http(s) address; who may be called is decided where calls are made."""
    if not url or not url.strip():
        return ""
    try:
        parts = urlsplit(url.strip())
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        sound = False
    if not sound or len(url) > MAX_URL_CHARS or any(sign.isspace() for sign in url.strip()):
        raise InvalidParams("webhook", message("hook_http", got=echo(url)))
    return url.strip()


def of_batch(batch: Batch) -> Timing:
    return Timing(**{name: getattr(batch, name) for name in BATCH_OPTIONS})


def moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def late_warning(finish_by: str | None, done_at: datetime | None, zone: tzinfo) -> str:
    """A sentence, if what should be done by then is not estimated to be; else nothing."""
    end = moment(finish_by)
    if end is None or done_at is None or done_at <= end:
        return ""
    return message("late", done=schedule.local(done_at, zone), end=schedule.local(end, zone))


class Timetable:
    def __init__(self, database: Database, rules: OrderRules, check_webhook: Callable[[str], None]) -> None:
        self._database = database
        self._check_webhook = check_webhook
        self._rules = rules

    @property
    def zone(self) -> tzinfo:
        return self._rules.zone

    def timing(self, lane: Lane, given: Mapping[str, str | None]) -> Timing:
        """Raises InvalidParams."""
        if not any(given.values()):
            return Timing()
        found = timing(datetime.fromisoformat(utc_now()), self.zone, self._queue_window(lane), **given)
        if found.webhook:
            self._check_webhook(found.webhook)
        return found

    def changed(self, batch: Batch, given: Mapping[str, str]) -> dict[str, str | None]:
        """The batch's times with some of them changed (an empty one is taken away). Raises InvalidParams.

        Times that stay are not checked again: they may be in the past by now.
        """
        new = self.timing(batch.lane, {"window": batch.window, **given})
        return {name: value for name, value in new.fields().items() if name in given}

    def foreseen(self, seconds: float | None, given: Mapping[str, str | None]) -> tuple[str | None, str]:
        """(when so much work of the batch lane would be done, in UTC; a sentence if that is too late).

        Raises InvalidParams.
        """
        times = self.timing(Lane.BATCH, given)
        if seconds is None:
            return None, ""
        now = datetime.fromisoformat(utc_now())
        done = times.done_at(now, seconds, self.zone, self._queue_window(Lane.BATCH))
        return utc_text(done), late_warning(times.finish_by, done, self.zone)

    def _queue_window(self, lane: Lane) -> str:
        with self._database.read() as db:
            return db.scalar("SELECT window FROM queue") if lane is Lane.BATCH else ""
