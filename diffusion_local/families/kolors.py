"""Kolors: a UNet of SDXL's shape that reads text embeddings of ChatGLM3, in Chinese and English."""

from diffusion_local.families.family import Architecture, Family, every_kind
from diffusion_local.options.limits import Defaults

FAMILY = Family(
    id="kolors",
    title="Kolors",
    pipelines=every_kind("KolorsPipeline", "KolorsImg2ImgPipeline"),
    architectures={
        "kolors": Architecture(title="Kolors", parts=("chatglm3_6b", "vae_sdxl"), lora_words=("kolors",)),
    },
    unet=True,
    defaults=Defaults(width=1024, height=1024, steps=50, guidance=5.0, sampler="Euler"),
    half=True,
    tokens=256,
    ip_adapters=True,
    lora_layouts=("kohya", "diffusers", "old_diffusers"),
)
