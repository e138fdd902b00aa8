"""Chroma, which is recognised and not run."""

from diffusion_local.families.family import Architecture, Family, every_kind

FAMILY = Family(
    id="chroma",
    title="Chroma",
    pipelines=every_kind("ChromaPipeline"),
    architectures={"chroma": Architecture(title="Chroma")},
    problem="Chroma is not supported yet. FLUX.1 schnell, which it was made from, is.",
    marker="distilled_guidance_layer.in_proj.bias",
    derived_from="flux",
)
