"""Recipes in pictures of other programs: ComfyUI, InvokeAI, Fooocus, NovelAI, SwarmUI, Draw Things, Easy Diffusion.

The library sd-parsers reads the first four. It has no limits of its own, so no text is longer and no graph larger than
the bounds here before it gets them. Each reader gives plain pairs under the program's own names; ``settings_of`` turns
those into options, and what is none, or makes no sense, is handed back by name.
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

from diffusion_local.options import a1111, samplers
from diffusion_local.options.table import OPTIONS
from diffusion_local.options.types import exact
from diffusion_local.options.values import MAX_LORA_WEIGHT, MAX_LORAS, MAX_PROMPT_CHARS

MAX_TEXT = 200_000  # characters of one text, and of all that a reader gets
MAX_NODES = 1000
#: More white space in a row than a recipe has; expressions of sd-parsers take quadratic time for it.
LONG_SPACE = re.compile(r"\s{100,}")
MAX_OTHERS, MAX_SHOWN = 100, 200
#: Our options by the names that these programs have for them, in lower case and with underscores.
NAMES = {
    "prompt": "prompt", "positive_prompt": "prompt", "c": "prompt",
    "negative": "negative", "negative_prompt": "negative", "negativeprompt": "negative", "uc": "negative",
    "seed": "seed", "noise_seed": "seed", "steps": "steps", "num_inference_steps": "steps",
    "cfg": "guidance", "cfg_scale": "guidance", "cfgscale": "guidance", "guidance_scale": "guidance",
    "scale": "guidance", "width": "width", "height": "height", "sampler": "sampler", "sampler_name": "sampler",
    "scheduler": "schedule", "schedule": "schedule", "denoise": "strength", "strength": "strength",
    "denoising_strength": "strength", "model": "model", "base_model": "model", "use_stable_diffusion_model": "model",
    "vae": "vae", "vae_name": "vae", "use_vae_model": "vae", "clip_skip": "clip_skip", "clipskip": "clip_skip",
}  # fmt: skip
FILES = ("model", "vae")
#: Values that ask for nothing.
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
    """What a program noted: pairs by its own names, and LoRAs as (name, weight)."""

    tool: str
    pairs: Pairs
    loras: list[tuple[str, Any]] = field(default_factory=list)


def read(texts: Texts) -> ForeignRecipe | None:
    """The recipe of the first program that recognises its own; None if none does."""
    if sum(map(len, texts.values())) > MAX_TEXT:
        texts = {name: text[: MAX_TEXT // max(1, len(texts))] for name, text in texts.items()}
    texts = {name: LONG_SPACE.sub(" ", text) for name, text in texts.items()}
    for reader in READERS:
        try:
            found = reader(texts)
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
            continue  # texts of another program, or damaged ones
        if found is not None:
            return found
    return None


def comfyui(texts: Texts) -> ForeignRecipe | None:
    """The links are taken from the graph that was run: those of the drawn workflow may be missing or of subgraphs."""
    if "prompt" not in texts or not texts["prompt"].lstrip().startswith("{"):
        return None
    graph = {str(name): node for name, node in object_in(texts["prompt"]).items() if isinstance(node, dict)}
    nodes = {
        name: node for name, node in graph.items() if "class_type" in node and isinstance(node.get("inputs"), dict)
    }
    if not nodes or len(nodes) > MAX_NODES:
        return None
    links = [
        [0, str(value[0]), 0, name, 0, slot.upper()]
        for name, node in nodes.items()
        for slot, value in node["inputs"].items()
        if isinstance(value, list) and len(value) == 2 and str(value[0]) in nodes
    ]
    without_links = {name: node | {"inputs": unlinked(node["inputs"])} for name, node in nodes.items()}
    info = ComfyUIParser().parse({"prompt": without_links, "workflow": {"links": links}})
    if not info.samplers:
        return ForeignRecipe(
            "ComfyUI", {"graph": ", ".join(sorted({str(node["class_type"]) for node in nodes.values()}))}
        )
    found = parsed("ComfyUI", info)
    for node in nodes.values():
        take_node(found, str(node["class_type"]), node["inputs"])
    return found


def unlinked(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """A node's inputs without its link to a model, which sd-parsers would take for the name of one; a sampler's stays,
    as the library begins there."""
    sampler = "steps" in inputs
    return {name: value for name, value in inputs.items() if sampler or name != "model" or not isinstance(value, list)}


def take_node(found: ForeignRecipe, kind: str, inputs: Mapping[str, Any]) -> None:
    """What nodes beside the sampler set."""
    if "lora_name" in inputs:
        found.loras.append((inputs["lora_name"], inputs.get("strength_model", 1)))
    elif kind.startswith("Empty") and "width" in inputs:
        found.pairs |= {"width": inputs["width"], "height": inputs.get("height")}
    elif kind == "VAELoader":
        found.pairs["vae_name"] = inputs.get("vae_name")
    elif kind == "CLIPSetLastLayer":
        found.pairs["clip_skip"] = abs(int(inputs["stop_at_clip_layer"]))
    elif kind == "UNETLoader" and "model" not in found.pairs:
        found.pairs["model"] = inputs.get("unet_name")
    else:
        return
    for name in [name for name in found.pairs if name.partition(".")[0] == kind]:
        del found.pairs[name]  # it is read


def invokeai(texts: Texts) -> ForeignRecipe | None:
    if not {"invokeai_metadata", "sd-metadata", "Dream"} & set(texts):
        return None
    told: dict[str, Any] = dict(texts)
    loras: list[tuple[str, Any]] = []
    if "invokeai_metadata" in texts:
        metadata = object_in(texts["invokeai_metadata"])
        for each in metadata.pop("loras", None) or []:
            of = each.get("model") or each.get("lora") or {}
            loras.append((str(of.get("name") or of.get("model_name") or of.get("key")), each.get("weight", 1)))
        model = metadata.get("model")
        if isinstance(model, dict):
            metadata["model"] = {
                "model_name": model.get("model_name") or model.get("name") or model.get("key"),
                **model,
            }
        vae = metadata.get("vae")
        metadata["vae"] = vae.get("name") if isinstance(vae, dict) else vae
        told["invokeai_metadata"] = json.dumps(metadata)
    found = parsed("InvokeAI", InvokeAIParser().parse(told))
    found.loras = loras
    return found


def fooocus(texts: Texts) -> ForeignRecipe | None:
    """Its other scheme is A1111's text, which is read as such."""
    if not texts.get("parameters", "").lstrip().startswith("{"):
        return None
    told = object_in(texts["parameters"])
    if not str(told.get("version", "")).startswith("Fooocus") and "base_model" not in told:
        return None
    loras = []
    for name in [name for name in told if name.startswith("lora_combined_")]:
        lora, _, weight = str(told.pop(name)).rpartition(" : ")
        loras.append((lora, weight))
    loras += [(each[0], each[1]) for each in told.pop("loras", [])]
    size = [each.strip() for each in str(told.pop("resolution", "")).strip("()").split(",")]
    told = {"base_model_hash": "", "negative_prompt": "", "sampler": ""} | told
    found = parsed("Fooocus", FooocusParser().parse({"parameters": json.dumps(told)}))
    if len(size) == 2:
        found.pairs |= {"width": size[0], "height": size[1]}
    found.loras = loras
    return found


