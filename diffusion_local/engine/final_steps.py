"""The final steps of a picture: details that a detector finds are repainted at the model's native size, and the
background is cut out.
"""

import logging
from contextlib import suppress
from dataclasses import replace
from functools import partial
from math import ceil
from typing import Any

from PIL import Image as PIL

from diffusion_local.engine import OnStep, Part, Pass, Picture, Preview, img2img
from diffusion_local.engine.faults import ending_only, making_error, to_engine_error
from diffusion_local.engine.inputs import PictureInputs
from diffusion_local.engine.loaded import Loaded
from diffusion_local.engine.loops import Enlarge, loops_of
from diffusion_local.engine.painting import Work
from diffusion_local.engine.steps import Interrupted, Steps
from diffusion_local.engine.vision_models import Detection
from diffusion_local.errors import DeviceLost, EngineError, OutOfMemory
from diffusion_local.options.inpaint import INPAINT_AREAS
from diffusion_local.options.table import Params
from diffusion_local.options.types import Detail, Kind

log = logging.getLogger(__name__)

#: Detections with a side of fewer pixels are ignored.
LEAST_DETECTION_SIDE = 8
#: The mask is blurred over 1/FADE of its shorter side, at most MOST_FADE pixels.
FADE, MOST_FADE = 16, 32
#: Placeholder for the id of a source picture that exists in memory only.
SOURCE_IN_MEMORY = "picture"


def refine(loaded: Loaded, parts: list[Part], materials: PictureInputs, enlarge: Enlarge, last_rung: bool) -> None:
    """Repaint the details of finished pictures.

    If that fails for a picture, it stays as it was, with the fact ``incomplete``; the other pictures are unaffected.
    Cancelling a part ends that part only. The pass cannot be suspended meanwhile. Raises DeviceLost, and OutOfMemory
    unless this is the last rung.
    """
    made = {part: part.made for part in parts if part.made is not None and part.params.details}
    for part in made:
        part.made = None  # the part is live again: it reports progress, and is made again after OutOfMemory
    for part, finished in made.items():
        if part.problem is not None:
            continue
        with ending_only(part), suppress(Interrupted):
            image = finished.image
            try:
                part.made = refined(loaded, part, image, finished.facts, materials, enlarge)
            except Interrupted:
                raise
            except Exception as error:
                problem = to_engine_error(error, making_error)
                if isinstance(problem, DeviceLost) or (isinstance(problem, OutOfMemory) and not last_rung):
                    raise problem from error
                part.made = Picture(image, finished.facts | incomplete(finished, "details", problem))


def incomplete(finished: Picture, option: str, problem: EngineError) -> dict[str, Any]:
    """The fact ``incomplete``: a last step of the picture failed. Maps the option of that step to the problem."""
    log.warning("the picture is kept without %s: %s", option, problem)
    return {"incomplete": finished.facts.get("incomplete", {}) | {option: str(problem)}}


def refined(
    loaded: Loaded,
    part: Part,
    image: PIL.Image,
    facts: dict[str, Any],
    materials: PictureInputs,
    enlarge: Enlarge,
) -> Picture:
    """A picture with its details repainted. Raises EngineError, or Interrupted once the part has a problem."""
    params, notes = part.params, []
    done = params.total_steps - sum(each.steps or params.steps for each in params.details)
    for detail in params.details:
        steps = detail.steps or params.steps
        check = partial(progress(part, done, (0, 1)), 0, None)
        detections = [
            each
            for each in materials.find(image, detail.target, detail.confidence, check)
            if min(each.box[2] - each.box[0], each.box[3] - each.box[1]) >= LEAST_DETECTION_SIDE
        ][: detail.limit]
        for place, each in enumerate(detections):
            report = progress(part, done, (place * steps, len(detections)))
            detail_params = params_of_detail(params, detail, each, place, own_size(loaded, params))
            image = painted(loaded, image, mask_of(image, each), detail_params, report, materials, enlarge)
            notes.append({"target": detail.target, "box": list(each.box), "score": round(each.score, 3)})
        done += steps
        if not detections:
            progress(part, done, (0, 1))(0, None)
    return Picture(image, facts | {"details": notes})


def progress(part: Part, done: int, share: tuple[int, int]) -> OnStep:
    """A step callback that reports the steps of several detections as the steps of one.

    ``share``: (steps of the earlier detections, number of detections). An exception from the part's own ``on_step``
    becomes its problem, and the callback raises Interrupted.
    """
    before, count = share

    def report(step: int, preview: Preview | None) -> None:
        try:
            part.on_step(done + ceil((before + step) / count), preview)
        except BaseException as problem:
            part.problem = problem
            raise Interrupted from problem

    return report


def own_size(loaded: Loaded, params: Params) -> tuple[int, int]:
    """The size at which a detail is painted: the model's default, or the first pass' size if that is smaller."""
    own = loaded.model.defaults
    first = (params.width, params.height)
    return (own.width, own.height) if own.width * own.height <= first[0] * first[1] else first


def params_of_detail(params: Params, detail: Detail, detection: Detection, place: int, size: tuple[int, int]) -> Params:
    """Params for repainting one detail: inpainting of its region only."""
    box = detection.box
    fade = min(MOST_FADE, max(2, round(min(box[2] - box[0], box[3] - box[1]) / FADE)))
    return replace(
        params,
        kind=Kind.INPAINT,
        prompt=detail.prompt or params.prompt,
        width=size[0],
        height=size[1],
        steps=detail.steps or params.steps,
        strength=detail.strength,
        seed=(params.seed + place) % 2**32,
        source=SOURCE_IN_MEMORY,
        mask=SOURCE_IN_MEMORY,
        controls=(),
        regions=(),
        details=(),
        outpaint="",
        hires_scale=0.0,
        inpaint_area=INPAINT_AREAS[1],
        mask_padding=detail.padding,
        mask_blur=fade,
        mask_content="original",
        mask_edges="hard",
        place="",
    )


def mask_of(image: PIL.Image, detection: Detection) -> PIL.Image:
    """A mask (L) of the size of a picture that covers the box of a detection."""
    mask = PIL.new("L", image.size)
    mask.paste(255, detection.box)
    return mask


def painted(
    loaded: Loaded,
    image: PIL.Image,
    mask: PIL.Image,
    params: Params,
    report: OnStep,
    materials: PictureInputs,
    enlarge: Enlarge,
) -> PIL.Image:
    """A picture with its masked region repainted."""
    part = Part(params, report)
    crew = Pass([part])
    canvas = img2img.make_inpainting_canvas(image, mask, params)
    loops = loops_of(params)
    work = Work(loaded, crew, Steps(crew), materials, canvas, enlarge, loops)
    work.run(loops[0], None)
    made, _ = work.finish(part)()
    return made


def cut_out(finished: Picture, materials: PictureInputs) -> Picture:
    """A picture with a transparent background (RGBA), computed once the device has finished.

    If the main object cannot be found, it stays opaque (RGB), with the fact ``incomplete``.
    """

    def finish() -> tuple[PIL.Image, dict[str, Any]]:
        image = finished.image.convert("RGB")
        clear = image.copy()
        try:
            clear.putalpha(materials.main_object(image, lambda: made.check()))
        except EngineError as problem:
            return image, incomplete(finished, "background", problem)
        return clear, {}

    made = Picture(finish, finished.facts)
    return made
