"""FLUX.1 dev and schnell, and models derived from them (Krea, Kontext, Fill, Canny, Depth)."""

from diffusion_local.families.family import Architecture, Configs, Family, every_kind
from diffusion_local.families.sign import LoraSign, Sign
from diffusion_local.messages import message
from diffusion_local.options.limits import Defaults, Limits
from diffusion_local.options.samplers import FLOW
from diffusion_local.options.types import Kind

PARTS = ("clip_l", "t5_xxl", "vae_flux")
BLOCKS = ("double_blocks.0.img_attn", "single_blocks.0", "vector_in", "txt_in")
# modules of HunyuanVideo, whose blocks have the same names
VIDEO, VIDEO_DIFFUSERS = "txt_in.individual_token_refiner", "context_embedder.token_refiner"
DIFFUSERS = (
    "single_transformer_blocks.0.attn",
    "transformer_blocks.0.attn.add_q_proj",
    "time_text_embed.text_embedder",
)
SIZES = {
    "in_channels": "img_in.weight:1",
    "num_layers": "double_blocks.#",
    "num_single_layers": "single_blocks.#",
    "joint_attention_dim": "txt_in.weight:1",
    "pooled_projection_dim": "vector_in.in_layer.weight:1",
}
SIZES_DIFFUSERS = {
    "in_channels": "x_embedder.weight:1",
    "num_layers": "transformer_blocks.#",
    "num_single_layers": "single_transformer_blocks.#",
    "joint_attention_dim": "context_embedder.weight:1",
    "pooled_projection_dim": "time_text_embed.text_embedder.linear_1.weight:1",
}
#: Input channels: a packed latent alone, with a mask and a picture (Fill), with a control picture.
PLAIN, FILL, CONTROL = 64, 384, 128


def find_architecture(configs: Configs) -> str:
    return "flux_dev" if configs("transformer").get("guidance_embeds") else "flux_schnell"


def signs(guided: bool, channels: int | None) -> tuple[Sign, ...]:
    first = {} if channels is None else {"img_in.weight": (None, channels)}
    second = {} if channels is None else {"x_embedder.weight": (None, channels)}
    if guided:
        return (
            Sign(has=(*BLOCKS, "guidance_in"), lacks=(VIDEO,), shapes=first, sizes=SIZES),
            Sign(
                has=(*DIFFUSERS, "time_text_embed.guidance_embedder"),
                lacks=(VIDEO_DIFFUSERS,),
                shapes=second,
                naming="diffusers",
                sizes=SIZES_DIFFUSERS,
            ),
        )
    return (
        Sign(has=BLOCKS, lacks=("guidance_in", VIDEO), shapes=first, sizes=SIZES),
        Sign(
            has=DIFFUSERS,
            lacks=("time_text_embed.guidance_embedder", VIDEO_DIFFUSERS),
            shapes=second,
            naming="diffusers",
            sizes=SIZES_DIFFUSERS,
        ),
    )


FAMILY = Family(
    id="flux",
    title="FLUX.1",
    pipelines=every_kind("FluxPipeline", "FluxKontextPipeline", "FluxControlPipeline")
    | {"FluxFillPipeline": (Kind.INPAINT,)},
    architectures={
        # for LoRAs, which fit all the others
        "flux": Architecture(
            title="FLUX.1",
            lora_words=("flux",),
            loras=(
                LoraSign(parts=("double_blocks_#_",)),
                LoraSign(parts=("single_blocks_#_linear",)),
                LoraSign(parts=("single_blocks_#_qkv",), reads={"single_blocks_#_qkv": (3072,)}),
                LoraSign(parts=("single_blocks_#_modulation_lin",)),
                LoraSign(parts=("single_transformer_blocks_#_",)),
                LoraSign(parts=("transformer_blocks_#_norm1_context_linear",), reads={"norm1_context_linear": (3072,)}),
                LoraSign(parts=("transformer_blocks_#_ff_context",), reads={"ff_context_net_#_proj": (3072,)}),
                LoraSign(parts=("transformer_blocks_#_attn_add_q_proj",), reads={"attn_add_q_proj": (3072,)}),
                LoraSign(parts=("transformer_blocks_#_attn_to_add_out",), reads={"attn_to_add_out": (3072,)}),
            ),
        ),
        "flux_dev": Architecture(title="FLUX.1 dev", adapters="flux", parts=PARTS, signs=signs(True, None)),
        "flux_schnell": Architecture(
            title="FLUX.1 schnell", adapters="flux", tokens=256, parts=PARTS, signs=signs(False, None)
        ),
        "flux_kontext": Architecture(
            title="FLUX.1 Kontext",
            adapters="flux",
            parts=PARTS,
            references=1,
            like="flux_dev",
        ),
        "flux_fill": Architecture(
            title="FLUX.1 Fill",
            adapters="flux",
            parts=PARTS,
            signs=signs(True, FILL),
            kinds=(Kind.INPAINT,),
        ),
        "flux_control": Architecture(
            title="FLUX.1 Canny or Depth",
            adapters="flux",
            parts=PARTS,
            signs=signs(True, CONTROL),
            problem=message("file_not_yet_other", title="FLUX.1 Canny or Depth", other="FLUX.1 dev"),
        ),
    },
    find_architecture=find_architecture,
    variants={
        "FluxKontextPipeline": "flux_kontext",
        "FluxFillPipeline": "flux_fill",
        "FluxControlPipeline": "flux_control",
    },
    limits=Limits(multiple=16),
    defaults=Defaults(width=1024, height=1024, steps=28, guidance=3.5, sampler="Euler"),
    controls=("ControlNet", "union"),
    sampling=FLOW,
    tokenizer="tokenizer_2",
    tokens=512,
    negative=False,  # guidance is distilled into it
    lora_layouts=("kohya", "diffusers", "xlabs", "peft", "onetrainer"),
)
