"""Times and windows: parsing user input, local-time windows, and scheduling work around them.

Pure functions; the current time is an argument. A window is an interval between two instants, so a night with a
daylight-saving change is an hour longer or shorter and nothing opens twice. A skipped wall-clock time means the moment
of the change, an ambiguous one the first occurrence.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache

from diffusion_local.errors import InvalidParams, echo
from diffusion_local.messages import message

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY_MINUTES = 24 * 60
LOOK_AHEAD_DAYS = 15  # a weekly span swallowed by a daylight-saving change recurs a week later
MAX_CHARS = 200
MAX_YEARS = 10

SPAN = re.compile(r"(?:(?P<days>[a-z][a-z,\s-]*?)\s+)?(?P<start>\d{1,2}:\d{2})\s*(?:-|–|to)\s*(?P<end>\d{1,2}:\d{2})")
CLOCK = re.compile(r"(?:(?P<day>[a-z]+)\s+)?(?P<time>\d{1,2}:\d{2})")


@dataclass(frozen=True, slots=True)
class TimeSpan:
    """From ``start`` to ``end`` (minutes of the day) on these weekdays; an end before the start is on the next day."""

    days: frozenset[int]
    start: int
    end: int

    def on(self, day: date, zone: tzinfo) -> tuple[datetime, datetime]:
        """The interval that begins on this day, in UTC; empty if a daylight-saving change swallows it."""
        later = day + timedelta(days=self.end <= self.start)
        return to_utc(day, self.start, zone), to_utc(later, self.end, zone)


@dataclass(frozen=True, slots=True)
class TimeWindow:
    """Time spans in which work may start."""

    text: str
    spans: tuple[TimeSpan, ...]

    def intervals(self, after: datetime, zone: tzinfo) -> Iterator[tuple[datetime, datetime]]:
        """Intervals ending after this time, for LOOK_AHEAD_DAYS, adjacent ones merged; in UTC."""
        first = after.astimezone(zone).date() - timedelta(days=1)
        spans = sorted(
            span.on(day, zone)
            for day in (first + timedelta(days=number) for number in range(LOOK_AHEAD_DAYS))
            for span in self.spans
            if day.weekday() in span.days
        )
        start = end = None
        for opens, closes in spans:
            if closes <= opens or closes <= after:
                continue
            if start is None or end is None:
                start, end = opens, closes
            elif opens <= end:
                end = max(end, closes)
            else:
                yield start, end
                start, end = opens, closes
        if start is not None and end is not None:
            yield start, end

    def opens(self, after: datetime, zone: tzinfo) -> datetime:
        """The first time from ``after`` on at which the window is open."""
        start, _ = next(self.intervals(after, zone))
        return max(start, after)

    def is_open(self, at: datetime, zone: tzinfo) -> bool:
        return self.opens(at, zone) == at


@lru_cache(maxsize=1000)
def parse_window(text: str, field: str = "window") -> TimeWindow:
    """Parse ``23:00-07:00`` or ``mon-fri 22:00-06:00; sat,sun 00:00-24:00``.

    Raises InvalidParams, also for a window that never opens.
    """
    if len(text) > MAX_CHARS:
        raise InvalidParams(field, message("most_characters", most=MAX_CHARS))
    spans = []
    for part in text.lower().split(";"):
        match = SPAN.fullmatch(part.strip())
        if not match:
            raise InvalidParams(field, message("window_form", got=echo(text)))
        start, end = parse_minutes(field, match["start"]), parse_minutes(field, match["end"])
        if start in (end, DAY_MINUTES):
            raise InvalidParams(field, message("never_opens", got=echo(text)))
        spans.append(TimeSpan(parse_days(field, match["days"] or ""), start, end))
    return TimeWindow(text.strip(), tuple(spans))


def parse_days(field: str, text: str) -> frozenset[int]:
    if not text.strip():
        return frozenset(range(7))
    days: set[int] = set()
    for part in text.split(","):
        first, dash, last = (each.strip() for each in part.partition("-"))
        begin = parse_weekday(field, first)
        end = parse_weekday(field, last) if dash else begin
        days |= {(begin + step) % 7 for step in range((end - begin) % 7 + 1)}
    return frozenset(days)


def parse_weekday(field: str, name: str) -> int:
    full = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
    for number, day in enumerate(full):
        if len(name) >= 3 and day.startswith(name):
            return number
    raise InvalidParams(field, message("no_day", name=echo(name), days=list(DAYS)))


def parse_minutes(field: str, text: str) -> int:
    """Minutes of the day from ``H:MM``; 24:00 is the end of the day."""
    hour, minute = (int(part) for part in text.split(":"))
    if minute > 59 or hour * 60 + minute > DAY_MINUTES:
        raise InvalidParams(field, message("times_of_day", got=echo(text)))
    return hour * 60 + minute


def to_utc(day: date, minute: int, zone: tzinfo) -> datetime:
    """The UTC time at which clocks in the zone show this minute of a day."""
    days, minute = divmod(minute, DAY_MINUTES)
    wall = datetime.combine(day + timedelta(days=days), time(minute // 60, minute % 60), zone)
    at = wall.astimezone(UTC)
    if at.astimezone(zone).replace(tzinfo=None) == wall.replace(tzinfo=None):
        return at
    # The clocks skip this time; the change lies between its two interpretations.
    before, after = wall.replace(fold=1).astimezone(UTC), at
    offset = before.astimezone(zone).utcoffset()
    while after - before > timedelta(minutes=1):
        middle = before + (after - before) // 2
        if middle.astimezone(zone).utcoffset() == offset:
            before = middle
        else:
            after = middle
    return after.replace(second=0, microsecond=0)


def parse_moment(field: str, text: str, after: datetime, zone: tzinfo) -> datetime:
    """Parse a future time to UTC: ``23:00`` (the next one after ``after``), ``tomorrow 07:00``, ``sat 9:30``, ISO 8601.

    Without an offset it is local time. Raises InvalidParams, also if it is not after ``after``.
    """
    if len(text) > MAX_CHARS:
        raise InvalidParams(field, message("most_characters", most=MAX_CHARS))
    plain = " ".join(text.lower().split())
    today = after.astimezone(zone).date()
    clock = CLOCK.fullmatch(plain)
    if clock:
        minute = parse_minutes(field, clock["time"])
        day = clock["day"]
        if day == "today":
            at = to_utc(today, minute, zone)
        elif day == "tomorrow":
            at = to_utc(today + timedelta(days=1), minute, zone)
        else:
            days = range(7) if day is None else {parse_weekday(field, day)}
            dates = (today + timedelta(days=number) for number in range(9))
            at = next(
                moment
                for moment in (to_utc(each, minute, zone) for each in dates if each.weekday() in days)
                if moment > after
            )
    else:
        at = parse_iso(field, text, zone)
    if at <= after:
        raise InvalidParams(field, message("later_than", after=format_local(after, zone), got=format_local(at, zone)))
    if at - after > timedelta(days=365 * MAX_YEARS):
        raise InvalidParams(field, message("within_years", years=MAX_YEARS, got=echo(text)))
    return at


def parse_past(field: str, text: str, before: datetime, zone: tzinfo) -> datetime:
    """Parse a past time to UTC: ``23:00`` (the last one before ``before``), ``yesterday 23:00``, ``sat 9:30``, ISO
    8601.

    Without an offset it is local time. Raises InvalidParams.
    """
    if len(text) > MAX_CHARS:
        raise InvalidParams(field, message("most_characters", most=MAX_CHARS))
    clock = CLOCK.fullmatch(" ".join(text.lower().split()))
    if not clock:
        return parse_iso(field, text, zone)
    minute, day, today = parse_minutes(field, clock["time"]), clock["day"], before.astimezone(zone).date()
    if day in ("today", "yesterday"):
        return to_utc(today - timedelta(days=int(day == "yesterday")), minute, zone)
    days = range(7) if day is None else {parse_weekday(field, day)}
    dates = (today - timedelta(days=number) for number in range(9))
    moments = (to_utc(each, minute, zone) for each in dates if each.weekday() in days)
    return next(moment for moment in moments if moment < before)


def parse_iso(field: str, text: str, zone: tzinfo) -> datetime:
    """Parse ISO 8601 to UTC; local time without an offset. Raises InvalidParams."""
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        raise InvalidParams(field, message("moment_form", got=echo(text))) from None
    if at.tzinfo is None:
        at = to_utc(at.date(), at.hour * 60 + at.minute, zone)
    try:
        return at.astimezone(UTC)
    except OverflowError:
        raise InvalidParams(field, message("out_of_times", got=echo(text))) from None


def format_local(at: datetime, zone: tzinfo) -> str:
    """A time as local text, to the minute."""
    return at.astimezone(zone).strftime("%Y-%m-%d %H:%M")


def allowed_from(now: datetime, start_at: datetime | None, windows: tuple[TimeWindow, ...], zone: tzinfo) -> datetime:
    """The first time from ``now`` on at which work may start: after ``start_at``, with every window open.

    Raises InvalidParams if the windows are never open together.
    """
    at = now if start_at is None else max(now, start_at)
    limit = at + timedelta(days=LOOK_AHEAD_DAYS)
    while at < limit:
        latest = max((window.opens(at, zone) for window in windows), default=at)
        if latest == at:
            return at
        at = latest
    raise InvalidParams("window", message("never_opens_queue"))


def finished_at(
    now: datetime, seconds: float, start_at: datetime | None, windows: tuple[TimeWindow, ...], zone: tzinfo
) -> datetime:
    """When ``seconds`` of work are done, if work pauses outside the windows."""
    left, at = timedelta(seconds=seconds), now
    if not windows:
        return max(now, start_at or now) + left
    share = weekly_open_time(now, start_at, windows, zone)
    if share and left > share * 4:  # far off: skip whole weeks at once
        weeks = left // share - 1
        at, left = at + timedelta(weeks=weeks), left - share * weeks
    while True:
        at = allowed_from(at, start_at, windows, zone)
        closes = min(next(window.intervals(at, zone))[1] for window in windows)
        if at + left <= closes:
            return at + left
        left -= closes - at
        at = closes


def weekly_open_time(
    now: datetime, start_at: datetime | None, windows: tuple[TimeWindow, ...], zone: tzinfo
) -> timedelta:
    """Open time within one week."""
    at = allowed_from(now, start_at, windows, zone)
    end, total = at + timedelta(weeks=1), timedelta()
    while at < end:
        closes = min(*(next(window.intervals(at, zone))[1] for window in windows), end)
        total += closes - at
        if closes >= end:
            break
        at = allowed_from(closes, start_at, windows, zone)
    return total
