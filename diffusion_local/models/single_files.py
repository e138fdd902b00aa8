"""A model in one file, as an entry of the catalogue."""

from pathlib import Path
from typing import Any

from diffusion_local import families
from diffusion_local.families.sdxl import depths
from diffusion_local.messages import message
from diffusion_local.models import side_files, verdicts
from diffusion_local.models.assembly import Pool, assemble, find_config
from diffusion_local.models.description import READY, ModelFacts, incomplete
from diffusion_local.models.folders import INPAINT_CHANNELS, read_config, read_json_object
from diffusion_local.models.probe import CHECKPOINT, DENOISER, Contents, Probe
from diffusion_local.models.probe import PICTURE_CHANNELS, Unet
from diffusion_local.options.option import DENOISED
from diffusion_local.options.types import Kind

#: What UNets with further input channels can do, which carry a picture.
UNET_KINDS: dict[int, tuple[Kind, ...]] = {INPAINT_CHANNELS: (Kind.INPAINT,), PICTURE_CHANNELS: (Kind.TXT2IMG,)}

#: Prediction types of UNets that the engine samples.
PREDICTIONS = ("epsilon", "v_prediction")


def describe(
    path: Path, contents: Contents, configs: tuple[Path, ...], pool: Pool, own_folder: Path | None = None
) -> ModelFacts:
    """``own_folder``: the folder of the person's own configurations, which ``configs`` may lie in."""
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
    kinds = UNET_KINDS.get(unet.channels, DENOISED) if unet else DENOISED
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
    known |= {
        "config": config,
        "changes": changes,
        "scheduler": scheduler_of(probe, own_prediction(path, config, own_folder)),
    }
    known["memory_bytes"] += sum(each.count * 2 for each in put.sources if each.path != path)
    return ModelFacts(kinds=kinds, sources=put.sources, tokenizers=put.tokenizers, **known)


def config_for_unet(unet: Unet, configs: tuple[Path, ...]) -> tuple[Path, dict[str, dict[str, Any]]] | None:
    """The first folder of configurations whose UNet has these sizes, with the entries that differ."""
    config = next((folder for folder in configs if config_fits(folder, unet)), None)
    more = {"unet/config.json": {"in_channels": unet.channels}} if unet.channels in UNET_KINDS else {}
    return (config, more) if config else None


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def config_fits(folder: Path, unet: Unet) -> bool:
    """Whether a configuration's UNet has these sizes and blocks; the channels of a mask may come on top."""
    config = read_config(folder / "unet")
    channels = config.get("block_out_channels")
    same = isinstance(channels, list) and channels[:1] == [unet.first]
    same = same and config.get("cross_attention_dim") == unet.width
    return same and (not unet.depths or depths(config) == unet.depths)


def own_prediction(path: Path, config: Path, own_folder: Path | None) -> str:
    """The prediction type that a person gave: in a YAML file beside the checkpoint, as A1111 reads it, else in a
    configuration of their own. Empty if neither states one.
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
    """How the checkpoint was trained, as entries of a diffusers scheduler's configuration.

    Marks in the file decide first, because most configurations merely repeat the default; a person's own
    configuration (``own``) decides before a guess.
    """
    prediction = own or probe.prediction if probe.prediction_guessed else probe.prediction
    if not prediction:
        return {}
    told: dict[str, Any] = {"prediction_type": prediction}
    if prediction == "v_prediction" and probe.zero_snr:
        # Such a model was trained on pure noise too, which only trailing steps begin with.
        told |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return told
