"""The gallery: pages, search, stars, trash."""

import itertools
from typing import Any

import pytest

from diffusion_local.actor import SCOPES, Actor, Role, acting
from diffusion_local.db.database import Database
from diffusion_local.db.search import phrases
from diffusion_local.domain import Image
from diffusion_local.errors import InvalidParams, NotFound
from diffusion_local.gallery.images import SORTS, GalleryFilter, ImageStore, ordered
from diffusion_local.queue.jobs import JobStore
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
    assert images.page(gallery_filter=GalleryFilter(search="red APPLE")) == [apple]
    assert images.page(gallery_filter=GalleryFilter(search="100%")) == [apple]
    assert images.page(gallery_filter=GalleryFilter(search="blue_")) == [heart]
    assert images.page(gallery_filter=GalleryFilter(search="%")) == [apple]
    assert images.page(gallery_filter=GalleryFilter(search="'; DROP TABLE images; --")) == []


def test_stars(store: JobStore, images: ImageStore) -> None:
    first, second = made(store, 2)
    assert images.star([first.id], True)[0].starred
    assert [image.id for image in images.page(gallery_filter=GalleryFilter(starred=True))] == [first.id]
    assert not images.star([first.id], False)[0].starred
    assert {image.id for image in images.page()} == {first.id, second.id}


def test_the_trash_hides_and_restore_shows_again(store: JobStore, images: ImageStore) -> None:
    [image] = made(store)
    assert images.trash([image.id])[0].trashed_at
    assert (images.page(), images.count(), images.of_jobs([image.job_id])) == ([], 0, {})
    assert [each.id for each in images.page(gallery_filter=GalleryFilter(trashed=True))] == [image.id]
    assert images.restore([image.id]) == [image]
    assert images.page() == [image]


def test_an_unknown_picture_is_not_found(images: ImageStore) -> None:
    with pytest.raises(NotFound, match="nobody"):
        images.get("nobody")
    for ask in (images.trash, images.restore, lambda image_ids: images.star(image_ids, True)):
        with pytest.raises(NotFound, match="nobody"):
            ask(["nobody"])


def test_search_finds_words_and_their_beginnings(store: JobStore, images: ImageStore) -> None:
    [castle] = made(store, prompt="an old castle by the sea")
    [cat] = made(store, prompt="a cat on a castle wall")
    [chinese] = made(store, prompt="雪山上的小屋")

    def found(search: str) -> list[Image]:
        return images.page(gallery_filter=GalleryFilter(search=search))

    assert found("cast") == [cat, castle]
    assert found("castle cat") == [cat]
    assert found('"castle wall"') == [cat]
    assert found('"wall castle"') == []
    assert found("castle -cat") == [castle]
    assert found("-cat") == []
    assert found("小屋") == [chinese]
    assert found('"castle AND') == []
    assert found('castle" OR (') == []


def test_search_finds_captions_as_well(store: JobStore, images: ImageStore) -> None:
    [castle] = made(store, prompt="an old castle")
    [cat] = made(store, prompt="a cat")

    def found(search: str) -> list[str]:
        return [image.id for image in images.page(gallery_filter=GalleryFilter(search=search))]

    assert images.set_caption(castle.id, "a tower on a grey hill, 山").caption == "a tower on a grey hill, 山"
    assert images.set_caption(cat.id, "a kitten on a sofa").id == cat.id
    assert found("tower") == [castle.id]
    assert found("castle grey") == [castle.id]
    assert found('"grey hill"') == [castle.id]
    assert found('"castle a"') == []
    assert found("山") == [castle.id]
    assert found("sofa -kitten") == []
    images.set_caption(castle.id, "a lighthouse")
    assert (found("tower"), found("lighthouse")) == ([], [castle.id])
    images.trash([castle.id])
    images.delete_trashed([castle.id])
    assert found("lighthouse") == []
    with acting(Actor("eve", Role.USER, SCOPES[Role.USER])), pytest.raises(NotFound):
        images.set_caption(cat.id, "mine")


def test_pages_of_a_search_lose_and_double_nothing(store: JobStore, images: ImageStore) -> None:
    pictures = made(store, 11, prompt="a castle")
    seen: list[Image] = []
    while page := images.page(4, before=seen[-1].id if seen else None, gallery_filter=GalleryFilter(search="castle")):
        seen += page
    assert seen == pictures[::-1]


