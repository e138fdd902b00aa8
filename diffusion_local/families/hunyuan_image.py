"""HunyuanImage 2.1, base and distilled. Its refiner is not used."""

from diffusion_local.families.family import Architecture, Family, every_kind
from diffusion_local.families.sign import LoraSign, Sign
from diffusion_local.options.limits import Defaults, Limits
from diffusion_local.options.samplers import FLOW

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
    limits=Limits(multiple=32),
    defaults=Defaults(width=2048, height=2048, steps=50, guidance=3.5, sampler="Euler"),
    sampling=FLOW,
    tokens=1000,
    loras=False,
    original_names=False,
)
