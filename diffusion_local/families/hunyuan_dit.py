"""Hunyuan-DiT."""

from diffusion_local.families.family import Architecture, Family, every_kind
from diffusion_local.families.sign import Sign
from diffusion_local.options.limits import Defaults, Limits

FAMILY = Family(
    id="hunyuan_dit",
    title="Hunyuan-DiT",
    pipelines=every_kind("HunyuanDiTPipeline"),
    architectures={
        "hunyuan_dit": Architecture(
            title="Hunyuan-DiT",
            parts=("bert_hunyuan", "mt5_xl", "vae_sdxl"),
            signs=(
                Sign(has=("mlp_t5.0", "blocks.0", "text_embedding_padding")),
                Sign(has=("text_embedder.linear_1", "blocks.0.attn1", "text_embedding_padding"), naming="diffusers"),
            ),
            lora_words=("hunyuan-dit", "hydit"),
        ),
    },
    limits=Limits(multiple=16),
    defaults=Defaults(width=1024, height=1024, steps=50, guidance=5.0, sampler="DPM++ 2M"),
    tokenizer="tokenizer_2",
    tokens=256,
    loras=False,
    original_names=False,
)
