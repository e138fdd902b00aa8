"""What was deleted is remembered as deleted, whichever way it went."""

import pytest

from diffusion_local.actor import SCOPES, Actor, Role, acting
from diffusion_local.compose import House
from diffusion_local.errors import Gone, NotFound
from diffusion_local.store.retention import REMEMBERED_DAYS, days_ago, empty_trash, forget_deleted, forget_old_jobs
from tests.support import claimed, image_of, sql


def done(house: House) -> tuple[str, str]:
    """(job and picture, batch)"""
    receipt = house.studio.submit("x")
    job = claimed(house.jobs)
    house.jobs.finish(job.claim, image_of(job))
    return job.id, receipt.batch_id


def test_a_forgotten_job_and_its_batch_are_gone_and_the_picture_is_not(house: House) -> None:
    job_id, batch_id = done(house)
    house.studio.forget([job_id])
    for ask in (
        lambda: house.studio.job(job_id),
        lambda: house.studio.events(job_id),
        lambda: house.studio.cancel([job_id]),
        lambda: house.studio.again([job_id]),
        lambda: house.studio.move("up", [job_id]),
    ):
        with pytest.raises(Gone, match=r"The job '.*' was deleted"):
            ask()
    for ask in (
        lambda: house.studio.batch(batch_id),
        lambda: house.studio.cancel(batch_id=batch_id),
        lambda: house.studio.pause_batch(batch_id),
        lambda: house.studio.lists.export(batch_id),
    ):
        with pytest.raises(Gone, match=r"The batch '.*' was deleted"):
            ask()
    assert house.studio.image(job_id).id == job_id


def test_what_retention_lets_go_is_gone_too(house: House) -> None:
    job_id, _ = done(house)
    house.studio.trash(job_id)
    with sql(house.settings.database) as db:
        db.execute("UPDATE jobs SET created_at = ?1, finished_at = ?1", [days_ago(1000)])
        db.execute("UPDATE images SET created_at = ?1, trashed_at = ?1", [days_ago(1000)])
    forget_old_jobs(house.settings, house.database)
    empty_trash(house.settings, house.database, house.files)
    for ask in (house.studio.job, house.studio.image, house.studio.star, house.studio.restore):
        with pytest.raises(Gone):
            ask(job_id)


def test_what_never_was_is_not_gone(house: House) -> None:
    job_id, batch_id = done(house)
    house.studio.forget([job_id])
    for ask, known in ((house.studio.job, batch_id), (house.studio.batch, job_id), (house.studio.image, batch_id)):
        with pytest.raises(NotFound) as refused:
            ask(known)
        assert type(refused.value) is NotFound


def test_after_a_year_it_is_forgotten_for_good(house: House) -> None:
    job_id, _ = done(house)
    house.studio.forget([job_id])
    assert forget_deleted(house.database) == 0
    with sql(house.settings.database) as db:
        db.execute("UPDATE deleted SET at = ?", [days_ago(REMEMBERED_DAYS + 1)])
    assert forget_deleted(house.database) == 2
    with pytest.raises(NotFound) as refused:
        house.studio.job(job_id)
    assert type(refused.value) is NotFound


def test_only_who_might_have_seen_it_hears_that_it_was_deleted(house: House) -> None:
    def user(name: str, sees_all: bool = False) -> Actor:
        return Actor(name, Role.USER, SCOPES[Role.USER], sees_all, source="session")

    with acting(user("ann")):
        job_id, batch_id = done(house)
        house.studio.forget([job_id])
    asks = ((house.studio.job, job_id), (house.studio.batch, batch_id))
    for ask, known in asks:
        with acting(user("ann")), pytest.raises(Gone):
            ask(known)
        with acting(user("bob", sees_all=True)), pytest.raises(Gone):
            ask(known)
        with acting(user("bob")), pytest.raises(NotFound) as refused:
            ask(known)
        assert type(refused.value) is NotFound