def test_filters_narrow_together(store: JobStore, images: ImageStore, database: Database) -> None:
    [square] = made(store, prompt="a castle")
    enqueue(store, prompt="a castle")
    job = claimed(store)
    wide = image_of(job, width=256, created_at="2026-11-22T10:00:00.000Z")
    store.finish(job.claim, wide)
    [other] = made(store, prompt="a castle", model="sdxl")

    def found(**asked: object) -> list[str]:
        return [image.id for image in images.page(gallery_filter=GalleryFilter.parse(asked))]

    assert found(shape="landscape") == [wide.id]
    assert found(model="sdxl") == [other.id]
    assert found(model="sdxl", shape="landscape") == []
    assert found(since="2026-11-22", until="2026-11-22") == [other.id, wide.id, square.id]
    assert found(until="2026-11-21") == []
    assert found(batch=store.get(wide.job_id).batch_id) == [wide.id]
    assert images.models() == sorted({square.params.model, "sdxl"})
    for asked in ({"shape": "round"}, {"since": "yesterday"}, {"colour": "red"}):
        with pytest.raises(InvalidParams):
            GalleryFilter.parse(asked)


@pytest.mark.parametrize("search", ["", "castle", "堡"])
def test_pages_in_every_order_lose_and_double_nothing(store: JobStore, images: ImageStore, search: str) -> None:
    pictures = []
    for width in (128, 256, 128, 512, 256, 128, 256):
        enqueue(store, prompt="a castle 城堡")
        job = claimed(store)
        store.finish(job.claim, picture := image_of(job, width=width))
        pictures.append(picture)

    def read(sort: str) -> list[str]:
        seen: list[str] = []
        asked = GalleryFilter(sort=sort, search=search)
        while page := images.page(2, before=seen[-1] if seen else None, gallery_filter=asked):
            seen += [image.id for image in page]
        return seen

    newest = [image.id for image in images.page()]
    widths = {picture.id: picture.width for picture in pictures}
    assert read("") == read("newest") == newest
    assert read("oldest") == newest[::-1]
    assert read("largest") == sorted(newest, key=lambda each: -widths[each])  # newest first among equals
    with pytest.raises(InvalidParams, match="sort"):
        GalleryFilter.parse({"sort": "ugliest"})


def test_no_order_sorts_the_whole_gallery(database: Database) -> None:
    with database.read() as db:
        if db.translated:
            pytest.skip("reads SQLite's plans")
        for sort, before in itertools.product(SORTS, (False, True)):
            for part, order in ordered(sort, False, before):
                where = f"trashed_at IS NULL AND {part or 'TRUE'}"
                statement = f"SELECT * FROM images WHERE {where} ORDER BY {order} LIMIT 9"
                plan = str([*db.execute(f"EXPLAIN QUERY PLAN {statement}", {"before": "x"} if part else {})])
                assert "TEMP B-TREE" not in plan, plan
                assert not part or "SEARCH images USING INDEX" in plan, plan


def test_pictures_of_one_recipe_are_recognised(store: JobStore, images: ImageStore) -> None:
    first, second = made(store, prompt="a castle", seed=7) + made(store, prompt="a castle", seed=7)
    [other] = made(store, prompt="a castle", seed=8)
    assert images.count_alike(first) == 1
    assert images.count_alike(other) == 0
    assert images.page(gallery_filter=GalleryFilter(like=first.id)) == [second, first]


def test_a_forgotten_picture_is_found_no_more(store: JobStore, images: ImageStore) -> None:
    first, second = made(store, 2, prompt="a castle")
    images.trash([first.id])
    assert images.delete_trashed([first.id, second.id]) == [(first.id, first.key)]
    assert images.page(gallery_filter=GalleryFilter(search="castle")) == [second]


# -- a search within a filter walks only where the filter's pictures are -------------------------------------------


