"""A clock that was wrong: nothing is deleted because of it, and nothing waits for a time that never was."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from diffusion_local import chores
from diffusion_local.compose import House
from diffusion_local.domain import utc_text
from diffusion_local.store import clock, deliveries, retention
from diffusion_local.store.jobs import LONGEST_PAUSE
from tests.support import FAILURE, claimed, enqueue, image_of, sql

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
Turn = Callable[[timedelta], None]


@pytest.fixture
def turn(monkeypatch: pytest.MonkeyPatch) -> Turn:
    """Sets by how much the clock is ahead of the real one."""

    def put(difference: timedelta) -> None:
        for module in (clock, retention):
            monkeypatch.setattr(module, "utc_now", lambda: utc_text(datetime.now(UTC) + difference))

    put(timedelta())
    return put


def trashed(house: House) -> str:
    """A picture in the trash, whose job has ended."""
    enqueue(house.jobs)
    job = claimed(house.jobs)
    house.jobs.finish(job.claim, image_of(job))
    house.studio.trash(job.id)
    return job.id


def kept(house: House) -> tuple[int, int]:
    """How many jobs and how many pictures of the trash there are."""
    return len(house.studio.jobs()), len(house.studio.gallery(trashed=True))


@pytest.mark.parametrize("jump", [90 * DAY, 3 * DAY, -400 * DAY, -2 * HOUR])
def test_a_clock_that_jumps_is_not_trusted_until_it_has_gone_on_for_days(
    house: House, turn: Turn, jump: timedelta
) -> None:
    assert clock.trusted(house.database)
    turn(jump)
    assert not clock.trusted(house.database)
    turn(jump + clock.TRUSTED_AFTER - HOUR)
    assert not clock.trusted(house.database)
    turn(jump + clock.TRUSTED_AFTER)
    assert clock.trusted(house.database)


def test_a_clock_that_goes_on_is_trusted_and_so_is_one_that_is_set_by_minutes(house: House, turn: Turn) -> None:
    for hours in (0.0, 1.0, 0.5, 24.0, 25.0, 60.0):
        turn(hours * HOUR)
        assert clock.trusted(house.database)


def test_a_machine_that_runs_on_sundays_only_is_trusted_every_other_time(house: House, turn: Turn) -> None:
    clock.trusted(house.database)
    found = []
    for week in range(1, 6):
        turn(7 * week * DAY)
        found.append(clock.trusted(house.database))
    assert found == [False, True, False, True, False]


def test_a_clock_that_was_wrong_for_a_while_deletes_nothing(house: House, turn: Turn) -> None:
    trashed(house)
    chores.let_go(house)
    for wrong in (90 * DAY, 90 * DAY + HOUR, -400 * DAY, HOUR, 2 * HOUR):
        turn(wrong)
        chores.let_go(house)
        assert kept(house) == (1, 1)


def test_what_is_old_by_a_clock_that_is_trusted_again_goes(house: House, turn: Turn) -> None:
    trashed(house)
    chores.let_go(house)
    for days in (100, 104, 108):
        turn(days * DAY)
        chores.let_go(house)
    assert kept(house) == (0, 0)


@pytest.mark.parametrize("wrong", [-400 * DAY, 90 * DAY])
def test_what_was_stamped_by_a_wrong_clock_is_kept_for_its_whole_time(
    house: House, turn: Turn, wrong: timedelta
) -> None:
    trashed(house)
    then = utc_text(datetime.now(UTC) + wrong)
    with sql(house.settings.database) as db:
        db.execute("UPDATE jobs SET finished_at = ?", [then])
        db.execute("UPDATE images SET trashed_at = ?", [then])
    short = replace(house, settings=replace(house.settings, keep_trash_days=10))
    turn(HOUR)
    chores.let_go(short)
    for days in (1, 2.5, 4, 5.5, 7, 8.5, 10):
        turn(days * DAY)
        chores.let_go(short)
        assert kept(house)[1] == 1
    turn(11.5 * DAY)
    chores.let_go(short)
    assert kept(house)[1] == 0


def test_a_pause_before_another_try_is_never_longer_than_the_longest(house: House) -> None:
    later, much_later = enqueue(house.jobs, 2)
    for wait in (LONGEST_PAUSE - timedelta(minutes=1), 90 * DAY):  # the second was written by a wrong clock
        house.jobs.requeue(claimed(house.jobs).claim, "hiccup", utc_text(datetime.now(UTC) + wait), tries=1)
    assert claimed(house.jobs).id == much_later
    assert house.jobs.claim_next("cpu0") is None
    assert house.jobs.get(later).not_before is not None


def test_a_delivery_is_never_put_off_for_longer_than_the_longest_pause(house: House) -> None:
    notice = house.notices.note("batch.done")
    [delivery_id] = house.deliveries.add(notice, "{}", {"https://example.org": 3})
    for wait, due in ((deliveries.LONGEST_SECONDS - 60, False), (90 * 86400, True)):
        with sql(house.settings.database) as db:
            db.execute("UPDATE deliveries SET next_try_at = ?", [utc_text(datetime.now(UTC) + timedelta(seconds=wait))])
        assert bool(house.deliveries.due_receivers()) == due
        assert (house.deliveries.next_due("https://example.org", "") is not None) == due
        assert (house.deliveries.take(delivery_id) is not None) == due


def test_a_notice_from_times_to_come_is_told(house: House) -> None:
    enqueue(house.jobs)
    house.jobs.fail(claimed(house.jobs).claim, FAILURE)
    with sql(house.settings.database) as db:
        db.execute("UPDATE notices SET at = ?", [utc_text(datetime.now(UTC) + 90 * DAY)])
    house.teller.tell()
    assert not house.notices.any_untold()
