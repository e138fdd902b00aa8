"""What people ask of time, resolved on a clock that the tests set."""

from dataclasses import fields
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from diffusion_local.domain import Batch
from diffusion_local.errors import InvalidParams
from diffusion_local.options.table import BATCH_OPTIONS
from diffusion_local.queue.batch_times import Timing, late_warning, resolve_times

BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN)


def asked(now: str = "2026-11-22T12:00", queue_window: str = "", **options: Any) -> Timing:
    return resolve_times(at(now), BERLIN, queue_window, **options)


def test_what_is_not_asked_is_empty() -> None:
    assert asked() == asked(start_at="", window=" ", finish_by=None, webhook="") == Timing()


def test_moments_are_kept_in_utc_and_windows_as_they_were_written() -> None:
    assert asked(start_at="23:00", window=" sun-fri 22:00-06:00 ", finish_by="tomorrow 07:00") == Timing(
        "sun-fri 22:00-06:00", "2026-11-22T22:00:00.000Z", "2026-11-23T06:00:00.000Z"
    )


def test_finish_by_is_meant_after_the_start() -> None:
    assert asked("2026-11-22T06:00", start_at="23:00", finish_by="07:00").finish_by == "2026-11-23T06:00:00.000Z"
    assert asked(window="23:00-07:00", finish_by="20:00").finish_by == "2026-11-23T19:00:00.000Z"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"start_at": "then"}, "start_at: must be a time"),
        ({"window": "07:00-07:00"}, "window: never opens"),
        ({"finish_by": "today 10:00"}, "finish_by: must be later"),
        ({"window": "23:00-07:00", "finish_by": "today 20:00"}, "finish_by: must be later than 2026-11-22 23:00"),
        ({"window": "tue 10:00-11:00", "queue_window": "mon 10:00-11:00"}, "window: never opens"),
        ({"start_at": 23}, "start_at: must be text"),
        ({"webhook": "ftp://example.org"}, "webhook: must be an http"),
        ({"webhook": "http://[bad"}, "webhook: must be an http"),
        ({"webhook": "https://example.org/a b"}, "webhook: must be an http"),
    ],
)
def test_what_cannot_be_is_refused_by_name(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidParams, match=reason):
        asked(**options)


def test_a_warning_says_by_when_it_would_be_done() -> None:
    times = asked(window="23:00-07:00", finish_by="tomorrow 06:00")
    done = times.done_at(at("2026-11-22T12:00"), 9 * 3600, BERLIN)
    assert late_warning(times.finish_by, done, BERLIN) == (
        "finish_by: estimated to be done at 2026-11-24 00:00, not by 2026-11-23 06:00."
    )
    assert late_warning(times.finish_by, times.done_at(at("2026-11-22T12:00"), 3600, BERLIN), BERLIN) == ""
    assert late_warning(None, done, BERLIN) == ""
    assert late_warning(times.finish_by, None, BERLIN) == ""


def test_the_times_of_a_batch_are_the_options_of_the_table() -> None:
    assert {field.name for field in fields(Timing)} == set(BATCH_OPTIONS)
    assert set(BATCH_OPTIONS) <= {field.name for field in fields(Batch)}
