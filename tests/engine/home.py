"""A home with pictures to begin from, and files made on the spot: LoRAs, VAEs, upscalers, embeddings."""

import io
from pathlib import Path
from typing import Any

import torch
from PIL import Image as PIL
from PIL import ImageDraw
from safetensors.torch import save_file

from diffusion_local.compose import open_services
from diffusion_local.settings import Settings


class Home:
    """A home with a source, a picture of a circle, and a mask whose left half is white."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.services = open_services(settings)
        self.circle = PIL.new("RGB", (128, 128), "#3060a0")
        ImageDraw.Draw(self.circle).ellipse((30, 30, 98, 98), fill="#e8c040")
        self.left = PIL.new("L", (128, 128), 0)
        self.left.paste(255, (0, 0, 64, 128))
        self.source, self.mask = self.add(self.circle), self.add(self.left)

    def add(self, picture: PIL.Image) -> str:
        data = io.BytesIO()
        picture.save(data, "PNG")
        return self.services.sources.add(data.getvalue()).id


def make_lora(path: Path, denoiser: Any, prefix: str = "unet", seed: int = 1, strength: float = 0.5) -> Path:
    """A LoRA of rank 2 on the attention's queries and values of a UNet or transformer, in diffusers' layout."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, module in denoiser.named_modules():
        if name.endswith(("to_q", "to_v")):
            rows, columns = module.weight.shape
            weights[f"{prefix}.{name}.lora_A.weight"] = torch.randn(2, columns, generator=generator) * strength
            weights[f"{prefix}.{name}.lora_B.weight"] = torch.randn(rows, 2, generator=generator) * strength
    assert weights
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, path)
    return path
