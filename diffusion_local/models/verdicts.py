"""Whether a file can be used, in one sentence: what it is, whether it is usable, and where it belongs.

``Verdict`` is a state and the sentence, which is empty if the file is ready. A few tables here (and in ``loras``) list
what the engine can load, so supporting a new format takes one line in a table.
"""

from functools import lru_cache
from importlib.util import find_spec
from typing import NamedTuple

from diffusion_local import families
from diffusion_local.messages import Message, message
from diffusion_local.models import parts
from diffusion_local.models.description import INCOMPLETE, READY, RECOGNISED, UNSUPPORTED
from diffusion_local.models.foreign_pipelines import makes_no_pictures
from diffusion_local.models.headers import PICKLE
from diffusion_local.models.lora_layers import BFL_CONTROL, GENERIC
from diffusion_local.models.loras import METHOD_TITLES, PICTURE, LoraFile
from diffusion_local.models.parts import TEXT_ENCODER, VAE, VISION
from diffusion_local.models.pickled import calls_problem
from diffusion_local.models.probe import (
    ATTACHMENT,
    CHECKPOINT,
    CONTROL,
    DENOISER,
    EMBEDDING,
    IP_ADAPTER,
    LORA,
    STRANGER,
    UPSCALER,
    Probe,
)
from diffusion_local.models.unsupported import UNET_PURPOSES
from diffusion_local.models.weights import GGUF, LOADED, PLAIN_FP8, SVDQUANT, TITLES

#: Quantisation schemes supported in a VAE that replaces a model's own.
LOADED_VAE = frozenset(("", PLAIN_FP8))
#: Optional package that reads a container format.
FORMAT_PACKAGES = {GGUF: "gguf"}
#: VAEs that can replace a model's own, and the tensor naming that each must have ("": any).
REPLACING = {"vae_sd": "", "vae_16": "", "vae_flux2": "diffusers", parts.TINY: "diffusers"}
#: Folders of the home for files of a kind.
PLACES = {
    LORA: "loras",
    VAE: "vae",
    UPSCALER: "upscalers",
    EMBEDDING: "embeddings",
    CONTROL: "controlnet",
    TEXT_ENCODER: "text_encoders",
    IP_ADAPTER: "ip_adapters",
    VISION: "clip_vision",
}
KIND_NAMES = {
    LORA: message("adapter_lora"),
    VAE: message("adapter_vae"),
    UPSCALER: message("adapter_upscaler"),
    EMBEDDING: message("adapter_embedding"),
    CONTROL: message("adapter_control"),
    IP_ADAPTER: message("adapter_ip_adapter"),
    VISION: message("adapter_clip_vision"),
    TEXT_ENCODER: message("adapter_text_encoder"),
}
#: Architectures and families whose denoisers accept residuals of a ControlNet, by its form.
CONTROL_ARCHITECTURES = {
    "controlnet": ("", "sd1", "sd2", "sdxl"),
    "controlnet_ldm": ("", "sd1", "sd2", "sdxl"),
    "controlnet_union": ("", "sdxl"),
    "controlnet_flux": ("flux",),
    "controlnet_sd3": ("sd3",),
    "controlnet_qwen": ("qwen_image",),
    "controlnet_z_image": ("z_image",),
    "t2i_adapter": ("", "sd1", "sdxl"),
}


class Verdict(NamedTuple):
    state: str
    problem: str = ""


USABLE = Verdict(READY)
UNKNOWN_MODEL = Verdict(UNSUPPORTED, message("model_unknown"))


def calls_verdict(name: str, probe: Probe) -> Verdict | None:
    """The verdict on a pickle that would call functions; None for other files."""
    problem = calls_problem(name, probe.calls)
    return Verdict(UNSUPPORTED, problem) if problem else None


def describe_kind(probe: Probe) -> str:
    """Completes "It is ...": a LoRA, T5-XXL, a text encoder; "" for other kinds."""
    if probe.kind == TEXT_ENCODER:
        return message("file_text_encoder", title=probe.title)
    if probe.kind == VISION:
        return probe.title
    if probe.kind == VAE:
        return parts.title_of(probe.base) if probe.base and probe.id != parts.TINY else probe.title
    if probe.kind == CONTROL:
        return describe_attachment(probe)
    return KIND_NAMES.get(probe.kind, "")


def describe_attachment(probe: Probe) -> str:
    """Title of an add-on, with the model it fits."""
    base = families.title_of(probe.base)
    return message("file_for", title=probe.title, base=base) if base else probe.title


