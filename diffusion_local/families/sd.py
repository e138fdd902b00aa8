"""Stable Diffusion 1 and 2, with their distilled models (LCM, SD Turbo)."""

from diffusion_local.families.family import Architecture, Configs, Family, every_kind
from diffusion_local.options.limits import Defaults
from diffusion_local.options.types import Kind


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
    )
    | {"StableDiffusionInstructPix2PixPipeline": (Kind.TXT2IMG,)},
    architectures={
        "sd": Architecture(title="Stable Diffusion"),  # unusual sizes, such as the starter model
        "sd1": Architecture(
            title="SD 1",
            text_width=768,
            parts=("clip_l", "vae_sd1"),
            encoders=(("cond_stage_model.transformer.",),),
            lora_words=("v1", "sd1", "sd_1", "sd-1"),
            token_width=768,
        ),
        "sd1_instruct": Architecture(
            title="InstructPix2Pix",
            adapters="sd1",
            parts=("clip_l", "vae_sd1"),
            encoders=(("cond_stage_model.transformer.",),),
            references=1,
            needs_reference=True,
            lacks=frozenset({"regions", "ip_adapters"}),
            like="sd1",
        ),
        "sd2": Architecture(
            title="SD 2",
            text_width=1024,
            parts=("clip_h", "vae_sd1"),
            encoders=(("cond_stage_model.model.",), ("conditioner.embedders.0.model.",)),
            lora_words=("v2", "sd2", "sd_2", "sd-2"),
            token_width=1024,
        ),
    },
    unet=True,
    find_architecture=find_architecture,
    variants={"StableDiffusionInstructPix2PixPipeline": "sd1_instruct"},
    defaults=Defaults(width=512, height=512, steps=25, guidance=7.5, sampler="DPM++ 2M"),
    half=True,
    weights=True,
    clip_skip=True,
    controls=("ControlNet", "T2I-Adapter"),
    regions=True,
    ip_adapters=True,
    inversions=True,
    lora_layouts=("kohya", "diffusers", "old_diffusers"),
)
