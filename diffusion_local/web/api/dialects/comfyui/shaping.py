"""Nodes that condition on pictures or regions: reference pictures, IP-Adapters, and prompts for areas."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from diffusion_local.messages import message
from diffusion_local.options.hires import LANCZOS, enlarged
from diffusion_local.web.api.dialects.comfyui.node_values import (
    Conditioning,
    Latent,
    Model,
    Picture,
    Reference,
    Region,
    Scaling,
    Work,
    invalid_graph,
    unsupported,
    unsupported_use,
)

Inputs = dict[str, Any]


class GraphReader(Protocol):
    def warn(self, text: str) -> None: ...
    def find_choice(self, key: str, value: str) -> str: ...


def adapter_file(reader: GraphReader, node_id: str, inputs: Inputs) -> tuple[Any, ...]:
    return (reader.find_choice("ip_adapters", inputs["ipadapter_file"]),)


def any_adapter(reader: GraphReader, node_id: str, inputs: Inputs) -> tuple[Any, ...]:
    """IPAdapterUnifiedLoader: the studio chooses the file; for face presets one for faces."""
    face = "FACE" in str(inputs["preset"])
    return inputs["model"], "face" if face else "style"


def vision(reader: GraphReader, node_id: str, inputs: Inputs) -> tuple[Any, ...]:
    return ("",)


def adapted(reader: GraphReader, node_id: str, inputs: Inputs) -> tuple[Any, ...]:
    """A model with an IP-Adapter's reference picture."""
    if not isinstance(inputs["image"], Picture) or inputs["image"].preprocessor:
        raise unsupported(node_id, "only an image of LoadImage can be a reference", "image")
    for key, usual in (("start_at", 0.0), ("end_at", 1.0), ("weight_type", "linear")):
        if inputs.get(key) not in (None, usual, "standard"):
            reader.warn(message("passed_over", field=key, got=str(inputs[key])))
    named = inputs["ipadapter"]
    kind = {"use": named} if named in ("style", "face") else {"use": "style", "adapter": named}
    mask = inputs.get("attn_mask")
    made = Reference(inputs["image"], node_id, kind | {"weight": inputs["weight"]}, mask)
    model: Model = inputs["model"]
    return (replace(model, references=(*model.references, made)) if inputs["weight"] else model,)


def scaled(reader: GraphReader, node_id: str, inputs: Inputs) -> tuple[Any, ...]:
    """FluxKontextImageScale: has no effect, because the studio scales references."""
    if not isinstance(inputs["image"], Picture):
        raise unsupported(node_id, "only an image of LoadImage can be a reference", "image")
    return (inputs["image"],)


def reference_latent(reader: GraphReader, node_id: str, inputs: Inputs) -> tuple[Any, ...]:
    latent, conditioning = inputs.get("latent"), inputs["conditioning"]
    if latent is None:
        return (conditioning,)
    if not isinstance(latent, Latent) or latent.picture is None:
        raise unsupported(node_id, "only an encoded image of LoadImage can be a reference", "latent")
    return (replace(conditioning, references=(*conditioning.references, Reference(latent.picture, node_id))),)


def instruction(reader: GraphReader, node_id: str, inputs: Inputs) -> tuple[Any, ...]:
    """TextEncodeQwenImageEdit and its successor with up to three images."""
    images = [inputs.get(key) for key in ("image", "image1", "image2", "image3")]
    pictures = [each for each in images if each is not None]
    if not all(isinstance(each, Picture) for each in pictures):
        raise unsupported(node_id, "only an image of LoadImage can be a reference", "image")
    made = Conditioning(inputs["prompt"], inputs["clip"], node_id, key="prompt")
    return (replace(made, references=tuple(Reference(each, node_id) for each in pictures)),)


def area(reader: GraphReader, node_id: str, inputs: Inputs) -> tuple[Any, ...]:
    """ConditioningSetArea, in pixels, and ConditioningSetAreaPercentage, in shares."""
    box = tuple(float(inputs[name]) for name in ("x", "y", "width", "height"))
    made = Region(
        "", node_id, box, inputs["strength"], pixels=all(isinstance(inputs[name], int) for name in ("x", "y"))
    )
    return (replace(inputs["conditioning"], area=made),)


