"""FLUX.2 dev."""

from diffusion_local.families.family import Architecture, Family, every_kind
from diffusion_local.families.flux2 import loras, signs
from diffusion_local.options.limits import Defaults, Limits
from diffusion_local.options.samplers import FLOW

#: Width of the text embeddings that it reads.
WIDTH = 15360

FAMILY = Family(
    id="flux2_dev",
    title="FLUX.2 dev",
    pipelines=every_kind("Flux2Pipeline"),
    architectures={
        "flux2_dev": Architecture(
            title="FLUX.2 dev",
            references=10,
            parts=("mistral_small", "vae_flux2"),
            signs=signs(WIDTH),
            loras=loras(6144, WIDTH, 36864),
            lora_words=("flux2-dev", "flux2_dev", "flux-2-dev"),
        )
    },
    limits=Limits(multiple=16),
    defaults=Defaults(width=1024, height=1024, steps=50, guidance=4.0, sampler="Euler"),
    sampling=FLOW,
    tokens=512,
    negative=False,  # guidance is distilled into it
    lora_layouts=("diffusers", "comfy", "kohya"),
)
