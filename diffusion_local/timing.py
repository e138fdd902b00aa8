"""When a batch may run, and by when it should be done: what a person asks for, checked and resolved to the clock."""

from dataclasses import asdict, dataclass
from datetime import datetime, tzinfo
from typing import Any
from urllib.parse import urlsplit

from diffusion_local import when
from diffusion_local.domain import Batch, utc_text
from diffusion_local.errors import InvalidParams, echo
from diffusion_local.messages import message
from diffusion_local.options.table import BATCH_OPTIONS

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

    def windows(self, *others: str) -> tuple[when.Window, ...]:
        return tuple(when.parse_window(text) for text in (self.window, *others) if text)

    def done_at(self, now: datetime, seconds: float, zone: tzinfo, *others: str) -> datetime:
        """When so many seconds of work are done, resting outside the windows."""
        return when.finished_at(now, seconds, moment(self.start_at), self.windows(*others), zone)


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
    hours = when.parse_window(window).text if window and window.strip() else ""
    begin = when.parse_moment("start_at", start_at, now, zone) if start_at and start_at.strip() else None
    asked = Timing(hours, utc_text(begin) if begin else None)
    first = when.allowed_from(now, begin, asked.windows(queue_window), zone)
    end = None
    if finish_by and finish_by.strip():
        bare = len(finish_by.strip()) <= len("23:00")  # an hour alone is the next one after the beginning
        end = when.parse_moment("finish_by", finish_by, first if bare else now, zone)
        if end <= first:
            raise InvalidParams("finish_by", message("later_than_work", after=when.local(first, zone)))
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
    return message("late", done=when.local(done_at, zone), end=when.local(end, zone))
