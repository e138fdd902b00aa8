"""AuraFlow."""

from diffusion_local.families.family import Architecture, Family, every_kind
from diffusion_local.families.sign import LoraSign, Sign
from diffusion_local.options.limits import Defaults, Limits
from diffusion_local.options.samplers import FLOW

FAMILY = Family(
    id="aura_flow",
    title="AuraFlow",
    pipelines=every_kind("AuraFlowPipeline"),
    architectures={
        "aura_flow": Architecture(
            title="AuraFlow",
            parts=("t5_xl", "vae_sdxl"),
            signs=(
                Sign(has=("double_layers.0.attn.w1q", "single_layers.0", "cond_seq_linear")),
                Sign(
                    has=("joint_transformer_blocks.0", "single_transformer_blocks.0", "register_tokens"),
                    naming="diffusers",
                ),
            ),
            loras=(
                LoraSign(parts=("joint_transformer_blocks_#_",)),
                LoraSign(parts=("double_layers_#_attn",)),
            ),
            lora_words=("auraflow", "aura-flow", "aura_flow"),
        ),
    },
    limits=Limits(multiple=16),
    defaults=Defaults(width=1024, height=1024, steps=50, guidance=3.5, sampler="Euler"),
    sampling=FLOW,
    tokens=256,
    lora_layouts=("diffusers",),
)
