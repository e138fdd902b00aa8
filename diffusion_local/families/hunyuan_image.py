"""HunyuanImage 2.1, which is recognised and not run."""

from diffusion_local.families.family import Architecture, Family, every_kind
from diffusion_local.families.sign import LoraSign, Sign
from diffusion_local.messages import message

FAMILY = Family(
    id="hunyuan_image",
    title="HunyuanImage 2.1",
    pipelines=every_kind("HunyuanImagePipeline"),
    architectures={
        "hunyuan_image": Architecture(
            title="HunyuanImage 2.1",
            parts=("qwen25_vl_7b", "byt5", "vae_hunyuan_image"),
            signs=(
                Sign(
                    has=("double_blocks.0", "single_blocks.0", "txt_in.individual_token_refiner"),
                    shapes={"img_in.proj.weight": (None, None, None, None)},
                ),
                Sign(
                    has=("transformer_blocks.0", "context_embedder.token_refiner"),
                    shapes={"x_embedder.proj.weight": (None, None, None, None)},
                    naming="diffusers",
                ),
            ),
            loras=(
                LoraSign(parts=("double_blocks_#_",), reads={"img_attn_qkv": (3584,)}),
                LoraSign(
                    parts=("double_blocks_#_", "byt5_in"),
                ),
            ),
            lora_words=("hunyuan-image", "hunyuan_image"),
        ),
    },
    problem=message("file_not_yet", title="HunyuanImage 2.1"),
)
