"""Cosmos Predict 2, which is recognised and not run."""

from diffusion_local.families.family import Architecture, Family, every_kind
from diffusion_local.families.sign import Sign
from diffusion_local.messages import message

FAMILY = Family(
    id="cosmos",
    title="Cosmos Predict 2",
    pipelines=every_kind("Cosmos2TextToImagePipeline"),
    architectures={
        "cosmos": Architecture(
            title="Cosmos Predict 2",
            signs=(Sign(has=("blocks.0.self_attn.q_proj", "blocks.0.mlp.layer1", "x_embedder.proj.1")),),
        ),
    },
    problem=message("file_not_yet", title="Cosmos Predict 2"),
    original_names=False,
)
