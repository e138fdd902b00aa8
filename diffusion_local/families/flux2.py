"""FLUX.2 klein, distilled and base."""

from diffusion_local.families.family import Architecture, Family, every_kind
from diffusion_local.options.limits import Defaults, Limits
from diffusion_local.options.samplers import FLOW

FAMILY = Family(
    id="flux2",
    title="FLUX.2",
    pipelines=every_kind("Flux2KleinPipeline"),
    architectures={"flux2": Architecture(title="FLUX.2")},
    marker="single_stream_modulation.lin.weight",
    derived_from="flux",
    limits=Limits(multiple=16),
    defaults=Defaults(width=1024, height=1024, steps=4, guidance=1.0, sampler="Euler"),
    sampling=FLOW,
    tokens=512,
)
