"""Stable Cascade, which is recognised and not run."""

from diffusion_local.families.family import Architecture, Family, every_kind
from diffusion_local.families.sign import LoraSign, Sign
from diffusion_local.messages import message

FAMILY = Family(
    id="stable_cascade",
    title="Stable Cascade",
    pipelines=every_kind("StableCascadeCombinedPipeline", "StableCascadeDecoderPipeline", "StableCascadePriorPipeline"),
    architectures={
        "stable_cascade": Architecture(
            title="Stable Cascade (stage C)",
            signs=(
                Sign(has=("clip_txt_mapper", "down_blocks.0.0.channelwise")),
                Sign(
                    has=("clip_txt_pooled_mapper", "down_blocks.0.0.channelwise"),
                    lacks=("clip_mapper", "clip_txt_mapper"),
                    naming="diffusers",
                ),
            ),
            loras=(LoraSign(parts=("down_blocks_#_#_attention_attn",)),),
            lora_words=("cascade",),
        ),
        "stable_cascade_b": Architecture(
            title="Stable Cascade (stage B)",
            signs=(
                Sign(has=("effnet_mapper", "down_blocks.0.0.channelwise")),
                Sign(has=("clip_mapper", "down_blocks.0.0.channelwise")),
            ),
        ),
    },
    problem=message("file_not_yet", title="Stable Cascade"),
)
