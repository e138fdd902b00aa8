"""HiDream I1 (Full, Dev, Fast), which is recognised and not run."""

from diffusion_local.families.family import Architecture, Family, every_kind
from diffusion_local.families.sign import LoraSign, Sign
from diffusion_local.messages import message

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
    problem=message("file_not_yet", title="HiDream"),
)
