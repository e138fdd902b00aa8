"""LongCat-Image. Its model that edits pictures is recognised but cannot be run."""

from diffusion_local.families.family import Architecture, Family, every_kind
from diffusion_local.families.sign import Sign
from diffusion_local.messages import message
from diffusion_local.options.limits import Defaults, Limits
from diffusion_local.options.samplers import FLOW

PARTS = ("qwen25_vl_7b", "vae_flux")

FAMILY = Family(
    id="longcat_image",
    title="LongCat-Image",
    pipelines=every_kind("LongCatImagePipeline", "LongCatImageEditPipeline"),
    architectures={
        "longcat_image": Architecture(
            title="LongCat-Image",
            parts=PARTS,
            signs=(
                Sign(
                    has=("double_blocks.0", "single_blocks.0", "txt_in"),
                    lacks=("vector_in",),
                    shapes={"txt_in.weight": (None, 3584)},
                ),
                Sign(
                    has=("single_transformer_blocks.0", "transformer_blocks.0", "time_embed"),
                    shapes={"context_embedder.weight": (None, 3584)},
                    naming="diffusers",
                ),
            ),
            lora_words=("longcat",),
        ),
        "longcat_image_edit": Architecture(
            title="LongCat-Image-Edit",
            adapters="longcat_image",
            parts=PARTS,
            problem=message("file_not_yet_other", title="LongCat-Image-Edit", other="LongCat-Image"),
        ),
    },
    variants={"LongCatImageEditPipeline": "longcat_image_edit"},
    limits=Limits(multiple=16),
    defaults=Defaults(width=1024, height=1024, steps=50, guidance=4.5, sampler="Euler"),
    sampling=FLOW,
    tokens=512,
    loras=False,
    original_names=False,
)
