"""Assembles models from a denoiser's file and those of its text encoders and VAE, and describes single-file models.

Programs store these parts in separate files (``diffusion_models``, ``text_encoders``, ``vae``), or several in one file.
``families`` list the parts that a denoiser needs; parts missing from its own file are searched for in all files.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from diffusion_local import families
from diffusion_local.families.sdxl import depths
from diffusion_local.messages import message
from diffusion_local.models import parts, side_files, tokenizers, verdicts
from diffusion_local.models.description import FOLDER_LAYOUT as PARTS_FOLDER
from diffusion_local.models.description import READY, ModelFacts, Source, incomplete
from diffusion_local.models.distilled import distillation_of
from diffusion_local.models.folders import INPAINT_CHANNELS, read_config, read_json_object, weight_files
from diffusion_local.models.probe import CHECKPOINT, DENOISER, PIX2PIX_CHANNELS, Contents, HeldPart, Probe, Unet
from diffusion_local.options.option import DENOISED
from diffusion_local.options.types import Kind

#: Where a part is stored, in order of preference: in its own file, in a diffusers folder, or together with other parts.
ALONE, FOLDER, TOGETHER = range(3)
STAMPED_FIELDS = ("path", "prefix", "naming", "container", "precision", "quantisation", "count", "size")
#: Prediction types of UNets that the engine supports.
PREDICTIONS = ("epsilon", "v_prediction")


@dataclass(slots=True)
class Pool:
    """Available parts of models: files by part id, and tokenizer folders by kind."""

    sources: dict[str, list[tuple[int, Source]]] = field(default_factory=dict)
    tokenizers: dict[str, list[Path]] = field(default_factory=dict)

    def add_file(self, path: Path, probe: Probe) -> None:
        """Add the loadable parts of a file. Denoisers are skipped, because models are assembled around them."""
        probe = probe.as_kind(parts.TEXT_ENCODER)
        if probe.calls or probe.id == parts.TINY:
            return
        if probe.kind in (parts.TEXT_ENCODER, parts.VAE):
            held = probe.held[0] if probe.held else HeldPart(probe.id, "", probe.precision, probe.quantisation)
            self._add(ALONE, source_of(path, probe, held, probe.base or held.id))
            if tokenizers.has_vocabulary(path.parent) and probe.id in parts.PARTS_BY_ID:
                self.tokenizers.setdefault(parts.PARTS_BY_ID[probe.id].tokenizer, []).append(path.parent)
        elif probe.kind == CHECKPOINT and probe.architecture:
            own = families.ARCHITECTURES[probe.architecture].parts
            for held in probe.held:
                exact = next((each for each in own if parts.LATENTS.get(each) == held.id), held.id)
                if held.id != DENOISER:
                    self._add(TOGETHER, source_of(path, probe, held, exact))

    def add_folder(self, folder: Path, facts: ModelFacts) -> None:
        """Add the parts of a diffusers folder."""
        known = families.ARCHITECTURES.get(facts.architecture)
        if known is None or facts.state != READY:
            return
        for slot, part in slots(known.parts):
            if files := weight_files(folder / slot):
                count = sum(file.stat().st_size for file in files) // 2  # about right: most are in half precision
                source = Source(slot, part, folder / slot, "", "", PARTS_FOLDER, facts.precision, "", count)
                self._add(FOLDER, source)

    def add_tokenizers(self, folder: Path) -> None:
        """Add the tokenizers of a configuration folder."""
        known = families.ARCHITECTURES.get(architecture_of(folder))
        for slot, part in slots(known.parts) if known else ():
            place = folder / slot.replace("text_encoder", "tokenizer")
            if part in parts.PARTS_BY_ID and tokenizers.has_vocabulary(place):
                self.tokenizers.setdefault(parts.PARTS_BY_ID[part].tokenizer, []).append(place)

    def _add(self, place: int, source: Source) -> None:
        if verdicts.container_verdict(source.container, (source.quantisation,), "") is None:
            self.sources.setdefault(source.part, []).append((place, source))

    def best(self, part: str, slot: str) -> Source | None:
        """The best source of a part, or None. A VAE with a shared id (``parts.LATENTS``) fits all its models."""
        for name in (part, parts.LATENTS.get(part)):
            among = sorted(self.sources.get(name or "", ()), key=lambda each: (each[0], each[1].rank))
            if among:
                source = among[0][1]
                return Source(slot, part, *(getattr(source, each) for each in STAMPED_FIELDS))
        return None


def source_of(path: Path, probe: Probe, held: HeldPart, part: str, slot: str = "") -> Source:
    come = (held.precision, held.quantisation, held.count, held.size)
    return Source(slot, part, path, held.prefix, probe.naming, probe.container, *come)


def slots(parts: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(name in a diffusers folder, id) of each part."""
    number = 0
    for part in parts:
        if part.startswith("vae"):
            yield "vae", part
        else:
            number += 1
            yield "text_encoder" if number == 1 else f"text_encoder_{number}", part


