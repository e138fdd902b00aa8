"""Loads ControlNets and T2I-Adapters from diffusers folders and single files, with diffusers' or LDM's tensor names.

For a file without a configuration, shapes are inferred from its tensors and the denoiser's configuration.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import accelerate
import diffusers
import torch
from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint

from diffusion_local.engine import tensors
from diffusion_local.engine.hooked import UnmatchedLayer

Weights = dict[str, torch.Tensor]
#: Channels of a control picture in pixels.
PICTURE_CHANNELS = 3
#: diffusers' ControlNet classes by the class of the denoiser.
CLASSES: dict[str, tuple[str, ...]] = {
    "UNet2DConditionModel": ("ControlNetModel", "ControlNetUnionModel", "T2IAdapter"),
    "FluxTransformer2DModel": ("FluxControlNetModel",),
    "SD3Transformer2DModel": ("SD3ControlNetModel",),
    "QwenImageTransformer2DModel": ("QwenImageControlNetModel",),
    "ZImageTransformer2DModel": ("ZImageControlNetModel",),
}


def load(path: Path, denoiser: Any, dtype: torch.dtype) -> torch.nn.Module:
    """Load a network from a file, on the CPU. Raises UnmatchedLayer if it was made for another kind of model."""
    weights = tensors.dequantise(read(path), dtype, path.name)
    config = config_beside(path)
    known = CLASSES.get(type(denoiser).__name__, ())
    name = str(config.pop("_class_name", "")) or class_name_for(weights, denoiser)
    if name not in known:
        raise UnmatchedLayer(name or type(denoiser).__name__)
    config = {key: each for key, each in config.items() if not key.startswith("_") and key != "quantization_config"}
    config = config or CONFIGS[name](weights, denoiser.config)
    if name == "ControlNetModel":
        weights = convert_controlnet_checkpoint(weights, config)
    if name == "ZImageControlNetModel" and config["add_control_noise_refiner"] == "control_layers":
        weights = {key: each for key, each in weights.items() if not key.startswith("control_noise_refiner.")}
    with accelerate.init_empty_weights(include_buffers=False):
        net = getattr(diffusers, name).from_config(config)
    check_shapes(net, denoiser)
    net.load_state_dict({key: each.to(dtype) for key, each in weights.items()}, assign=True)
    if name == "ZImageControlNetModel":
        net = net.from_transformer(net, denoiser)
    if name == "SD3ControlNetModel" and not net.config.use_pos_embed:
        net.pos_embed = net._get_pos_embed_from_transformer(denoiser)
    steering: torch.nn.Module = net.to(dtype).eval().requires_grad_(False)
    return steering


def read(path: Path) -> Weights:
    """Tensors of a file, by name. Raises ModelUnavailable."""
    return tensors.read_finite(path)


def config_beside(path: Path) -> dict[str, Any]:
    """The configuration of the diffusers folder that contains a file; empty if there is none."""
    try:
        found = json.loads((path.parent / "config.json").read_text(encoding="utf-8"))
        return found if isinstance(found, dict) and "_class_name" in found else {}
    except (OSError, ValueError, RecursionError):
        return {}


def class_name_for(weights: Weights, denoiser: Any) -> str:
    """The class name for a file without a configuration; empty if the denoiser has no ControlNets."""
    if not isinstance(denoiser, diffusers.UNet2DConditionModel):
        return next(iter(CLASSES.get(type(denoiser).__name__, ())), "")
    if any(name.startswith("adapter.") for name in weights):
        return "T2IAdapter"
    return "ControlNetUnionModel" if "task_embedding" in weights else "ControlNetModel"


def mask_channels(net: Any) -> int:
    """Channels of the control picture that hold a mask, in networks for inpainting with SD3 and Qwen-Image."""
    config = net.config
    return config.get("extra_conditioning_channels") or config.get("extra_condition_channels") or 0


def check_shapes(net: Any, denoiser: Any) -> None:
    """Raise UnmatchedLayer unless a network's residuals have the shapes of the denoiser's hidden states."""
    own, its = denoiser.config, net.config
    if its.get("conditioning_channels", PICTURE_CHANNELS) != PICTURE_CHANNELS:
        raise UnmatchedLayer("conditioning_channels")
    if isinstance(net, diffusers.T2IAdapter):
        fits = list(its.channels)[: len(own.block_out_channels)] == list(own.block_out_channels)
    elif isinstance(denoiser, diffusers.UNet2DConditionModel):
        attends = any("CrossAttn" in block for block in its.down_block_types)
        fits = list(its.block_out_channels) == list(own.block_out_channels) and (
            not attends or its.cross_attention_dim == own.cross_attention_dim
        )
    elif "dim" in its:
        fits = its.dim == own.dim
    else:
        fits = its.num_attention_heads * its.attention_head_dim == own.num_attention_heads * own.attention_head_dim
    if not fits:
        raise UnmatchedLayer("shape")


# -- configurations of single files ------------------------------------------------------------------------------------


def of_unet(weights: Weights, unet: Any) -> dict[str, Any]:
    """The configuration of a ControlNet, which is built like the first half of its UNet."""
    names = ("in_channels", "flip_sin_to_cos", "freq_shift", "down_block_types", "only_cross_attention",
        "block_out_channels", "layers_per_block", "downsample_padding", "mid_block_scale_factor", "act_fn",
        "norm_num_groups", "norm_eps", "cross_attention_dim", "transformer_layers_per_block", "encoder_hid_dim",
        "encoder_hid_dim_type", "attention_head_dim", "num_attention_heads", "use_linear_projection",
        "class_embed_type", "addition_embed_type", "addition_time_embed_dim", "num_class_embeds", "upcast_attention",
        "resnet_time_scale_shift", "projection_class_embeddings_input_dim")  # fmt: skip
    config = {name: unet[name] for name in names if name in unet} | {"in_channels": 4}
    if channels := embedding_channels(weights):
        config["conditioning_embedding_out_channels"] = channels
    return config


def of_union(weights: Weights, unet: Any) -> dict[str, Any]:
    """The configuration of a union ControlNet for a UNet."""
    return of_unet(weights, unet) | {"num_control_type": weights["task_embedding"].shape[0]}


def embedding_channels(weights: Weights) -> tuple[int, ...]:
    """Output channels of the layers that read the control picture; empty if tensors do not have diffusers' names."""
    start = weights.get("controlnet_cond_embedding.conv_in.weight")
    if start is None:
        return ()
    blocks = count(weights, "controlnet_cond_embedding.blocks.")
    each = [weights[f"controlnet_cond_embedding.blocks.{at}.weight"].shape[0] for at in range(1, blocks, 2)]
    return (start.shape[0], *each)


