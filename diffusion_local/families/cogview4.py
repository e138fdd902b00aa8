"""CogView4. CogView3 Plus is recognised but cannot be run."""

from diffusion_local.families.family import Architecture, Family, every_kind
from diffusion_local.families.sign import LoraSign, Sign
from diffusion_local.messages import message
from diffusion_local.options.limits import Defaults, Limits
from diffusion_local.options.samplers import FLOW_BY_EULER

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
        "cogview3_plus": Architecture(
            title="CogView3 Plus", problem=message("file_not_yet_other", title="CogView3 Plus", other="CogView4")
        ),
    },
    variants={"CogView3PlusPipeline": "cogview3_plus"},
    limits=Limits(multiple=16),
    defaults=Defaults(width=1024, height=1024, steps=50, guidance=5.0, sampler="Euler"),
    sampling=FLOW_BY_EULER,
    tokens=1024,
    lora_layouts=("diffusers",),
    original_names=False,
)
