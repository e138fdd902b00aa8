"""Facts about LoRAs, VAEs, upscalers, textual inversions, ControlNets and text encoders, and which models they fit."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from diffusion_local import families
from diffusion_local.errors import InvalidParams, echo
from diffusion_local.messages import Message, message
from diffusion_local.models import parts, side_files, verdicts
from diffusion_local.models.description import READY
from diffusion_local.models.loras import METHOD_TITLES, LoraFile
from diffusion_local.models.probe import CONTROL, EMBEDDING, IP_ADAPTER, LORA, Contents, Probe

VAE, TEXT_ENCODER = parts.VAE, parts.TEXT_ENCODER
MOST_WORDS = 24
MOST_TEXT = 2000
#: Architecture or family that a VAE fits, by its id.
OF_VAE = {
    "vae_sd1": "sd1", "vae_sdxl": "sdxl", "vae_flux": "flux", "vae_sd3": "sd3", "vae_flux2": "flux2", "vae_dc": "sana",
    "vae_wan21": "qwen_image", "vae_hunyuan_image": "hunyuan_image", "consistency_decoder": "sd1",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter file.

    ``architecture``: the architecture or family that it fits, "" if it fits all models or is unknown; ``part``: id of
    a VAE or text encoder; ``words``: a LoRA's trigger words from its training metadata, most frequent first;
    ``method``, ``layout``, ``alike``: those of a LoRA; ``widths``, ``modes``, ``reads_mask``: as in ``Probe``;
    ``draws_previews``: a small VAE whose decoder can, whether or not it is ready to be chosen as a VAE. The ``problem``
    of a ready LoRA names a layer that is not applied.
    """

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
    precision: str = ""
    part: str = ""
    method: str = ""
    layout: str = ""
    alike: tuple[str, ...] = ()
    widths: tuple[int, ...] = ()
    modes: int = 0
    reads_mask: bool = False
    draws_previews: bool = False

    @property
    def ready(self) -> bool:
        return self.state == READY


def describe(path: Path, kind: str, contents: Contents) -> Adapter:
    probe, metadata = contents.probe.as_kind(kind), contents.metadata
    verdict = verdicts.adapter_verdict(path.name, kind, probe)
    note = lora_note(probe.lora) if probe.lora and probe.kind == kind else None
    same, notes = probe.kind == kind, side_files.read(path)
    vae = (probe.base or probe.id) if kind == VAE and same else ""
    return Adapter(
        name=path.stem,
        kind=kind,
        path=path,
        architecture=base_architecture(kind, probe, vae) if same else "",
        title=(metadata.get("modelspec.title") or notes.title or metadata.get("ss_output_name") or "")[:100],
        about=(metadata.get("modelspec.description") or notes.about)[:MOST_TEXT],
        words=trigger_words(metadata, notes.words) if kind == LORA else (),
        size_bytes=contents.size_bytes,
        state=verdict.state,
        problem=verdict.problem or note or "",
        precision=probe.precision,
        part=vae or (probe.id if same else ""),
        method=probe.lora.method if probe.lora else "",
        layout=probe.lora.layout if probe.lora else "",
        alike=probe.lora.alike if probe.lora else (),
        widths=probe.widths if same else (),
        modes=probe.modes if same else 0,
        reads_mask=same and probe.reads_mask,
        draws_previews=same and probe.draws_previews,
    )


def lora_note(lora: LoraFile) -> Message | None:
    """The message about the layers of a usable LoRA that are not applied; None if all are."""
    if not lora.foreign:
        return None
    kind = message("file_lora_for", method=METHOD_TITLES[lora.method], base=lora.title)
    return message("file_lora_partly", kind=kind, base=lora.title, name=lora.foreign[0])


def base_architecture(kind: str, probe: Probe, vae: str) -> str:
    if kind == LORA and probe.lora:
        return probe.lora.base
    return OF_VAE.get(vae, "") if kind == VAE else probe.base if kind in (EMBEDDING, CONTROL, IP_ADAPTER) else ""


