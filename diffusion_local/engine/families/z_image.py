"""Z-Image, and Z-Image Omni, which reads reference pictures through the VAE and a SigLIP 2 encoder."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from PIL import Image as PIL

from diffusion_local.engine import autoencoder, transformer
from diffusion_local.engine.family import Conditioning, EngineFamily, Parts
from diffusion_local.options.table import Params


class Omni(diffusers.ZImageOmniPipeline):
    """diffusers' pipeline, whose VAE may have any dtype: the original passes it references in bf16."""

    def prepare_image_latents(
        self, images: list[torch.Tensor], batch_size: int, device: Any, dtype: torch.dtype
    ) -> list[list[torch.Tensor]]:
        """The latents (C x 1 x h x w) of each reference, once for each picture of the batch."""
        found = [autoencoder.encode(self.vae, each.to(device))[0].unsqueeze(1).to(dtype) for each in images]
        return [list(found) for _ in range(batch_size)]


def load(folder: Path, dtype: Any, parts: Parts) -> Any:
    if transformer.index_of(folder).get("_class_name") != "ZImageOmniPipeline":
        return transformer.pipeline_loader(diffusers.ZImagePipeline)(folder, dtype, parts)
    looks = transformers.AutoImageProcessor.from_pretrained(folder / "siglip_processor", local_files_only=True)
    return transformer.pipeline_loader(Omni)(folder, dtype, parts | {"siglip_processor": looks})


def uses_guidance(pipe: Any, guidance: float) -> bool:
    """This pipeline adds guidance to the positive prediction, so 0 means off."""
    return guidance > 0


def embed(pipe: Any, prompt: str, negative: str | None, clip_skip: int) -> Conditioning:
    return encoded(pipe, prompt, negative)


def embed_with(pipe: Any, prompt: str, negative: str | None, pictures: list[PIL.Image]) -> Conditioning:
    """The text encoder reads marks where the pictures stand, not the pictures themselves."""
    return encoded(pipe, prompt, negative, num_condition_images=len(pictures))


def encoded(pipe: Any, prompt: str, negative: str | None, **more: Any) -> Conditioning:
    positive, against = pipe.encode_prompt(
        prompt,
        device=pipe._execution_device,
        do_classifier_free_guidance=negative is not None,
        negative_prompt=negative or None,
        **more,
    )
    return {"prompt_embeds": positive, "negative_prompt_embeds": against or None}


def refer(pipe: Any, params: Params, pictures: list[PIL.Image]) -> Callable[..., Any]:
    return partial(pipe, image=pictures)


FAMILY = EngineFamily(
    load,
    embed,
    uses_guidance,
    transformer.latent_shape,
    latents_dtype=torch.float32,  # in this pipeline, regardless of the model's dtype
    together=True,
    refer=refer,
    embed_with=embed_with,
)
