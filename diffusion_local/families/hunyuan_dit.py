"""Hunyuan-DiT, which is recognised and not run."""

from diffusion_local.families.family import Architecture, Family, every_kind
from diffusion_local.families.sign import Sign
from diffusion_local.messages import message

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
    problem=message("file_not_yet", title="Hunyuan-DiT"),
)
