"""Whether a file can be used, in one sentence: what it is, whether it can be used, and where.

``Verdict`` is a state of ``found`` and the sentence; the sentence is empty where the file is ready. What the engine can
load is said in a few tables here (and in ``loras``), so a new way of loading is a line in one of them.
"""

from typing import NamedTuple

from diffusion_local import families
from diffusion_local.messages import Message, message
from diffusion_local.models import parts
from diffusion_local.models.description import READY, RECOGNISED, UNSUPPORTED
from diffusion_local.models.folders import no_picture
from diffusion_local.models.headers import PICKLE, SAFETENSORS
from diffusion_local.models.lora_layers import BFL_CONTROL
from diffusion_local.models.loras import APPLIED, METHODS, NOT_OURS, LoraFile
from diffusion_local.models.parts import TEXT_ENCODER, VAE, VISION
from diffusion_local.models.probe import (
    ATTACHMENT,
    CHECKPOINT,
    DENOISER,
    EMBEDDING,
    LORA,
    STRANGER,
    UPSCALER,
    Probe,
)
from diffusion_local.models.weights import GGUF, PLAIN_FP8, TITLES

#: Schemes of quantisation that checkpoints in one file are loaded from: what diffusers casts as it loads.
LOADED = frozenset(("", PLAIN_FP8))
#: VAEs that another model's VAE is replaced by, and the naming that each is loaded in (empty: any).
REPLACING = {"vae_sd": "", "vae_16": "", "vae_flux2": "diffusers"}
#: Folders of the home that files of a kind belong into.
PLACES = {
    LORA: "loras",
    VAE: "vae",
    UPSCALER: "upscalers",
    EMBEDDING: "embeddings",
    TEXT_ENCODER: "text_encoders",
}
NAMES = {
    LORA: message("adapter_lora"),
    VAE: message("adapter_vae"),
    UPSCALER: message("adapter_upscaler"),
    EMBEDDING: message("adapter_embedding"),
}
#: UNets by the channels that go in beside those of the latents: what such a model does.
CHANNELS = {
    ("sd2", 5): message("file_depth"),
    ("sd2", 7): message("file_x4"),
    ("sd1", 8): message("file_pix2pix", base="SD 1"),
    ("sdxl", 8): message("file_pix2pix", base="SDXL"),
}


class Verdict(NamedTuple):
    state: str
    problem: str = ""


USABLE = Verdict(READY)
UNKNOWN = Verdict(UNSUPPORTED, message("model_unknown"))


def of_calls(name: str, found: Probe) -> Verdict | None:
    """A pickle that would call anything is not opened."""
    if not found.calls:
        return None
    called = ", ".join(found.calls[:3])
    return Verdict(UNSUPPORTED, message("file_calls", name=name, calls=called))


def what(found: Probe) -> str:
    """What a file is, to complete "It is ...": a LoRA, T5-XXL, a text encoder; empty if it is no such thing."""
    if found.kind == TEXT_ENCODER:
        return message("file_text_encoder", title=found.title)
    if found.kind == VAE:
        return parts.title_of(found.base) if found.base else found.title
    return NAMES.get(found.kind, "")


def attached(found: Probe) -> str:
    """What is put onto a model, with the model that it fits."""
    base = families.title_of(found.base)
    return message("file_for", title=found.title, base=base) if base else found.title


def as_model(name: str, found: Probe) -> Verdict:
    """Of a file among the models, without a look at configurations."""
    if verdict := of_calls(name, found):
        return verdict
    if found.kind in PLACES:
        return Verdict(UNSUPPORTED, message("model_is_other", what=what(found), folder=PLACES[found.kind]))
    if found.kind == STRANGER:
        return of_stranger(found)
    if found.kind == ATTACHMENT:
        return Verdict(RECOGNISED, message("file_not_used", title=attached(found)))
    if found.kind == VISION:
        return Verdict(RECOGNISED, message("file_not_used", title=found.title))
    if found.kind not in (CHECKPOINT, DENOISER):
        return UNKNOWN
    return of_unet(found) if found.unet else of_transformer(found)


def of_stranger(found: Probe) -> Verdict:
    if found.base == "picture":
        return Verdict(RECOGNISED, message("file_not_yet_that", title=found.title))
    return Verdict(UNSUPPORTED, no_picture(found.title, found.base))


def of_transformer(found: Probe) -> Verdict:
    """None is loaded from one file yet."""
    architecture = families.ARCHITECTURES[found.architecture]
    title = architecture.title
    titled = f"{title} ({described(found)})"
    if problem := architecture.problem or families.get(found.family).problem:
        return Verdict(RECOGNISED, of_file(problem, titled))
    if not found.missing:
        return Verdict(RECOGNISED, message("file_whole_file", title=titled, again=title))
    return Verdict(RECOGNISED, message("file_parts_missing", title=titled, parts=listed(found.missing), again=title))


def of_file(problem: str, title: str) -> Message:
    """The message about a family that is not run, as one about a file of it."""
    if isinstance(problem, Message) and problem.id == "file_not_yet":
        return message("file_not_yet_that", title=title)
    if isinstance(problem, Message) and problem.id == "file_not_yet_other":
        return message("file_not_yet_other_file", title=title, other=problem.params["other"])
    return message("file_its_family", title=title, problem=problem)