def model_verdict(name: str, probe: Probe) -> Verdict:
    """Verdict on a file in the models folder, without considering configurations."""
    if verdict := calls_verdict(name, probe):
        return verdict
    if probe.id == "language_model":
        return Verdict(UNSUPPORTED, message("file_language_model"))
    if probe.kind in PLACES:
        own = kind_verdict(probe.kind, probe)  # a file that cannot be used need not be moved
        move = Verdict(UNSUPPORTED, message("model_is_other", what=describe_kind(probe), folder=PLACES[probe.kind]))
        return own if own.problem else move
    if probe.kind == STRANGER:
        return foreign_verdict(probe)
    if probe.kind == ATTACHMENT:
        return Verdict(RECOGNISED, message("file_not_used", title=describe_attachment(probe)))
    if probe.kind not in (CHECKPOINT, DENOISER):
        return UNKNOWN_MODEL
    return unet_verdict(probe) if probe.unet else transformer_verdict(probe)


def foreign_verdict(probe: Probe) -> Verdict:
    if probe.base == "picture":
        return Verdict(RECOGNISED, message("file_not_yet_that", title=probe.title))
    return Verdict(UNSUPPORTED, makes_no_pictures(probe.title, probe.base))


def transformer_verdict(probe: Probe) -> Verdict:
    if probe.quantisation == SVDQUANT:
        return loadable_verdict(probe)
    architecture = families.ARCHITECTURES[probe.architecture]
    title = architecture.title
    titled = f"{title} ({describe_contents(probe)})"
    if problem := architecture.problem or families.get(probe.family).problem:
        return Verdict(RECOGNISED, problem_of_file(problem, titled))
    if probe.naming == "original" and not families.get(probe.family).original_names:
        return Verdict(RECOGNISED, message("file_authors_names", title=titled, again=title))
    if not architecture.parts:  # no known parts to assemble it with
        return Verdict(RECOGNISED, message("file_folder_only", title=titled))
    return loadable_verdict(probe)


def layers_verdict(probe: Probe) -> Verdict | None:
    """The verdict on a denoiser with missing or unknown tensors; None if it has exactly those of its architecture."""
    title = families.title_of(probe.architecture)
    if probe.unknown:
        return Verdict(RECOGNISED, message("file_layers_unknown", title=title, name=probe.unknown[0]))
    if probe.lacking:
        return Verdict(INCOMPLETE, message("file_layers_missing", title=title, name=probe.lacking[0]))
    return None


def problem_of_file(problem: str, title: str) -> Message:
    """The message about a file of an unsupported family, from the message about the family."""
    if isinstance(problem, Message) and problem.id == "file_not_yet":
        return message("file_not_yet_that", title=title)
    if isinstance(problem, Message) and problem.id == "file_not_yet_other":
        return message("file_not_yet_other_file", title=title, other=problem.params["other"])
    return message("file_its_family", title=title, problem=problem)


def unet_verdict(probe: Probe) -> Verdict:
    unet, architecture = probe.unet, probe.architecture
    assert unet is not None
    if not architecture:
        reason = message("unet_width", width=unet.width) if unet.width else message("unet_no_text")
        return Verdict(UNSUPPORTED, reason)
    family = families.of_architecture(architecture)
    if problem := families.ARCHITECTURES[architecture].problem or family.problem:
        return Verdict(UNSUPPORTED if architecture == "sdxl_refiner" else RECOGNISED, problem)
    if unet.channels not in channels_of(architecture):
        purpose = UNET_PURPOSES.get((architecture, unet.channels), "")
        return Verdict(UNSUPPORTED, purpose or message("unet_channels", channels=unet.channels))
    if architecture in ("sd1", "sd2") and unet.added:
        return Verdict(UNSUPPORTED, message("file_unclip"))
    return loadable_verdict(probe)


def channels_of(architecture: str) -> tuple[int, ...]:
    """Supported numbers of a UNet's input channels: latents only, with mask and masked picture, or with a picture."""
    return (8,) if families.ARCHITECTURES[architecture].needs_reference else (4, 9)


def loadable_verdict(probe: Probe) -> Verdict:
    """Whether the engine can load the model parts in a file, in their precision."""
    title = families.title_of(probe.architecture)
    if verdict := container_verdict(probe.container, tuple(each.quantisation for each in probe.held), title):
        return verdict
    return layers_verdict(probe) or USABLE


