"""AuraFlow, which is recognised and not run."""

from diffusion_local.families.family import Architecture, Family, every_kind
from diffusion_local.families.sign import LoraSign, Sign
from diffusion_local.messages import message

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
    problem=message("file_not_yet", title="AuraFlow"),
)
