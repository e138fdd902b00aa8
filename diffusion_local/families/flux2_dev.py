"""FLUX.2 dev, which is recognised and not run."""

from diffusion_local.families.family import Architecture, Family, every_kind

FAMILY = Family(
    id="flux2_dev",
    title="FLUX.2 dev",
    pipelines=every_kind("Flux2Pipeline"),
    architectures={"flux2_dev": Architecture(title="FLUX.2 dev")},
    problem="FLUX.2 dev is not supported yet. FLUX.2 klein is, and needs a fourth of the memory.",
)
