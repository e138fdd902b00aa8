"""PixArt-alpha and PixArt-Sigma."""

from diffusion_local.families.family import Architecture, Family, every_kind
from diffusion_local.families.sign import Sign
from diffusion_local.options.limits import Defaults, Limits

FAMILY = Family(
    id="pixart",
    title="PixArt",
    pipelines=every_kind("PixArtSigmaPipeline", "PixArtAlphaPipeline"),
    architectures={
        "pixart": Architecture(
            title="PixArt",
            parts=("t5_xxl",),
            signs=(
                Sign(
                    has=("x_embedder.proj", "y_embedder.y_proj.fc1", "t_block.1", "blocks.0.cross_attn.kv_linear"),
                    lacks=("attention_y_norm",),
                ),
                Sign(
                    has=("t_block.1", "y_embedder", "blocks.0.cross_attn.q_linear"),
                    shapes={"x_embedder.proj.weight": (None, 4, 2, 2)},
                ),
                Sign(
                    has=("pos_embed.proj", "adaln_single", "transformer_blocks.0.attn2"),
                    lacks=("patchify_proj",),
                    naming="diffusers",
                ),
            ),
        )
    },
    limits=Limits(multiple=16),
    defaults=Defaults(width=1024, height=1024, steps=20, guidance=4.5, sampler="DPM++ 2M"),
    tokens=300,
    loras=False,
    original_names=False,
)
