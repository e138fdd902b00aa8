"""FLUX.1 dev and schnell."""

from diffusion_local.families.family import Architecture, Configs, Family, every_kind
from diffusion_local.options.limits import Defaults, Limits
from diffusion_local.options.samplers import FLOW


def find_architecture(configs: Configs) -> str:
    return "flux_dev" if configs("transformer").get("guidance_embeds") else "flux_schnell"


FAMILY = Family(
    id="flux",
    title="FLUX.1",
    pipelines=every_kind("FluxPipeline"),
    architectures={
        # named by LoRAs, which fit both models
        "flux": Architecture(
            title="FLUX.1", lora_keys=("double_blocks", "single_transformer_blocks"), lora_words=("flux",)
        ),
        "flux_dev": Architecture(title="FLUX.1 dev", adapters="flux"),
        "flux_schnell": Architecture(title="FLUX.1 schnell", adapters="flux", tokens=256),
    },
    marker="double_blocks.0.img_attn.norm.key_norm.scale",
    find_architecture=find_architecture,
    limits=Limits(multiple=16),
    defaults=Defaults(width=1024, height=1024, steps=28, guidance=3.5, sampler="Euler"),
    sampling=FLOW,
    tokenizer="tokenizer_2",
    tokens=512,
    negative=False,  # guidance is distilled into it
)
