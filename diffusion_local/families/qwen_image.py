"""Qwen-Image, which is recognised and not run."""

from diffusion_local.families.family import Architecture, Family, every_kind

FAMILY = Family(
    id="qwen_image",
    title="Qwen-Image",
    pipelines=every_kind("QwenImagePipeline"),
    architectures={"qwen_image": Architecture(title="Qwen-Image")},
    problem="Qwen-Image is not supported yet. Z-Image, which writes Chinese and English too, is.",
    marker="txt_in.text_norm.weight",
)
