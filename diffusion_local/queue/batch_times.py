"""The times of a batch (start, window, deadline): validated and resolved to UTC."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, tzinfo
from typing import Any
from urllib.parse import urlsplit

from diffusion_local.db.database import Database
from diffusion_local.domain import Batch, Lane, utc_now, utc_text
from diffusion_local.errors import InvalidParams, echo
from diffusion_local.messages import message
from diffusion_local.notify.outbound_hosts import MAX_URL_CHARS
from diffusion_local.options.table import BATCH_OPTIONS
from diffusion_local.queue import schedule
from diffusion_local.queue.order import OrderRules


@dataclass(frozen=True, slots=True)
class Timing:
    """Time fields of a Batch; timestamps are UTC text."""

    window: str = ""
    start_at: str | None = None
    finish_by: str | None = None
    webhook: str = ""

    def fields(self) -> dict[str, Any]:
        """The fields as keyword arguments of a Batch."""
        return asdict(self)

    def windows(self, *others: str) -> tuple[schedule.TimeWindow, ...]:
        return tuple(schedule.parse_window(text) for text in (self.window, *others) if text)

    def done_at(self, now: datetime, seconds: float, zone: tzinfo, *others: str) -> datetime:
        """When ``seconds`` of work are done, given that work pauses outside the windows."""
        return schedule.finished_at(now, seconds, parse_utc(self.start_at), self.windows(*others), zone)


def resolve_times(
    now: datetime,
    zone: tzinfo,
    queue_window: str = "",
    *,
    start_at: str | None = None,
    window: str | None = None,
    finish_by: str | None = None,
    webhook: str | None = None,
) -> Timing:
    """Validate the times of a batch; empty ones count as absent. ``queue_window``: the window of the batch's lane.

    Raises InvalidParams, also if the batch could never start or would start only after its deadline.
    """
    for field, value in {"start_at": start_at, "window": window, "finish_by": finish_by, "webhook": webhook}.items():
        if value is not None and not isinstance(value, str):
            raise InvalidParams(field, message("text"))
    hours = schedule.parse_window(window).text if window and window.strip() else ""
    begin = schedule.parse_moment("start_at", start_at, now, zone) if start_at and start_at.strip() else None
    partial = Timing(hours, utc_text(begin) if begin else None)
    first = schedule.allowed_from(now, begin, partial.windows(queue_window), zone)
    end = None
    if finish_by and finish_by.strip():
        bare = len(finish_by.strip()) <= len("23:00")  # a bare time of day means the next one after the start
        end = schedule.parse_moment("finish_by", finish_by, first if bare else now, zone)
        if end <= first:
            raise InvalidParams("finish_by", message("later_than_work", after=schedule.format_local(first, zone)))
    return Timing(hours, partial.start_at, utc_text(end) if end else None, check_url(webhook))


def check_url(url: str | None) -> str:
    """Validate an http(s) URL. Which hosts may be called is checked when the call is made."""
    if not url or not url.strip():
        return ""
    try:
        parts = urlsplit(url.strip())
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        valid = False
    if not valid or len(url) > MAX_URL_CHARS or any(sign.isspace() for sign in url.strip()):
        raise InvalidParams("webhook", message("hook_http", got=echo(url)))
    return url.strip()


def timing_of(batch: Batch) -> Timing:
    return Timing(**{name: getattr(batch, name) for name in BATCH_OPTIONS})


def parse_utc(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def late_warning(finish_by: str | None, done_at: datetime | None, zone: tzinfo) -> str:
    """A warning if ``done_at`` is after ``finish_by``, otherwise ""."""
    end = parse_utc(finish_by)
    if end is None or done_at is None or done_at <= end:
        return ""
    return message("late", done=schedule.format_local(done_at, zone), end=schedule.format_local(end, zone))


class Timetable:
    def __init__(self, database: Database, rules: OrderRules, check_webhook: Callable[[str], None]) -> None:
        self._database = database
        self._check_webhook = check_webhook
        self._rules = rules

    @property
    def zone(self) -> tzinfo:
        return self._rules.zone

    def resolve(self, lane: Lane, times: Mapping[str, str | None]) -> Timing:
        """Validate times for a batch of this lane. Raises InvalidParams."""
        if not any(times.values()):
            return Timing()
        timing = resolve_times(datetime.fromisoformat(utc_now()), self.zone, self._queue_window(lane), **times)
        if timing.webhook:
            self._check_webhook(timing.webhook)
        return timing

    def resolve_changes(self, batch: Batch, changes: Mapping[str, str]) -> dict[str, str | None]:
        """Validate changes of the batch's times; an empty value removes a time. Raises InvalidParams.

        Unchanged times are not validated again, because they may be in the past by now.
        """
        new = self.resolve(batch.lane, {"window": batch.window, **changes})
        return {name: value for name, value in new.fields().items() if name in changes}

    def forecast(self, seconds: float | None, times: Mapping[str, str | None]) -> tuple[str | None, str]:
        """(UTC time at which ``seconds`` of batch-lane work would be done, warning if that is too late).

        Raises InvalidParams.
        """
        timing = self.resolve(Lane.BATCH, times)
        if seconds is None:
            return None, ""
        now = datetime.fromisoformat(utc_now())
        done = timing.done_at(now, seconds, self.zone, self._queue_window(Lane.BATCH))
        return utc_text(done), late_warning(timing.finish_by, done, self.zone)

    def _queue_window(self, lane: Lane) -> str:
        with self._database.read() as db:
            return db.scalar("SELECT window FROM queue") if lane is Lane.BATCH else ""
