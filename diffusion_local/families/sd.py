"""Stable Diffusion 1 and 2, with their distilled models (LCM, SD Turbo)."""

from diffusion_local.families.family import Architecture, Configs, Family, every_kind
from diffusion_local.options.limits import Defaults


def find_architecture(configs: Configs) -> str:
    width = configs("unet").get("cross_attention_dim")
    return {768: "sd1", 1024: "sd2"}.get(width if isinstance(width, int) else 0, "sd")


FAMILY = Family(
    id="sd",
    title="Stable Diffusion",
    pipelines=every_kind(
        "StableDiffusionPipeline",
        "StableDiffusionImg2ImgPipeline",
        "StableDiffusionInpaintPipeline",
        "LatentConsistencyModelPipeline",
    ),
    architectures={
        "sd": Architecture(title="Stable Diffusion"),  # of unusual sizes, such as the starter
        "sd1": Architecture(
            title="SD 1",
            text_width=768,
            encoders=("cond_stage_model.transformer.",),
            lora_words=("v1",),
            token_width=768,
        ),
        "sd2": Architecture(
            title="SD 2",
            text_width=1024,
            encoders=("cond_stage_model.model.",),
            # Its files do not state it. Those for 768 px were trained on v, and most are of that kind.
            prediction="v_prediction",
            lora_words=("v2",),
            token_width=1024,
        ),
    },
    unet=True,
    find_architecture=find_architecture,
    defaults=Defaults(width=512, height=512, steps=25, guidance=7.5, sampler="DPM++ 2M"),
    half=True,
    weights=True,
    clip_skip=True,
)