def vae_fits(part: str, architecture: str) -> bool:
    """Whether a VAE decodes an architecture's latents, as far as both are known."""
    own = own_vae(architecture)
    return not part or not own or part in (own, parts.LATENTS.get(own))


def own_vae(architecture: str) -> str:
    """The id of an architecture's VAE, "" if unknown."""
    known = families.ARCHITECTURES.get(architecture)
    return next((each for each in known.parts if each.startswith("vae_")), "") if known else ""


def trigger_words(metadata: Mapping[str, str], noted: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Trigger words: those of side files (``noted``), then of the file's metadata, then training tags by frequency."""
    phrase = metadata.get("modelspec.trigger_phrase") or metadata.get("trigger_words") or ""
    words = [word.strip()[:60] for word in phrase.split(",") if word.strip()]
    counts: dict[str, int] = {}
    try:
        for tags in json.loads(metadata.get("ss_tag_frequency", "{}")).values():
            for tag, count in tags.items():
                counts[str(tag).strip()] = counts.get(str(tag).strip(), 0) + int(count)
    except (ValueError, TypeError, AttributeError, ArithmeticError, RecursionError):
        counts = {}
    frequent = sorted(counts, key=lambda tag: (-counts[tag], tag))
    return tuple(dict.fromkeys([*noted, *words, *(tag[:60] for tag in frequent if tag)]))[:MOST_WORDS]


def check_adapter(field: str, name: str, adapters: list[Adapter], model_architecture: str = "") -> None:
    """Raise InvalidParams if an adapter is missing, unusable, or made for other models."""
    adapter = next((each for each in adapters if each.name == name), None)
    if adapter is None:
        raise InvalidParams(
            field, message("unknown_file", name=echo(name), known=", ".join(e.name for e in adapters) or "-")
        )
    if not adapter.ready:
        raise InvalidParams(field, message("file_problem", name=echo(name), problem=adapter.problem))
    if model_architecture and not adapter_fits(adapter, model_architecture):
        raise InvalidParams(
            field,
            message(
                "file_fits", name=echo(name), made=title_of(adapter.architecture), wanted=title_of(model_architecture)
            ),
        )


def adapter_fits(adapter: Adapter, architecture: str) -> bool:
    if adapter.kind == VAE:
        return vae_fits(adapter.part, architecture)
    bases = (adapter.architecture, *adapter.alike)
    return not adapter.architecture or any(families.fits_architecture(each, architecture) for each in bases)


def title_of(architecture: str) -> str:
    """Display title of an architecture or family."""
    return families.title_of(architecture) or families.get(architecture).title or architecture


def check_embeddings(adapter: Adapter, texts: Mapping[str, str], architecture: str) -> None:
    """Raise InvalidParams for a text that contains the word of a textual inversion made for other models."""
    if not adapter.ready or not adapter.architecture or families.fits_architecture(adapter.architecture, architecture):
        return
    for field, text in texts.items():
        if contains_word(text, PurePosixPath(adapter.name).name):
            raise InvalidParams(
                field,
                message(
                    "file_word_of_other",
                    name=echo(adapter.name),
                    base=title_of(adapter.architecture),
                    model=title_of(architecture),
                ),
            )


def contains_word(text: str, word: str) -> bool:
    """Whether a text contains the word of a textual inversion: as a whole word, in any case."""
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) is not None


def resolve_name(field: str, name: str, names: list[str]) -> str:
    """The full name of the only file with this base name; a full name is returned unchanged.

    Raises InvalidParams if files in several folders match.
    """
    same = [each for each in names if PurePosixPath(each).name == name] if name not in names else []
    if len(same) > 1:
        raise InvalidParams(field, message("file_lora_ambiguous", name=echo(name), names=", ".join(same)))
    return same[0] if same else name
