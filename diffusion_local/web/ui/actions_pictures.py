"""What the buttons on a picture do: again, variations, upscale, star, trash."""

from typing import Any

from diffusion_local.domain import Kind, Params, shortened
from diffusion_local.errors import NotFound
from diffusion_local.options.table import OPTIONS, SETTINGS
from diffusion_local.studio import Studio
from diffusion_local.web.ui import view, view_picture
from diffusion_local.web.ui.effects import Effect, Verb, said
from diffusion_local.web.ui.words import say

VARIATIONS = 4
VARIATION_STRENGTH = 0.25  # near enough to be the same picture, far enough to see
UPSCALE = 2.0
DRAWN = "no"  # a recipe's prompt is drawn already: a brace in it is a brace


def settings_of(params: Params) -> dict[str, Any]:
    """A recipe as arguments of ``Studio.submit``, without what is at its default."""
    applying = [name for name in SETTINGS if params.kind in OPTIONS[name].kinds]
    return {name: value for name in applying if OPTIONS[name].is_set(value := getattr(params, name), params.kind)}


def panel(studio: Studio, image_id: str) -> str:
    image = studio.image(image_id)
    try:
        batch_id = studio.job(image.job_id).batch_id
    except NotFound:  # the list was cleared since
        batch_id = ""
    kin = view_picture.Kin(
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
    """Where a picture is shown without the viewer; the next look draws the star."""
    studio.star(key)
    return Effect()


def stage_unstar(studio: Studio, key: str) -> Effect:
    studio.star(key, False)
    return Effect()


def trash(studio: Studio, key: str) -> Effect:
    studio.trash(key)
    return Effect(toast=said(say("page.trashed"), view.button(say("common.undo"), "restore", key)), panel="")


def restore(studio: Studio, key: str) -> Effect:
    studio.restore(key)
    return Effect(toast=said(say("page.restored")))


def restore_open(studio: Studio, key: str) -> Effect:
    """From the trash, in the viewer, which stays."""
    return Effect(toast=restore(studio, key).toast, panel=panel(studio, key))


# -- more of it -------------------------------------------------------------------------------------------------------


def submitted(studio: Studio, params: Params, what: str, count: int = 1, **changes: Any) -> Effect:
    receipt = studio.submit(params.prompt, count=count, expand=DRAWN, **settings_of(params) | changes)
    return Effect(toast=said(say("viewer.queued", what=what)), receipt=receipt.batch_id)


def again_new(studio: Studio, key: str) -> Effect:
    """The recipe with another seed; of a variation, another variation."""
    params = studio.image(key).params
    return submitted(studio, params, shortened(params.prompt, 40), **other_seed(params))


def other_seed(params: Params) -> dict[str, Any]:
    return {"variation_seed" if params.variation_strength else "seed": None}


def again_picture(studio: Studio, key: str) -> Effect:
    """The same picture once more, also where its job was cleared from the list long ago."""
    image = studio.image(key)
    try:
        receipt = studio.queue.again([image.job_id], exactly=True)
    except NotFound:
        return submitted(studio, image.params, shortened(image.params.prompt, 40))
    what = shortened(image.params.prompt, 40)
    return Effect(toast=said(say("viewer.queued", what=what)), receipt=receipt.batch_id)


def variations(studio: Studio, key: str) -> Effect:
    """Pictures near to this one: its own noise with a little of another's."""
    params = studio.image(key).params
    what = say("viewer.n_variations", n=VARIATIONS, prompt=shortened(params.prompt, 40))
    changes: dict[str, Any] = {"variation_seed": None, "variation_strength": VARIATION_STRENGTH}
    return submitted(studio, params, what, VARIATIONS, **changes)


def upscale(studio: Studio, key: str) -> Effect:
    image = studio.image(key)
    what = say("viewer.upscaled", prompt=shortened(image.params.prompt, 40))
    receipt = studio.submit(
        image.params.prompt,
        expand=DRAWN,
        kind=Kind.UPSCALE,
        source=studio.sources.from_image(image.id).id,
        scale=UPSCALE,
        model=image.params.model,
        seed=image.params.seed,
    )
    return Effect(toast=said(say("viewer.queued", what=what)), receipt=receipt.batch_id)


VERBS: dict[str, Verb] = {
    "open": show,
    "star": star,
    "unstar": unstar,
    "stage_star": stage_star,
    "stage_unstar": stage_unstar,
    "trash": trash,
    "restore": restore,
    "restore_open": restore_open,
    "again_new": again_new,
    "again_picture": again_picture,
    "variations": variations,
    "upscale": upscale,
}
