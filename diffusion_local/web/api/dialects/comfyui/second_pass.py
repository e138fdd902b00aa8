"""Translates a second sampler after an enlarged picture to the options of a second pass."""

from dataclasses import dataclass, replace
from typing import Any, Protocol

from diffusion_local.messages import message
from diffusion_local.options.hires import enlarged
from diffusion_local.options.table import LANCZOS
from diffusion_local.web.api.dialects.comfyui.values import Work, beyond, failed

#: Our upscalers by ComfyUI's methods for latents; images are enlarged with Lanczos.
LATENT_METHODS = {
    "nearest-exact": "Latent (nearest-exact)",
    "bilinear": "Latent",
    "area": "Latent (antialiased)",
    "bicubic": "Latent (bicubic)",
    "bislerp": "Latent (bicubic)",
}
#: Settings of the second sampler that may differ from those of the first.
OWN = ("steps", "seed", "count", "width", "height")


class Warns(Protocol):
    def warn(self, text: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Enlarged:
    """A sampler's result enlarged by a factor or to a size; both are unknown after an upscale model."""

    work: Work
    upscaler: str
    scale: float = 0.0
    size: tuple[int, int] | None = None


def enlarged_latent(reader: Warns, node_id: str, given: dict[str, Any]) -> Enlarged:
    """LatentUpscale and LatentUpscaleBy. Raises Refused unless the input is a sampler's result."""
    if not isinstance(given["samples"], Work):
        raise failed([beyond(node_id, "only what a sampler has made can be enlarged", "samples")])
    method = given["upscale_method"]
    if method in ("area", "bislerp"):
        reader.warn(message("replaced", field="upscale_method", got=method, to=LATENT_METHODS[method]))
    return to_size(node_id, Enlarged(given["samples"], LATENT_METHODS[method]), given)


def enlarged_image(reader: Warns, node_id: str, given: dict[str, Any]) -> Enlarged:
    """ImageScale and ImageScaleBy, after a sampler or an upscale model. Raises Refused for any other input."""
    image = given["image"]
    if isinstance(image, Enlarged) and (image.scale or image.size):
        raise failed([beyond(node_id, "a picture can be enlarged once before it is sampled again", "image")])
    if isinstance(image, Enlarged):
        if "scale_by" in given:
            why = "the factor of an upscale model is not known; give the size with ImageScale"
            raise failed([beyond(node_id, why, "scale_by")])
        return to_size(node_id, image, given)
    if not isinstance(image, Work) or not image.sampled:
        raise failed([beyond(node_id, "only what a sampler has made can be enlarged", "image")])
    if given["upscale_method"] != "lanczos":
        reader.warn(message("replaced", field="upscale_method", got=given["upscale_method"], to=LANCZOS))
    return to_size(node_id, Enlarged(image, LANCZOS), given)


def to_size(node_id: str, found: Enlarged, given: dict[str, Any]) -> Enlarged:
    """The factor or size that a node names; a side of 0 follows the other. Raises Refused."""
    if "scale_by" in given:
        return replace(found, scale=given["scale_by"])
    if not (given["width"] or given["height"]):
        raise failed([beyond(node_id, "a width or a height is needed", "width")])
    return replace(found, size=(given["width"], given["height"]))


def second_pass(reader: Warns, node_id: str, again: Work, latent: Enlarged, denoise: float) -> Work:
    """The first sampler's work with a second pass; ``again`` has the settings of that pass. Raises Refused."""
    first, work = latent.work.options, latent.work
    if "hires_scale" in first:
        raise failed([beyond(node_id, "a picture can be sampled again once", "latent_image")])
    for name in sorted({*first, *again.options} - {*OWN, "kind", "strength"}):
        if first.get(name) != again.options.get(name):
            raise failed([beyond(node_id, f"the second sampler must have the {name} of the first", name)])
    if first["seed"] != again.options["seed"]:
        reader.warn("seed: the second sampler has the seed of the first")
    options = {
        "hires_scale": scale_of(reader, node_id, latent),
        "hires_steps": again.options["steps"],
        "hires_strength": denoise,
        "hires_upscaler": latent.upscaler,
    }
    origins = {"hires_steps": (node_id, "steps"), "hires_strength": (node_id, "denoise")}
    return replace(work, options=first | options, origins=work.origins | origins)


def scale_of(reader: Warns, node_id: str, latent: Enlarged) -> float:
    """The factor of a second pass; a size of another aspect ratio gives a warning. Raises Refused if it is unknown."""
    if latent.scale:
        return latent.scale
    first = latent.work.options
    if latent.size is None:
        why = "the factor of an upscale model is not known; give the size with ImageScale behind it"
        raise failed([beyond(node_id, why, "latent_image")])
    if "width" not in first:
        raise failed([beyond(node_id, "a picture that began from another one is enlarged by a factor", "latent_image")])
    size = (first["width"], first["height"])
    scale = max(side / side_before for side, side_before in zip(latent.size, size, strict=True))
    made = enlarged(size, scale)
    if any(side and side != made_side for side, made_side in zip(latent.size, made, strict=True)):
        reader.warn("the second pass makes {}x{}, in the shape of the first".format(*made))
    return scale