def combined(reader: GraphReader, node_id: str, inputs: Inputs) -> tuple[Any, ...]:
    """ConditioningCombine: the one with an area becomes a region of the other."""
    first, second = inputs["conditioning_1"], inputs["conditioning_2"]
    if second.area is None and first.area is not None:
        first, second = second, first
    if second.area is None:
        why = "only a conditioning with an area (ConditioningSetArea) can be combined with another one"
        raise unsupported(node_id, why, "conditioning_2")
    if second.controls or second.references:
        raise invalid_graph(
            [
                unsupported_use(
                    node_id, "controls and references belong to the picture, not to an area", "conditioning_2"
                )
            ]
        )
    regions = [*first.regions, *second.regions, replace(second.area, prompt=second.text)]
    if first.area is not None:  # two areas: neither has the prompt for the whole picture
        regions = [replace(first.area, prompt=first.text), *regions]
        first = replace(first, text="", area=None)
    return (replace(first, regions=tuple(regions)),)


NODE_READERS: dict[str, Callable[[Any, str, Inputs], tuple[Any, ...]]] = {
    "IPAdapterModelLoader": adapter_file,
    "IPAdapterUnifiedLoader": any_adapter,
    "CLIPVisionLoader": vision,
    "IPAdapter": adapted,
    "IPAdapterAdvanced": adapted,
    "FluxKontextImageScale": scaled,
    "ReferenceLatent": reference_latent,
    "TextEncodeQwenImageEdit": instruction,
    "TextEncodeQwenImageEditPlus": instruction,
    "ConditioningSetArea": area,
    "ConditioningSetAreaPercentage": area,
    "ConditioningCombine": combined,
}


def shaped(node_id: str, options: dict[str, Any], positive: Conditioning, latent: Latent, denoise: float) -> Latent:
    """Add the regions of a sampler's prompt to its options, and remove a latent picture that only serves as reference.
    A full repaint of a picture that the model reads as a reference starts from noise. Raises Refused.
    """
    if positive.area is not None:
        raise unsupported(node_id, "must be combined with a prompt for the whole picture", "positive")
    if positive.regions:
        options["regions"] = [region_of(each, options, node_id) for each in positive.regions]
        if not options["prompt"]:
            options["prompt"] = ", ".join(each.prompt for each in positive.regions)
    if positive.references and latent.picture is not None and latent.mask is None and denoise >= 1:
        return replace(latent, picture=None)
    return latent


def region_of(region: Region, options: dict[str, Any], node_id: str) -> dict[str, Any]:
    """An entry of the option ``regions``; areas in pixels need the size of an empty latent image."""
    x, y, width, height = region.box
    if region.pixels:
        if not options.get("width"):
            why = "an area in pixels needs an empty latent image; use ConditioningSetAreaPercentage"
            raise unsupported(region.node_id, why, "width")
        whole = options["width"], options["height"]
        x, y, width, height = x / whole[0], y / whole[1], width / whole[0], height / whole[1]
    x, y = min(x, 1.0), min(y, 1.0)
    shares = {"x": x, "y": y, "width": min(width, 1 - x), "height": min(height, 1 - y)}
    return {"prompt": region.prompt, "weight": min(1.0, region.weight)} | {k: round(v, 6) for k, v in shares.items()}


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


