"""Translates a ComfyUI graph to one submit, by following the links back from its output nodes.

Nodes are identified by their links, never by their numbers. A graph describes the pictures of one sampler, or one
picture to be upscaled; anything else is refused naming the node.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from diffusion_local.messages import message
from diffusion_local.options.types import format_number
from diffusion_local.options.values import entry
from diffusion_local.web.api.dialects.comfyui import checking, shaping
from diffusion_local.web.api.dialects.comfyui.checking import MOST_NODES
from diffusion_local.web.api.dialects.comfyui.node_values import (
    Clip,
    Conditioning,
    Control,
    Latent,
    Mask,
    Model,
    Picture,
    Plan,
    Refused,
    Vae,
    Work,
    invalid_graph,
    unsupported,
    unsupported_use,
)
from diffusion_local.web.api.dialects.comfyui.nodes import NODES, OWN_SPACING, UNION_TYPES, WIDGET_TYPES, Input, Names
from diffusion_local.web.api.dialects.comfyui.shaping import Enlarged, enlarged_image, enlarged_latent, second_pass

MOST_SEED = 2**32


def translate(graph: Any, names: Names) -> Plan:
    """Translate a graph to a plan. Raises Refused if it is invalid or not supported."""
    if not isinstance(graph, dict) or not graph:
        raise Refused("prompt_no_outputs", "Prompt has no outputs")
    for node_id, node in graph.items():
        if not checking.class_of(node):
            problem = "Cannot execute because a node is missing the class_type property."
            raise Refused("invalid_prompt", problem, f"Node ID '#{checking.shortened(node_id)}'")
    outputs = checking.output_nodes(graph)
    if not outputs:
        unknown = [
            each for each in checking.faults(graph, list(graph)[:MOST_NODES], names) if each.type == "missing_node_type"
        ]
        raise Refused("prompt_no_outputs", "Prompt has no outputs", faults=unknown)
    node_ids = checking.dependencies(graph, outputs)
    if len(node_ids) > MOST_NODES:
        raise Refused("invalid_prompt", f"A graph must have at most {MOST_NODES} nodes that its outputs depend on.")
    found = list(checking.faults(graph, node_ids, names))
    if found:
        raise invalid_graph(found)
    order = checking.in_order(graph, node_ids)
    if order is None:
        raise Refused("dependency_cycle", "Dependency cycle detected", "The nodes depend on each other in a circle.")
    reader = Reader(graph, names)
    for node_id in order:
        reader.evaluate(node_id)
    works = {id(work): work for work in reader.shown}
    if len(works) > 1:
        first, second = list(works.values())[:2]
        raise invalid_graph(
            [
                unsupported_use(
                    second.node_id,
                    f"only the pictures of one node can be made at once, and #{first.node_id} makes others",
                )
            ]
        )
    return Plan(next(iter(works.values())), outputs, order, reader.warnings)


class Reader:
    """Evaluates nodes in dependency order. ``shown``: the inputs of the output nodes."""

    def __init__(self, graph: Mapping[str, Any], names: Names) -> None:
        self._graph = graph
        self._names = names
        self._values: dict[str, tuple[Any, ...]] = {}
        self.shown: list[Work] = []
        self.warnings: list[str] = []

    def evaluate(self, node_id: str) -> None:
        name = checking.class_of(self._graph[node_id])
        inputs = {key: self._input(node_id, key, each) for key, each in NODES[name].inputs.items()}
        self._values[node_id] = NODE_READERS[name](self, node_id, inputs)

    def _input(self, node_id: str, key: str, declared: Input) -> Any:
        inputs = checking.inputs_of(self._graph[node_id])
        if key not in inputs:
            return declared.default
        if not checking.is_link(inputs[key]):
            return checking.converted(declared.kind, inputs[key])
        value = self._values[inputs[key][0]][inputs[key][1]]
        if declared.kind in WIDGET_TYPES or declared.kind == "COMBO":  # from a primitive node: not validated yet
            found = list(checking.value_faults(node_id, key, declared, value, self._names))
            if found:
                raise invalid_graph(found)
            return checking.converted(declared.kind, value)
        return value

    def warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)

    def checkpoint(self, node_id: str, inputs: dict[str, Any]) -> tuple[Any, ...]:
        return Model(self._model(inputs["ckpt_name"]), node_id), Clip(), Vae()

    def unet(self, node_id: str, inputs: dict[str, Any]) -> tuple[Any, ...]:
        if inputs["weight_dtype"] not in (None, "default"):
            self.warn(message("weight_type", got=inputs["weight_dtype"]))
        return (Model(self._model(inputs["unet_name"]), node_id, split=True),)

    def clip(self, node_id: str, inputs: dict[str, Any]) -> tuple[Any, ...]:
        return (Clip(),)

    def vae(self, node_id: str, inputs: dict[str, Any]) -> tuple[Any, ...]:
        return (Vae(str(inputs["vae_name"]), node_id),)

    def lora(self, node_id: str, inputs: dict[str, Any]) -> tuple[Any, ...]:
        model, clip = inputs["model"], inputs.get("clip")
        weight = inputs["strength_model"]
        if inputs.get("strength_clip", weight) != weight:
            self.warn(message("one_lora_weight", name=inputs["lora_name"], weight=format_number(weight)))
        if weight:
            model = replace(model, loras=(*model.loras, (self.find_choice("loras", inputs["lora_name"]), weight)))
        return (model, clip) if clip is not None else (model,)

    def upscaler(self, node_id: str, inputs: dict[str, Any]) -> tuple[Any, ...]:
        return (self.find_choice("upscalers", inputs["model_name"]),)

    def _model(self, name: str) -> str:
        model = self.find_choice("models", name)
        if not model:
            model = self._names.alias(name) or ""
            self.warn(message("model_stands_for", name=name, model=model))
        return model

    def find_choice(self, key: str, value: str) -> str:
        return checking.find_choice(value, self._names.lists.get(key, ()))

    def text(self, node_id: str, inputs: dict[str, Any]) -> tuple[Any, ...]:
        return (Conditioning(inputs["text"], inputs["clip"], node_id),)

    def last_layer(self, node_id: str, inputs: dict[str, Any]) -> tuple[Any, ...]:
        skip = -int(inputs["stop_at_clip_layer"])
        return (replace(inputs["clip"], skip=skip if skip > 1 else 0),)

    def zero(self, node_id: str, inputs: dict[str, Any]) -> tuple[Any, ...]:
        return (replace(inputs["conditioning"], zero=True),)

    def flux_guidance(self, node_id: str, inputs: dict[str, Any]) -> tuple[Any, ...]:
        return (replace(inputs["conditioning"], guidance=inputs["guidance"]),)

    def control_net(self, node_id: str, inputs: dict[str, Any]) -> tuple[Any, ...]:
        return (Control(self.find_choice("controls", inputs["control_net_name"])),)

    def union_type(self, node_id: str, inputs: dict[str, Any]) -> tuple[Any, ...]:
        return (replace(inputs["control_net"], mode=UNION_TYPES.get(str(inputs["type"]), "")),)

    def control(self, node_id: str, inputs: dict[str, Any]) -> tuple[Any, ...]:
        """ControlNetApply has a single conditioning; its successor has two, of which the positive one is used."""
        if not isinstance(inputs["image"], Picture):
            raise unsupported(node_id, "only an image of LoadImage can be a control", "image")
        weight = inputs["strength"]
        made = replace(
            inputs["control_net"],
            picture=inputs["image"],
            weight=weight,
            start=inputs.get("start_percent") or 0.0,
            end=1.0 if inputs.get("end_percent") is None else inputs["end_percent"],
            node_id=node_id,
        )
        positive = inputs.get("positive") or inputs["conditioning"]
        if weight:
            positive = replace(positive, controls=(*positive.controls, made))
        return (positive, inputs["negative"]) if "negative" in inputs else (positive,)

    def canny(self, node_id: str, inputs: dict[str, Any]) -> tuple[Any, ...]:
        return (self._preprocessed(node_id, inputs, "canny"),)

    def invert(self, node_id: str, inputs: dict[str, Any]) -> tuple[Any, ...]:
        return (self._preprocessed(node_id, inputs, "invert"),)

    def _preprocessed(self, node_id: str, inputs: dict[str, Any], name: str) -> Picture:
        if not isinstance(inputs["image"], Picture) or inputs["image"].preprocessor:
            raise unsupported(node_id, "only an image of LoadImage can be preprocessed", "image")
        return replace(inputs["image"], preprocessor=name)

    def empty(self, node_id: str, inputs: dict[str, Any]) -> tuple[Any, ...]:
        return (Latent(node_id, inputs["width"], inputs["height"], inputs["batch_size"]),)

    def load(self, node_id: str, inputs: dict[str, Any]) -> tuple[Any, ...]:
        return Picture(inputs["image"], node_id), Mask(inputs["image"], "alpha", node_id)

    def load_mask(self, node_id: str, inputs: dict[str, Any]) -> tuple[Any, ...]:
        return (Mask(inputs["image"], inputs["channel"], node_id),)

    def encode(self, node_id: str, inputs: dict[str, Any]) -> tuple[Any, ...]:
        if isinstance(inputs["pixels"], Enlarged):
            return (inputs["pixels"],)
        if not isinstance(inputs["pixels"], Picture) or inputs["pixels"].preprocessor:
            raise unsupported(node_id, "only an image of LoadImage, or an enlarged one, can be encoded", "pixels")
        return (Latent(node_id, picture=inputs["pixels"], vae=inputs["vae"]),)

    def encode_masked(self, node_id: str, inputs: dict[str, Any]) -> tuple[Any, ...]:
        [latent] = self.encode(node_id, inputs)
        if not isinstance(latent, Latent):
            raise unsupported(node_id, "only an image of LoadImage can have a mask", "pixels")
        return (replace(latent, mask=replace(inputs["mask"], grow=inputs["grow_mask_by"] or 0)),)

    def noise_mask(self, node_id: str, inputs: dict[str, Any]) -> tuple[Any, ...]:
        latent = inputs["samples"]
        if not isinstance(latent, Latent) or latent.picture is None:
            raise unsupported(node_id, "only an encoded image of LoadImage can have a mask", "samples")
        return (replace(latent, mask=inputs["mask"]),)

    def repeat(self, node_id: str, inputs: dict[str, Any]) -> tuple[Any, ...]:
        latent = inputs["samples"]
        if not isinstance(latent, Latent):
            raise unsupported(node_id, "only an empty latent or an encoded image can be repeated", "samples")
        return (replace(latent, count=latent.count * inputs["amount"]),)

    def sampler(self, node_id: str, inputs: dict[str, Any]) -> tuple[Any, ...]:
        return (self._sampled(node_id, inputs, inputs["seed"], "seed", inputs["denoise"]),)

    def sampler_advanced(self, node_id: str, inputs: dict[str, Any]) -> tuple[Any, ...]:
        for key, value in (("add_noise", "enable"), ("return_with_leftover_noise", "disable")):
            if inputs[key] != value:
                raise unsupported(node_id, f"must be {value}: a sampler is run as a whole", key)
        if inputs["start_at_step"] > 0:
            raise unsupported(node_id, "must be 0: a sampler is run as a whole", "start_at_step")
        if inputs["end_at_step"] < inputs["steps"]:
            raise unsupported(node_id, "must be at least steps: a sampler is run as a whole", "end_at_step")
        return (self._sampled(node_id, inputs, inputs["noise_seed"], "noise_seed", 1.0),)

    def _sampled(self, node_id: str, inputs: dict[str, Any], seed: int, seed_key: str, denoise: float) -> Work:
        model, latent = inputs["model"], inputs["latent_image"]
        positive, negative = inputs["positive"], inputs["negative"]
        if isinstance(latent, Enlarged):
            first = {"latent_image": Latent(node_id, 0, 0)}  # only the settings of this work are used
            again = self._sampled(node_id, inputs | first, seed, seed_key, 1.0)
            return second_pass(self, node_id, again, latent, denoise)
        if not isinstance(latent, Latent):
            raise unsupported(node_id, "the pictures of another sampler cannot be sampled again", "latent_image")
        if positive.zero:
            raise unsupported(node_id, "must not be zeroed out", "positive")
        if denoise <= 0:
            raise unsupported(node_id, "must be more than 0", "denoise")
        if latent.picture is None and denoise < 1:
            raise unsupported(node_id, "must be 1 for an empty latent image", "denoise")
        options: dict[str, Any] = {
            "prompt": positive.text,
            "negative": "" if negative.zero else negative.text,
            "model": model.name,
            "steps": inputs["steps"],
            "seed": seed % MOST_SEED,
            "sampler": inputs["sampler_name"],
            "count": latent.count,
        }
        if seed >= MOST_SEED:
            self.warn(message("seed_wrapped", field=seed_key, got=str(seed), to=str(seed % MOST_SEED)))
        if inputs["scheduler"] not in OWN_SPACING:
            options["schedule"] = inputs["scheduler"]
        if positive.guidance is not None:
            options["guidance"] = positive.guidance
        options["cfg"] = inputs["cfg"]
        if model.loras:
            options["loras"] = [{"name": name, "weight": weight} for name, weight in model.loras]
        if positive.clip.skip:
            options["clip_skip"] = positive.clip.skip
        if latent.picture is None:
            options |= {"width": latent.width, "height": latent.height}
        latent = shaping.shaped(node_id, options, positive, latent, denoise)
        if latent.picture is not None:
            options["kind"] = "inpaint" if latent.mask else "img2img"
            options["strength"] = denoise
        origins = {
            "prompt": (positive.node_id, positive.key),
            "negative": (negative.node_id, negative.key),
            "model": (model.node_id, "unet_name" if model.split else "ckpt_name"),
            "width": (latent.node_id, "width"),
            "height": (latent.node_id, "height"),
            "count": (latent.node_id, "batch_size"),
            "seed": (node_id, seed_key),
            "sampler": (node_id, "sampler_name"),
            "schedule": (node_id, "scheduler"),
            "guidance": (node_id, "cfg"),
            "strength": (node_id, "denoise"),
        }
        for place, control in enumerate(positive.controls):
            origins[entry("controls", place)] = (control.node_id, "control_net")
        references = (*positive.references, *model.references)
        origins |= {entry("references", place): (each.node_id, "image") for place, each in enumerate(references)}
        origins |= {entry("regions", place): (each.node_id, "width") for place, each in enumerate(positive.regions)}
        return Work(
            node_id,
            options,
            model,
            latent.vae,
            latent.picture,
            latent.mask,
            origins,
            controls=positive.controls,
            references=references,
        )

    def decode(self, node_id: str, inputs: dict[str, Any]) -> tuple[Any, ...]:
        work = inputs["samples"]
        if not isinstance(work, Work):
            raise unsupported(node_id, "only what a sampler has made can be decoded", "samples")
        if inputs["vae"].name and work.vae.name != inputs["vae"].name:
            work = replace(work, vae=inputs["vae"])
        return (self._deduplicated(work),)

    def _deduplicated(self, work: Work) -> Work:
        """The same object for equal results, so that a latent decoded twice counts as one work."""
        return next((each for each in self._decoded_works() if each == work), work)

    def _decoded_works(self) -> list[Work]:
        return [each for values in self._values.values() for each in values if isinstance(each, Work)]

    def enlarge_latent(self, node_id: str, inputs: dict[str, Any]) -> tuple[Any, ...]:
        return (enlarged_latent(self, node_id, inputs),)

    def enlarge_image(self, node_id: str, inputs: dict[str, Any]) -> tuple[Any, ...]:
        return (enlarged_image(self, node_id, inputs),)

    def upscale(self, node_id: str, inputs: dict[str, Any]) -> tuple[Any, ...]:
        if isinstance(inputs["image"], Work) and inputs["image"].sampled:
            return (Enlarged(inputs["image"], inputs["upscale_model"]),)
        if not isinstance(inputs["image"], Picture) or inputs["image"].preprocessor:
            why = "only an image of LoadImage can be enlarged; save the picture first and enlarge it then"
            raise unsupported(node_id, why, "image")
        options = {"prompt": "", "kind": "upscale", "upscaler": inputs["upscale_model"]}
        origins = {"upscaler": (node_id, "upscale_model"), "scale": (node_id, "upscale_model")}
        return (Work(node_id, options, picture=inputs["image"], origins=origins, sampled=False),)

    def show(self, node_id: str, inputs: dict[str, Any]) -> tuple[Any, ...]:
        if not isinstance(inputs["images"], Work):
            raise unsupported(node_id, "only what a sampler or an upscaler has made can be shown", "images")
        self.shown.append(inputs["images"])
        return ()

    def primitive(self, node_id: str, inputs: dict[str, Any]) -> tuple[Any, ...]:
        return (inputs["value"],)


NODE_READERS: dict[str, Callable[[Reader, str, dict[str, Any]], tuple[Any, ...]]] = {
    **shaping.NODE_READERS,
    "CheckpointLoaderSimple": Reader.checkpoint,
    "UNETLoader": Reader.unet,
    "CLIPLoader": Reader.clip,
    "DualCLIPLoader": Reader.clip,
    "TripleCLIPLoader": Reader.clip,
    "VAELoader": Reader.vae,
    "LoraLoader": Reader.lora,
    "LoraLoaderModelOnly": Reader.lora,
    "CLIPTextEncode": Reader.text,
    "CLIPSetLastLayer": Reader.last_layer,
    "ConditioningZeroOut": Reader.zero,
    "FluxGuidance": Reader.flux_guidance,
    "ControlNetLoader": Reader.control_net,
    "SetUnionControlNetType": Reader.union_type,
    "ControlNetApply": Reader.control,
    "ControlNetApplyAdvanced": Reader.control,
    "ControlNetApplySD3": Reader.control,
    "Canny": Reader.canny,
    "ImageInvert": Reader.invert,
    "EmptyLatentImage": Reader.empty,
    "EmptySD3LatentImage": Reader.empty,
    "LoadImage": Reader.load,
    "LoadImageMask": Reader.load_mask,
    "VAEEncode": Reader.encode,
    "VAEEncodeForInpaint": Reader.encode_masked,
    "SetLatentNoiseMask": Reader.noise_mask,
    "RepeatLatentBatch": Reader.repeat,
    "KSampler": Reader.sampler,
    "KSamplerAdvanced": Reader.sampler_advanced,
    "VAEDecode": Reader.decode,
    "LatentUpscale": Reader.enlarge_latent,
    "LatentUpscaleBy": Reader.enlarge_latent,
    "ImageScale": Reader.enlarge_image,
    "ImageScaleBy": Reader.enlarge_image,
    "UpscaleModelLoader": Reader.upscaler,
    "ImageUpscaleWithModel": Reader.upscale,
    "SaveImage": Reader.show,
    "PreviewImage": Reader.show,
} | {name: Reader.primitive for name in NODES if name.startswith("Primitive")}