def of_adapter(weights: Weights, unet: Any) -> dict[str, Any]:
    """The configuration of a T2I-Adapter. Those for SDXL downsample by 16 instead of 8 at their entrance."""
    xl = unet["addition_embed_type"] == "text_time"
    factor = 16 if xl else 8
    levels = count(weights, "adapter.body.")
    entrance = weights["adapter.conv_in.weight"]
    return {
        "adapter_type": "full_adapter_xl" if xl else "full_adapter",
        "in_channels": entrance.shape[1] // factor**2,
        "channels": [weights[f"adapter.body.{at}.resnets.0.block1.weight"].shape[0] for at in range(levels)],
        "num_res_blocks": count(weights, "adapter.body.0.resnets."),
        "downscale_factor": factor,
    }


def of_flux(weights: Weights, transformer: Any) -> dict[str, Any]:
    """The configuration of a FLUX ControlNet."""
    config = {name: transformer[name] for name in ("patch_size", "attention_head_dim", "axes_dims_rope")}
    modes, hint = weights.get("controlnet_mode_embedder.weight"), weights.get("input_hint_block.conv_out.weight")
    width, entrance = weights["x_embedder.weight"].shape
    return config | {
        "in_channels": entrance,
        "num_layers": count(weights, "transformer_blocks."),
        "num_single_layers": count(weights, "single_transformer_blocks."),
        "num_attention_heads": width // transformer["attention_head_dim"],
        "joint_attention_dim": weights["context_embedder.weight"].shape[1],
        "pooled_projection_dim": weights["time_text_embed.text_embedder.linear_1.weight"].shape[1],
        "guidance_embeds": "time_text_embed.guidance_embedder.linear_1.weight" in weights,
        "num_mode": None if modes is None else modes.shape[0],
        "conditioning_embedding_channels": None if hint is None else hint.shape[0],
    }