class WarningSink(Protocol):
    def warn(self, text: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Enlarged:
    """A sampler's result enlarged by a factor or to a size; both are unknown after an upscale model."""

    work: Work
    upscaler: str
    scale: float = 0.0
    size: tuple[int, int] | None = None


def enlarged_latent(reader: WarningSink, node_id: str, inputs: dict[str, Any]) -> Enlarged:
    """LatentUpscale and LatentUpscaleBy. Raises Refused unless the input is a sampler's result."""
    if not isinstance(inputs["samples"], Work):
        raise unsupported(node_id, "only what a sampler has made can be enlarged", "samples")
    method = inputs["upscale_method"]
    if method in ("area", "bislerp"):
        reader.warn(message("replaced", field="upscale_method", got=method, to=LATENT_METHODS[method]))
    return to_size(node_id, Enlarged(inputs["samples"], LATENT_METHODS[method]), inputs)


def enlarged_image(reader: WarningSink, node_id: str, inputs: dict[str, Any]) -> Enlarged | Picture:
    """ImageScale and ImageScaleBy, of a loaded picture, or after a sampler or an upscale model. Raises Refused for any
    other input.
    """
    image = inputs["image"]
    if isinstance(image, Picture) and not (image.preprocessor or image.scaling):
        return replace(image, scaling=scaling_of(node_id, inputs))
    if isinstance(image, Enlarged) and (image.scale or image.size):
        raise unsupported(node_id, "a picture can be enlarged once before it is sampled again", "image")
    if isinstance(image, Enlarged):
        if "scale_by" in inputs:
            why = "the factor of an upscale model is not known; give the size with ImageScale"
            raise unsupported(node_id, why, "scale_by")
        return to_size(node_id, image, inputs)
    if not isinstance(image, Work) or not image.sampled:
        raise unsupported(node_id, "only what a sampler has made can be enlarged", "image")
    if inputs["upscale_method"] != "lanczos":
        reader.warn(message("replaced", field="upscale_method", got=inputs["upscale_method"], to=LANCZOS))
    return to_size(node_id, Enlarged(image, LANCZOS), inputs)


def scaling_of(node_id: str, inputs: dict[str, Any]) -> Scaling:
    """The scaling of a loaded picture. Raises Refused without a size."""
    if "scale_by" in inputs:
        return Scaling(inputs["upscale_method"], factor=inputs["scale_by"])
    if not (inputs["width"] or inputs["height"]):
        raise unsupported(node_id, "a width or a height is needed", "width")
    return Scaling(inputs["upscale_method"], inputs["width"], inputs["height"], crop=inputs["crop"] == "center")


def to_size(node_id: str, before: Enlarged, inputs: dict[str, Any]) -> Enlarged:
    """The factor or size that a node names; a side of 0 follows the other. Raises Refused."""
    if "scale_by" in inputs:
        return replace(before, scale=inputs["scale_by"])
    if not (inputs["width"] or inputs["height"]):
        raise unsupported(node_id, "a width or a height is needed", "width")
    return replace(before, size=(inputs["width"], inputs["height"]))


def second_pass(reader: WarningSink, node_id: str, again: Work, latent: Enlarged, denoise: float) -> Work:
    """The first sampler's work with a second pass; ``again`` has the settings of that pass. Raises Refused."""
    first, work = latent.work.options, latent.work
    if "hires_scale" in first:
        raise unsupported(node_id, "a picture can be sampled again once", "latent_image")
    for name in sorted({*first, *again.options} - {*OWN, "kind", "strength"}):
        if first.get(name) != again.options.get(name):
            raise unsupported(node_id, f"the second sampler must have the {name} of the first", name)
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


def scale_of(reader: WarningSink, node_id: str, latent: Enlarged) -> float:
    """The factor of a second pass; a size of another aspect ratio gives a warning. Raises Refused if it is unknown."""
    if latent.scale:
        return latent.scale
    first = latent.work.options
    if latent.size is None:
        why = "the factor of an upscale model is not known; give the size with ImageScale behind it"
        raise unsupported(node_id, why, "latent_image")
    if "width" not in first:
        raise unsupported(node_id, "a picture that began from another one is enlarged by a factor", "latent_image")
    size = (first["width"], first["height"])
    scale = max(side / side_before for side, side_before in zip(latent.size, size, strict=True))
    made = enlarged(size, scale)
    if any(side and side != made_side for side, made_side in zip(latent.size, made, strict=True)):
        reader.warn("the second pass makes {}x{}, in the shape of the first".format(*made))
    return scale
