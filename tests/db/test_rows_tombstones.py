"""What was deleted is remembered as deleted, whichever way it went."""

import pytest

from diffusion_local.actor import SCOPES, Actor, Role, acting
from diffusion_local.compose import Services
from diffusion_local.errors import Gone, NotFound
from diffusion_local.gallery.retention import TOMBSTONE_DAYS, days_ago, delete_old_jobs, delete_tombstones, empty_trash
from tests.support import claimed, image_of, sql


def done(services: Services) -> tuple[str, str]:
    """(job and picture, batch)"""
    receipt = services.studio.submit("x")
    job = claimed(services.jobs)
    services.jobs.finish(job.claim, image_of(job))
    return job.id, receipt.batch_id


def test_a_forgotten_job_and_its_batch_are_gone_and_the_picture_is_not(services: Services) -> None:
    job_id, batch_id = done(services)
    services.studio.queue.forget([job_id])
    for ask in (
        lambda: services.studio.job(job_id),
        lambda: services.studio.events(job_id),
        lambda: services.studio.queue.cancel([job_id]),
        lambda: services.studio.queue.again([job_id]),
        lambda: services.studio.queue.move("up", [job_id]),
    ):
        with pytest.raises(Gone, match=r"The job '.*' was deleted"):
            ask()
    for ask in (
        lambda: services.studio.batch(batch_id),
        lambda: services.studio.queue.cancel(batch_id=batch_id),
        lambda: services.studio.queue.pause_batch(batch_id),
        lambda: services.studio.lists.export(batch_id),
    ):
        with pytest.raises(Gone, match=r"The batch '.*' was deleted"):
            ask()
    assert services.studio.image(job_id).id == job_id


def test_what_retention_lets_go_is_gone_too(services: Services) -> None:
    job_id, _ = done(services)
    services.studio.trash(job_id)
    with sql(services.settings) as db:
        db.execute("UPDATE jobs SET created_at = ?1, finished_at = ?1", [days_ago(1000)])
        db.execute("UPDATE images SET created_at = ?1, trashed_at = ?1", [days_ago(1000)])
    delete_old_jobs(services.settings, services.database)
    empty_trash(services.settings, services.database, services.files)
    for ask in (services.studio.job, services.studio.image, services.studio.star, services.studio.restore):
        with pytest.raises(Gone):
            ask(job_id)


def test_what_never_was_is_not_gone(services: Services) -> None:
    job_id, batch_id = done(services)
    services.studio.queue.forget([job_id])
    for ask, known in (
        (services.studio.job, batch_id),
        (services.studio.batch, job_id),
        (services.studio.image, batch_id),
    ):
        with pytest.raises(NotFound) as refused:
            ask(known)
        assert type(refused.value) is NotFound


def test_after_a_year_it_is_forgotten_for_good(services: Services) -> None:
    job_id, _ = done(services)
    services.studio.queue.forget([job_id])
    assert delete_tombstones(services.database) == 0
    with sql(services.settings) as db:
        db.execute("UPDATE deleted SET at = ?", [days_ago(TOMBSTONE_DAYS + 1)])
    assert delete_tombstones(services.database) == 2
    with pytest.raises(NotFound) as refused:
        services.studio.job(job_id)
    assert type(refused.value) is NotFound


def test_only_who_might_have_seen_it_hears_that_it_was_deleted(services: Services) -> None:
    def user(name: str, sees_all: bool = False) -> Actor:
        return Actor(name, Role.USER, SCOPES[Role.USER], sees_all, source="session")

    with acting(user("ann")):
        job_id, batch_id = done(services)
        services.studio.queue.forget([job_id])
    asks = ((services.studio.job, job_id), (services.studio.batch, batch_id))
    for ask, known in asks:
        with acting(user("ann")), pytest.raises(Gone):
            ask(known)
        with acting(user("bob", sees_all=True)), pytest.raises(Gone):
            ask(known)
        with acting(user("bob")), pytest.raises(NotFound) as refused:
            ask(known)
        assert type(refused.value) is NotFound
