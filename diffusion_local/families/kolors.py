"""Kolors, which is recognised and not run: a UNet of SDXL's shape that reads ChatGLM3's text."""

from diffusion_local.families.family import Architecture, Family, every_kind
from diffusion_local.messages import message

FAMILY = Family(
    id="kolors",
    title="Kolors",
    pipelines=every_kind("KolorsPipeline"),
    architectures={
        "kolors": Architecture(title="Kolors", parts=("chatglm3_6b", "vae_sdxl"), lora_words=("kolors",)),
    },
    unet=True,
    problem=message("file_not_yet", title="Kolors"),
)
