"""Handlers of the buttons on one or several pictures: run again, variations, upscale, star, trash, and boards."""

from dataclasses import replace
from typing import Any

from diffusion_local.domain import shortened
from diffusion_local.errors import InvalidParams, NotFound
from diffusion_local.messages import message
from diffusion_local.options.table import OPTIONS, SETTINGS, Params
from diffusion_local.options.types import Kind
from diffusion_local.studio import Studio
from diffusion_local.web.ui import view, view_gallery, view_picture
from diffusion_local.web.ui.effects import Effect, Verb, new_toast
from diffusion_local.web.ui.words import say

VARIATIONS = 4
VARIATION_STRENGTH = 0.25  # the same composition, but a visible difference
UPSCALE = 2.0
RANDOM_SEED = "no"  # value of ``expand``: the prompt of a recipe is already expanded, so its braces are literal


def settings_of(params: Params) -> dict[str, Any]:
    """A recipe as keyword arguments of ``Studio.submit``, without those at their default."""
    applying = [name for name in SETTINGS if params.kind in OPTIONS[name].kinds]
    return {name: value for name in applying if OPTIONS[name].is_set(value := getattr(params, name), params.kind)}


def panel(studio: Studio, image_id: str) -> str:
    image = studio.image(image_id)
    try:
        batch_id = studio.job(image.job_id).batch_id
    except NotFound:  # the job has been removed from the queue's history
        batch_id = ""
    kin = view_picture.Related(
        studio.pictures.alike(image), batch_id, studio.boards.of_image(image.id), studio.boards.all()
    )
    return view_picture.panel(image, kin)


def show(studio: Studio, key: str) -> Effect:
    return Effect(panel=panel(studio, key))


def star(studio: Studio, key: str) -> Effect:
    return Effect(panel=panel(studio, studio.star(key).id))


def unstar(studio: Studio, key: str) -> Effect:
    return Effect(panel=panel(studio, studio.star(key, False).id))


def stage_star(studio: Studio, key: str) -> Effect:
    """Star a picture outside the viewer; the page shows the star at its next poll."""
    studio.star(key)
    return Effect()


def stage_unstar(studio: Studio, key: str) -> Effect:
    studio.star(key, False)
    return Effect()


def trash(studio: Studio, key: str) -> Effect:
    studio.trash(key)
    return Effect(toast=new_toast(say("page.trashed"), view.button(say("common.undo"), "restore", key)), panel="")


def restore(studio: Studio, key: str) -> Effect:
    studio.restore(key)
    return Effect(toast=new_toast(say("page.restored")))


def restore_open(studio: Studio, key: str) -> Effect:
    """Restore the viewer's picture from the trash; the viewer stays open."""
    return Effect(toast=restore(studio, key).toast, panel=panel(studio, key))


def caption(studio: Studio, key: str) -> Effect:
    """Caption a picture. The viewer may show another one by then, so the result appears only in a toast."""
    image = studio.pictures.caption(key)
    return Effect(
        toast=new_toast(
            say("viewer.captioned", caption=shortened(image.caption, 80)), view.button(say("viewer.show"), "open", key)
        )
    )


# -- further pictures from one ----------------------------------------------------------------------------------------


def submitted(studio: Studio, params: Params, what: str, count: int = 1, **changes: Any) -> Effect:
    receipt = studio.submit(params.prompt, count=count, expand=RANDOM_SEED, **settings_of(params) | changes)
    return Effect(toast=new_toast(say("viewer.queued", what=what)), receipt=receipt.batch_id)


def again_new(studio: Studio, key: str) -> Effect:
    """Submit the recipe with another seed, or for a variation with another variation seed."""
    params = studio.image(key).params
    return submitted(studio, params, shortened(params.prompt, 40), **other_seed(params))


def other_seed(params: Params) -> dict[str, Any]:
    return {"variation_seed" if params.variation_strength else "seed": None}