def container_verdict(container: str, schemes: tuple[str, ...], title: str) -> Verdict | None:
    """The verdict on weights in quantisation schemes that cannot be read; None if they can."""
    if container == GGUF and GGUF in schemes:
        schemes = tuple(each for each in schemes if each != GGUF)
        if not has_package(FORMAT_PACKAGES[GGUF]):
            package = FORMAT_PACKAGES[GGUF]
            return Verdict(RECOGNISED, message("file_needs_package", title=title, what="GGUF", package=package))
    if unknown := [each for each in schemes if each not in LOADED]:
        scheme = TITLES.get(unknown[0], unknown[0])
        return Verdict(RECOGNISED, message("file_quantised", title=title, scheme=scheme))
    return None


@lru_cache(maxsize=8)
def has_package(name: str) -> bool:
    return find_spec(name) is not None


def parts_verdict(probe: Probe, missing: tuple[str, ...], wordless: tuple[str, ...]) -> Verdict:
    """Verdict on a denoiser with its other parts. ``missing``: parts in no file; ``wordless``: without a tokenizer."""
    title = f"{families.title_of(probe.architecture)} ({describe_contents(probe)})"
    if missing:
        return Verdict(
            INCOMPLETE,
            message("file_needs_parts", title=title, parts=format_parts(missing), places=folder_hints(missing)),
        )
    if wordless:
        words = parts.title_of(wordless[0])
        return Verdict(INCOMPLETE, message("file_needs_tokenizer", title=title, part=words))
    return USABLE


def folder_hints(missing: tuple[str, ...]) -> str:
    """The folders of the home for missing parts, as text: `text_encoders` and/or `vae`."""
    kinds = [VAE if each.startswith("vae") else TEXT_ENCODER for each in missing]
    return " / ".join(f"`{PLACES[kind]}`" for kind in (TEXT_ENCODER, VAE) if kind in kinds)


def container_title(probe: Probe) -> str:
    return f"GGUF ({probe.precision})"


def describe_contents(probe: Probe) -> str:
    """Precision, and scheme if more specific: bf16; fp8_e4m3, scaled fp8; GGUF Q8_0."""
    if probe.container == PICKLE:
        return f"a pickle file, {probe.precision}"
    scheme = TITLES.get(probe.quantisation, probe.quantisation)
    if not scheme or probe.quantisation == PLAIN_FP8:
        return probe.precision
    if probe.quantisation == GGUF:
        return f"GGUF {probe.precision}"
    return scheme if probe.precision in scheme.lower() else f"{probe.precision}, {scheme}"


def format_parts(missing: tuple[str, ...]) -> str:
    """Join the titles of parts into a list in words."""
    words = [parts.title_of(each) for each in missing]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def adapter_verdict(name: str, kind: str, probe: Probe) -> Verdict:
    """Verdict on a file in an adapter folder, or an adapter elsewhere."""
    if verdict := calls_verdict(name, probe):
        return verdict
    if probe.kind != kind:
        if probe.kind in PLACES:
            what, expected = describe_kind(probe), KIND_NAMES.get(kind, kind)
            move = message("misplaced", what=what, wanted=expected, folder=PLACES[probe.kind])
            own = kind_verdict(probe.kind, probe)
            return own if own.problem else Verdict(UNSUPPORTED, move)
        if probe.kind in (STRANGER, ATTACHMENT):
            return model_verdict(name, probe)
        if probe.kind in (CHECKPOINT, DENOISER) and probe.architecture:
            title = families.title_of(probe.architecture)
            return Verdict(UNSUPPORTED, message("file_model_elsewhere", title=title, what=KIND_NAMES.get(kind, kind)))
        return Verdict(UNSUPPORTED, message("not_an_adapter", what=KIND_NAMES.get(kind, kind)))
    return kind_verdict(kind, probe)


def kind_verdict(kind: str, probe: Probe) -> Verdict:
    """Verdict on an adapter or part in the folder for its kind."""
    if kind == LORA and probe.lora:
        return lora_verdict(probe.lora, probe.container)
    if kind == VAE:
        return vae_verdict(probe)
    if kind == TEXT_ENCODER:
        return encoder_verdict(probe)
    if kind == CONTROL:
        return control_verdict(probe)
    if kind == IP_ADAPTER:
        return ip_adapter_verdict(probe)
    if kind == VISION:
        return vision_verdict(probe)
    if kind == EMBEDDING and probe.id == "other":
        base = families.title_of(probe.base) or families.get(probe.base).title or probe.base
        return Verdict(RECOGNISED, message("file_embedding_other", base=base))
    return USABLE


def ip_adapter_verdict(probe: Probe) -> Verdict:
    """Verdict on an IP-Adapter: usable are those for UNets that read the output of an image encoder."""
    if probe.id == "faceid":
        return Verdict(RECOGNISED, message("file_face_id"))
    if probe.base and not families.of_architecture(probe.base).ip_adapters:
        return Verdict(RECOGNISED, message("file_not_used", title=describe_attachment(probe)))
    return USABLE


