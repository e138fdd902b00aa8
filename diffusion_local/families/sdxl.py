"""Stable Diffusion XL, with its distilled models (Turbo, Lightning, LCM). Its refiner is recognised and not run."""

from diffusion_local.families.family import Architecture, Configs, Family, every_kind
from diffusion_local.messages import message
from diffusion_local.options.limits import Defaults

REFINER_WIDTH = 1280


def find_architecture(configs: Configs) -> str:
    return "sdxl_refiner" if configs("unet").get("cross_attention_dim") == REFINER_WIDTH else "sdxl"


FAMILY = Family(
    id="sdxl",
    title="SDXL",
    pipelines=every_kind(
        "StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline"
    ),
    architectures={
        "sdxl": Architecture(
            title="SDXL",
            text_width=2048,
            parts=("clip_l", "clip_g", "vae_sdxl"),
            encoders=(("conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."),),
            lora_words=("xl", "sdxl", "stable-diffusion-xl"),
            # of CLIP-G, which only SDXL and its refiner have; CLIP-L's 768 alone is Stable Diffusion 1
            token_width=1280,
            embedding_keys=frozenset({"clip_l", "clip_g"}),
        ),
        "ssd1b": Architecture(
            title="SSD-1B", problem=message("file_smaller_xl", title="SSD-1B"), lora_words=("ssd-1b", "ssd1b")
        ),
        "vega": Architecture(title="Segmind Vega", problem=message("file_smaller_xl", title="Segmind Vega")),
        "koala": Architecture(title="KOALA", problem=message("file_smaller_xl", title="KOALA")),
        "sdxl_refiner": Architecture(title="SDXL refiner", problem=message("refiner"), text_width=REFINER_WIDTH),
    },
    unet=True,
    find_architecture=find_architecture,
    defaults=Defaults(width=1024, height=1024, steps=30, guidance=6.0, sampler="DPM++ 2M"),
    half=True,
    weights=True,
    clip_skip=True,
    lora_layouts=("kohya", "diffusers", "old_diffusers"),
)