@dataclass(frozen=True, slots=True)
class Assembly:
    """The parts found for a denoiser.

    ``missing``: ids of parts that no file has; ``wordless``: ids of parts without a tokenizer; ``tokenizers``: folders
    by their names in a diffusers folder.
    """

    sources: tuple[Source, ...]
    tokenizers: dict[str, Path]
    missing: tuple[str, ...]
    wordless: tuple[str, ...]


def assemble(path: Path, probe: Probe, pool: Pool) -> Assembly:
    architecture = families.ARCHITECTURES[probe.architecture]
    denoiser = probe.denoiser or HeldPart(DENOISER, "", probe.precision, probe.quantisation)
    sources = [source_of(path, probe, denoiser, DENOISER, "unet" if probe.unet else "transformer")]
    words: dict[str, Path] = {}
    missing, wordless = [], []
    for slot, part in slots(architecture.parts):
        own = part_in_file(path, probe, slot, part)
        source = own or pool.best(part, slot)
        if source is None:
            missing.append(part)
        else:
            sources.append(source)
        kind = parts.PARTS_BY_ID[part].tokenizer if part in parts.PARTS_BY_ID else ""
        if not slot.startswith("text_encoder") or tokenizers.is_bundled(kind):
            continue
        place = tokenizers.find_tokenizer(pool.tokenizers.get(kind, ()))
        if place is None:
            wordless.append(part)
        else:
            words[slot.replace("text_encoder", "tokenizer")] = place
    return Assembly(tuple(sources), words, tuple(missing), tuple(wordless))


def part_in_file(path: Path, probe: Probe, slot: str, part: str) -> Source | None:
    """A part stored in the denoiser's own file, or None."""
    for held in probe.held:
        if held.id in (part, parts.LATENTS.get(part)):
            return source_of(path, probe, held, part, slot)
    return None


def find_config(path: Path, probe: Probe, configs: Iterable[Path]) -> tuple[Path, dict[str, dict[str, Any]]] | None:
    """(configuration folder for a transformer, entries that differ from it by configuration file), or None.

    Preferably a folder with the file's sizes, otherwise the first of its architecture, with the sizes as differences.
    """
    known = families.ARCHITECTURES[probe.architecture]
    among = [folder for folder in configs if architecture_of(folder) in (probe.architecture, known.like or None)]
    among.sort(key=lambda folder: architecture_of(folder) != probe.architecture)
    differing = [
        {key: value for key, value in probe.sizes if config.get(key, value) != value}
        for config in (read_config(folder / "transformer") for folder in among)
    ]
    if not among:
        return None
    best = next((at for at, sizes in enumerate(differing) if not sizes), 0)
    changes: dict[str, dict[str, Any]] = {"transformer/config.json": differing[best]} if differing[best] else {}
    family = families.of_architecture(probe.architecture)
    if architecture_of(among[best]) != probe.architecture:
        named = (pipeline for pipeline, variant in family.variants.items() if variant == probe.architecture)
        changes["model_index.json"] = {"_class_name": next(named)}
    undistilled = family.undistilled
    if undistilled and distillation_of(path.name) == "base":
        changes["model_index.json"] = changes.get("model_index.json", {}) | dict(undistilled)
    return among[best], changes


def architecture_of(folder: Path) -> str:
    """The architecture of a configuration folder, "" if unknown."""
    try:
        return _architecture_of(folder, (folder / "model_index.json").stat().st_mtime_ns)
    except OSError:
        return ""


@lru_cache(maxsize=512)
def _architecture_of(folder: Path, changed: int) -> str:
    try:
        name = json.loads((folder / "model_index.json").read_text(encoding="utf-8")).get("_class_name", "")
    except (OSError, ValueError, AttributeError, RecursionError):
        return ""
    family, _ = families.of_pipeline(name if isinstance(name, str) else "")
    return "" if family is families.UNKNOWN else family.architecture_of(lambda part: read_config(folder / part), name)


#: Kinds of work for UNets whose additional input channels carry a picture, by number of channels.
UNET_KINDS: dict[int, tuple[Kind, ...]] = {INPAINT_CHANNELS: (Kind.INPAINT,), PIX2PIX_CHANNELS: (Kind.TXT2IMG,)}


