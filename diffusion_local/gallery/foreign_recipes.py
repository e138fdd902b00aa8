"""Reads recipes in pictures of ComfyUI, InvokeAI, Fooocus, NovelAI, SwarmUI, Draw Things and Easy Diffusion.

The library sd-parsers reads the first four. It has no size limits, so texts and graphs are bounded here first. Each
reader returns pairs with the program's own names; ``to_settings`` maps them to options and returns all others,
including unusable values, by name.
"""

import html
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from sd_parsers.data import PromptInfo
from sd_parsers.exceptions import ParserError
from sd_parsers.parsers import ComfyUIParser, FooocusParser, InvokeAIParser, NovelAIParser

from diffusion_local.errors import replace_surrogates
from diffusion_local.gallery import comfyui_graphs
from diffusion_local.gallery.comfyui_graphs import MAX_RECIPE_CHARS
from diffusion_local.grammar import tags
from diffusion_local.options import a1111, samplers
from diffusion_local.options.table import OPTIONS
from diffusion_local.options.types import format_number
from diffusion_local.options.values import MAX_LORA_WEIGHT, MAX_LORAS, MAX_PROMPT_CHARS

#: Longer runs of white space than recipes contain; regular expressions of sd-parsers take quadratic time on them.
LONG_SPACE = re.compile(r"\s{100,}")
MAX_OTHERS, MAX_SHOWN = 100, 200
#: Our options by these programs' names for them, in lower case with underscores.
OPTION_NAMES = {
    "prompt": "prompt", "positive_prompt": "prompt", "c": "prompt",
    "negative": "negative", "negative_prompt": "negative", "negativeprompt": "negative", "uc": "negative",
    "seed": "seed", "noise_seed": "seed", "steps": "steps", "num_inference_steps": "steps",
    "cfg": "guidance", "cfg_scale": "guidance", "cfgscale": "guidance", "guidance_scale": "guidance",
    "scale": "guidance", "guidance": "guidance", "width": "width", "height": "height",
    "sampler": "sampler", "sampler_name": "sampler",
    "scheduler": "schedule", "schedule": "schedule", "denoise": "strength", "strength": "strength",
    "denoising_strength": "strength", "model": "model", "base_model": "model", "use_stable_diffusion_model": "model",
    "vae": "vae", "vae_name": "vae", "use_vae_model": "vae", "clip_skip": "clip_skip", "clipskip": "clip_skip",
}  # fmt: skip
FILE_OPTIONS = ("model", "vae")
#: Values that mean "default".
NEUTRAL: dict[str, tuple[str, ...]] = {
    "schedule": ("normal", "simple", "automatic", "default", "none"),
    "strength": ("0", "1"),
    "vae": ("none", "automatic", "default", "default (model)"),
    "clip_skip": ("0", "1"),
}

Texts = Mapping[str, str]
Pairs = dict[str, Any]


@dataclass(slots=True)
class ForeignRecipe:
    """Metadata of another program: pairs by its own names, and LoRAs as (name, weight)."""

    tool: str
    pairs: Pairs
    loras: list[tuple[str, Any]] = field(default_factory=list)


