"""ERNIE-Image."""

from diffusion_local.families.family import Architecture, Family, every_kind
from diffusion_local.families.sign import LoraSign, Sign
from diffusion_local.options.limits import Defaults, Limits
from diffusion_local.options.samplers import FLOW

FAMILY = Family(
    id="ernie_image",
    title="ERNIE-Image",
    pipelines=every_kind("ErnieImagePipeline"),
    architectures={
        "ernie_image": Architecture(
            title="ERNIE-Image",
            parts=("ministral_3b", "vae_flux2"),
            signs=(Sign(has=("layers.0.adaLN_sa_ln", "layers.0.self_attention", "text_proj")),),
            loras=(LoraSign(parts=("layers_#_self_attention_to_",)),),
            lora_words=("ernie-image", "ernie_image"),
        ),
    },
    limits=Limits(multiple=16),
    defaults=Defaults(width=1024, height=1024, steps=50, guidance=4.0, sampler="Euler"),
    sampling=FLOW,
    lora_layouts=("diffusers", "comfy", "peft"),
)