def novelai(texts: Texts) -> ForeignRecipe | None:
    if texts.get("Software") != "NovelAI":
        return None
    found = parsed("NovelAI", NovelAIParser().parse(dict(texts)))
    found.pairs["model"] = None  # a service's own
    return found


def swarmui(texts: Texts) -> ForeignRecipe | None:
    told = object_in(texts["parameters"])["sui_image_params"]
    loras = list(zip(told.pop("loras", None) or [], told.pop("loraweights", None) or [], strict=False))
    return ForeignRecipe("SwarmUI", {name: value for name, value in told.items() if name != "images"}, loras)


def draw_things(texts: Texts) -> ForeignRecipe | None:
    """JSON within the user comment of the XMP packet."""
    packet = texts.get("XML:com.adobe.xmp", "")
    start = packet.index("{", packet.index("exif:UserComment"))
    told = object_in(html.unescape(packet[start : packet.index("</rdf:li>", start)]))
    if not {"c", "sampler"} <= set(told):
        return None
    told.pop("v2", None)  # the same once more
    loras = [(each.get("model"), each.get("weight", 1)) for each in told.pop("lora", None) or []]
    width, _, height = str(told.pop("size", "")).partition("x")
    return ForeignRecipe("Draw Things", told | {"width": width, "height": height}, loras)


def easy_diffusion(texts: Texts) -> ForeignRecipe | None:
    names = {"prompt", "seed", "num_inference_steps"}
    told: Mapping[str, Any] = {name.lower().replace(" ", "_"): text for name, text in texts.items()}
    if not names <= set(told):
        return None
    loras = [(told["use_lora_model"], told.get("lora_alpha", 1))] if told.get("use_lora_model") else []
    return ForeignRecipe(
        "Easy Diffusion", {n: each for n, each in told.items() if n not in ("use_lora_model", "lora_alpha")}, loras
    )