def of_sd3(weights: Weights, transformer: Any) -> dict[str, Any]:
    """The configuration of an SD3 ControlNet.

    Networks with their own position embedding, such as the earliest ones, were trained with an empty pooled prompt.
    """
    names = ("sample_size", "patch_size", "in_channels", "attention_head_dim", "num_attention_heads",
        "joint_attention_dim", "caption_projection_dim", "pooled_projection_dim", "out_channels", "pos_embed_max_size",
        "qk_norm")  # fmt: skip
    whole = "pos_embed.proj.weight" in weights
    layers = count(weights, "transformer_blocks.")
    dual = tuple(at for at in range(layers) if f"transformer_blocks.{at}.attn2.to_q.weight" in weights)
    config = {name: transformer[name] for name in names} | {
        "num_layers": layers,
        "dual_attention_layers": dual,
        "extra_conditioning_channels": weights["pos_embed_input.proj.weight"].shape[1] - transformer["in_channels"],
        "use_pos_embed": whole,
        "force_zeros_for_pooled_projection": whole,
    }
    if "context_embedder.weight" not in weights:
        config["joint_attention_dim"] = None
    if "transformer_blocks.0.attn.norm_q.weight" not in weights:
        config["qk_norm"] = None
    return config


def of_qwen(weights: Weights, transformer: Any) -> dict[str, Any]:
    """The configuration of a Qwen-Image ControlNet."""
    names = ("patch_size", "in_channels", "out_channels", "attention_head_dim", "num_attention_heads",
        "joint_attention_dim", "axes_dims_rope")  # fmt: skip
    entrance = weights["controlnet_x_embedder.weight"].shape[1]
    return {name: transformer[name] for name in names} | {
        "num_layers": count(weights, "transformer_blocks."),
        "extra_condition_channels": entrance - transformer["in_channels"],
    }


def of_z_image(weights: Weights, transformer: Any) -> dict[str, Any]:
    """The configuration of a Z-Image ControlNet.

    There are three generations: without a noise refiner, with one made of the control layers, and with a separate one.
    """
    names = ("all_patch_size", "all_f_patch_size", "dim", "n_refiner_layers", "n_heads", "n_kv_heads", "norm_eps",
        "qk_norm")  # fmt: skip
    layers = count(weights, "control_layers.")
    before = weights.get("control_noise_refiner.0.before_proj.weight")
    refiner = None if before is None else "control_noise_refiner" if before.any() else "control_layers"
    patch = transformer["all_patch_size"][0]
    entrance = weights[f"control_all_x_embedder.{patch}-{transformer['all_f_patch_size'][0]}.weight"]
    return {name: transformer[name] for name in names} | {
        "control_layers_places": [at * transformer["n_layers"] // layers for at in range(layers)],
        "control_refiner_layers_places": list(range(transformer["n_refiner_layers"])) if refiner else [],
        "control_in_dim": entrance.shape[1] // patch**2,
        "add_control_noise_refiner": refiner,
    }


def count(weights: Weights, start: str) -> int:
    """Number of distinct modules directly below a prefix."""
    return len({name.removeprefix(start).partition(".")[0] for name in weights if name.startswith(start)})


CONFIGS: Mapping[str, Callable[[Weights, Any], dict[str, Any]]] = {
    "ControlNetModel": of_unet,
    "ControlNetUnionModel": of_union,
    "T2IAdapter": of_adapter,
    "FluxControlNetModel": of_flux,
    "SD3ControlNetModel": of_sd3,
    "QwenImageControlNetModel": of_qwen,
    "ZImageControlNetModel": of_z_image,
}
