"""Stable Diffusion 3 and 3.5."""

from diffusion_local.families.family import Architecture, Configs, Family, every_kind
from diffusion_local.options.limits import Defaults, Limits
from diffusion_local.options.samplers import FLOW

LAYERS_OF_LARGE = 38


def find_architecture(configs: Configs) -> str:
    config = configs("transformer")
    if config.get("num_layers") == LAYERS_OF_LARGE:
        return "sd35_large"
    return "sd35_medium" if config.get("dual_attention_layers") else "sd3"


FAMILY = Family(
    id="sd3",
    title="SD 3",
    pipelines=every_kind("StableDiffusion3Pipeline"),
    architectures={
        # LoRAs do not say for which of the three they were made
        "sd3": Architecture(title="SD 3", lora_keys=("joint_blocks",), lora_words=("sd3", "v3", "stable-diffusion-3")),
        "sd35_medium": Architecture(title="SD 3.5 Medium", adapters="sd3"),
        "sd35_large": Architecture(title="SD 3.5 Large", adapters="sd3"),
    },
    marker="joint_blocks.0.context_block.adaLN_modulation.1.bias",
    find_architecture=find_architecture,
    limits=Limits(multiple=16),
    defaults=Defaults(width=1024, height=1024, steps=28, guidance=7.0, sampler="Euler"),
    sampling=FLOW,
    tokenizer="tokenizer_3",
    tokens=256,
    clip_skip=True,
)
