"""Chroma. Its pixel-space variant Radiance is recognised but cannot be run."""

from diffusion_local.families.family import Architecture, Family, every_kind
from diffusion_local.families.sign import LoraSign, Sign
from diffusion_local.messages import message
from diffusion_local.options.limits import Defaults, Limits
from diffusion_local.options.samplers import FLOW

FAMILY = Family(
    id="chroma",
    title="Chroma",
    pipelines=every_kind("ChromaPipeline"),
    architectures={
        "chroma": Architecture(
            title="Chroma",
            parts=("t5_xxl", "vae_flux"),
            signs=(
                Sign(
                    has=("double_blocks.0", "single_blocks.0", "distilled_guidance_layer.in_proj", "img_in", "txt_in")
                ),
                Sign(
                    has=("single_transformer_blocks.0", "transformer_blocks.0", "distilled_guidance_layer.in_proj"),
                    naming="diffusers",
                ),
            ),
            loras=(LoraSign(parts=("distilled_guidance_layer",)),),
            lora_words=("chroma",),
        ),
        "chroma_radiance": Architecture(
            title="Chroma Radiance",
            problem=message("file_not_yet_other", title="Chroma Radiance", other="Chroma"),
            signs=(
                Sign(
                    has=(
                        "double_blocks.0",
                        "single_blocks.0",
                        "distilled_guidance_layer",
                        "nerf_blocks.0",
                        "img_in_patch",
                        "txt_in",
                    )
                ),
            ),
        ),
    },
    limits=Limits(multiple=16),
    defaults=Defaults(width=1024, height=1024, steps=35, guidance=5.0, sampler="Euler"),
    sampling=FLOW,
    tokens=512,
    lora_layouts=("kohya", "diffusers"),
)
