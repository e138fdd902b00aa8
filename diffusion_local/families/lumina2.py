"""Lumina Image 2."""

from diffusion_local.families.family import Architecture, Family, every_kind
from diffusion_local.families.sign import LoraSign, Sign
from diffusion_local.options.limits import Defaults, Limits
from diffusion_local.options.samplers import FLOW

FAMILY = Family(
    id="lumina2",
    title="Lumina Image 2",
    pipelines=every_kind("Lumina2Pipeline"),
    architectures={
        "lumina2": Architecture(
            title="Lumina Image 2",
            parts=("gemma2_2b", "vae_flux"),
            signs=(
                Sign(has=("layers.0.adaLN_modulation.1", "cap_embedder.1", "noise_refiner.0", "x_embedder")),
                Sign(
                    has=("layers.0.norm1.linear", "time_caption_embed.caption_embedder.1", "noise_refiner.0"),
                    lacks=("ref_image_refiner",),
                    naming="diffusers",
                ),
            ),
            loras=(
                LoraSign(reads={"layers_#_attention": (2304,)}),
                LoraSign(reads={"layers_#_attn_to_q": (2304,)}),
                LoraSign(reads={"layers_#_feed_forward_w1": (2304,)}),
            ),
            lora_words=("lumina-2", "lumina2", "lumina_2", "lumina-image-2"),
        ),
    },
    limits=Limits(multiple=16),
    defaults=Defaults(width=1024, height=1024, steps=30, guidance=4.0, sampler="Euler"),
    sampling=FLOW,
    tokens=256,
    lora_layouts=("diffusers", "comfy"),
)
