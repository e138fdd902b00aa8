"""PixArt-alpha and PixArt-Sigma."""

from diffusion_local.families.family import Architecture, Family, every_kind
from diffusion_local.options.limits import Defaults, Limits

FAMILY = Family(
    id="pixart",
    title="PixArt",
    pipelines=every_kind("PixArtSigmaPipeline", "PixArtAlphaPipeline"),
    architectures={"pixart": Architecture(title="PixArt")},
    limits=Limits(multiple=16),
    defaults=Defaults(width=1024, height=1024, steps=20, guidance=4.5, sampler="DPM++ 2M"),
    tokens=300,
    loras=False,
)
