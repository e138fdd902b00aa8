"""Sana."""

from diffusion_local.families.family import Architecture, Family, every_kind
from diffusion_local.families.sign import LoraSign, Sign
from diffusion_local.options.limits import Defaults, Limits
from diffusion_local.options.samplers import FLOW

#: A patch is a single latent position with 32 channels.
ENTRANCE = {"x_embedder.proj.weight": (None, 32, None, None)}
SIZES = {
    "num_layers": "blocks.#",
    "cross_attention_dim": "blocks.0.cross_attn.q_linear.weight:0",
    "caption_channels": "y_embedder.y_proj.fc1.weight:1",
}
SIZES_DIFFUSERS = {
    "num_layers": "transformer_blocks.#",
    "cross_attention_dim": "transformer_blocks.0.attn2.to_q.weight:0",
    "caption_channels": "caption_projection.linear_1.weight:1",
}

FAMILY = Family(
    id="sana",
    title="Sana",
    pipelines=every_kind("SanaPipeline"),
    architectures={
        "sana": Architecture(
            title="Sana",
            parts=("gemma2_2b", "vae_dc"),
            signs=(
                Sign(
                    has=("blocks.0.cross_attn.q_linear", "blocks.0.cross_attn.kv_linear"), shapes=ENTRANCE, sizes=SIZES
                ),
                Sign(
                    has=("patch_embed.proj", "caption_norm", "transformer_blocks.0.ff.conv_inverted"),
                    naming="diffusers",
                    sizes=SIZES_DIFFUSERS,
                ),
            ),
            loras=(LoraSign(reads={"transformer_blocks_#_attn1_to_q": (2240, 1152)}, lacks=("attentions", "ff_net")),),
            lora_words=("sana",),
        )
    },
    limits=Limits(multiple=32),
    defaults=Defaults(width=1024, height=1024, steps=20, guidance=4.5, sampler="DPM++ 2M"),
    sampling=FLOW,
    tokens=300,
    lora_layouts=("diffusers",),
)
