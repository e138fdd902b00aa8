"""Z-Image."""

from diffusion_local.families.family import Architecture, Family, every_kind
from diffusion_local.options.limits import Defaults, Limits
from diffusion_local.options.samplers import FLOW

FAMILY = Family(
    id="z_image",
    title="Z-Image",
    pipelines=every_kind("ZImagePipeline"),
    architectures={"z_image": Architecture(title="Z-Image")},
    marker="layers.0.adaLN_modulation.0.weight",
    limits=Limits(multiple=16),
    defaults=Defaults(width=1024, height=1024, steps=8, guidance=0.0, sampler="Euler"),
    sampling=FLOW,
    tokens=512,
)
