"""LongCat-Image, which is recognised and not run."""

from diffusion_local.families.family import Architecture, Family, every_kind
from diffusion_local.families.sign import Sign
from diffusion_local.messages import message

FAMILY = Family(
    id="longcat_image",
    title="LongCat-Image",
    pipelines=every_kind("LongCatImagePipeline", "LongCatImageEditPipeline"),
    architectures={
        "longcat_image": Architecture(
            title="LongCat-Image",
            parts=("qwen25_vl_7b", "vae_flux"),
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
        ),
    },
    problem=message("file_not_yet", title="LongCat-Image"),
    original_names=False,
)
