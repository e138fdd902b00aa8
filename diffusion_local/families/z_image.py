"""Z-Image, and Z-Image Omni, which reads reference pictures."""

from diffusion_local.families.family import Architecture, Family, every_kind
from diffusion_local.families.sign import LoraSign, Sign
from diffusion_local.options.limits import Defaults, Limits
from diffusion_local.options.samplers import FLOW

BLOCKS = ("layers.0.adaLN_modulation.0", "cap_embedder.1", "noise_refiner.0")
SIZES = {
    "dim": "cap_embedder.1.weight:0",
    "cap_feat_dim": "cap_embedder.1.weight:1",
    "n_layers": "layers.#",
    "n_refiner_layers": "noise_refiner.#",
}

FAMILY = Family(
    id="z_image",
    title="Z-Image",
    pipelines=every_kind("ZImagePipeline", "ZImageOmniPipeline"),
    architectures={
        "z_image": Architecture(
            title="Z-Image",
            parts=("qwen3_4b", "vae_flux"),
            signs=(
                Sign(has=(*BLOCKS, "x_embedder"), sizes=SIZES),
                Sign(has=(*BLOCKS, "all_x_embedder"), naming="diffusers", sizes=SIZES),
            ),
            loras=(
                LoraSign(reads={"layers_#_attention": (3840,)}),
                LoraSign(reads={"layers_#_feed_forward_w1": (3840,)}),
                LoraSign(parts=("layers_#_adaLN_modulation_#",), reads={"layers_#_adaLN_modulation": (256,)}),
            ),
            lora_words=("zimage", "z-image", "z_image"),
        ),
        "z_image_omni": Architecture(
            title="Z-Image Omni",
            adapters="z_image",
            signs=(
                Sign(has=(*BLOCKS, "x_embedder", "siglip_embedder.1"), sizes=SIZES),
                Sign(has=(*BLOCKS, "all_x_embedder", "siglip_embedder.1"), naming="diffusers", sizes=SIZES),
            ),
            references=3,
            lacks=frozenset({"controls"}),  # they read a sequence without references
            like="z_image",
        ),
    },
    variants={"ZImageOmniPipeline": "z_image_omni"},
    limits=Limits(multiple=16),
    defaults=Defaults(width=1024, height=1024, steps=8, guidance=0.0, sampler="Euler"),
    controls=("ControlNet",),
    sampling=FLOW,
    tokens=512,
    lora_layouts=("diffusers", "comfy", "kohya"),
)