READERS: tuple[Callable[[Texts], ForeignRecipe | None], ...] = (
    invokeai, comfyui, fooocus, swarmui, novelai, draw_things, easy_diffusion,
)  # fmt: skip


def parsed(tool: str, info: PromptInfo) -> ForeignRecipe:
    """What sd-parsers found, of the last sampler: one before it makes a sketch that is worked over."""
    sampler, others = info.samplers[-1], info.samplers[:-1]
    pairs: Pairs = dict(flat(info.metadata)) | dict(sampler.parameters)
    pairs |= {"sampler": sampler.name, "prompt": ", ".join(map(str, sampler.prompts))}
    pairs["negative_prompt"] = ", ".join(map(str, sampler.negative_prompts))
    if sampler.model is not None:
        pairs["model"] = sampler.model.name
    if others:
        pairs["further samplers"] = ", ".join(each.name for each in others)
    return ForeignRecipe(tool, pairs)


def flat(values: Mapping[Any, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in list(values.items())[:MAX_OTHERS]:
        if isinstance(value, dict) and not above:
            yield from flat(value, f"{name}.")
        elif isinstance(value, list) and value and all(isinstance(each, dict) for each in value) and not above:
            for each in value[:MAX_OTHERS]:
                yield from flat(each, f"{name}.")
        elif name != "id":
            yield f"{above}{name}", value


def object_in(text: str) -> dict[str, Any]:
    found = json.loads(text[:MAX_TEXT])
    if not isinstance(found, dict):
        raise ValueError("no JSON object")
    return found


def settings_of(found: ForeignRecipe) -> tuple[dict[str, Any], dict[str, str]]:
    """(options, what was not used, by the program's names)."""
    settings: dict[str, Any] = {"prompt": ""}
    others: dict[str, str] = {}
    for theirs, value in found.pairs.items():
        name = NAMES.get(theirs.lower().replace(" ", "_"), "")
        text = exact(value) if isinstance(value, float) else "" if value is None else str(value)
        if text.strip() and not take(settings, name, text) and text.casefold() not in NEUTRAL.get(name, ()):
            others[theirs] = text
    loras: dict[str, float] = {}
    for lora, weight in found.loras:
        stem, number = stem_of(str(lora)), a1111.number_in(str(weight), -MAX_LORA_WEIGHT, MAX_LORA_WEIGHT)
        if stem.casefold() in ("", "none"):
            continue
        if number is None or len(loras) == MAX_LORAS:
            others[f"LoRA {stem}"] = str(weight)
        else:
            loras[stem] = number
    if loras:
        settings["loras"] = [{"name": name, "weight": weight} for name, weight in loras.items()]
    cut = {name[:MAX_SHOWN]: text[:MAX_SHOWN] for name, text in list(others.items())[:MAX_OTHERS]}
    return settings, cut


def take(settings: dict[str, Any], name: str, text: str) -> bool:
    """Put an option in, and tell whether there is one that has this value."""
    if not name or text.casefold() in NEUTRAL.get(name, ()):
        return False
    if name in ("prompt", "negative"):
        settings[name] = text[:MAX_PROMPT_CHARS].strip()
        return len(text) <= MAX_PROMPT_CHARS
    if name in FILES:
        settings[name] = stem_of(text)[:MAX_SHOWN]
        return True
    if name == "sampler":
        sampler, schedule = samplers.split(text.removesuffix("_gpu"))
        settings |= {"sampler": sampler} if sampler else {}
        settings |= {"schedule": schedule} if schedule else {}
        return bool(sampler)
    if name == "schedule" and samplers.sampler_named(text) and "sampler" not in settings:
        settings["sampler"] = samplers.sampler_named(text)  # InvokeAI and Easy Diffusion call it so
        return True
    value = a1111.value_in(OPTIONS[name], text)
    if value is None or (OPTIONS[name].type is int and a1111.number_in(text, *OPTIONS[name].bounds) != value):
        return False
    settings[name] = value
    return True


def stem_of(path: str) -> str:
    """A file's name without its folders and its ending."""
    name = PurePosixPath(path.replace("\\", "/")).name
    for ending in (".safetensors", ".ckpt", ".pt", ".gguf", ".sft"):
        name = name.removesuffix(ending)
    return name
