"""Sana."""

from diffusion_local.families.family import Architecture, Family, every_kind
from diffusion_local.options.limits import Defaults, Limits
from diffusion_local.options.samplers import FLOW

FAMILY = Family(
    id="sana",
    title="Sana",
    pipelines=every_kind("SanaPipeline"),
    architectures={"sana": Architecture(title="Sana")},
    limits=Limits(multiple=32),
    defaults=Defaults(width=1024, height=1024, steps=20, guidance=4.5, sampler="DPM++ 2M"),
    sampling=FLOW,
    tokens=300,
)
