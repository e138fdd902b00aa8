"""A clock that was wrong: nothing is deleted because of it, and nothing waits for a time that never was."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from diffusion_local.compose import Services
from diffusion_local.domain import utc_text
from diffusion_local.gallery import retention
from diffusion_local.notify import deliveries
from diffusion_local.queue.claims import MAX_DELAY
from diffusion_local.supervisor import housekeeping
from tests.support import FAILURE, claimed, enqueue, image_of, sql

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
Turn = Callable[[timedelta], None]


@pytest.fixture
def turn(monkeypatch: pytest.MonkeyPatch) -> Turn:
    """Sets by how much the clock is ahead of the real one."""

    def put(difference: timedelta) -> None:
        for module in (retention, retention):
            monkeypatch.setattr(module, "utc_now", lambda: utc_text(datetime.now(UTC) + difference))

    put(timedelta())
    return put


def trashed(services: Services) -> str:
    """A picture in the trash, whose job has ended."""
    enqueue(services.jobs)
    job = claimed(services.jobs)
    services.jobs.finish(job.claim, image_of(job))
    services.studio.trash(job.id)
    return job.id


def kept(services: Services) -> tuple[int, int]:
    """How many jobs and how many pictures of the trash there are."""
    return len(services.studio.jobs()), len(services.studio.gallery(trashed=True))


@pytest.mark.parametrize("jump", [90 * DAY, 3 * DAY, -400 * DAY, -2 * HOUR])
def test_a_clock_that_jumps_is_not_trusted_until_it_has_gone_on_for_days(
    services: Services, turn: Turn, jump: timedelta
) -> None:
    assert retention.clock_trusted(services.database)
    turn(jump)
    assert not retention.clock_trusted(services.database)
    turn(jump + retention.TRUSTED_AFTER - HOUR)
    assert not retention.clock_trusted(services.database)
    turn(jump + retention.TRUSTED_AFTER)
    assert retention.clock_trusted(services.database)


def test_a_clock_that_goes_on_is_trusted_and_so_is_one_that_is_set_by_minutes(services: Services, turn: Turn) -> None:
    for hours in (0.0, 1.0, 0.5, 24.0, 25.0, 60.0):
        turn(hours * HOUR)
        assert retention.clock_trusted(services.database)


def test_a_machine_that_runs_on_sundays_only_is_trusted_every_other_time(services: Services, turn: Turn) -> None:
    retention.clock_trusted(services.database)
    found = []
    for week in range(1, 6):
        turn(7 * week * DAY)
        found.append(retention.clock_trusted(services.database))
    assert found == [False, True, False, True, False]


def test_a_clock_that_was_wrong_for_a_while_deletes_nothing(services: Services, turn: Turn) -> None:
    trashed(services)
    housekeeping.delete_expired(services)
    for wrong in (90 * DAY, 90 * DAY + HOUR, -400 * DAY, HOUR, 2 * HOUR):
        turn(wrong)
        housekeeping.delete_expired(services)
        assert kept(services) == (1, 1)


def test_what_is_old_by_a_clock_that_is_trusted_again_goes(services: Services, turn: Turn) -> None:
    trashed(services)
    housekeeping.delete_expired(services)
    for days in (100, 104, 108):
        turn(days * DAY)
        housekeeping.delete_expired(services)
    assert kept(services) == (0, 0)


@pytest.mark.parametrize("wrong", [-400 * DAY, 90 * DAY])
def test_what_was_stamped_by_a_wrong_clock_is_kept_for_its_whole_time(
    services: Services, turn: Turn, wrong: timedelta
) -> None:
    trashed(services)
    then = utc_text(datetime.now(UTC) + wrong)
    with sql(services.settings) as db:
        db.execute("UPDATE jobs SET finished_at = ?", [then])
        db.execute("UPDATE images SET trashed_at = ?", [then])
    short = replace(services, settings=replace(services.settings, keep_trash_days=10))
    turn(HOUR)
    housekeeping.delete_expired(short)
    for days in (1, 2.5, 4, 5.5, 7, 8.5, 10):
        turn(days * DAY)
        housekeeping.delete_expired(short)
        assert kept(services)[1] == 1
    turn(11.5 * DAY)
    housekeeping.delete_expired(short)
    assert kept(services)[1] == 0


def test_a_pause_before_another_try_is_never_longer_than_the_longest(services: Services) -> None:
    later, much_later = enqueue(services.jobs, 2)
    for wait in (MAX_DELAY - timedelta(minutes=1), 90 * DAY):  # the second was written by a wrong clock
        services.jobs.requeue(claimed(services.jobs).claim, "hiccup", utc_text(datetime.now(UTC) + wait), tries=1)
    assert claimed(services.jobs).id == much_later
    assert services.jobs.claim_next("cpu0") is None
    assert services.jobs.get(later).not_before is not None


def test_a_delivery_is_never_put_off_for_longer_than_the_longest_pause(services: Services) -> None:
    notice = services.notices.add_handled("batch.done")
    [delivery_id] = services.deliveries.add(notice, "{}", {"https://example.org": 3})
    for wait, due in ((deliveries.MAX_DELAY_SECONDS - 60, False), (90 * 86400, True)):
        with sql(services.settings) as db:
            db.execute("UPDATE deliveries SET next_try_at = ?", [utc_text(datetime.now(UTC) + timedelta(seconds=wait))])
        assert bool(services.deliveries.due_receivers()) == due
        assert (services.deliveries.next_due("https://example.org", "") is not None) == due
        assert (services.deliveries.take(delivery_id) is not None) == due


def test_a_notice_from_times_to_come_is_told(services: Services) -> None:
    enqueue(services.jobs)
    services.jobs.fail(claimed(services.jobs).claim, FAILURE)
    with sql(services.settings) as db:
        db.execute("UPDATE notices SET at = ?", [utc_text(datetime.now(UTC) + 90 * DAY)])
    services.notifications.create_deliveries()
    assert not services.notices.any_unhandled()
