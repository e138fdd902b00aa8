"""Networks, noise schedule and latents of the starter model.

* VAE: `diffusers.AutoencoderKL`, 8-fold downsampling, 4 latent channels (Rombach et al. 2022, arXiv:2112.10752).
* Text encoder: CLIP's causal transformer (Radford et al. 2021, arXiv:2103.00020), 4 layers of width 256, trained
  jointly with the denoiser. `TextEncoder` is that network in plain PyTorch with the parameter names of
  `transformers.CLIPTextModel`, so that it compiles into one graph and does not depend on a version of transformers.
* Denoiser: `diffusers.UNet2DConditionModel` that predicts v (Salimans and Ho 2022, arXiv:2202.00512).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

#: Length of a tokenised caption, as CLIP's.
TOKENS = 77
LATENT_CHANNELS = 4
LATENT_SIDE = 32
STEPS = 1000

#: Denoisers by name. "base" is the shipped one: 21.1 M parameters, 3.4 GMAC a forward pass at 32x32.
DENOISERS: dict[str, dict[str, Any]] = {
    "base": {"block_out_channels": (96, 192, 256), "attention_head_dim": (3, 6, 8)},
    "tiny": {"block_out_channels": (32, 32, 64), "attention_head_dim": (2, 2, 2)},
}
TEXT_ENCODERS: dict[str, dict[str, int]] = {
    "base": {"width": 256, "layers": 4, "heads": 4},
    "tiny": {"width": 32, "layers": 1, "heads": 2},
}


def denoiser_config(name: str) -> dict[str, Any]:
    """Configuration of `UNet2DConditionModel`."""
    return {
        "sample_size": LATENT_SIDE,
        "in_channels": LATENT_CHANNELS,
        "out_channels": LATENT_CHANNELS,
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": TEXT_ENCODERS[name]["width"],
        "use_linear_projection": True,
    } | DENOISERS[name]


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.k_proj, self.v_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.q_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, c = x.shape
        q, k, v = (p(x).view(b, n, self.heads, -1).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        x = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out_proj(x.transpose(1, 2).reshape(b, n, c))


class _MLP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.fc1(x)
        return self.fc2(x * torch.sigmoid(1.702 * x))  # CLIP's "quick GELU"


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.self_attn, self.layer_norm1 = _Attention(width, heads), nn.LayerNorm(width)
        self.mlp, self.layer_norm2 = _MLP(width), nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class _Embeddings(nn.Module):
    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.position_embedding = nn.Embedding(TOKENS, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.token_embedding(tokens) + self.position_embedding.weight[: tokens.shape[1]]


class _Encoder(nn.Module):
    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(width, heads) for _ in range(layers))


class TextEncoder(nn.Module):
    """Tokens ``[n, 77]`` -> states ``[n, 77, width]``; same function and names as `transformers.CLIPTextModel`."""

    def __init__(self, vocabulary: int, width: int = 256, layers: int = 4, heads: int = 4) -> None:
        super().__init__()
        self.settings = {"vocabulary": vocabulary, "width": width, "layers": layers, "heads": heads}
        self.embeddings = _Embeddings(vocabulary, width)
        self.encoder = _Encoder(width, layers, heads)
        self.final_layer_norm = nn.LayerNorm(width)
        for name, parameter in self.named_parameters():  # CLIP's initialisation, simplified
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02 if "embedding" in name else width**-0.5)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embeddings(tokens)
        for layer in self.encoder.layers:
            x = layer(x)
        return self.final_layer_norm(x)


class Tokenizer:
    """Captions to padded token rows, as `CLIPTokenizer` does it with ``padding="max_length"``."""

    def __init__(self, folder: str | Path) -> None:
        from tokenizers import Tokenizer as Fast

        self.fast = Fast.from_file(str(Path(folder) / "tokenizer.json"))
        self.begin = self.fast.token_to_id("<|startoftext|>")
        self.end = self.fast.token_to_id("<|endoftext|>")
        self.vocabulary = self.fast.get_vocab_size()

    def __call__(self, texts: list[str]) -> np.ndarray:
        """int16 ``[n, 77]``: begin, tokens, end, padding (which is "end" too)."""
        rows = np.full((len(texts), TOKENS), self.end, np.int16)
        for row, encoded in zip(rows, self.fast.encode_batch(texts, add_special_tokens=False), strict=True):
            ids = encoded.ids[: TOKENS - 2]
            row[0], row[1 : 1 + len(ids)] = self.begin, ids
        return rows


def noise_schedule() -> tuple[torch.Tensor, torch.Tensor]:
    """sqrt(alpha_bar) and sqrt(1 - alpha_bar), float32 ``[1000]``.

    "scaled_linear" betas 0.00085 to 0.018: at the last step sqrt(alpha_bar) is 0.022, nearly zero terminal SNR, which
    saturated and black backgrounds need (Lin et al. 2023, arXiv:2305.08891).
    """
    betas = torch.linspace(0.00085**0.5, 0.018**0.5, STEPS, dtype=torch.float64) ** 2
    alpha_bar = torch.cumprod(1 - betas, 0)
    return alpha_bar.sqrt().float(), (1 - alpha_bar).sqrt().float()


def scheduler_config() -> dict[str, Any]:
    """Configuration of the shipped sampler, `DPMSolverMultistepScheduler`."""
    return {
        "num_train_timesteps": STEPS,
        "beta_start": 0.00085,
        "beta_end": 0.018,
        "beta_schedule": "scaled_linear",
        "prediction_type": "v_prediction",
        "algorithm_type": "dpmsolver++",
        "solver_order": 2,
        "steps_offset": 1,
    }


def other_samplers_config() -> dict[str, Any]:
    """What other samplers read when they are made from this configuration: latents are not bounded by 1, so DDIM and
    DDPM must not clip; PNDM must skip its Runge-Kutta steps."""
    return {"clip_sample": False, "set_alpha_to_one": False, "skip_prk_steps": True}


def load_vae(folder: str | Path) -> Any:
    """The trained autoencoder in float32, frozen."""
    from diffusers import AutoencoderKL

    return AutoencoderKL.from_pretrained(folder).float().eval().requires_grad_(False)


def dequantise_rows(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """float32 tensors of a part: each weight times its ``weight_scale``, one number a row, where it has one."""
    found = {}
    for name, tensor in state.items():
        if name.endswith(".weight_scale"):
            continue
        scale = state.get(f"{name}_scale")
        found[name] = (
            tensor.float() * scale.reshape(-1, *[1] * (tensor.dim() - 1)) if scale is not None else tensor.float()
        )
    return found


def load_pipeline(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """`StableDiffusionPipeline` of the assembled folder, its int8 denoiser dequantised to ``dtype``."""
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel

    from diffusion_local.engine.loading import load_part

    unet = load_part(UNet2DConditionModel, folder / "unet", dtype)
    pipe = StableDiffusionPipeline.from_pretrained(folder, unet=unet, dtype=dtype, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def encode_mean(vae: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Means of the posterior ``[n, 4, h/8, w/8]`` of pictures ``[n, 3, h, w]`` in 0..1.

    The per-channel mean and deviation of the latents are folded into the VAE's outer convolutions, so the scaling
    factor is 1.
    """
    moments = vae.quant_conv(vae.encoder(pixels * 2 - 1))
    return moments[:, :LATENT_CHANNELS]


def save_json(path: str | Path, value: Any) -> None:
    """Write JSON through a temporary name, so that a reader never sees half a file."""
    path = Path(path)
    partial = path.with_name(path.name + ".part")
    partial.write_text(json.dumps(value, indent=1), encoding="utf-8")
    partial.replace(path)
