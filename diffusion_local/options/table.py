"""The table of options: fields of ``Params`` are options of a picture, those of ``BatchOptions`` options of a batch.

Each option is declared once, here, with type, default and meaning. Validation, both page forms, lists and grids, viewer
and history, recipe text, command line, HTTP, Gradio endpoints, dialects, exports and the reference derive from it. To
add one, add a field here and its label to ``web/ui/phrases/common.toml``, and use it in the engine.
"""

import json
import re
from dataclasses import dataclass, replace
from typing import Annotated, Any, Self

from diffusion_local.options import values
from diffusion_local.options.hires import HIRES_UPSCALERS, LANCZOS, SecondPass, enlarged
from diffusion_local.options.inpaint import CONTENTS, EDGES, INPAINT_AREAS, check_content, check_outpaint
from diffusion_local.options.option import EVERY_KIND, Option, Visibility, Widget, declared
from diffusion_local.options.samplers import SAMPLERS, SCHEDULES
from diffusion_local.options.types import RUNGS, Control, Detail, Kind, Lora, Reference, Region, Use
from diffusion_local.options.values import MAX_SEED

FROM_SOURCE = (Kind.IMG2IMG, Kind.INPAINT)
#: Kinds of work that a second pass can follow.
TWICE = (Kind.TXT2IMG, Kind.IMG2IMG)


