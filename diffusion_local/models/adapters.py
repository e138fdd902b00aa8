"""LoRAs, VAEs, upscalers and textual inversions: what each is, and which models it fits, told from its header."""

import json
from dataclasses import dataclass
from pathlib import Path

from diffusion_local import families
from diffusion_local.errors import ModelUnavailable
from diffusion_local.messages import Message, message, verbatim
from diffusion_local.models.found import INCOMPLETE, READY, UNSUPPORTED
from diffusion_local.models.headers import Header, read_header

LORA, VAE, UPSCALER, EMBEDDING = "lora", "vae", "upscaler", "embedding"
PLACES = {LORA: "loras", VAE: "vae", UPSCALER: "upscalers", EMBEDDING: "embeddings"}
SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
MOST_WORDS = 24
MOST_TEXT = 2000


@dataclass(frozen=True, slots=True)
class Adapter:
    """A file that changes what a model makes. ``architecture`` is what it fits, empty where it fits every model or
    nothing tells; ``words`` are those that call a LoRA up, as its training noted them, the most frequent first."""

    name: str
    kind: str
    path: Path
    architecture: str = ""
    title: str = ""
    about: str = ""
    words: tuple[str, ...] = ()
    size_bytes: int = 0
    state: str = READY
    problem: str = ""
    sha256: str = ""

    @property
    def ready(self) -> bool:
        return self.state == READY


def read_adapter(path: Path, kind: str) -> Adapter:
    """An entry for a file in the folder of this kind; whatever is wrong becomes its ``problem``."""
    name = path.stem
    try:
        size = path.stat().st_size
        if path.suffix.lower() != ".safetensors":
            return Adapter(
                name, kind, path, size_bytes=size, state=UNSUPPORTED, problem=message("pickle_adapter", name=path.name)
            )
        header = read_header(path)
    except (ModelUnavailable, OSError) as problem:
        return Adapter(
            name,
            kind,
            path,
            state=INCOMPLETE,
            problem=problem.message if isinstance(problem, ModelUnavailable) else verbatim(str(problem)),
        )
    is_of = kind_of(header)
    if is_of != kind:
        return Adapter(name, kind, path, size_bytes=size, state=UNSUPPORTED, problem=misplaced(is_of, kind))
    told = header.metadata
    return Adapter(
        name=name,
        kind=kind,
        path=path,
        architecture=lora_architecture(header)
        if kind == LORA
        else embedding_architecture(header)
        if kind == EMBEDDING
        else "",
        title=(told.get("modelspec.title") or told.get("ss_output_name") or "")[:100],
        about=told.get("modelspec.description", "")[:MOST_TEXT],
        words=trigger_words(told) if kind == LORA else (),
        size_bytes=size,
    )


def what_else(header: Header) -> str:
    """For a file among the models: a sentence if it is an adapter, else empty."""
    kind = kind_of(header)
    if not kind:
        if any(key.startswith(("control_model.", "controlnet_")) for key in header.tensors):
            return message("model_controlnet")
        if "down_blocks.0.resnets.0.conv1.weight" in header.tensors:
            return message("model_bare_unet")
        return ""
    return message("model_is_other", what=message(f"adapter_{kind}"), folder=PLACES[kind])


def misplaced(kind: str, expected: str) -> Message:
    if kind:
        return message(
            "misplaced", what=message(f"adapter_{kind}"), wanted=message(f"adapter_{expected}"), folder=PLACES[kind]
        )
    return message("not_an_adapter", what=message(f"adapter_{expected}"))


def kind_of(header: Header) -> str:
    keys = header.tensors
    if any(".lora_" in key or ".lokr_" in key or ".hada_" in key or key.endswith(".lora.up.weight") for key in keys):
        return LORA
    if "model.diffusion_model.input_blocks.0.0.weight" in keys:
        return ""
    bare = {key.removeprefix("first_stage_model.").removeprefix("vae.") for key in list(keys)[:2000]}
    if {"decoder.conv_in.weight", "encoder.conv_in.weight"} <= bare:
        return VAE
    if len(keys) <= 4 and any(len(tensor.shape) in (1, 2) for tensor in keys.values()):
        widths = {tensor.shape[-1] for tensor in keys.values() if tensor.shape}
        if "emb_params" in keys or {"clip_l", "clip_g"} & set(keys) or widths & set(families.BY_TOKEN_WIDTH):
            return EMBEDDING
    convolutions = sum(len(tensor.shape) == 4 for tensor in keys.values())
    three = any(len(t.shape) == 4 and (t.shape[1] in (3, 12, 48) or t.shape[0] % 3 == 0) for t in keys.values())
    if convolutions and three and not any(".attn2." in key or "time_embed" in key for key in keys):
        return UPSCALER
    return ""


def lora_architecture(header: Header) -> str:
    """By names that only one architecture has, by the width of the text its cross attention reads, or as it says."""
    keys = header.tensors
    for name, architecture in families.ARCHITECTURES.items():
        if any(part in key for part in architecture.lora_keys for key in keys):
            return name
    for key, tensor in keys.items():
        down = key.endswith((".lora_down.weight", ".lora_A.weight", ".lora.down.weight"))
        if down and ("attn2_to_k" in key or "attn2.to_k" in key or "attn2.processor.to_k" in key):
            width = tensor.shape[1] if len(tensor.shape) > 1 else 0
            if width in families.BY_TEXT_WIDTH:
                return families.BY_TEXT_WIDTH[width]
    for name, architecture in families.ARCHITECTURES.items():
        if any(key.startswith(architecture.lora_prefixes) for key in keys):
            return name
    return stated_architecture(header.metadata)


def stated_architecture(metadata: dict[str, str]) -> str:
    """The architecture by the base model's name, empty if unknown.

    Names hold versions too (``stable-diffusion-xl-v1-base``), so the longest word decides, then the first.
    """
    stated = " ".join(metadata.get(key, "") for key in ("modelspec.architecture", "ss_base_model_version")).lower()
    found = [
        (-len(word), stated.index(word), name)
        for name, architecture in families.ARCHITECTURES.items()
        for word in architecture.lora_words
        if word in stated
    ]
    return min(found)[2] if found else ""


def embedding_architecture(header: Header) -> str:
    for name, architecture in families.ARCHITECTURES.items():
        if architecture.embedding_keys and architecture.embedding_keys <= set(header.tensors):
            return name
    widths = (tensor.shape[-1] for tensor in header.tensors.values() if tensor.shape)
    return next((families.BY_TOKEN_WIDTH[width] for width in widths if width in families.BY_TOKEN_WIDTH), "")


def trigger_words(metadata: dict[str, str]) -> tuple[str, ...]:
    """The tags of the training pictures, most frequent first."""
    said = metadata.get("modelspec.trigger_phrase") or metadata.get("trigger_words") or ""
    words = [word.strip()[:60] for word in said.split(",") if word.strip()]
    counts: dict[str, int] = {}
    try:
        for tags in json.loads(metadata.get("ss_tag_frequency", "{}")).values():
            for tag, count in tags.items():
                counts[str(tag).strip()] = counts.get(str(tag).strip(), 0) + int(count)
    except (ValueError, TypeError, AttributeError, RecursionError):
        counts = {}
    frequent = sorted(counts, key=lambda tag: (-counts[tag], tag))
    return tuple(dict.fromkeys([*words, *(tag[:60] for tag in frequent if tag)]))[:MOST_WORDS]
