"""Models of true architecture with random weights, as diffusers folders: they have the speed and memory of real ones.

Sizes of SD 1.5 and SDXL come from ``assets/configs``; those of the transformers below are the published ones of
FLUX.1-schnell and Stable Diffusion 3.5 medium. No download.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from diffusion_local.settings import assets

CONFIGS = assets() / "configs"
CLIP_L = json.loads((CONFIGS / "sd1/text_encoder/config.json").read_text())
CLIP_G = json.loads((CONFIGS / "sdxl/text_encoder_2/config.json").read_text())
T5_XXL = {
    "model_type": "t5",
    "d_model": 4096,
    "d_ff": 10240,
    "d_kv": 64,
    "num_heads": 64,
    "num_layers": 24,
    "vocab_size": 32128,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "is_encoder_decoder": False,
    "use_cache": False,
}
VAE_16 = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 16,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "norm_num_groups": 32,
    "sample_size": 1024,
    "force_upcast": True,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
FLOW = {"num_train_timesteps": 1000, "shift": 3.0}

#: model id: pipeline class and parts as (library, class, config); ``diffusers`` or ``transformers``.
MODELS: dict[str, tuple[str, dict[str, tuple[str, str, dict[str, Any]]]]] = {
    "flux": (
        "FluxPipeline",
        {
            "transformer": (
                "diffusers",
                "FluxTransformer2DModel",
                {
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
                },
            ),
            "text_encoder": ("transformers", "CLIPTextModel", CLIP_L),
            "text_encoder_2": ("transformers", "T5EncoderModel", T5_XXL),
            "vae": ("diffusers", "AutoencoderKL", VAE_16 | {"scaling_factor": 0.3611, "shift_factor": 0.1159}),
        },
    ),
    "sd3": (
        "StableDiffusion3Pipeline",
        {
            "transformer": (
                "diffusers",
                "SD3Transformer2DModel",
                {
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
                },
            ),
            "text_encoder": ("transformers", "CLIPTextModelWithProjection", CLIP_L),
            "text_encoder_2": ("transformers", "CLIPTextModelWithProjection", CLIP_G),
            "text_encoder_3": ("transformers", "T5EncoderModel", T5_XXL),
            "vae": ("diffusers", "AutoencoderKL", VAE_16 | {"scaling_factor": 1.5305, "shift_factor": 0.0609}),
        },
    ),
}
BUNDLED = {"sd15": "sd1", "sdxl": "sdxl"}


def make(name: str, folder: Path, device: str, tiny: bool) -> None:
    """Write the model to ``folder``, in half precision. ``tiny`` keeps its structure and takes few channels."""
    pipeline, parts = bundled(BUNDLED[name]) if name in BUNDLED else MODELS[name]
    dtype = torch.float16 if name in BUNDLED else torch.bfloat16
    torch.manual_seed(0)
    index: dict[str, Any] = {"_class_name": pipeline}
    for part, (library, class_name, config) in parts.items():
        model = build(class_name, shrunk(part, config, name) if tiny else config, device, dtype)
        model.save_pretrained(folder / part, max_shard_size="10GB")
        index[part] = [library, class_name]
        del model
    for part in parts:
        if part.startswith("text_encoder"):
            tokenizer = part.replace("text_encoder", "tokenizer")
            index[tokenizer] = ["transformers", write_tokenizer(folder / tokenizer, parts[part][1])]
    if name in BUNDLED:
        shutil.copytree(CONFIGS / BUNDLED[name] / "scheduler", folder / "scheduler")
        index["scheduler"] = ["diffusers", "EulerDiscreteScheduler"]
    else:
        diffusers.FlowMatchEulerDiscreteScheduler(**FLOW).save_pretrained(folder / "scheduler")
        index["scheduler"] = ["diffusers", "FlowMatchEulerDiscreteScheduler"]
    (folder / "model_index.json").write_text(json.dumps(index))


def bundled(name: str) -> tuple[str, dict[str, tuple[str, str, dict[str, Any]]]]:
    index = json.loads((CONFIGS / name / "model_index.json").read_text())
    parts = {
        part: (*index[part], json.loads((CONFIGS / name / part / "config.json").read_text()))
        for part in ("unet", "text_encoder", "text_encoder_2", "vae")
        if part in index
    }
    return index["_class_name"], parts


def build(class_name: str, config: dict[str, Any], device: str, dtype: torch.dtype) -> Any:
    """The weights are drawn on the device: seconds instead of minutes."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            if hasattr(diffusers, class_name):
                return getattr(diffusers, class_name).from_config(config).to(dtype=dtype)
            kind = transformers.T5Config if config["model_type"] == "t5" else transformers.CLIPTextConfig
            return getattr(transformers, class_name)(kind(**config)).to(device, dtype)
    finally:
        torch.set_default_dtype(before)


def write_tokenizer(folder: Path, encoder: str) -> str:
    """A tokenizer with the shape of the real one; its words do not matter to random weights."""
    if encoder != "T5EncoderModel":
        shutil.copytree(CONFIGS / "clip_tokenizer", folder)
        return "CLIPTokenizer"
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -1.0)]
    letters = [(chr(code), -2.0) for code in range(97, 123)]
    transformers.T5Tokenizer(vocab=[*pieces, *letters], model_max_length=512).save_pretrained(folder)
    return "T5Tokenizer"


def shrunk(part: str, config: dict[str, Any], name: str) -> dict[str, Any]:
    """The same structure with few channels, for a run without a GPU."""
    if config.get("model_type") == "t5":
        return config | {"d_model": 32, "d_ff": 64, "d_kv": 8, "num_heads": 4, "num_layers": 2}
    if part.startswith("text_encoder"):
        small = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 3}
        return config | small | {"projection_dim": 32}
    if part == "vae":
        return config | {"block_out_channels": [32] * 4, "layers_per_block": 1}
    if part == "unet":
        deep = len(config["block_out_channels"])
        small = {"block_out_channels": [32, 64, 64, 64][:deep], "layers_per_block": 1}
        if name == "sd15":
            return config | small | {"cross_attention_dim": 32, "attention_head_dim": 4}
        heads = {"attention_head_dim": [2, 4, 4], "transformer_layers_per_block": [1, 1, 2]}
        embeds = {"addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 32 + 6 * 8}
        return config | small | heads | embeds | {"cross_attention_dim": 64}
    if name == "flux":
        small = {"num_layers": 1, "num_single_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2}
        return config | small | {"joint_attention_dim": 32, "pooled_projection_dim": 32, "axes_dims_rope": [4, 6, 6]}
    small = {"num_layers": 2, "attention_head_dim": 8, "num_attention_heads": 4, "dual_attention_layers": [0]}
    return config | small | {"joint_attention_dim": 32, "caption_projection_dim": 32, "pooled_projection_dim": 64}