@dataclass(frozen=True, slots=True)
class Params:
    """The options of one picture. Empty and zero mean the model's default."""

    # fmt: off
    prompt: Annotated[str, Option(
        meaning="what the picture shows; an upscale needs none", a1111=(), kinds=EVERY_KIND, example="a red apple",
        widget=Widget.PROMPT, place="prompt", shown=Visibility.APART
    )]
    negative: Annotated[str, Option(
        meaning="what the picture should not show", a1111=(), kinds=EVERY_KIND, spellings=("neg", "negative_prompt",
        "no"), web_api="negative_prompt", example="blurry", widget=Widget.TEXT, place="negative", shown=Visibility.APART
    )]
    model: Annotated[str, Option(
        meaning="id of a model, as `models` lists them", a1111=("Model",), kinds=EVERY_KIND, example="starter",
        widget=Widget.MODEL, place="model", shown=Visibility.ALWAYS
    )]
    width: Annotated[int, Option(
        meaning="width in pixels", a1111=(), low=1, high=16384, spellings=("w",), example=256,
        place="expert.size", step=8, shown=Visibility.APART
    )]
    height: Annotated[int, Option(
        meaning="height in pixels", a1111=(), low=1, high=16384, spellings=("h",), example=256,
        place="expert.size", step=8, shown=Visibility.APART
    )]
    steps: Annotated[int, Option(
        meaning="denoising steps", a1111=("Steps",), low=1, high=1000, spellings=("num_inference_steps",), example=12,
        place="numbers", shown=Visibility.ALWAYS
    )]
    guidance: Annotated[float, Option(
        meaning="classifier-free guidance scale", a1111=("CFG scale", "Distilled CFG Scale"), low=0, high=100,
        spellings=("cfg", "cfg_scale", "guidance_scale"), web_api="cfg_scale", example=3.5, place="numbers", step=0.5,
        shown=Visibility.ALWAYS
    )]
    sampler: Annotated[str, Option(
        meaning="sampler, such as Euler a or DPM++ 2M", a1111=("Sampler",), choices=tuple(SAMPLERS),
        spellings=("sampler_name",), web_api="sampler_name", example="Euler a", place="numbers", shown=Visibility.ALWAYS
    )]
    seed: Annotated[int, Option(
        meaning="seed of the first picture; the others count up. None or -1: random", a1111=("Seed",), kinds=EVERY_KIND,
        low=0, high=MAX_SEED, example=7, widget=Widget.SEED, place="seed", shown=Visibility.ALWAYS
    )]
    kind: Annotated[Kind, Option(
        meaning="txt2img, img2img, inpaint or upscale; by default inferred from the pictures sent", a1111=(),
        kinds=EVERY_KIND, choices=tuple(Kind), sent=str, example="txt2img", widget=Widget.HIDDEN, place="source",
        varies=False, shown=Visibility.APART
    )] = Kind.TXT2IMG
    source: Annotated[str, Option(
        meaning="id of the source picture to start from", a1111=(), kinds=(*FROM_SOURCE, Kind.UPSCALE),
        check=values.check_source_id, spellings=("image", "input_image"), widget=Widget.HIDDEN, place="source"
    )] = ""
    mask: Annotated[str, Option(
        meaning="id of a source picture: white parts are repainted, black and transparent ones are kept", a1111=(),
        kinds=(Kind.INPAINT,), check=values.check_source_id, widget=Widget.HIDDEN, place="source", varies=False
    )] = ""
    strength: Annotated[float, Option(
        meaning="0 to 1: how far the result may depart from the source", a1111=("Denoising strength",),
        kinds=FROM_SOURCE, low=0, high=1, spellings=("prompt_strength", "denoising_strength"),
        web_api="denoising_strength", widget=Widget.SLIDER, place="source-settings", step=0.05, initial=0.6
    )] = 0.0
    loras: Annotated[tuple[Lora, ...], Option(
        meaning='each `{"name": "ink", "weight": 0.8}`, or "ink:0.8"', a1111=(), files="loras",
        check=values.check_loras,
        sent=list[Any], widget=Widget.HIDDEN, place="source", varies=False
    )] = ()
    original: Annotated[str, Option(
        meaning="the prompt before a prompt helper changed it; stored in the recipe", a1111=("Original prompt",),
        example="ein Leuchtturm", widget=Widget.HIDDEN, place="source", varies=False
    )] = ""
    references: Annotated[tuple[Reference, ...], Option(
        meaning='source pictures that guide the result, each `{"image": ID, "use": "edit", "weight": 1.0}`; `use` is '
        "edit for models that read pictures, style or face for an IP-Adapter, which `adapter` may name and a `mask` "
        "(an id) may confine", a1111=(), spellings=("input_images", "reference_images"), check=values.references,
        sent=list[Any], widget=Widget.HIDDEN, place="source", varies=False
    )] = ()
    image_guidance: Annotated[float, Option(
        meaning="for InstructPix2Pix: how closely it follows the picture, 1 or more; 0 means 1.5",
        a1111=("Image CFG scale",), low=0, high=30, web_api="image_cfg_scale", place="expert.files", step=0.5
    )] = 0.0
    controls: Annotated[tuple[Control, ...], Option(
        meaning="pictures that steer the composition through ControlNets, each `{\"image\": ID, \"type\": \"canny\", "
        "\"model\": NAME, \"weight\": 1.0, \"start\": 0, \"end\": 1}`; `type` is canny, softedge, scribble, tile, "
        "luminance, invert, lineart, depth, normal, openpose, segment, inpaint or none, `model` a name in "
        "controlnet/, `start` and `end` are shares of the steps, `mode` is the kind of picture for a union "
        "ControlNet", a1111=(), check=values.controls, sent=list[Any], widget=Widget.HIDDEN, place="source",
        varies=False
    )] = ()
    regions: Annotated[tuple[Region, ...], Option(
        meaning='parts of the picture with their own prompts, each `{"prompt": "a fox", "x": 0, "y": 0, "width": '
        '0.5, "height": 1, "weight": 0.8}` in shares of the picture; `weight` counts against the prompt of the '
        "picture, 1 replaces it", a1111=(), check=values.regions, sent=list[Any],
        example=[{"prompt": "a fox", "width": 0.5}, {"prompt": "a car, red", "x": 0.5, "width": 0.5, "weight": 1.0}],
        widget=Widget.TEXT, place="regions", varies=False
    )] = ()
    vae: Annotated[str, Option(
        meaning="name of a file in vae/", a1111=("VAE",), files="vae", place="expert.files"
    )] = ""
    clip_skip: Annotated[int, Option(
        meaning="as A1111 counts: 2 skips the text encoder's last layer", a1111=("Clip skip",), low=0, high=12,
        place="expert.files"
    )] = 0
    schedule: Annotated[str, Option(
        meaning="spacing of the noise levels, such as Karras", a1111=("Schedule type",), choices=tuple(SCHEDULES),
        web_api="scheduler", place="expert.size"
    )] = ""
    variation_seed: Annotated[int | None, Option(
        meaning="seed of the noise to mix in; none or -1: random", a1111=("Variation seed",), low=0,
        high=MAX_SEED, web_api="subseed", widget=Widget.SEED, place="expert.variation", needs="variation_strength"
    )] = None
    variation_strength: Annotated[float, Option(
        meaning="0 to 1: share of the variation seed's noise", a1111=("Variation seed strength",), low=0, high=1,
        web_api="subseed_strength", widget=Widget.SLIDER, place="expert.variation", step=0.05
    )] = 0.0
    upscaler: Annotated[str, Option(
        meaning="name of a file in upscalers/; Lanczos needs none", a1111=("Postprocess upscaler",),
        kinds=(Kind.UPSCALE,), files="upscalers", initial=LANCZOS, place="source-settings"
    )] = ""
    scale: Annotated[float, Option(
        meaning="upscaling factor, 1 to 8", a1111=("Postprocess upscale by",), kinds=(Kind.UPSCALE,), low=1, high=8,
        place="source-settings", step=0.5, initial=2.0
    )] = 0.0
    inpaint_area: Annotated[str, Option(
        meaning="`Only masked` repaints only the masked region, at the job's size; the source keeps its size",
        a1111=("Inpaint area",), kinds=(Kind.INPAINT,), choices=INPAINT_AREAS, place="inpaint"
    )] = INPAINT_AREAS[0]
    mask_padding: Annotated[int, Option(
        meaning="pixels around the mask that belong to the region, with `Only masked`",
        a1111=("Masked area padding",), kinds=(Kind.INPAINT,), low=0, high=1024, web_api="inpaint_full_res_padding",
        place="inpaint"
    )] = 32
    mask_blur: Annotated[int, Option(
        meaning="pixels over which the repainted part fades into the rest", a1111=("Mask blur",),
        kinds=(Kind.INPAINT,), low=0, high=64, place="inpaint"
    )] = 0
    mask_content: Annotated[str, Option(
        meaning="initial content under the mask: original, fill (blurred surroundings), latent noise, latent nothing",
        a1111=("Masked content",), kinds=(Kind.INPAINT,), choices=CONTENTS, check=check_content, place="inpaint"
    )] = CONTENTS[0]
    mask_edges: Annotated[str, Option(
        meaning="edges of the mask; soft: grey values limit how far each pixel may change (differential diffusion)",
        a1111=("Mask edges",), kinds=(Kind.INPAINT,), choices=EDGES, place="inpaint"
    )] = EDGES[0]
    outpaint: Annotated[str, Option(
        meaning="extends the picture: `left:128 right:128` in pixels, or a frame that holds it, `1024x768+128+0`",
        a1111=("Outpaint",), kinds=(Kind.INPAINT,), check=check_outpaint, example="left:64 bottom:32", place="inpaint"
    )] = ""
    hires_scale: Annotated[float, Option(
        meaning="size factor of a second pass, 1 to 8; 0: no second pass", a1111=("Hires upscale",), kinds=TWICE, low=0,
        high=8, web_api="hr_scale", example=2, place="hires", step=0.25
    )] = 0.0
    hires_steps: Annotated[int, Option(
        meaning="steps of the second pass; 0: as many as the first", a1111=("Hires steps",), kinds=TWICE, low=0,
        high=150, web_api="hr_second_pass_steps", example=5, place="hires", needs="hires_scale"
    )] = 0
    hires_strength: Annotated[float, Option(
        meaning="0 to 1: how far the second pass may depart from the enlarged picture",
        a1111=("Hires denoising strength",),
        kinds=TWICE, low=0, high=1, example=0.35, widget=Widget.SLIDER, place="hires", step=0.05,
        needs="hires_scale"
    )] = 0.5
    hires_upscaler: Annotated[str, Option(
        meaning="enlarges the picture before the second pass: Latent, Lanczos, or a file in upscalers/",
        a1111=("Hires upscaler",), kinds=TWICE, choices=HIRES_UPSCALERS, files="upscalers", web_api="hr_upscaler",
        example=LANCZOS, place="hires", needs="hires_scale"
    )] = HIRES_UPSCALERS[0]
    hires_tile: Annotated[int, Option(
        meaning="side in pixels of the overlapping tiles of the second pass; 0: no tiles",
        a1111=("Hires tile",), kinds=TWICE, low=0, high=4096, example=256, place="hires", step=64,
        needs="hires_scale"
    )] = 0
    details: Annotated[tuple[Detail, ...], Option(
        meaning='objects that a detector finds, repainted at the size of the model, each `{"target": "face", '
        '"prompt": "", "strength": 0.4, "steps": 0, "confidence": 0.3, "padding": 32, "limit": 4}`', a1111=(),
        check=values.details, sent=list[Any],
        example=[{"target": "face", "strength": 0.3, "limit": 2}, {"target": "left hand"}],
        widget=Widget.TEXT, place="details", varies=False
    )] = ()
    background: Annotated[str, Option(
        meaning="background of the finished picture; transparent: cut out the main object", a1111=("Background",),
        kinds=EVERY_KIND, choices=("transparent",), check=values.check_background, example="transparent",
        place="details"
    )] = ""
    rung: Annotated[str, Option(
        meaning="memory rung to use, such as vae_tiling", a1111=(), kinds=EVERY_KIND, choices=RUNGS,
        place="expert.files"
    )] = ""
    place: Annotated[str, Option(
        meaning="place in a pass and its size, such as 3/8, to make a picture again bit for bit",
        a1111=(), check=values.check_pass_position, example="3/8", widget=Widget.HIDDEN,
        place="expert.files", varies=False
    )] = ""
    gpus: Annotated[int, Option(
        meaning="number of GPUs, to make a picture again bit for bit that two GPUs made",
        a1111=(), low=1, high=2, example=2, widget=Widget.HIDDEN, place="expert.files", varies=False
    )] = 1
    # fmt: on

    @property
    def cost(self) -> float:
        """Work in step-megapixels, the basis of time estimates."""
        pixels = self.width * self.height / 1e6
        if self.kind is Kind.UPSCALE:
            return pixels
        share = self.strength if self.kind in FROM_SOURCE else 1.0
        first = max(1.0, self.steps * share) * pixels  # at least one step is made
        passes = first if self.second is None else first * self.has_first_pass + self.second.cost
        return passes + self.detail_work * pixels

    @property
    def second(self) -> SecondPass | None:
        """The second pass at a larger size, or None."""
        if not self.hires_scale:
            return None
        size = enlarged((self.width, self.height), self.hires_scale)
        return SecondPass(size, self.hires_steps or self.steps, self.hires_tile)

    @property
    def has_first_pass(self) -> bool:
        """False if the source goes directly to the second pass, because strength 0 leaves it unchanged."""
        return not (self.kind is Kind.IMG2IMG and self.strength == 0 and self.hires_scale)

    @property
    def final_size(self) -> tuple[int, int]:
        """Width and height after the second pass."""
        return (self.width, self.height) if self.second is None else self.second.size

    @property
    def peak_size(self) -> tuple[int, int]:
        """Width and height of the largest region denoised at once: the picture or a tile."""
        first, second = (self.width, self.height), self.second
        return first if second is None else max(first, second.loop_size, key=lambda size: size[0] * size[1])

    @property
    def total_steps(self) -> int:
        """Steps for progress: those of both passes, of each tile, and of details."""
        second = 0 if self.second is None else self.second.total_steps
        return self.steps + second + sum(each.steps or self.steps for each in self.details)

    @property
    def detail_work(self) -> float:
        """Estimated steps of details, assuming that each is found once."""
        return sum((each.steps or self.steps) * each.strength for each in self.details)

    @property
    def paced(self) -> tuple[int, int]:
        """(pixels, steps) for time estimates. A first pass before a second counts as steps at the second's size."""
        pixels = self.width * self.height
        if self.second is None:
            return pixels, self.steps + round(self.detail_work)
        large = self.second.size[0] * self.second.size[1]
        first = -(-self.steps * pixels // large) if self.has_first_pass else 0
        return large, first + round((self.second.cost * 1e6 + self.detail_work * pixels) / large)

    @property
    def runs_on(self) -> str:
        """The model or upscaler that must be in memory; time estimates are kept for each one."""
        return f"upscaler {self.upscaler}" if self.kind is Kind.UPSCALE else self.model

    @property
    def inputs(self) -> tuple[str, ...]:
        """Ids of all its source pictures, each once."""
        single = (value for name in PICTURES if (value := getattr(self, name)))
        several = (each for name in RECORDS for record in getattr(self, name) for each in record.inputs)
        return tuple(dict.fromkeys([*single, *several]))

    @property
    def additions(self) -> tuple[str, ...]:
        """What is in memory beside the model while it draws: ControlNets, IP-Adapters, pictures that it reads."""
        nets = {f"controlnet/{each.model}" for each in self.controls}
        nets |= {f"ip_adapters/{each.adapter}" for each in self.references if each.adapter}
        read = sum(each.use is Use.EDIT for each in self.references)
        return (*sorted(nets), *([f"references {read}"] if read else []))

    def to_dict(self) -> dict[str, Any]:
        """Plain values by field, omitting values that ``options.validate`` would fill in again."""
        # not asdict: its deep copies would dominate the time for long lists
        values = {
            name: value for name, option in OPTIONS.items() if option.is_set(value := getattr(self, name), self.kind)
        }
        if self.loras:
            values["loras"] = [{"name": lora.name, "weight": lora.weight} for lora in self.loras]
        for name in RECORDS:
            if name in values:
                values[name] = [record.to_dict() for record in values[name]]
        return values

    def without_seeds(self) -> Self:
        """A copy with seeds set to 0, to compare requests, whose seeds may be random."""
        return replace(self, seed=0, variation_seed=None if self.variation_seed is None else 0)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse ``to_json`` output."""
        return cls.from_dict(json.loads(text))

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Self:
        """Params from their fields; unknown fields of newer versions are ignored."""
        values = {name: value for name, value in stored.items() if name in OPTIONS}
        if "kind" in values:
            values["kind"] = Kind(values["kind"])
        if "loras" in values:
            values["loras"] = tuple(Lora(each["name"], each["weight"]) for each in values["loras"])
        for name, record in RECORDS.items():
            if name in values:
                values[name] = tuple(record.from_dict(each) for each in values[name])
        return cls(**values)


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """When a batch may run, and where its end is reported."""

    # fmt: off
    start_at: Annotated[str, Option(
        meaning="earliest start: ISO 8601, or 23:00 in local time", a1111=(), place="times"
    )] = ""
    window: Annotated[str, Option(
        meaning="hours in which it may run, such as 23:00-07:00 or mon-fri 22:00-06:00", a1111=(), place="times"
    )] = ""
    finish_by: Annotated[str, Option(
        meaning="deadline; a warning is given if it is expected to be missed", a1111=(), place="times"
    )] = ""
    webhook: Annotated[str, Option(
        meaning="address to notify when the batch has ended", a1111=(), place="address"
    )] = ""
    # fmt: on


OPTIONS = declared(Params)
BATCH_OPTIONS = declared(BatchOptions)
#: Names of options that cannot be words of a text.
LONG_NAMES = re.compile(rf"(?<!\w)(?:{'|'.join(name for name in OPTIONS if '_' in name)})(?!\w)", re.ASCII)
#: Options of a submit besides the prompt.
SETTINGS = tuple(name for name in OPTIONS if name != "prompt")
#: Options that are a source picture: its id, or the picture itself if the interface accepts one.
PICTURES = tuple(name for name, option in OPTIONS.items() if option.is_picture)
#: Options that are lists of records, with the class of their entries.
RECORDS = {name: option.record for name, option in OPTIONS.items() if option.record}


def refused_options(kind: Kind) -> tuple[str, ...]:
    """Options that are refused because they do not apply to this kind of work.

    Options of txt2img are never refused: a recipe has all of them, and an upscale derives its own values.
    """
    return tuple(
        name for name, option in OPTIONS.items() if kind not in option.kinds and Kind.TXT2IMG not in option.kinds
    )