def vision_verdict(probe: Probe) -> Verdict:
    if not probe.widths:
        return Verdict(RECOGNISED, message("file_not_used", title=probe.title))
    if probe.container == GGUF:
        return Verdict(RECOGNISED, message("file_as_container", title=probe.title, container=container_title(probe)))
    return USABLE


def control_verdict(probe: Probe) -> Verdict:
    """Verdict on a ControlNet or T2I-Adapter."""
    if probe.base not in CONTROL_ARCHITECTURES.get(probe.naming, ()):
        return Verdict(RECOGNISED, message("file_not_used", title=describe_attachment(probe)))
    if probe.container == GGUF:
        return Verdict(
            RECOGNISED, message("file_as_container", title=describe_attachment(probe), container=container_title(probe))
        )
    return container_verdict(probe.container, (probe.quantisation,), describe_attachment(probe)) or USABLE


def encoder_verdict(probe: Probe) -> Verdict:
    """Verdict on a text encoder: it is usable if a supported family needs it."""
    title = f"{probe.title} ({describe_contents(probe)})"
    if probe.id == "language_model":
        return Verdict(UNSUPPORTED, message("file_language_model"))
    if probe.id not in NEEDED:
        return Verdict(RECOGNISED, message("file_encoder", title=title))
    return container_verdict(probe.container, (probe.quantisation,), probe.title) or USABLE


#: Parts, such as text encoders and VAEs, of supported models.
NEEDED = frozenset(
    part
    for family in families.FAMILIES.values()
    for each in family.architectures.values()
    if not each.problem and not family.problem
    for part in each.parts
)


def vae_verdict(probe: Probe) -> Verdict:
    naming = REPLACING.get(probe.id)
    if probe.draws_previews and probe.naming != naming:
        return Verdict(RECOGNISED, message("file_tiny_decoder", base=parts.title_of(probe.base)))
    if probe.id == parts.TINY and (probe.naming != naming or probe.base in ("", "vae_flux2")):
        return Verdict(RECOGNISED, message("file_tiny_vae", title=probe.title))
    if naming is None or naming not in ("", probe.naming):
        if probe.id in NEEDED:
            return Verdict(RECOGNISED, message("file_vae_part", title=probe.title))
        return Verdict(RECOGNISED, message("file_vae_other", title=probe.title))
    if probe.container == GGUF:
        return container_verdict(probe.container, (probe.quantisation,), probe.title) or USABLE
    if probe.quantisation not in LOADED_VAE:
        scheme = TITLES.get(probe.quantisation, probe.quantisation)
        return Verdict(RECOGNISED, message("file_vae_scheme", scheme=scheme))
    return USABLE


def lora_verdict(lora: LoraFile, container: str) -> Verdict:
    base, method = lora.title, METHOD_TITLES[lora.method]
    kind = message("file_lora_for", method=method, base=base) if base else method
    if lora.makes and lora.makes != PICTURE:
        others = {
            "video": message("file_lora_video", kind=kind),
            "audio": message("file_lora_audio", kind=kind),
            "text": message("file_lora_text", kind=kind),
        }
        return Verdict(UNSUPPORTED, others[lora.makes])
    if lora.strange:
        return Verdict(UNSUPPORTED, message("file_lora_no_base", kind=kind, name=lora.strange))
    if container == GGUF:
        return Verdict(RECOGNISED, message("file_as_container", title=kind, container="GGUF"))
    if lora.layout == BFL_CONTROL:
        return Verdict(RECOGNISED, message("file_lora_control", kind=kind))
    family = families.of_architecture(lora.base) if lora.base in families.ARCHITECTURES else families.get(lora.base)
    if lora.base and family.problem:
        return Verdict(RECOGNISED, message("file_not_yet_that", title=kind))
    if lora.base and not family.loras:
        return Verdict(RECOGNISED, message("file_lora_family", kind=kind, family=family.title))
    if not lora.applied:
        return Verdict(RECOGNISED, message("file_lora_method", kind=kind))
    if lora.halved:
        return Verdict(RECOGNISED, message("file_lora_halved", kind=kind, name=lora.halved))
    if lora.unknown:
        return Verdict(RECOGNISED, message("file_lora_unknown", kind=kind, name=lora.unknown[0]))
    if lora.bundled:
        return Verdict(RECOGNISED, message("file_lora_bundled", kind=kind))
    if lora.base and family.lora_layouts and lora.layout not in GENERIC | set(family.lora_layouts):
        return Verdict(RECOGNISED, message("file_lora_layout", kind=kind, layout=lora.layout))
    return USABLE
