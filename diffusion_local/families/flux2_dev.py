"""FLUX.2 dev, which is recognised and not run."""

from diffusion_local.families.family import Architecture, Family, every_kind
from diffusion_local.messages import message

FAMILY = Family(
    id="flux2_dev",
    title="FLUX.2 dev",
    pipelines=every_kind("Flux2Pipeline"),
    architectures={"flux2_dev": Architecture(title="FLUX.2 dev")},
    problem=message("model_flux2_dev"),
)
