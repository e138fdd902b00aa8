"""Sana Sprint: Sana distilled into one to four steps."""

from diffusion_local.families.family import Architecture, Family, every_kind
from diffusion_local.families.sana import ENTRANCE
from diffusion_local.families.sign import Sign
from diffusion_local.options.limits import Defaults, Limits
from diffusion_local.options.samplers import TRIGFLOW

FAMILY = Family(
    id="sana_sprint",
    title="Sana Sprint",
    pipelines=every_kind("SanaSprintPipeline"),
    architectures={
        "sana_sprint": Architecture(
            title="Sana Sprint",
            parts=("gemma2_2b", "vae_dc"),
            signs=(
                Sign(
                    has=("blocks.0.cross_attn.q_linear", "blocks.0.cross_attn.kv_linear", "cfg_embedder"),
                    shapes=ENTRANCE,
                ),
                Sign(
                    has=(
                        "patch_embed.proj",
                        "caption_norm",
                        "transformer_blocks.0.ff.conv_inverted",
                        "time_embed.guidance_embedder",
                    ),
                    naming="diffusers",
                ),
            ),
        )
    },
    limits=Limits(multiple=32),
    defaults=Defaults(width=1024, height=1024, steps=2, guidance=4.5, sampler="SCM"),
    sampling=TRIGFLOW,
    tokens=300,
    negative=False,  # guidance is distilled into it
    lora_layouts=("diffusers",),
)
