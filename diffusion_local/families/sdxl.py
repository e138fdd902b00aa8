"""Stable Diffusion XL, with its distilled models (Turbo, Lightning, LCM), smaller ones, those trained with EDM's noise
levels (CosXL, Playground 2.5), and those that change a picture by an instruction (CosXL Edit, InstructPix2Pix). Its
refiner is recognised but cannot be run."""

from typing import Any

from diffusion_local.families.family import Architecture, Configs, Family, every_kind
from diffusion_local.messages import message
from diffusion_local.options.limits import Defaults
from diffusion_local.options.samplers import EDM
from diffusion_local.options.types import Kind

REFINER_WIDTH = 1280
#: Input channels of a UNet that also reads a picture.
INSTRUCT_CHANNELS = 8


#: Transformer blocks of each attention layer in the down blocks -> architecture.
DEPTHS = {(2, 2, 10, 10): "sdxl", (2, 2, 4, 4): "ssd1b", (1, 1, 2, 2): "vega", (2, 5): "koala", (2, 6): "koala"}
ENCODERS = (("conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."),)
PARTS = ("clip_l", "clip_g", "vae_sdxl")
#: Fields of an architecture whose models change a picture by an instruction.
INSTRUCTED: dict[str, Any] = {
    "adapters": "sdxl", "parts": PARTS, "encoders": ENCODERS, "references": 1, "needs_reference": True,
    "lacks": frozenset({"regions", "ip_adapters"}),
}  # fmt: skip


def find_architecture(configs: Configs) -> str:
    config = configs("unet")
    if config.get("cross_attention_dim") == REFINER_WIDTH:
        return "sdxl_refiner"
    instructed = config.get("in_channels") == INSTRUCT_CHANNELS
    if str(configs("scheduler").get("_class_name", "")).startswith("EDM"):
        return "playground25" if configs("vae").get("latents_mean") else "cosxl_edit" if instructed else "cosxl"
    if instructed:
        return "sdxl_instruct"
    return DEPTHS.get(depths(config), "sdxl")


def depths(config: Any) -> tuple[int, ...]:
    """Transformer blocks of each attention layer in a UNet's down blocks; empty if its configuration is damaged."""
    each, layers = config.get("transformer_layers_per_block", 1), config.get("layers_per_block", 2)
    kinds = config.get("down_block_types", ())
    try:
        counts: list[int] = []
        for level, kind in enumerate(kinds):
            if "CrossAttn" in kind:
                here = each[level] if isinstance(each, list) else each
                count = layers[level] if isinstance(layers, list) else layers
                counts += here if isinstance(here, list) else [here] * count
        return tuple(counts)
    except (TypeError, IndexError):
        return ()


FAMILY = Family(
    id="sdxl",
    title="SDXL",
    pipelines=every_kind(
        "StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline"
    )
    | {"StableDiffusionXLInstructPix2PixPipeline": (Kind.TXT2IMG,)},
    architectures={
        "sdxl": Architecture(
            title="SDXL",
            text_width=2048,
            parts=PARTS,
            encoders=ENCODERS,
            lora_words=("xl", "sdxl", "stable-diffusion-xl"),
            # width of CLIP-G, which only SDXL and its refiner have; CLIP-L (768) alone means Stable Diffusion 1
            token_width=1280,
            embedding_keys=frozenset({"clip_l", "clip_g"}),
        ),
        "cosxl": Architecture(title="CosXL", adapters="sdxl", parts=PARTS, encoders=ENCODERS, sampling=EDM),
        "cosxl_edit": Architecture(title="CosXL Edit", sampling=EDM, **INSTRUCTED),
        "sdxl_instruct": Architecture(title="InstructPix2Pix for SDXL", **INSTRUCTED),
        "playground25": Architecture(
            title="Playground 2.5", adapters="sdxl", parts=PARTS, encoders=ENCODERS, sampling=EDM
        ),
        "ssd1b": Architecture(title="SSD-1B", parts=PARTS, encoders=ENCODERS, lora_words=("ssd-1b", "ssd1b")),
        "vega": Architecture(title="Segmind Vega", parts=PARTS, encoders=ENCODERS),
        "koala": Architecture(title="KOALA", parts=PARTS, encoders=ENCODERS),
        "sdxl_refiner": Architecture(title="SDXL refiner", problem=message("refiner"), text_width=REFINER_WIDTH),
    },
    unet=True,
    find_architecture=find_architecture,
    defaults=Defaults(width=1024, height=1024, steps=30, guidance=6.0, sampler="DPM++ 2M"),
    half=True,
    weights=True,
    clip_skip=True,
    controls=("ControlNet", "union", "T2I-Adapter"),
    regions=True,
    ip_adapters=True,
    inversions=True,
    lora_layouts=("kohya", "diffusers", "old_diffusers"),
)
