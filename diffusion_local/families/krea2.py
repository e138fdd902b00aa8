"""Krea 2, base and distilled."""

from diffusion_local.families.family import Architecture, Family, every_kind
from diffusion_local.families.sign import LoraSign, Sign
from diffusion_local.options.limits import Defaults, Limits
from diffusion_local.options.samplers import FLOW

FAMILY = Family(
    id="krea2",
    title="Krea 2",
    pipelines=every_kind("Krea2Pipeline"),
    architectures={
        "krea2": Architecture(
            title="Krea 2",
            parts=("qwen3_vl_4b", "vae_wan21"),
            signs=(
                Sign(has=("txtfusion.projector", "blocks.0.attn")),
                Sign(has=("text_fusion", "transformer_blocks.0.attn.to_gate", "time_mod_proj"), naming="diffusers"),
            ),
            loras=(
                LoraSign(parts=("txtfusion_",)),
                LoraSign(parts=("text_fusion_",)),
                LoraSign(parts=("transformer_blocks_#_attn_to_gate",)),
                LoraSign(reads={"blocks_#_attn_wq": (6144,)}),
                LoraSign(reads={"transformer_blocks_#_attn_to_q": (6144,)}),
            ),
            lora_words=("krea2", "krea-2", "krea_2"),
        ),
    },
    limits=Limits(multiple=16),
    defaults=Defaults(width=1024, height=1024, steps=28, guidance=4.5, sampler="Euler"),
    sampling=FLOW,
    tokens=512,
    lora_layouts=("diffusers", "comfy", "peft"),
)
