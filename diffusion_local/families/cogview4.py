"""CogView3 Plus and CogView4, which are recognised and not run."""

from diffusion_local.families.family import Architecture, Family, every_kind
from diffusion_local.families.sign import LoraSign, Sign
from diffusion_local.messages import message

FAMILY = Family(
    id="cogview4",
    title="CogView4",
    pipelines=every_kind("CogView4Pipeline", "CogView3PlusPipeline"),
    architectures={
        "cogview4": Architecture(
            title="CogView4",
            signs=(
                Sign(
                    has=(
                        "time_condition_embed.timestep_embedder",
                        "patch_embed.text_proj",
                        "transformer_blocks.0.norm1.linear",
                    ),
                    naming="diffusers",
                ),
            ),
            loras=(
                LoraSign(
                    reads={"transformer_blocks_#_attn1_to_q": (4096,), "transformer_blocks_#_norm1_linear": (512,)}
                ),
            ),
            lora_words=("cogview4",),
        ),
    },
    problem=message("file_not_yet", title="CogView4"),
)
