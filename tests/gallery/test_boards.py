"""Boards: albums of pictures."""

import pytest

from diffusion_local.db.database import Database
from diffusion_local.errors import Conflict, InvalidParams, NotFound
from diffusion_local.gallery.boards import BoardStore
from diffusion_local.gallery.images import GalleryFilter, ImageStore
from diffusion_local.queue.jobs import JobStore
from tests.gallery.test_images import made
from tests.support import refused


@pytest.fixture
def boards(database: Database) -> BoardStore:
    return BoardStore(database)


def test_a_board_holds_pictures_and_tells_of_them(store: JobStore, boards: BoardStore, database: Database) -> None:
    first, second = made(store, 2)
    board = boards.create("  Autumn   leaves ", [first.id])
    assert (board.name, board.count, board.cover) == ("Autumn leaves", 1, first.id)
    assert boards.add(board.id, [first.id, second.id]).count == 2
    assert [each.id for each in boards.of_image(second.id)] == [board.id]
    on_it = ImageStore(database).page(gallery_filter=GalleryFilter(board=board.id))
    assert {image.id for image in on_it} == {first.id, second.id}
    assert boards.take(board.id, [first.id]).cover == second.id


def test_the_trash_is_on_no_board_but_comes_back_to_it(store: JobStore, boards: BoardStore, database: Database) -> None:
    [image] = made(store)
    images, board = ImageStore(database), boards.create("Autumn", [image.id])
    images.trash([image.id])
    assert (boards.get(board.id).count, boards.get(board.id).cover) == (0, "")
    images.restore([image.id])
    assert boards.get(board.id).count == 1
    images.trash([image.id])
    images.delete_trashed([image.id])
    assert boards.of_image(image.id) == []


def test_names_are_kept_apart(boards: BoardStore) -> None:
    board = boards.create("Autumn")
    with refused(Conflict, "board_there"):
        boards.create("Autumn")
    for name in ("", "  ", "x" * 101):
        with pytest.raises(InvalidParams, match="100"):
            boards.create(name)
    for name in ("a\0b", "\ud83d"):
        with pytest.raises(InvalidParams, match="must be text"):
            boards.create(name)
    other = boards.create("Winter")
    with pytest.raises(Conflict):
        boards.rename(other.id, "Autumn")
    assert boards.rename(other.id, "Winter").name == "Winter"
    assert [each.name for each in boards.all()] == ["Autumn", "Winter"]
    boards.delete(board.id)
    assert boards.create("Autumn").id != board.id


def test_an_unknown_picture_or_board_changes_nothing(store: JobStore, boards: BoardStore) -> None:
    [image] = made(store)
    board = boards.create("Autumn")
    with pytest.raises(NotFound):
        boards.add(board.id, [image.id, "nobody"])
    assert boards.get(board.id).count == 0
    with pytest.raises(NotFound):
        boards.create("Winter", ["nobody"])
    assert [each.name for each in boards.all()] == ["Autumn"]
    for ask in (
        boards.get,
        boards.delete,
        lambda name: boards.add(name, [image.id]),
        lambda name: boards.rename(name, "x"),
    ):
        with refused(NotFound, "no_board"):
            ask("nobody")


def test_deleting_a_board_leaves_its_pictures(store: JobStore, boards: BoardStore, database: Database) -> None:
    [image] = made(store)
    boards.delete(boards.create("Autumn", [image.id]).id)
    assert ImageStore(database).page() == [image]
