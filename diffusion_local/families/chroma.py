"""Chroma, which is recognised and not run."""

from diffusion_local.families.family import Architecture, Family, every_kind
from diffusion_local.messages import message

FAMILY = Family(
    id="chroma",
    title="Chroma",
    pipelines=every_kind("ChromaPipeline"),
    architectures={"chroma": Architecture(title="Chroma")},
    problem=message("model_chroma"),
    marker="distilled_guidance_layer.in_proj.bias",
    derived_from="flux",
)