def read(texts: Texts) -> ForeignRecipe | None:
    """The recipe of the first program that recognises its own metadata, or None."""
    if sum(map(len, texts.values())) > MAX_RECIPE_CHARS:
        texts = {name: text[: MAX_RECIPE_CHARS // max(1, len(texts))] for name, text in texts.items()}
    texts = {name: LONG_SPACE.sub(" ", text) for name, text in texts.items()}
    for reader in RECIPE_READERS:
        try:
            recipe = reader(texts)
        except (
            ParserError,
            KeyError,
            ValueError,
            ArithmeticError,
            TypeError,
            AttributeError,
            IndexError,
            RecursionError,
        ):
            continue  # metadata of another program, or damaged metadata
        if recipe is not None:
            return recipe
    return None


def comfyui(texts: Texts) -> ForeignRecipe | None:
    nodes, missing = comfyui_graphs.read_graph(texts)
    if not nodes:
        return None
    links = [
        [0, str(value[0]), 0, name, 0, slot.upper()]
        for name, node in nodes.items()
        for slot, value in node["inputs"].items()
        if comfyui_graphs.is_link(nodes, value)
    ]
    without_links = {name: node | {"inputs": unlinked(node["inputs"])} for name, node in nodes.items()}
    info = ComfyUIParser().parse({"prompt": without_links, "workflow": {"links": links}})
    if not info.samplers:
        kinds = sorted({str(node["class_type"]) for node in nodes.values()})
        return ForeignRecipe("ComfyUI", {"graph": ", ".join(kinds)})
    recipe = from_prompt_info("ComfyUI", info)
    sampled = comfyui_graphs.nodes_of_samplers(nodes)
    for name, node in nodes.items():
        apply_node(recipe, str(node["class_type"]), node["inputs"], name in sampled)
    recipe.pairs |= missing
    return recipe


def unlinked(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """A node's inputs without its model link, which sd-parsers would mistake for a model name.

    A sampler keeps its link, because the library starts there.
    """
    sampler = "steps" in inputs
    return {name: value for name, value in inputs.items() if sampler or name != "model" or not isinstance(value, list)}


def apply_node(recipe: ForeignRecipe, kind: str, inputs: Mapping[str, Any], sampled: bool) -> None:
    """Apply the settings of nodes other than the sampler. ``sampled``: whether a sampler uses the node."""
    loras = loras_of(inputs)
    if loras and not sampled:
        recipe.pairs |= {f"LoRA {stem_of(str(lora))}": "not connected" for lora, _ in loras}
        return
    recipe.loras += loras
    if "empty_latent_width" in inputs:  # of a loader that is also the empty picture
        recipe.pairs |= {"width": inputs["empty_latent_width"], "height": inputs.get("empty_latent_height")}
    elif kind.startswith("Empty") and "width" in inputs:
        recipe.pairs |= {"width": inputs["width"], "height": inputs.get("height")}
    elif kind == "VAELoader":
        recipe.pairs["vae_name"] = inputs.get("vae_name")
    elif kind == "CLIPSetLastLayer" and isinstance(inputs.get("stop_at_clip_layer"), int):
        recipe.pairs["clip_skip"] = abs(inputs["stop_at_clip_layer"])
    elif "guidance" in inputs:  # distilled guidance, used instead of CFG
        name = "cfg_scale" if recipe.pairs.get("cfg_scale") in (None, 1) else f"{kind}.guidance"
        recipe.pairs[name] = inputs["guidance"]
        return
    elif kind == "UNETLoader" and "model" not in recipe.pairs:
        recipe.pairs["model"] = inputs.get("unet_name")
    elif not loras:
        return
    for name in [name for name in recipe.pairs if name.partition(".")[0] == kind]:
        del recipe.pairs[name]  # consumed


def loras_of(inputs: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The LoRA of a node, or those that rgthree's Power Lora Loader has switched on."""
    several = [each for each in inputs.values() if isinstance(each, dict) and "lora" in each and each.get("on", True)]
    loras = [(each["lora"], each.get("strength", 1)) for each in several]
    if "lora_name" in inputs:
        loras.append((inputs["lora_name"], inputs.get("strength_model", inputs.get("lora_model_strength", 1))))
    return loras


def invokeai(texts: Texts) -> ForeignRecipe | None:
    if "invokeai_metadata" not in texts:  # before InvokeAI 3
        old = {"sd-metadata", "Dream"} & set(texts)
        return from_prompt_info("InvokeAI", InvokeAIParser().parse(dict(texts))) if old else None
    pairs = parse_object(texts["invokeai_metadata"])
    if not {"positive_prompt", "seed"} & pairs.keys():
        return None
    loras = [
        (name, each.get("weight", 1))
        for each in pairs.pop("loras", None) or []
        if isinstance(each, dict) and (name := name_of(each.get("model") or each.get("lora")))
    ]
    pairs |= {name: name_of(pairs.get(name)) for name in FILE_OPTIONS}
    return ForeignRecipe("InvokeAI", dict(flatten(pairs)), loras)


def name_of(model: Any) -> str | None:
    """A model's name as versions of InvokeAI wrote it: its text, or an object with the name."""
    if not isinstance(model, dict):
        return str(model) if model else None
    return next((str(model[name]) for name in ("model_name", "name", "key") if model.get(name)), None)


def fooocus(texts: Texts) -> ForeignRecipe | None:
    """Fooocus, only its JSON scheme; its other scheme is A1111's text."""
    if not texts.get("parameters", "").lstrip().startswith("{"):
        return None
    data = parse_object(texts["parameters"])
    if not str(data.get("version", "")).startswith("Fooocus") and "base_model" not in data:
        return None
    loras = []
    for name in [name for name in data if name.startswith("lora_combined_")]:
        lora, _, weight = str(data.pop(name)).rpartition(" : ")
        loras.append((lora, weight))
    loras += [(each[0], each[1]) for each in data.pop("loras", None) or []]
    size = [each.strip() for each in str(data.pop("resolution", "")).strip("()").split(",")]
    data = {"base_model_hash": "", "negative_prompt": "", "sampler": ""} | data
    recipe = from_prompt_info("Fooocus", FooocusParser().parse({"parameters": json.dumps(data)}))
    if len(size) == 2:
        recipe.pairs |= {"width": size[0], "height": size[1]}
    recipe.loras = loras
    return recipe


def novelai(texts: Texts) -> ForeignRecipe | None:
    if texts.get("Software") != "NovelAI":
        return None
    found = from_prompt_info("NovelAI", NovelAIParser().parse(dict(texts)))
    found.pairs["model"] = None  # the service's own model
    return found


def swarmui(texts: Texts) -> ForeignRecipe | None:
    data = parse_object(texts["parameters"])["sui_image_params"]
    names, weights = data.get("loras"), data.get("loraweights")
    loras = list(zip(names, weights, strict=False)) if isinstance(names, list) and isinstance(weights, list) else []
    used = ("images", "loras", "loraweights") if loras else ("images",)
    return ForeignRecipe("SwarmUI", {name: value for name, value in data.items() if name not in used}, loras)


def draw_things(texts: Texts) -> ForeignRecipe | None:
    """Draw Things: JSON in the user comment of the XMP packet."""
    packet = texts.get("XML:com.adobe.xmp", "")
    start = packet.index("{", packet.index("exif:UserComment"))
    data = parse_object(html.unescape(packet[start : packet.index("</rdf:li>", start)]))
    if not {"c", "sampler"} <= set(data):
        return None
    data.pop("v2", None)  # a duplicate
    loras = [(each.get("model"), each.get("weight", 1)) for each in data.pop("lora", None) or []]
    width, _, height = str(data.pop("size", "")).partition("x")
    return ForeignRecipe("Draw Things", data | {"width": width, "height": height}, loras)


def easy_diffusion(texts: Texts) -> ForeignRecipe | None:
    names = {"prompt", "seed", "num_inference_steps"}
    data: Mapping[str, Any] = {name.lower().replace(" ", "_"): text for name, text in texts.items()}
    if not names <= set(data):
        return None
    loras = [(data["use_lora_model"], data.get("lora_alpha", 1))] if data.get("use_lora_model") else []
    return ForeignRecipe(
        "Easy Diffusion", {n: each for n, each in data.items() if n not in ("use_lora_model", "lora_alpha")}, loras
    )


RECIPE_READERS: tuple[Callable[[Texts], ForeignRecipe | None], ...] = (
    invokeai, comfyui, fooocus, swarmui, novelai, draw_things, easy_diffusion,
)  # fmt: skip


def from_prompt_info(tool: str, info: PromptInfo) -> ForeignRecipe:
    """The metadata that sd-parsers found for the last sampler; earlier samplers only prepare its input."""
    sampler, others = info.samplers[-1], info.samplers[:-1]
    pairs: Pairs = dict(flatten(info.metadata)) | dict(sampler.parameters)
    pairs |= {"sampler": sampler.name, "prompt": ", ".join(map(str, sampler.prompts))}
    pairs["negative_prompt"] = ", ".join(map(str, sampler.negative_prompts))
    if sampler.model is not None:
        pairs["model"] = sampler.model.name
    if others:
        pairs["further samplers"] = ", ".join(each.name for each in others)
    return ForeignRecipe(tool, pairs)


def flatten(values: Mapping[Any, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in list(values.items())[:MAX_OTHERS]:
        if isinstance(value, dict) and not above:
            yield from flatten(value, f"{name}.")
        elif isinstance(value, list) and value and all(isinstance(each, dict) for each in value) and not above:
            for each in value[:MAX_OTHERS]:
                yield from flatten(each, f"{name}.")
        elif name != "id":
            yield f"{above}{name}", value


def parse_object(text: str) -> dict[str, Any]:
    found = json.loads(text[:MAX_RECIPE_CHARS])
    if not isinstance(found, dict):
        raise ValueError("no JSON object")
    return found


def to_settings(recipe: ForeignRecipe) -> tuple[dict[str, Any], dict[str, str]]:
    """(options, unused values by the program's names)."""
    settings: dict[str, Any] = {"prompt": ""}
    others: dict[str, str] = {}
    pairs = {
        replace_surrogates(name): replace_surrogates(value) if isinstance(value, str) else value
        for name, value in recipe.pairs.items()
    }
    for foreign_name, value in pairs.items():
        single = not isinstance(value, list | dict)
        name = OPTION_NAMES.get(foreign_name.lower().replace(" ", "_"), "") if single else ""
        text = format_number(value) if isinstance(value, float) else "" if value is None else str(value)
        if text.strip() and not set_option(settings, name, text) and text.casefold() not in NEUTRAL.get(name, ()):
            others[foreign_name] = text
    loras: dict[str, float] = {}
    for lora, weight in recipe.loras:
        stem, number = (
            stem_of(replace_surrogates(str(lora))),
            a1111.parse_number(str(weight), -MAX_LORA_WEIGHT, MAX_LORA_WEIGHT),
        )
        if stem.casefold() in ("", "none"):
            continue
        if number is None or len(loras) == MAX_LORAS:
            others[f"LoRA {stem}"] = str(weight)
        else:
            loras[stem] = number
    if loras:
        settings["loras"] = [{"name": name, "weight": weight} for name, weight in loras.items()]
        if {stem_of(tag.name) for tag in tags.find_tags(settings["prompt"])} & loras.keys():
            settings["prompt"] = tags.remove_tags(settings["prompt"])  # the list of LoRAs already has them
    cut = {name[:MAX_SHOWN]: text[:MAX_SHOWN] for name, text in list(others.items())[:MAX_OTHERS]}
    return settings, cut


def set_option(settings: dict[str, Any], name: str, text: str) -> bool:
    """Set an option from text; returns whether the option exists and accepts the value."""
    if not name or text.casefold() in NEUTRAL.get(name, ()):
        return False
    if name in ("prompt", "negative"):
        settings[name] = text[:MAX_PROMPT_CHARS].strip()
        return len(text) <= MAX_PROMPT_CHARS
    if name in FILE_OPTIONS:
        settings[name] = stem_of(text)[:MAX_SHOWN]
        return True
    if name == "sampler":
        sampler, schedule = samplers.split_schedule(text.removesuffix("_gpu"))
        settings |= {"sampler": sampler} if sampler else {}
        settings |= {"schedule": schedule} if schedule else {}
        return bool(sampler)
    if name == "schedule" and samplers.split_schedule(text)[0] and "sampler" not in settings:
        return set_option(settings, "sampler", text)  # InvokeAI and Easy Diffusion use this name
    value = a1111.parse_value(OPTIONS[name], text)
    if value is None:
        return False
    settings[name] = value
    return True


def stem_of(path: str) -> str:
    """File name without folders and extension."""
    name = PurePosixPath(path.replace("\\", "/")).name
    for ending in (".safetensors", ".ckpt", ".pt", ".gguf", ".sft"):
        name = name.removesuffix(ending)
    return name
