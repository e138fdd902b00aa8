"""FLUX.2 klein, distilled and base."""

from diffusion_local.families.family import Architecture, Configs, Family, every_kind
from diffusion_local.families.sign import LoraSign, Sign
from diffusion_local.options.limits import Defaults, Limits
from diffusion_local.options.samplers import FLOW

#: Width of the text embeddings that the transformer reads: three layers of its text encoder, concatenated.
SMALL, LARGE = 7680, 12288
#: Reference pictures that klein was trained to read at once.
REFERENCES = 4
BLOCK_NAMES = ("double_blocks.0", "double_stream_modulation_img", "single_stream_modulation")
DIFFUSERS = ("transformer_blocks.0", "double_stream_modulation_img", "single_stream_modulation")
SIZES = {
    "in_channels": "img_in.weight:1",
    "num_layers": "double_blocks.#",
    "num_single_layers": "single_blocks.#",
    "joint_attention_dim": "txt_in.weight:1",
}
SIZES_DIFFUSERS = {
    "in_channels": "x_embedder.weight:1",
    "num_layers": "transformer_blocks.#",
    "num_single_layers": "single_transformer_blocks.#",
    "joint_attention_dim": "context_embedder.weight:1",
}


def find_architecture(configs: Configs) -> str:
    width = configs("transformer").get("joint_attention_dim")
    return {SMALL: "flux2_klein_4b", LARGE: "flux2_klein_9b"}.get(width if isinstance(width, int) else 0, "flux2")


def signs(width: int) -> tuple[Sign, ...]:
    return (
        Sign(has=BLOCK_NAMES, shapes={"txt_in.weight": (None, width)}, sizes=SIZES),
        Sign(
            has=DIFFUSERS,
            shapes={"context_embedder.weight": (None, width)},
            naming="diffusers",
            sizes=SIZES_DIFFUSERS,
        ),
    )


def loras(hidden: int, width: int, feed: int) -> tuple[LoraSign, ...]:
    """Signs of LoRAs for one size. ``hidden``: width of a block; ``feed``: output width of its first linear layer."""
    return (
        LoraSign(parts=("double_blocks_#_",), reads={"img_attn_proj": (hidden,)}, writes={"img_mlp_#": (feed,)}),
        LoraSign(parts=("single_blocks_#_linear1",), reads={"_linear1": (hidden,)}, writes={"_linear1": (hidden * 9,)}),
        LoraSign(reads={"txt_in": (width,)}),
        LoraSign(reads={"context_embedder": (width,)}),
        LoraSign(reads={"single_transformer_blocks_#_attn_to_qkv_mlp_proj": (hidden,)}),
        LoraSign(parts=("ff_linear_in",), reads={"transformer_blocks_#_ff_linear_in": (hidden,)}),
    )


FAMILY = Family(
    id="flux2",
    title="FLUX.2 klein",
    pipelines=every_kind("Flux2KleinPipeline"),
    architectures={
        # for models of other sizes, and for LoRAs that do not show their size
        "flux2": Architecture(
            title="FLUX.2",
            references=REFERENCES,
            signs=(Sign(has=BLOCK_NAMES), Sign(has=DIFFUSERS, naming="diffusers")),
            loras=(
                LoraSign(parts=("single_transformer_blocks_#_attn_to_qkv_mlp_proj",)),
                LoraSign(parts=("transformer_blocks_#_ff_linear_in",)),
            ),
            lora_words=("flux2", "flux-2", "flux.2"),
        ),
        "flux2_klein_4b": Architecture(
            title="FLUX.2 klein 4B",
            references=REFERENCES,
            parts=("qwen3_4b", "vae_flux2"),
            signs=signs(SMALL),
            loras=loras(3072, SMALL, 18432),
            lora_words=("flux-2-klein-4b", "flux2-klein-4b", "flux2_klein_4b"),
        ),
        "flux2_klein_9b": Architecture(
            title="FLUX.2 klein 9B",
            references=REFERENCES,
            parts=("qwen3_8b", "vae_flux2"),
            signs=signs(LARGE),
            loras=(*loras(4096, LARGE, 24576), LoraSign(reads={"double_blocks_#_img_attn_proj": (4096,)})),
            lora_words=("flux-2-klein-9b", "flux2-klein-9b", "flux2_klein_9b"),
        ),
    },
    find_architecture=find_architecture,
    undistilled={"is_distilled": False},
    limits=Limits(multiple=16),
    defaults=Defaults(width=1024, height=1024, steps=4, guidance=1.0, sampler="Euler"),
    sampling=FLOW,
    tokens=512,
    lora_layouts=("diffusers", "comfy", "kohya"),
)