def test_a_search_within_few_and_within_many_finds_the_same(
    store: JobStore, images: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    [apple], [pear] = made(store, prompt="a red apple"), made(store, prompt="a pear")
    made(store, prompt="red bricks")
    images.star([apple.id, pear.id], True)
    asked = GalleryFilter(search="red", starred=True, until="2999-01-01")
    few = images.page(gallery_filter=asked)
    monkeypatch.setattr("diffusion_local.db.search.MOST_PINNED", 0)
    assert [image.id for image in few] == [apple.id] == [image.id for image in images.page(gallery_filter=asked)]
    assert images.page(gallery_filter=GalleryFilter(search="red", until="2000-01-01")) == []


def test_whoever_sees_only_their_own_finds_only_their_own(store: JobStore, images: ImageStore) -> None:
    [apple] = made(store, prompt="a red apple")
    red = GalleryFilter(search="red")
    with acting(Actor("ann", Role.USER, SCOPES[Role.USER], sees_all=False)):
        assert images.page() == images.page(gallery_filter=red) == []
        assert images.count() == 0
    assert images.page(gallery_filter=red) == [apple]
    assert images.count() == 1


@pytest.mark.parametrize(
    ("criteria", "matches"),
    [({}, 3), ({"search": "apple"}, 2), ({"search": "果"}, 1), ({"search": "pear"}, 0), ({"starred": True}, 1)],
)
def test_matches_are_counted_up_to_a_limit(
    store: JobStore, images: ImageStore, criteria: dict[str, Any], matches: int
) -> None:
    first, _, _ = [made(store, prompt=prompt)[0] for prompt in ("an apple", "an apple tree", "苹果")]
    images.star([first.id], True)
    assert images.count_matches(GalleryFilter.parse(criteria), 10) == matches
    assert images.count_matches(GalleryFilter.parse(criteria), 1) == min(matches, 1)


def test_the_count_is_kept_through_trash_and_deletion(store: JobStore, images: ImageStore) -> None:
    first, second, _ = made(store, 3)
    images.trash([first.id, second.id])
    images.trash([first.id])  # again
    assert images.count() == 1
    images.restore([second.id])
    images.delete_trashed([first.id])
    assert images.count() == 2


def test_a_recipe_that_was_made_twice_is_known(store: JobStore, images: ImageStore) -> None:
    first, again = made(store, prompt="a red apple")[0], made(store, prompt="a red apple")[0]
    other = made(store, prompt="a blue heart")[0]
    assert images.repeated([first, again, other]) == {first.id: 2, again.id: 2}
    assert images.repeated([]) == {}
    images.trash([again.id])
    assert images.repeated([first, other]) == {}


def test_owners_are_those_whose_pictures_one_may_see(store: JobStore, images: ImageStore) -> None:
    for owner in ("bob", "ann", "ann", ""):
        made(store, owner=owner)
    assert images.owners() == ["ann", "bob"]
    with acting(Actor("ann", Role.USER, SCOPES[Role.USER], sees_all=False)):
        assert images.owners() == ["ann"]
    images.trash([images.page(gallery_filter=GalleryFilter(owner="bob"))[0].id])
    assert images.owners() == ["ann"]


UNSPACED = (
    "雪山下的古老城堡，水彩画",
    "a castle 城堡",
    "a fox 🦊 sleeps",
    "한국의 성",
    "ปราสาท",
    "a curly ’ quote",
    "a red apple",
)


def test_substrings_of_scripts_without_spaces_are_found_by_their_index(store: JobStore, images: ImageStore) -> None:
    for prompt in UNSPACED:
        enqueue(store, prompt=prompt)
        job = claimed(store)
        store.finish(job.claim, image_of(job))

    def found(search: str) -> list[str]:
        return [image.params.prompt for image in images.page(gallery_filter=GalleryFilter(search=search))]

    parts = {prompt[start:end] for prompt in UNSPACED for start in range(len(prompt)) for end in range(start + 1, 30)}
    parts |= {"宇宙飞船", "堡城", "城堡 apple", "A CASTLE 城"}
    for part in {each.strip() for each in parts if not any(phrases(each))}:  # the others are searched by words
        assert found(part) == [each for each in reversed(UNSPACED) if part.lower() in each], part
    fox = next(image.id for image in images.page() if "🦊" in image.params.prompt)
    images.set_caption(fox, "一只狐狸")
    assert found("狐狸") == ["a fox 🦊 sleeps"]
    images.set_caption(fox, "something else")
    assert found("狐狸") == []
    images.trash([fox])
    images.delete_trashed([fox])
    assert found("🦊") == []