def again_picture(studio: Studio, key: str) -> Effect:
    """Generate the same picture again, from its own recipe if the job no longer exists."""
    image = studio.image(key)
    try:
        receipt = studio.queue.again([image.job_id], exactly=True)
    except NotFound:
        return submitted(studio, image.params, shortened(image.params.prompt, 40))
    what = shortened(image.params.prompt, 40)
    return Effect(toast=new_toast(say("viewer.queued", what=what)), receipt=receipt.batch_id)


def variations(studio: Studio, key: str) -> Effect:
    """Submit variations of a picture: its noise blended with a little noise of another seed."""
    params = studio.image(key).params
    what = say("viewer.n_variations", n=VARIATIONS, prompt=shortened(params.prompt, 40))
    changes: dict[str, Any] = {"variation_seed": None, "variation_strength": VARIATION_STRENGTH}
    return submitted(studio, params, what, VARIATIONS, **changes)


def upscale(studio: Studio, key: str) -> Effect:
    image = studio.image(key)
    what = say("viewer.upscaled", prompt=shortened(image.params.prompt, 40))
    receipt = studio.submit(
        image.params.prompt,
        expand=RANDOM_SEED,
        kind=Kind.UPSCALE,
        source=studio.sources.from_image(image.id).id,
        scale=UPSCALE,
        model=image.params.model,
        seed=image.params.seed,
    )
    return Effect(toast=new_toast(say("viewer.queued", what=what)), receipt=receipt.batch_id)


# -- several pictures; ``key`` lists their ids ------------------------------------------------------------------------


def star_these(studio: Studio, key: str) -> Effect:
    """Star the selected pictures, or unstar them if all of them are starred."""
    images = [studio.image(image_id) for image_id in key.split()]
    studio.pictures.star(key.split(), not all(image.starred for image in images))
    return Effect()


def trash_these(studio: Studio, key: str) -> Effect:
    gone = studio.pictures.trash(key.split())
    undo = view.button(say("common.undo"), "restore_these", key)
    return Effect(toast=new_toast(say("gallery.n_trashed", n=len(gone)), undo))


def restore_these(studio: Studio, key: str) -> Effect:
    back = studio.pictures.restore(key.split())
    return Effect(toast=new_toast(say("gallery.n_restored", n=len(back))))


def delete_these(studio: Studio, key: str) -> Effect:
    gone = studio.pictures.delete(key.split())
    return Effect(toast=new_toast(say("gallery.n_deleted", n=len(gone))))


def compare(studio: Studio, key: str) -> Effect:
    chosen = key.split()
    if len(chosen) != 2:
        return Effect(toast=new_toast(say("gallery.compare_two"), kind="warn"))
    return Effect(panel=view_gallery.compared(*(studio.image(image_id) for image_id in chosen)))


# -- boards; ``key`` begins with the board's id or lists pictures; a typed name is on its second line -----------------


def board_new(studio: Studio, key: str) -> Effect:
    ids, _, name = key.partition("\n")
    board = studio.boards.create(name, ids.split())
    return Effect(toast=new_toast(say("gallery.board_made", name=board.name)))


def board_add(studio: Studio, key: str) -> Effect:
    board_id, *ids = key.split()
    board = studio.boards.add(board_id, ids)
    return Effect(toast=new_toast(say("gallery.board_added", name=board.name, n=len(ids))))


def pin(studio: Studio, key: str) -> Effect:
    """Add the viewer's picture to a board; the viewer stays open and shows the board."""
    return replace(board_add(studio, key), panel=panel(studio, key.split()[-1]))


def pin_new(studio: Studio, key: str) -> Effect:
    return replace(board_new(studio, key), panel=panel(studio, key.partition("\n")[0].strip()))


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
    return Effect(toast=new_toast(say("gallery.board_deleted", name=board.name)))


VERBS: dict[str, Verb] = {
    "open": show,
    "star": star,
    "unstar": unstar,
    "stage_star": stage_star,
    "stage_unstar": stage_unstar,
    "trash": trash,
    "restore": restore,
    "restore_open": restore_open,
    "caption": caption,
    "again_new": again_new,
    "again_picture": again_picture,
    "variations": variations,
    "upscale": upscale,
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
