"""Qwen-Image, which is recognised and not run."""

from diffusion_local.families.family import Architecture, Family, every_kind
from diffusion_local.messages import message

FAMILY = Family(
    id="qwen_image",
    title="Qwen-Image",
    pipelines=every_kind("QwenImagePipeline"),
    architectures={"qwen_image": Architecture(title="Qwen-Image")},
    problem=message("model_qwen"),
    marker="txt_in.text_norm.weight",
)
