"""Ovis-Image."""

from diffusion_local.families.family import Architecture, Family, every_kind
from diffusion_local.families.sign import Sign
from diffusion_local.options.limits import Defaults, Limits
from diffusion_local.options.samplers import FLOW

FAMILY = Family(
    id="ovis_image",
    title="Ovis-Image",
    pipelines=every_kind("OvisImagePipeline"),
    architectures={
        "ovis_image": Architecture(
            title="Ovis-Image",
            signs=(
                Sign(has=("double_blocks.0.img_mlp.gate_proj", "single_blocks.0", "txt_norm", "txt_in")),
                Sign(
                    has=("context_embedder_norm", "single_transformer_blocks.0", "transformer_blocks.0"),
                    naming="diffusers",
                ),
            ),
        ),
    },
    limits=Limits(multiple=16),
    defaults=Defaults(width=1024, height=1024, steps=50, guidance=5.0, sampler="Euler"),
    sampling=FLOW,
    tokens=256,
    loras=False,
    original_names=False,
)
