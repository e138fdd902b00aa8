"""Qwen-Image 2.1, which is recognised and not run."""

from diffusion_local.families.family import Architecture, Family, every_kind
from diffusion_local.families.sign import LoraSign, Sign
from diffusion_local.messages import message

FAMILY = Family(
    id="qwen_image21",
    title="Qwen-Image 2.1",
    pipelines=every_kind("QwenImage21Pipeline"),
    architectures={
        "qwen_image21": Architecture(
            title="Qwen-Image 2.1",
            signs=(Sign(has=("txt_in.text_norm", "img_in")),),
            loras=(
                LoraSign(parts=("transformer_blocks_#_img_mlp_gate_layer",)),
                LoraSign(
                    reads={"transformer_blocks_#_attn_to_q": (4096,)},
                    lacks=("transformer_blocks_#_ff_linear_in", "single_transformer_blocks", "norm1_linear"),
                ),
            ),
        ),
    },
    problem=message("file_not_yet", title="Qwen-Image 2.1"),
)
