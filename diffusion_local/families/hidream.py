"""HiDream I1 (Full, Dev, Fast)."""

from diffusion_local.families.family import Architecture, Family, every_kind
from diffusion_local.families.sign import LoraSign, Sign
from diffusion_local.options.limits import Defaults, Limits
from diffusion_local.options.samplers import FLOW

FAMILY = Family(
    id="hidream",
    title="HiDream",
    pipelines=every_kind("HiDreamImagePipeline"),
    architectures={
        "hidream": Architecture(
            title="HiDream",
            parts=("clip_l", "clip_g", "t5_xxl", "llama31_8b", "vae_flux"),
            signs=(Sign(has=("double_stream_blocks.0.block", "single_stream_blocks.0.block", "caption_projection.0")),),
            loras=(
                LoraSign(parts=("double_stream_blocks_#_block",)),
                LoraSign(parts=("single_stream_blocks_#_block",)),
            ),
            lora_words=("hidream",),
        ),
    },
    limits=Limits(multiple=16, max_pixels=1024 * 1024),
    defaults=Defaults(width=1024, height=1024, steps=50, guidance=5.0, sampler="Euler"),
    sampling=FLOW,
    tokenizer="tokenizer_4",
    tokens=128,
    lora_layouts=("diffusers", "comfy"),
)
