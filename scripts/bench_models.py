"""Models with real architectures and random weights, so speed and memory are those of real ones. No download.

Sizes of SD 1.5 and SDXL come from ``assets/configs``; those of the transformers are the published ones of Stable
Diffusion 3.5 medium and FLUX.1 schnell.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from diffusion_local.models.tokenizers import extract
from diffusion_local.paths import assets

CONFIGS = assets() / "configs"
NAMES = {"sd15": "sd1", "sdxl": "sdxl"}
SD3_TRANSFORMER = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "num_layers": 24,
    "attention_head_dim": 64,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "out_channels": 16,
    "pos_embed_max_size": 384,
    "dual_attention_layers": list(range(13)),
    "qk_norm": "rms_norm",
}
FLUX_TRANSFORMER = {
    "patch_size": 1,
    "in_channels": 64,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": False,
    "axes_dims_rope": [16, 56, 56],
}
SD3_VAE = {
    "latent_channels": 16,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "sample_size": 1024,
    "scaling_factor": 1.5305,
    "shift_factor": 0.0609,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}


def make(name: str, folder: Path, device: str, tiny: bool) -> None:
    """Write SD 1.5 or SDXL to a diffusers folder, in fp16. ``tiny``: same structure with few channels."""
    source = CONFIGS / NAMES[name]
    index = json.loads((source / "model_index.json").read_text())
    torch.manual_seed(0)
    for part, spec in index.items():
        if not isinstance(spec, list):
            continue
        if part == "scheduler":
            shutil.copytree(source / part, folder / part)
        elif part.startswith("tokenizer"):
            shutil.copytree(extract("clip"), folder / part)
        else:
            config = json.loads((source / part / "config.json").read_text())
            model = build(spec[1], shrunk(part, config) if tiny else config, device, torch.float16)
            model.save_pretrained(folder / part, max_shard_size="10GB")
    (folder / "model_index.json").write_text(json.dumps(index))


def sd3(device: str, tiny: bool) -> Any:
    """A Stable Diffusion 3.5 medium pipeline in bf16, without text encoders: prompts are embeddings."""
    small = {"num_layers": 2, "attention_head_dim": 8, "num_attention_heads": 4, "dual_attention_layers": [0]}
    small |= {"joint_attention_dim": 32, "caption_projection_dim": 32, "pooled_projection_dim": 64}
    config = SD3_TRANSFORMER | (small if tiny else {})
    vae = shrunk("vae", SD3_VAE) if tiny else SD3_VAE
    nothing = dict.fromkeys(f"{part}{number}" for part in ("text_encoder", "tokenizer") for number in ("", "_2", "_3"))
    return diffusers.StableDiffusion3Pipeline(
        transformer=build("SD3Transformer2DModel", config, device, torch.bfloat16),
        vae=build("AutoencoderKL", vae, device, torch.bfloat16),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        **nothing,
    )


def flux(device: str, tiny: bool) -> Any:
    """A FLUX.1 schnell pipeline in bf16, without text encoders: prompts are embeddings."""
    small = {"num_layers": 2, "num_single_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2}
    small |= {"joint_attention_dim": 32, "pooled_projection_dim": 32, "axes_dims_rope": [4, 4, 8]}
    config = FLUX_TRANSFORMER | (small if tiny else {})
    vae = (shrunk("vae", SD3_VAE) if tiny else SD3_VAE) | {"scaling_factor": 0.3611, "shift_factor": 0.1159}
    return diffusers.FluxPipeline(
        transformer=build("FluxTransformer2DModel", config, device, torch.bfloat16),
        vae=build("AutoencoderKL", vae, device, torch.bfloat16),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0),
        **dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")),
    )


def build(class_name: str, config: dict[str, Any], device: str, dtype: torch.dtype) -> Any:
    """A part with random weights, generated on the device in seconds instead of minutes."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            if hasattr(diffusers, class_name):
                model = getattr(diffusers, class_name).from_config(config)
            else:
                model = getattr(transformers, class_name)(transformers.CLIPTextConfig(**config))
        return model.to(device, dtype)
    finally:
        torch.set_default_dtype(before)


def shrunk(part: str, config: dict[str, Any]) -> dict[str, Any]:
    """The same structure with few channels, for a run without a GPU."""
    if part.startswith("text_encoder"):
        small = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 3}
        return config | small | {"projection_dim": 32}
    if part == "vae":
        return config | {"block_out_channels": [32] * 4, "layers_per_block": 1}
    deep = len(config["block_out_channels"])
    small = {"block_out_channels": [32, 64, 64, 64][:deep], "layers_per_block": 1}
    if config["cross_attention_dim"] == 768:
        return config | small | {"cross_attention_dim": 32, "attention_head_dim": 4}
    heads = {"attention_head_dim": [2, 4, 4], "transformer_layers_per_block": [1, 1, 2]}
    embeds = {"addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 32 + 6 * 8}
    return config | small | heads | embeds | {"cross_attention_dim": 64}
