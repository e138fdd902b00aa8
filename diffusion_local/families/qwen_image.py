"""Qwen-Image, and Qwen-Image-Edit with its second version (Plus), which reads several pictures."""

from diffusion_local.families.family import Architecture, Family, every_kind
from diffusion_local.families.sign import LoraSign, Sign
from diffusion_local.options.limits import Defaults, Limits
from diffusion_local.options.samplers import FLOW

PARTS = ("qwen25_vl_7b", "vae_wan21")
LAST_OF_FLUX = 19  # FLUX.1 has blocks of the same names, but fewer

FAMILY = Family(
    id="qwen_image",
    title="Qwen-Image",
    pipelines=every_kind("QwenImagePipeline", "QwenImageEditPipeline", "QwenImageEditPlusPipeline"),
    architectures={
        "qwen_image": Architecture(
            title="Qwen-Image",
            parts=PARTS,
            signs=(
                Sign(
                    has=("txt_norm", "txt_in", "img_in", "transformer_blocks.0.img_mod"),
                    sizes={"num_layers": "transformer_blocks.#"},
                ),
            ),
            loras=(
                LoraSign(parts=("transformer_blocks_#_img_mlp",)),
                LoraSign(parts=("transformer_blocks_#_img_mod_#",)),
                LoraSign(parts=("transformer_blocks_#_txt_mlp",)),
                LoraSign(
                    lacks=("single_transformer_blocks",),
                    reads={"transformer_blocks_#_attn_to_": (3072,)},
                    blocks={"transformer_blocks_": LAST_OF_FLUX},
                ),
            ),
            lora_words=("qwen-image", "qwen_image", "qwenimage"),
        ),
        "qwen_image_edit": Architecture(
            title="Qwen-Image-Edit",
            adapters="qwen_image",
            parts=PARTS,
            references=1,
            needs_reference=True,
            like="qwen_image",
        ),
        "qwen_image_edit_plus": Architecture(
            title="Qwen-Image-Edit Plus",
            adapters="qwen_image",
            parts=PARTS,
            references=3,
            needs_reference=True,
            like="qwen_image",
        ),
    },
    variants={"QwenImageEditPipeline": "qwen_image_edit", "QwenImageEditPlusPipeline": "qwen_image_edit_plus"},
    limits=Limits(multiple=16),
    defaults=Defaults(width=1328, height=1328, steps=50, guidance=4.0, sampler="Euler"),
    controls=("ControlNet",),
    sampling=FLOW,
    tokens=512,
    lora_layouts=("diffusers", "comfy", "kohya"),
)
