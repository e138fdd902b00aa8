"""Windows and moments on a clock that the tests set: midnight, days, and daylight saving both ways."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_local.errors import InvalidParams
from diffusion_local.queue.schedule import TimeWindow, allowed_from, finished_at, parse_moment, parse_past, parse_window
from tests.support import refused

BERLIN = ZoneInfo("Europe/Berlin")
ZONES = [BERLIN, ZoneInfo("America/New_York"), ZoneInfo("Australia/Lord_Howe"), ZoneInfo("Africa/Cairo"), UTC]


def at(text: str, zone: ZoneInfo = BERLIN) -> datetime:
    """A wall-clock time; ``*`` behind it is the second one of the night in which clocks go back."""
    return datetime.fromisoformat(text.rstrip("*")).replace(tzinfo=zone, fold=text.endswith("*")).astimezone(UTC)


@pytest.mark.parametrize(
    ("window", "moment", "is_open"),
    [
        ("23:00-07:00", "2026-11-22T22:59", False),
        ("23:00-07:00", "2026-11-22T23:00", True),
        ("23:00-07:00", "2026-11-23T00:00", True),
        ("23:00-07:00", "2026-11-23T06:59", True),
        ("23:00-07:00", "2026-11-23T07:00", False),
        ("mon-fri 22:00-06:00", "2026-11-20T22:30", True),  # Friday evening
        ("mon-fri 22:00-06:00", "2026-11-21T05:59", True),  # ends on Saturday, as it began on Friday
        ("mon-fri 22:00-06:00", "2026-11-21T22:30", False),  # Saturday
        ("mon-fri 22:00-06:00", "2026-11-23T05:00", False),  # Monday morning belongs to Sunday's night
        ("fri-mon 10:00-11:00", "2026-11-22T10:30", True),
        ("sat, sun 00:00-24:00; mon-fri 20:00-24:00", "2026-11-22T23:59", True),
        ("sat, sun 00:00-24:00; mon-fri 20:00-24:00", "2026-11-23T00:00", False),
        # clocks go forward at 02:00 on 2026-03-29: that night is an hour shorter
        ("23:00-07:00", "2026-03-29T06:59", True),
        ("02:30-05:00", "2026-03-29T03:00", True),  # 02:30 is skipped: it opens when the clocks jump
        ("02:10-02:50", "2026-03-29T03:05", False),  # all of it is skipped
        # clocks go back at 03:00 on 2026-10-25: 02:00 to 03:00 comes twice
        ("23:00-07:00", "2026-10-25T06:59", True),
        ("02:30-05:00", "2026-10-25T02:29*", True),  # open since the first 02:30, and no second time closed
        ("01:00-02:30", "2026-10-25T02:29", True),
        ("01:00-02:30", "2026-10-25T02:10*", False),  # over since the first 02:30
    ],
)
def test_a_window_is_open_by_the_clock_on_the_wall(window: str, moment: str, is_open: bool) -> None:
    assert parse_window(window).is_open(at(moment), BERLIN) is is_open


@pytest.mark.parametrize(
    ("window", "after", "opens"),
    [
        ("23:00-07:00", "2026-11-22T12:00", "2026-11-22T23:00"),
        ("23:00-07:00", "2026-11-23T03:00", "2026-11-23T03:00"),
        ("mon-fri 22:00-06:00", "2026-11-21T12:00", "2026-11-23T22:00"),
        ("sun 02:10-02:50", "2026-03-28T12:00", "2026-04-05T02:10"),  # the Sunday between skips it
    ],
)
def test_the_next_opening(window: str, after: str, opens: str) -> None:
    assert parse_window(window).opens(at(after), BERLIN) == at(opens)


@pytest.mark.parametrize(("night", "hours"), [("2026-03-28", 7), ("2026-10-24", 9), ("2026-11-22", 8)])
def test_a_night_is_as_long_as_it_is(night: str, hours: int) -> None:
    opens, closes = next(parse_window("23:00-07:00").intervals(at(night + "T23:00"), BERLIN))
    assert closes - opens == timedelta(hours=hours)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("23:00-23:00", "never opens"),
        ("24:00-00:00", "never opens"),
        ("25:00-07:00", "from 00:00 to 24:00"),
        ("23:60-07:00", "from 00:00 to 24:00"),
        ("at night", "must be hours"),
        ("someday 10:00-11:00", "is not a day"),
        ("mon-fri", "must be hours"),
        ("10:00-11:00;" * 40, "at most 200"),
        ("", "must be hours"),
    ],
)
def test_a_window_that_says_nothing_or_never_opens_is_refused(text: str, reason: str) -> None:
    with pytest.raises(InvalidParams, match=reason):
        parse_window(text)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("23:00", "2026-11-22T23:00"),
        ("7:30", "2026-11-23T07:30"),
        ("today 23:30", "2026-11-22T23:30"),
        ("Tomorrow  07:00", "2026-11-23T07:00"),
        ("sun 09:00", "2026-11-29T09:00"),
        ("2026-12-24T18:00", "2026-12-24T18:00"),
        ("2026-12-24 18:00", "2026-12-24T18:00"),
        ("2026-12-24T18:00+01:00", "2026-12-24T18:00"),
        ("2026-12-24T17:00:00Z", "2026-12-24T18:00"),
    ],
)
def test_a_moment_is_local_time_and_the_next_one(text: str, moment: str) -> None:
    assert parse_moment("start_at", text, at("2026-11-22T12:00"), BERLIN) == at(moment)


@pytest.mark.parametrize("text", ["soon", "25:00", "yesterday 10:00", "2026-11-21T10:00", "today 08:00", "9999-12-31"])
def test_a_moment_that_is_none_or_over_is_refused(text: str) -> None:
    with pytest.raises(InvalidParams, match="start_at"):
        parse_moment("start_at", text, at("2026-11-22T12:00"), BERLIN)


def test_work_rests_while_the_window_is_shut() -> None:
    night = (parse_window("23:00-07:00"),)
    begin = at("2026-11-22T22:00")
    assert finished_at(begin, 3600, None, night, BERLIN) == at("2026-11-23T00:00")
    assert finished_at(begin, 9 * 3600, None, night, BERLIN) == at("2026-11-24T00:00")
    assert finished_at(begin, 3600, at("2026-11-23T02:00"), night, BERLIN) == at("2026-11-23T03:00")
    assert finished_at(begin, 3600, None, (), BERLIN) == begin + timedelta(hours=1)


def test_a_year_of_work_in_short_nights_is_laid_out_at_once() -> None:
    done = finished_at(at("2026-11-22T22:00"), 365 * 8 * 3600, None, (parse_window("23:00-07:00"),), BERLIN)
    assert abs(done - at("2027-11-22T07:00")) < timedelta(days=2)


def test_windows_that_are_never_open_together_are_refused() -> None:
    windows = (parse_window("mon 10:00-11:00"), parse_window("tue 10:00-11:00"))
    with refused(InvalidParams, "never_opens_queue", field="window"):
        allowed_from(at("2026-11-22T22:00"), None, windows, BERLIN)


TIMES = st.integers(0, 1440).map(lambda minute: f"{minute // 60:02}:{minute % 60:02}")
WINDOWS = (
    st.tuples(st.sampled_from(["", "mon-fri ", "sat,sun ", "wed "]), TIMES, TIMES)
    .filter(lambda each: each[1] not in (each[2], "24:00"))
    .map(lambda each: f"{each[0]}{each[1]}-{each[2]}")
)
MOMENTS = st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC))


@given(WINDOWS.map(parse_window), MOMENTS, st.sampled_from(ZONES))
def test_intervals_come_in_order_apart_and_hold_what_is_open(window: TimeWindow, now: datetime, zone: ZoneInfo) -> None:
    intervals = list(window.intervals(now, zone))
    assert intervals
    assert all(opens < closes and closes > now for opens, closes in intervals)
    assert all(before[1] < after[0] for before, after in pairwise(intervals))
    opens = window.opens(now, zone)
    assert opens >= now
    assert window.is_open(opens, zone)
    if opens > now:
        assert not window.is_open(opens - timedelta(seconds=1), zone)


@given(WINDOWS.map(parse_window), MOMENTS, st.integers(60, 30 * 86400), st.sampled_from(ZONES))
def test_work_done_in_a_window_takes_no_less_time_and_ends_inside(
    window: TimeWindow, now: datetime, seconds: int, zone: ZoneInfo
) -> None:
    done = finished_at(now, seconds, None, (window,), zone)
    assert done >= now + timedelta(seconds=seconds) or seconds > 14 * 86400
    assert window.is_open(done - timedelta(seconds=1), zone) or seconds < 1


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("23:00", "2026-03-28T22:00:00+00:00"),
        ("07:00", "2026-03-29T05:00:00+00:00"),
        ("09:00", "2026-03-28T08:00:00+00:00"),  # of this day it is still to come
        ("today 09:00", "2026-03-29T07:00:00+00:00"),
        ("yesterday 23:00", "2026-03-28T22:00:00+00:00"),
        ("sun 07:00", "2026-03-29T05:00:00+00:00"),
        ("sun 09:00", "2026-03-22T08:00:00+00:00"),
        ("2026-03-01T12:00", "2026-03-01T11:00:00+00:00"),
        ("2026-03-01T12:00Z", "2026-03-01T12:00:00+00:00"),
    ],
)
def test_a_past_moment_is_the_last_one(text: str, meant: str) -> None:
    before = datetime(2026, 3, 29, 6, 30, tzinfo=UTC)  # 8:30 in Berlin, in the morning after the clocks went forward
    assert parse_past("since", text, before, ZoneInfo("Europe/Berlin")).isoformat() == meant


@pytest.mark.parametrize("text", ["", "25:00", "someday 23:00", "yesterday", "x" * 1000])
def test_a_past_moment_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidParams):
        parse_past("since", text, datetime(2026, 3, 29, tzinfo=UTC), UTC)
