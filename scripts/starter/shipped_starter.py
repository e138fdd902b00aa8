"""The shipped starter model, read without the app: text encoder, denoiser and autoencoder, and sampling with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from .models import TextEncoder, Tokenizer, dequantise_rows

ROOT = Path(__file__).resolve().parents[2]
GUIDANCE = 3.5


class Starter:
    """Text encoder, denoiser and autoencoder of the shipped model, frozen."""

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
        from diffusers import AutoencoderKL, UNet2DConditionModel

        self.device, self.dtype = device, dtype
        self.tokenizer = Tokenizer(folder / "tokenizer")
        states = read_part(folder / "text_encoder")
        states = {k.removeprefix("text_model."): v.float() for k, v in states.items() if "position_ids" not in k}
        width = states["final_layer_norm.weight"].shape[0]
        layers = 1 + max(int(k.split(".")[2]) for k in states if k.startswith("encoder.layers."))
        heads = read_config(folder / "text_encoder")["num_attention_heads"]
        self.text_encoder = TextEncoder(self.tokenizer.vocabulary, width, layers, heads)
        self.text_encoder.load_state_dict(states)
        config = {k: v for k, v in read_config(folder / "unet").items() if k != "quantization_config"}
        self.unet = UNet2DConditionModel.from_config(config)
        self.unet.load_state_dict(dequantise_rows(read_part(folder / "unet")))
        self.vae = AutoencoderKL.from_config(read_config(folder / "vae"))
        self.vae.load_state_dict({k: v.float() for k, v in read_part(folder / "vae").items()})
        for part in (self.text_encoder, self.unet, self.vae):
            part.to(device, dtype).eval().requires_grad_(False)
        self.unet.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def encode(self, prompts: list[str]) -> torch.Tensor:
        """Text states ``[n, 77, width]``."""
        return self.text_encoder(torch.from_numpy(self.tokenizer(prompts)).long().to(self.device))

    @torch.no_grad()
    def sample(
        self,
        prompts: list[str],
        seed: int,
        steps: int,
        control: nn.Module | None = None,
        edges: torch.Tensor | None = None,
    ) -> np.ndarray:
        """Pictures uint8 ``[n, h, w, 3]`` by DPM++ 2M with guidance; ``edges`` ``[n, 3, h, w]`` in 0..1."""
        from diffusers import DPMSolverMultistepScheduler

        scheduler = DPMSolverMultistepScheduler.from_config(read_config(ROOT / "assets/starter/scheduler", "scheduler"))
        scheduler.set_timesteps(steps, device=self.device)
        side = self.unet.config.sample_size
        generator = torch.Generator().manual_seed(seed)
        shape = (len(prompts), self.unet.config.in_channels, side, side)
        latents = torch.randn(shape, generator=generator).to(self.device) * scheduler.init_noise_sigma
        states = torch.cat([self.encode([""] * len(prompts)), self.encode(prompts)])
        for t in scheduler.timesteps:
            both = scheduler.scale_model_input(torch.cat([latents, latents]), t).to(self.dtype)
            both = both.to(memory_format=torch.channels_last)
            more: dict[str, Any] = {}
            if control is not None and edges is not None:
                down, middle = control(both, t, states, torch.cat([edges, edges]).to(self.dtype), return_dict=False)
                more = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
            without, with_prompt = self.unet(both, t, states, return_dict=False, **more)[0].float().chunk(2)
            latents = scheduler.step(without + GUIDANCE * (with_prompt - without), t, latents, return_dict=False)[0]
        return self.decode(latents)

    def decode(self, latents: torch.Tensor) -> np.ndarray:
        """Pictures uint8 ``[n, h, w, 3]``."""
        scaled = latents.to(self.dtype) / self.vae.config.scaling_factor
        pixels = torch.cat([self.vae.decode(part, return_dict=False)[0] for part in scaled.split(64)]).float()
        pixels = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
        return pixels.permute(0, 2, 3, 1).cpu().numpy()


def read_config(folder: Path, name: str = "") -> dict[str, Any]:
    path = folder / (f"{name}_config.json" if name else "config.json")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    found.pop("quantization_config", None)
    return found


def read_part(folder: Path) -> dict[str, torch.Tensor]:
    """Weights of a part; int8 rows are multiplied by their scales."""
    states = {k: v for path in sorted(folder.glob("*.safetensors")) for k, v in load_file(path).items()}
    for name in [name for name in states if name.endswith(".weight_scale")]:
        weight, scale = name.removesuffix("_scale"), states.pop(name).float()
        whole = states[weight].float()
        states[weight] = whole * scale.reshape(-1, *[1] * (whole.dim() - 1))
    return states
