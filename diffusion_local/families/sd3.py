"""Stable Diffusion 3 and 3.5."""

from diffusion_local.families.family import Architecture, Configs, Family, every_kind
from diffusion_local.families.sign import LoraSign, Sign
from diffusion_local.options.limits import Defaults, Limits
from diffusion_local.options.samplers import FLOW

LAYERS_OF_LARGE = 38
MEDIUM, LARGE = 1536, 2432  # widths of a block
PARTS = ("clip_l", "clip_g", "t5_xxl", "vae_sd3")
BLOCK_NAMES = ("joint_blocks.0.context_block", "joint_blocks.0.x_block", "context_embedder")
DIFFUSERS = ("transformer_blocks.0.attn.add_q_proj", "transformer_blocks.0.norm1_context", "pos_embed.proj")
SIZES = {
    "in_channels": "x_embedder.proj.weight:1",
    "num_layers": "joint_blocks.#",
    "caption_projection_dim": "context_embedder.weight:0",
    "joint_attention_dim": "context_embedder.weight:1",
    "pooled_projection_dim": "y_embedder.mlp.0.weight:1",
}
SIZES_DIFFUSERS = {
    "in_channels": "pos_embed.proj.weight:1",
    "num_layers": "transformer_blocks.#",
    "caption_projection_dim": "context_embedder.weight:0",
    "joint_attention_dim": "context_embedder.weight:1",
    "pooled_projection_dim": "time_text_embed.text_embedder.linear_1.weight:1",
}


def find_architecture(configs: Configs) -> str:
    config = configs("transformer")
    if config.get("num_layers") == LAYERS_OF_LARGE:
        return "sd35_large"
    return "sd35_medium" if config.get("dual_attention_layers") else "sd3"


FAMILY = Family(
    id="sd3",
    title="SD 3",
    pipelines=every_kind("StableDiffusion3Pipeline"),
    architectures={
        "sd3": Architecture(
            title="SD 3",
            adapters="sd3_medium",
            parts=PARTS,
            signs=(
                Sign(has=BLOCK_NAMES, sizes=SIZES),
                Sign(
                    has=DIFFUSERS,
                    lacks=("single_transformer_blocks",),
                    naming="diffusers",
                    sizes=SIZES_DIFFUSERS,
                ),
            ),
            # LoRAs that do not show which of the three models they were made for
            loras=(
                LoraSign(parts=("joint_blocks_#_",)),
                LoraSign(
                    parts=("transformer_blocks_#_attn_add_q_proj",),
                    lacks=("single_transformer_blocks", "img_mlp", "img_mod"),
                    reads={"attn_add_q_proj": (MEDIUM, LARGE, 1152)},
                ),
                LoraSign(
                    parts=("transformer_blocks_#_attn_to_q",),
                    lacks=("single_transformer_blocks", "img_mlp", "img_mod", "attentions", "attn2"),
                    reads={"transformer_blocks_#_attn_to_q": (MEDIUM, LARGE, 1152)},
                ),
            ),
            lora_words=("sd3", "v3", "stable-diffusion-3"),
        ),
        # for LoRAs, which fit both models of this width
        "sd3_medium": Architecture(
            title="SD 3 Medium",
            loras=(
                LoraSign(parts=("joint_blocks_#_",), reads={"attn_qkv": (MEDIUM,)}),
                LoraSign(
                    parts=("transformer_blocks_#_attn_add_q_proj", "transformer_blocks_#_attn_to_q"),
                    lacks=("single_transformer_blocks", "img_mlp", "img_mod"),
                    reads={"attn_to_q": (MEDIUM,)},
                ),
            ),
        ),
        "sd35_medium": Architecture(
            title="SD 3.5 Medium",
            adapters="sd3_medium",
            parts=PARTS,
            signs=(
                Sign(has=(*BLOCK_NAMES, "joint_blocks.0.x_block.attn2"), sizes=SIZES),
                Sign(
                    has=(*DIFFUSERS, "transformer_blocks.0.attn2"),
                    lacks=("single_transformer_blocks",),
                    naming="diffusers",
                    sizes=SIZES_DIFFUSERS,
                ),
            ),
        ),
        "sd35_large": Architecture(
            title="SD 3.5 Large",
            parts=PARTS,
            signs=(
                Sign(has=(*BLOCK_NAMES, f"joint_blocks.{LAYERS_OF_LARGE - 1}"), sizes=SIZES),
                Sign(
                    has=(*DIFFUSERS, f"transformer_blocks.{LAYERS_OF_LARGE - 1}"),
                    lacks=("single_transformer_blocks",),
                    naming="diffusers",
                    sizes=SIZES_DIFFUSERS,
                ),
            ),
            loras=(
                LoraSign(parts=("joint_blocks_#_",), reads={"attn_qkv": (LARGE,)}),
                LoraSign(
                    parts=("transformer_blocks_#_attn_add_q_proj", "transformer_blocks_#_attn_to_q"),
                    lacks=("single_transformer_blocks", "img_mlp", "img_mod"),
                    reads={"attn_to_q": (LARGE,)},
                ),
            ),
        ),
    },
    find_architecture=find_architecture,
    limits=Limits(multiple=16),
    defaults=Defaults(width=1024, height=1024, steps=28, guidance=7.0, sampler="Euler"),
    controls=("ControlNet",),
    sampling=FLOW,
    tokenizer="tokenizer_3",
    tokens=256,
    clip_skip=True,
    lora_layouts=("diffusers",),
)
