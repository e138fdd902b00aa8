"""What the buttons of the gallery do: boards, and something with many pictures at once."""

from dataclasses import replace

from diffusion_local.errors import InvalidParams
from diffusion_local.messages import message
from diffusion_local.studio import Studio
from diffusion_local.web.ui import actions_pictures, view, view_gallery
from diffusion_local.web.ui.effects import Effect, Verb, said
from diffusion_local.web.ui.words import say

# -- many at once; ``key`` has their ids ------------------------------------------------------------------------------


def star_these(studio: Studio, key: str) -> Effect:
    """Star them, or take the stars away where all have one."""
    images = [studio.image(image_id) for image_id in key.split()]
    studio.pictures.star(key.split(), not all(image.starred for image in images))
    return Effect()


def trash_these(studio: Studio, key: str) -> Effect:
    gone = studio.pictures.trash(key.split())
    undo = view.button(say("common.undo"), "restore_these", key)
    return Effect(toast=said(say("gallery.n_trashed", n=len(gone)), undo))


def restore_these(studio: Studio, key: str) -> Effect:
    back = studio.pictures.restore(key.split())
    return Effect(toast=said(say("gallery.n_restored", n=len(back))))


def delete_these(studio: Studio, key: str) -> Effect:
    gone = studio.pictures.delete(key.split())
    return Effect(toast=said(say("gallery.n_deleted", n=len(gone))))


def compare(studio: Studio, key: str) -> Effect:
    chosen = key.split()
    if len(chosen) != 2:
        return Effect(toast=said(say("gallery.compare_two"), kind="warn"))
    return Effect(panel=view_gallery.compared(*(studio.image(image_id) for image_id in chosen)))


# -- boards; the first word of ``key`` is the board, what a person typed comes after a line break ---------------------


def board_new(studio: Studio, key: str) -> Effect:
    ids, _, name = key.partition("\n")
    board = studio.boards.create(name, ids.split())
    return Effect(toast=said(say("gallery.board_made", name=board.name)))


def board_add(studio: Studio, key: str) -> Effect:
    board_id, *ids = key.split()
    board = studio.boards.add(board_id, ids)
    return Effect(toast=said(say("gallery.board_added", name=board.name, n=len(ids))))


def pin(studio: Studio, key: str) -> Effect:
    """The viewer's picture onto a board; it stays open, and shows that."""
    return replace(board_add(studio, key), panel=actions_pictures.panel(studio, key.split()[-1]))


def pin_new(studio: Studio, key: str) -> Effect:
    return replace(board_new(studio, key), panel=actions_pictures.panel(studio, key.partition("\n")[0].strip()))


def board_take(studio: Studio, key: str) -> Effect:
    board_id, *ids = key.split()
    studio.boards.take(board_id, ids)
    return Effect()


def board_rename(studio: Studio, key: str) -> Effect:
    board_id, _, name = key.partition("\n")
    if not name:
        raise InvalidParams("name", message("board_unnamed"))
    studio.boards.rename(board_id.strip(), name)
    return Effect()


def board_delete(studio: Studio, key: str) -> Effect:
    board = studio.boards.delete(key)
    return Effect(toast=said(say("gallery.board_deleted", name=board.name)))


VERBS: dict[str, Verb] = {
    "star_these": star_these,
    "trash_these": trash_these,
    "restore_these": restore_these,
    "delete_these": delete_these,
    "compare": compare,
    "board_new": board_new,
    "board_add": board_add,
    "board_take": board_take,
    "pin": pin,
    "pin_new": pin_new,
    "board_rename": board_rename,
    "board_delete": board_delete,
}