def describe(
    path: Path, contents: Contents, configs: tuple[Path, ...], pool: Pool, own_folder: Path | None = None
) -> ModelFacts:
    """The catalogue facts of a file. ``own_folder``: the user's configuration folder, which may contain ``configs``."""
    probe, metadata = contents.probe, contents.metadata
    known: dict[str, Any] = {
        "size_bytes": contents.size_bytes,
        "memory_bytes": contents.memory_bytes,
        "title": metadata.get("modelspec.title", "")[:100],
        "licence": metadata.get("modelspec.license", "")[:100],
        "probe": probe,
        "precision": verdicts.describe_contents(probe) if probe.kind in (CHECKPOINT, DENOISER) else probe.precision,
    }
    if probe.kind in (CHECKPOINT, DENOISER) and probe.architecture:
        known |= {"family": probe.family, "architecture": probe.architecture}
    unet = probe.unet
    variant = families.ARCHITECTURES.get(probe.architecture)
    kinds = UNET_KINDS.get(unet.channels, DENOISED) if unet else variant.kinds if variant else DENOISED
    state, problem = verdicts.model_verdict(path.name, probe)
    if state != READY:
        return ModelFacts(state=state, problem=problem, kinds=kinds, **known)
    put = assemble(path, probe, pool)
    state, problem = verdicts.parts_verdict(probe, put.missing, put.wordless)
    if state != READY:
        return ModelFacts(state=state, problem=problem, kinds=kinds, **known)
    fitting = config_for_unet(unet, configs) if unet else find_config(path, probe, configs)
    if fitting is None:
        return incomplete(
            message("no_configuration", title=families.title_of(probe.architecture)),
            kinds=kinds,
            **known,
        )
    config, changes = fitting
    changes = changes | edm_changes(probe)
    known |= {
        "config": config,
        "changes": changes,
        "scheduler": scheduler_of(probe, own_prediction(path, config, own_folder)),
    }
    known["memory_bytes"] += sum(each.count * 2 for each in put.sources if each.path != path)
    return ModelFacts(kinds=kinds, sources=put.sources, tokenizers=put.tokenizers, **known)


def config_for_unet(unet: Unet, configs: tuple[Path, ...]) -> tuple[Path, dict[str, dict[str, Any]]] | None:
    """The first configuration folder whose UNet has these sizes, with the entries that differ."""
    config = next((folder for folder in configs if config_fits(folder, unet)), None)
    entries = {"in_channels": unet.channels} if unet.channels in UNET_KINDS else {}
    entries |= {"time_cond_proj_dim": unet.guided} if unet.guided else {}
    return (config, {"unet/config.json": entries} if entries else {}) if config else None


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def config_fits(folder: Path, unet: Unet) -> bool:
    """Whether a configuration's UNet has these sizes and blocks, regardless of additional mask channels."""
    config = read_config(folder / "unet")
    channels = config.get("block_out_channels")
    same = isinstance(channels, list) and channels[:1] == [unet.first]
    same = same and config.get("cross_attention_dim") == unet.width
    same = same and (not unet.added or config.get("projection_class_embeddings_input_dim") == unet.added)
    return same and (not unet.depths or depths(config) == unet.depths)


#: Noise levels of models trained with EDM's preconditioning, as entries of a diffusers scheduler configuration: of
#: CosXL as diffusers documents them, of Playground 2.5 as its loader sets them.
EDM_LEVELS: dict[str, dict[str, Any]] = {
    "cosxl": {"sigma_min": 0.002, "sigma_max": 120.0, "sigma_data": 1.0, "prediction_type": "v_prediction",
              "sigma_schedule": "exponential"},
    "cosxl_edit": {"sigma_min": 0.002, "sigma_max": 120.0, "sigma_data": 1.0, "prediction_type": "v_prediction",
                   "sigma_schedule": "exponential"},
    "playground25": {"sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5, "prediction_type": "epsilon",
                     "sigma_schedule": "karras"},
}  # fmt: skip
EDM_SCHEDULER = "EDMEulerScheduler"
#: Factor of the latents of a VAE whose means and deviations a checkpoint states.
STATED_SCALE = 0.5


def edm_changes(probe: Probe) -> dict[str, dict[str, Any]]:
    """Changes to the configuration of a checkpoint that was trained with EDM's noise levels."""
    if probe.architecture not in EDM_LEVELS:
        return {}
    changes: dict[str, dict[str, Any]] = {"model_index.json": {"scheduler": ["diffusers", EDM_SCHEDULER]}}
    if probe.latents and all(probe.latents):
        mean, std = (list(each) for each in probe.latents)
        changes["vae/config.json"] = {"latents_mean": mean, "latents_std": std, "scaling_factor": STATED_SCALE}
    return changes


def own_prediction(path: Path, config: Path, own_folder: Path | None) -> str:
    """The prediction type that the user states; "" if none.

    It is stated in a YAML file beside the checkpoint, as for A1111, or else in the user's own configuration folder.
    """
    if stated := side_files.prediction(path):
        return stated
    if own_folder is None or not config.is_relative_to(own_folder):
        return ""
    try:
        stated = read_json_object(config / "scheduler/scheduler_config.json").get("prediction_type", "")
    except (OSError, ValueError):
        return ""
    return stated if stated in PREDICTIONS else ""


def scheduler_of(probe: Probe, own: str = "") -> dict[str, Any]:
    """The checkpoint's training settings, as entries of a diffusers scheduler configuration.

    Marks in the file take precedence over the user's configuration (``own``), because most configurations only repeat
    the default. ``own`` takes precedence over a guess.
    """
    if levels := EDM_LEVELS.get(probe.architecture):
        return levels | {"_class_name": EDM_SCHEDULER}
    prediction = own or probe.prediction if probe.prediction_guessed else probe.prediction
    if not prediction:
        return {}
    config: dict[str, Any] = {"prediction_type": prediction}
    if prediction == "v_prediction" and probe.zero_snr:
        # Such a model was also trained on pure noise, with which only trailing timesteps start.
        config |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return config