def of_unet(found: Probe) -> Verdict:
    unet, architecture = found.unet, found.architecture
    assert unet is not None
    if not architecture:
        return Verdict(UNSUPPORTED, message("unet_width", width=unet.width))
    family = families.of_architecture(architecture)
    if problem := families.ARCHITECTURES[architecture].problem or family.problem:
        return Verdict(UNSUPPORTED if architecture == "sdxl_refiner" else RECOGNISED, problem)
    if unet.naming == "diffusers":
        return Verdict(UNSUPPORTED, message("model_bare_unet"))
    if (problem := CHANNELS.get((architecture, unet.channels), "")) or unet.channels not in (4, 9):
        return Verdict(UNSUPPORTED, problem or message("unet_channels", channels=unet.channels))
    if architecture in ("sd1", "sd2") and unet.added:
        return Verdict(UNSUPPORTED, message("file_unclip"))
    if found.prediction == "edm":
        return Verdict(RECOGNISED, message("file_edm"))
    if found.missing:
        return Verdict(UNSUPPORTED, message("file_lacks", parts=listed(found.missing, plain=True)))
    return loadable(found)


def loadable(found: Probe) -> Verdict:
    """Whether the engine can load a whole checkpoint of a UNet as it comes."""
    title = families.title_of(found.architecture)
    if found.container != SAFETENSORS:
        return Verdict(RECOGNISED, message("file_as_container", title=title, container=container(found)))
    schemes = [each.quantisation for each in found.held if each.quantisation not in LOADED]
    if schemes:
        return Verdict(RECOGNISED, message("file_quantised", title=title, scheme=TITLES.get(schemes[0], schemes[0])))
    if found.old_names:
        return Verdict(RECOGNISED, message("file_old_names", title=title))
    return USABLE


def container(found: Probe) -> str:
    return "a pickle file" if found.container == PICKLE else f"GGUF ({found.precision})"


def described(found: Probe) -> str:
    """The precision with the scheme where that says more: bf16; fp8_e4m3, scaled fp8; GGUF Q8_0."""
    if found.container == PICKLE:
        return f"a pickle file, {found.precision}"
    scheme = TITLES.get(found.quantisation, found.quantisation)
    if not scheme or found.quantisation == PLAIN_FP8:
        return found.precision
    if found.quantisation == GGUF:
        return f"GGUF {found.precision}"
    return scheme if found.precision in scheme.lower() else f"{found.precision}, {scheme}"


def listed(missing: tuple[str, ...], plain: bool = False) -> str:
    """Parts in words: by name, or only as VAE and text encoders."""
    encoders = [each for each in missing if not each.startswith("vae_")]
    vae = [each for each in missing if each.startswith("vae_")]
    if plain:
        words = ["VAE"] if vae else []
        words += ["text encoder" if len(encoders) == 1 else "text encoders"] if encoders else []
        return " and the ".join(words)
    words = [*(parts.title_of(each) for each in encoders), *(["the VAE"] if vae else [])]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def as_adapter(name: str, kind: str, found: Probe) -> Verdict:
    """Of a file in the folder of a kind of adapters, or of such a kind elsewhere."""
    if verdict := of_calls(name, found):
        return verdict
    if found.kind != kind:
        if found.kind in PLACES:
            return Verdict(
                UNSUPPORTED,
                message("misplaced", what=what(found), wanted=NAMES.get(kind, kind), folder=PLACES[found.kind]),
            )
        if found.kind in (STRANGER, ATTACHMENT, VISION):
            return as_model(name, found)
        if found.kind in (CHECKPOINT, DENOISER) and found.architecture:
            title = families.title_of(found.architecture)
            return Verdict(UNSUPPORTED, message("file_model_elsewhere", title=title, what=NAMES.get(kind, kind)))
        return Verdict(UNSUPPORTED, message("not_an_adapter", what=NAMES.get(kind, kind)))
    if kind == LORA and found.lora:
        return of_lora(found.lora, found.container)
    if kind == VAE:
        return of_vae(found)
    if kind == TEXT_ENCODER:
        return Verdict(RECOGNISED, message("file_encoder", title=f"{found.title} ({described(found)})"))
    if kind == EMBEDDING and found.container != SAFETENSORS:
        return Verdict(RECOGNISED, message("file_embedding_pickle"))
    return USABLE


def of_vae(found: Probe) -> Verdict:
    naming = REPLACING.get(found.id)
    if naming is None or naming not in ("", found.naming):
        return Verdict(RECOGNISED, message("file_vae_other", title=found.title))
    if found.container != SAFETENSORS:
        return Verdict(RECOGNISED, message("file_as_container", title="VAE", container=container(found)))
    if found.quantisation not in LOADED:
        scheme = TITLES.get(found.quantisation, found.quantisation)
        return Verdict(RECOGNISED, message("file_vae_scheme", scheme=scheme))
    return USABLE


def of_lora(found: LoraFile, container: str) -> Verdict:
    base, method = found.title, METHODS[found.method]
    kind = message("file_lora_for", method=method, base=base) if base else method
    if found.base in NOT_OURS:
        return Verdict(UNSUPPORTED, message("file_lora_video", kind=kind))
    if container != SAFETENSORS:
        return Verdict(RECOGNISED, message("file_lora_pickle", kind=kind))
    if found.layout == BFL_CONTROL:
        return Verdict(RECOGNISED, message("file_lora_control", kind=kind))
    family = families.of_architecture(found.base) if found.base in families.ARCHITECTURES else families.get(found.base)
    if found.base and family.problem:
        return Verdict(RECOGNISED, message("file_not_yet_that", title=kind))
    if found.method not in APPLIED:
        return Verdict(RECOGNISED, message("file_lora_method", kind=kind))
    if found.unknown:
        return Verdict(RECOGNISED, message("file_lora_unknown", kind=kind, name=found.unknown[0]))
    if found.bundled:
        return Verdict(RECOGNISED, message("file_lora_bundled", kind=kind))
    if found.base and family.lora_layouts and found.layout not in family.lora_layouts:
        return Verdict(RECOGNISED, message("file_lora_layout", kind=kind, layout=found.layout))
    return USABLE
