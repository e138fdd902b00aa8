"""The gallery: pages, search, stars, trash."""

import pytest

from diffusion_local.domain import Image
from diffusion_local.errors import NotFound
from diffusion_local.store.database import Database
from diffusion_local.store.images import ImageStore
from diffusion_local.store.jobs import JobStore
from tests.support import claimed, enqueue, image_of


@pytest.fixture
def images(database: Database) -> ImageStore:
    return ImageStore(database)


def made(store: JobStore, count: int = 1, **changes: object) -> list[Image]:
    """Pictures in the order in which they were made, several in the same millisecond."""
    pictures = []
    for _ in enqueue(store, count, **changes):  # type: ignore[arg-type]
        job = claimed(store)
        pictures.append(image_of(job, created_at=f"2026-11-22T10:00:00.{len(pictures) // 3:03}Z"))
        store.finish(job.claim, pictures[-1])
    return pictures


def test_pages_go_newest_first_with_nothing_lost_or_doubled(store: JobStore, images: ImageStore) -> None:
    pictures = sorted(made(store, 11), key=lambda image: (image.created_at, image.id), reverse=True)
    seen: list[Image] = []
    while page := images.page(4, before=seen[-1].id if seen else None):
        seen += page
    assert seen == pictures
    assert images.count() == 11


def test_a_picture_comes_back_as_it_was_stored(store: JobStore, images: ImageStore) -> None:
    [image] = made(store)
    assert images.get(image.id) == image
    assert images.of_jobs([image.job_id, "nobody"]) == {image.job_id: image}
    assert images.of_jobs([]) == {}


def test_search_takes_words_as_they_are_and_not_as_patterns(store: JobStore, images: ImageStore) -> None:
    [apple] = made(store, prompt="a Red apple 100%")
    [heart] = made(store, prompt="a blue_heart")
    assert images.page(search="red APPLE") == [apple]
    assert images.page(search="100%") == [apple]
    assert images.page(search="blue_") == [heart]
    assert images.page(search="%") == [apple]
    assert images.page(search="'; DROP TABLE images; --") == []


def test_stars(store: JobStore, images: ImageStore) -> None:
    first, second = made(store, 2)
    assert images.star(first.id, True).starred
    assert [image.id for image in images.page(starred=True)] == [first.id]
    assert not images.star(first.id, False).starred
    assert {image.id for image in images.page()} == {first.id, second.id}


def test_the_trash_hides_and_restore_shows_again(store: JobStore, images: ImageStore) -> None:
    [image] = made(store)
    assert images.trash(image.id).trashed_at
    assert (images.page(), images.count(), images.of_jobs([image.job_id])) == ([], 0, {})
    assert [each.id for each in images.page(trashed=True)] == [image.id]
    assert images.restore(image.id) == image
    assert images.page() == [image]


def test_an_unknown_picture_is_not_found(images: ImageStore) -> None:
    for ask in (images.get, images.trash, images.restore, lambda image_id: images.star(image_id, True)):
        with pytest.raises(NotFound, match="nobody"):
            ask("nobody")
