"""Families that are recognised but not run, so that their files are refused with a reason."""

from diffusion_local.families.family import Architecture, Family, every_kind
from diffusion_local.families.sign import LoraSign, Sign
from diffusion_local.messages import message

RECOGNISED_FAMILIES = (
    Family(
        id="cosmos",
        title="Cosmos Predict 2",
        pipelines=every_kind("Cosmos2TextToImagePipeline"),
        architectures={
            "cosmos": Architecture(
                title="Cosmos Predict 2",
                signs=(
                    Sign(has=("blocks.0.self_attn.q_proj", "blocks.0.mlp.layer1", "x_embedder.proj.1")),
                    Sign(
                        has=("time_embed.t_embedder", "patch_embed.proj", "transformer_blocks.0.attn2"),
                        lacks=("learnable_pos_embed", "audio_proj_in"),
                        naming="diffusers",
                    ),
                ),
            ),
        },
        problem=message("file_not_yet", title="Cosmos Predict 2"),
        original_names=False,
    ),
    Family(
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
    ),
    Family(
        id="stable_cascade",
        title="Stable Cascade",
        pipelines=every_kind(
            "StableCascadeCombinedPipeline", "StableCascadeDecoderPipeline", "StableCascadePriorPipeline"
        ),
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
    ),
)
