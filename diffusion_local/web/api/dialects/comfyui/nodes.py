"""The supported ComfyUI nodes, with their inputs and outputs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

#: Choices other than the names of files, which ``Names`` has.
WEIGHT_DTYPES = ("default", "fp8_e4m3fn", "fp8_e4m3fn_fast", "fp8_e5m2")
CLIP_TYPES = (
    *("stable_diffusion", "sdxl", "sd3", "flux", "flux2", "hunyuan_image", "lumina2", "pixart", "qwen_image", "chroma"),
    *("hidream", "stable_cascade", "cosmos", "omnigen2", "z_image"),
)
#: Accepted samplers and schedulers of ComfyUI; ``adapting`` replaces those without a counterpart by the nearest one.
SAMPLER_NAMES = (
    *("euler", "euler_ancestral", "heun", "dpmpp_2m", "dpmpp_2m_sde", "ddim", "ddpm", "lcm", "uni_pc"),
    *("euler_cfg_pp", "euler_ancestral_cfg_pp", "heunpp2", "dpm_2", "dpm_2_ancestral", "lms", "dpm_fast"),
    *("dpm_adaptive", "dpmpp_2s_ancestral", "dpmpp_sde", "dpmpp_sde_gpu", "dpmpp_2m_sde_gpu", "dpmpp_3m_sde"),
    *("dpmpp_3m_sde_gpu", "ipndm", "deis", "uni_pc_bh2"),
)
#: The first two mean the sampler's own spacing.
SCHEDULERS = (
    *("normal", "simple", "karras", "exponential", "sgm_uniform", "ddim_uniform", "beta", "linear_quadratic"),
    "kl_optimal",
)
OWN_SPACING = SCHEDULERS[:2]
WIDGET_TYPES: dict[str, type | tuple[type, ...]] = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}
#: Inputs of the IP-Adapter nodes, which belong to an extension of ComfyUI.
PRESETS = ("LIGHT - SD1.5 only (low strength)", "STANDARD (medium strength)", "VIT-G (medium strength)",
    "PLUS (high strength)", "PLUS FACE (portraits)", "FULL FACE - SD1.5 only (portraits stronger)")  # fmt: skip
WEIGHT_TYPES = ("standard", "prompt is more important", "style transfer")
#: Our names for the modes of a union ControlNet, by ComfyUI's types.
UNION_TYPES = {
    "openpose": "openpose", "depth": "depth", "hed/pidi/scribble/ted": "softedge",
    "canny/lineart/anime_lineart/mlsd": "canny", "normal": "normal", "segment": "segment", "tile": "tile",
    "repaint": "inpaint",
}  # fmt: skip
#: Enlarging of latents and of images: methods and target sizes; a side of 0 follows from the aspect ratio.
LATENT_METHODS = ("nearest-exact", "bilinear", "area", "bicubic", "bislerp")
IMAGE_METHODS = ("nearest-exact", "bilinear", "area", "bicubic", "lanczos")


@dataclass(frozen=True, slots=True)
class Input:
    """``kind``: a ComfyUI type, or COMBO with its ``choices``: values, or the name of a list in ``Names``. ``open``:
    unlisted choices are accepted, because the studio's models have their own text encoders and VAEs.
    """

    kind: str
    low: float | None = None
    high: float | None = None
    default: Any = None
    choices: tuple[str, ...] | str = ()
    required: bool = True
    open: bool = False


@dataclass(frozen=True, slots=True)
class Node:
    title: str
    category: str
    inputs: dict[str, Input]
    outputs: tuple[str, ...] = ()
    is_output: bool = False


@dataclass(frozen=True, slots=True)
class Names:
    """Names of files and models that choices offer, by list. ``alias``: the model that an alias stands for."""

    lists: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    alias: Callable[[str], str | None] = lambda name: None

    def choices(self, each: Input) -> tuple[str, ...]:
        return self.lists.get(each.choices, ()) if isinstance(each.choices, str) else each.choices


def integer(low: int, high: int, default: int, required: bool = True) -> Input:
    return Input("INT", low, high, default, required=required)


def decimal(low: float, high: float, default: float) -> Input:
    return Input("FLOAT", low, high, default)


def combo(
    choices: tuple[str, ...] | str, default: str | None = None, required: bool = True, open: bool = False
) -> Input:
    return Input("COMBO", default=default, choices=choices, required=required, open=open)


TEXT_INPUT = Input("STRING")
SIDE_INPUT = integer(16, 16384, 512)
SEED_INPUT = integer(0, 2**64 - 1, 0)
STEPS_INPUT = integer(1, 10_000, 20)
LATENT_SIZE = {"width": SIDE_INPUT, "height": SIDE_INPUT, "batch_size": integer(1, 4096, 1)}
SAMPLER_INPUTS = {
    "steps": STEPS_INPUT,
    "cfg": decimal(0, 100, 8),
    "sampler_name": combo(SAMPLER_NAMES),
    "scheduler": combo(SCHEDULERS),
    "positive": Input("CONDITIONING"),
    "negative": Input("CONDITIONING"),
    "latent_image": Input("LATENT"),
}
PLACE = combo(("default", "cpu"), "default", required=False)
STRENGTH_INPUT = decimal(-100, 100, 1)
CONTROL_STRENGTH = decimal(0, 10, 1)
CONTROLNET_INPUTS = {
    "positive": Input("CONDITIONING"),
    "negative": Input("CONDITIONING"),
    "control_net": Input("CONTROL_NET"),
    "image": Input("IMAGE"),
    "strength": CONTROL_STRENGTH,
    "start_percent": decimal(0, 1, 0),
    "end_percent": decimal(0, 1, 1),
}
ADAPTER_INPUTS = {
    "model": Input("MODEL"),
    "ipadapter": Input("IPADAPTER"),
    "image": Input("IMAGE"),
    "weight": decimal(-1, 3, 1),
    "start_at": decimal(0, 1, 0),
    "end_at": decimal(0, 1, 1),
    "attn_mask": Input("MASK", required=False),
}
EDIT_INPUTS = {"clip": Input("CLIP"), "prompt": TEXT_INPUT, "vae": Input("VAE", required=False)}


def optional_images(*names: str) -> dict[str, Input]:
    return {name: Input("IMAGE", required=False) for name in names}


TO_SIZE = {
    "width": integer(0, 16384, 512),
    "height": integer(0, 16384, 512),
    "crop": combo(("disabled", "center"), "disabled"),
}
BY_FACTOR = {"scale_by": decimal(0.01, 8, 1.5)}
LATENT_UPSCALE = {"samples": Input("LATENT"), "upscale_method": combo(LATENT_METHODS)}
IMAGE_SCALE = {"image": Input("IMAGE"), "upscale_method": combo(IMAGE_METHODS)}

NODES: dict[str, Node] = {
    "CheckpointLoaderSimple": Node(
        "Load Checkpoint", "loaders", {"ckpt_name": combo("models")}, ("MODEL", "CLIP", "VAE")
    ),
    "UNETLoader": Node(
        "Load Diffusion Model",
        "advanced/loaders",
        {"unet_name": combo("models"), "weight_dtype": combo(WEIGHT_DTYPES, "default", required=False, open=True)},
        ("MODEL",),
    ),
    "CLIPLoader": Node(
        "Load CLIP",
        "advanced/loaders",
        {"clip_name": combo("clips", open=True), "type": combo(CLIP_TYPES, required=False, open=True), "device": PLACE},
        ("CLIP",),
    ),
    "DualCLIPLoader": Node(
        "DualCLIPLoader",
        "advanced/loaders",
        {
            "clip_name1": combo("clips", open=True),
            "clip_name2": combo("clips", open=True),
            "type": combo(CLIP_TYPES, required=False, open=True),
            "device": PLACE,
        },
        ("CLIP",),
    ),
    "TripleCLIPLoader": Node(
        "TripleCLIPLoader",
        "advanced/loaders",
        {f"clip_name{number}": combo("clips", open=True) for number in (1, 2, 3)},
        ("CLIP",),
    ),
    "VAELoader": Node("Load VAE", "loaders", {"vae_name": combo("vaes", open=True)}, ("VAE",)),
    "LoraLoader": Node(
        "Load LoRA",
        "loaders",
        {
            "model": Input("MODEL"),
            "clip": Input("CLIP"),
            "lora_name": combo("loras"),
            "strength_model": STRENGTH_INPUT,
            "strength_clip": STRENGTH_INPUT,
        },
        ("MODEL", "CLIP"),
    ),
    "LoraLoaderModelOnly": Node(
        "LoraLoaderModelOnly",
        "loaders",
        {"model": Input("MODEL"), "lora_name": combo("loras"), "strength_model": STRENGTH_INPUT},
        ("MODEL",),
    ),
    "CLIPTextEncode": Node(
        "CLIP Text Encode (Prompt)", "conditioning", {"text": TEXT_INPUT, "clip": Input("CLIP")}, ("CONDITIONING",)
    ),
    "CLIPSetLastLayer": Node(
        "CLIP Set Last Layer",
        "conditioning",
        {"clip": Input("CLIP"), "stop_at_clip_layer": integer(-24, -1, -1)},
        ("CLIP",),
    ),
    "ConditioningZeroOut": Node(
        "ConditioningZeroOut", "advanced/conditioning", {"conditioning": Input("CONDITIONING")}, ("CONDITIONING",)
    ),
    "FluxGuidance": Node(
        "FluxGuidance",
        "advanced/conditioning/flux",
        {"conditioning": Input("CONDITIONING"), "guidance": decimal(0, 100, 3.5)},
        ("CONDITIONING",),
    ),
    "IPAdapterModelLoader": Node(
        "IPAdapter Model Loader", "ipadapter/loaders", {"ipadapter_file": combo("ip_adapters")}, ("IPADAPTER",)
    ),
    "IPAdapterUnifiedLoader": Node(
        "IPAdapter Unified Loader",
        "ipadapter",
        {"model": Input("MODEL"), "preset": combo(PRESETS, open=True), "ipadapter": Input("IPADAPTER", required=False)},
        ("MODEL", "IPADAPTER"),
    ),
    "CLIPVisionLoader": Node(
        "Load CLIP Vision", "loaders", {"clip_name": combo("clip_visions", open=True)}, ("CLIP_VISION",)
    ),
    "IPAdapter": Node(
        "IPAdapter", "ipadapter", ADAPTER_INPUTS | {"weight_type": combo(WEIGHT_TYPES, open=True)}, ("MODEL",)
    ),
    "IPAdapterAdvanced": Node(
        "IPAdapter Advanced",
        "ipadapter",
        ADAPTER_INPUTS
        | {"weight_type": combo(("linear",), open=True), "clip_vision": Input("CLIP_VISION", required=False)},
        ("MODEL",),
    ),
    "FluxKontextImageScale": Node(
        "FluxKontextImageScale", "advanced/conditioning/flux", {"image": Input("IMAGE")}, ("IMAGE",)
    ),
    "ReferenceLatent": Node(
        "ReferenceLatent",
        "advanced/conditioning/edit_models",
        {"conditioning": Input("CONDITIONING"), "latent": Input("LATENT", required=False)},
        ("CONDITIONING",),
    ),
    "TextEncodeQwenImageEdit": Node(
        "TextEncodeQwenImageEdit", "advanced/conditioning", EDIT_INPUTS | optional_images("image"), ("CONDITIONING",)
    ),
    "TextEncodeQwenImageEditPlus": Node(
        "TextEncodeQwenImageEditPlus",
        "advanced/conditioning",
        EDIT_INPUTS | optional_images("image1", "image2", "image3"),
        ("CONDITIONING",),
    ),
    "ConditioningSetArea": Node(
        "Conditioning (Set Area)",
        "conditioning",
        {
            "conditioning": Input("CONDITIONING"),
            **{name: integer(64, 16384, 64) for name in ("width", "height")},
            **{name: integer(0, 16384, 0) for name in ("x", "y")},
            "strength": decimal(0, 10, 1),
        },
        ("CONDITIONING",),
    ),
    "ConditioningSetAreaPercentage": Node(
        "Conditioning (Set Area with Percentage)",
        "conditioning",
        {
            "conditioning": Input("CONDITIONING"),
            **{name: decimal(0, 1, 1) for name in ("width", "height")},
            **{name: decimal(0, 1, 0) for name in ("x", "y")},
            "strength": decimal(0, 10, 1),
        },
        ("CONDITIONING",),
    ),
    "ConditioningCombine": Node(
        "Conditioning (Combine)",
        "conditioning",
        {"conditioning_1": Input("CONDITIONING"), "conditioning_2": Input("CONDITIONING")},
        ("CONDITIONING",),
    ),
    "ControlNetLoader": Node(
        "Load ControlNet Model", "loaders", {"control_net_name": combo("controls")}, ("CONTROL_NET",)
    ),
    "SetUnionControlNetType": Node(
        "SetUnionControlNetType",
        "conditioning/controlnet",
        {"control_net": Input("CONTROL_NET"), "type": combo(("auto", *UNION_TYPES), "auto")},
        ("CONTROL_NET",),
    ),
    "ControlNetApply": Node(
        "Apply ControlNet (OLD)",
        "conditioning/controlnet",
        {
            "conditioning": Input("CONDITIONING"),
            "control_net": Input("CONTROL_NET"),
            "image": Input("IMAGE"),
            "strength": CONTROL_STRENGTH,
        },
        ("CONDITIONING",),
    ),
    "ControlNetApplyAdvanced": Node(
        "Apply ControlNet",
        "conditioning/controlnet",
        {**CONTROLNET_INPUTS, "vae": Input("VAE", required=False)},
        ("CONDITIONING", "CONDITIONING"),
    ),
    "ControlNetApplySD3": Node(
        "Apply Controlnet with VAE",
        "conditioning/controlnet",
        {**CONTROLNET_INPUTS, "vae": Input("VAE")},
        ("CONDITIONING", "CONDITIONING"),
    ),
    "Canny": Node(
        "Canny",
        "image/preprocessors",
        {
            "image": Input("IMAGE"),
            "low_threshold": decimal(0.01, 0.99, 0.4),
            "high_threshold": decimal(0.01, 0.99, 0.8),
        },
        ("IMAGE",),
    ),
    "ImageInvert": Node("Invert Image", "image", {"image": Input("IMAGE")}, ("IMAGE",)),
    "EmptyLatentImage": Node("Empty Latent Image", "latent", LATENT_SIZE, ("LATENT",)),
    "EmptySD3LatentImage": Node("EmptySD3LatentImage", "latent/sd3", LATENT_SIZE, ("LATENT",)),
    "LoadImage": Node("Load Image", "image", {"image": combo("images", open=True)}, ("IMAGE", "MASK")),
    "LoadImageMask": Node(
        "Load Image (as Mask)",
        "mask",
        {"image": combo("images", open=True), "channel": combo(("alpha", "red", "green", "blue"), "alpha")},
        ("MASK",),
    ),
    "VAEEncode": Node("VAE Encode", "latent", {"pixels": Input("IMAGE"), "vae": Input("VAE")}, ("LATENT",)),
    "VAEEncodeForInpaint": Node(
        "VAE Encode (for Inpainting)",
        "latent/inpaint",
        {
            "pixels": Input("IMAGE"),
            "vae": Input("VAE"),
            "mask": Input("MASK"),
            "grow_mask_by": integer(0, 64, 6, required=False),
        },
        ("LATENT",),
    ),
    "SetLatentNoiseMask": Node(
        "Set Latent Noise Mask", "latent/inpaint", {"samples": Input("LATENT"), "mask": Input("MASK")}, ("LATENT",)
    ),
    "RepeatLatentBatch": Node(
        "Repeat Latent Batch", "latent/batch", {"samples": Input("LATENT"), "amount": integer(1, 64, 1)}, ("LATENT",)
    ),
    "KSampler": Node(
        "KSampler",
        "sampling",
        {"model": Input("MODEL"), "seed": SEED_INPUT, **SAMPLER_INPUTS, "denoise": decimal(0, 1, 1)},
        ("LATENT",),
    ),
    "KSamplerAdvanced": Node(
        "KSampler (Advanced)",
        "sampling",
        {
            "model": Input("MODEL"),
            "add_noise": combo(("enable", "disable"), "enable"),
            "noise_seed": SEED_INPUT,
            **SAMPLER_INPUTS,
            "start_at_step": integer(0, 10_000, 0),
            "end_at_step": integer(0, 10_000, 10_000),
            "return_with_leftover_noise": combo(("disable", "enable"), "disable"),
        },
        ("LATENT",),
    ),
    "VAEDecode": Node("VAE Decode", "latent", {"samples": Input("LATENT"), "vae": Input("VAE")}, ("IMAGE",)),
    "LatentUpscale": Node("Upscale Latent", "latent", LATENT_UPSCALE | TO_SIZE, ("LATENT",)),
    "LatentUpscaleBy": Node("Upscale Latent By", "latent", LATENT_UPSCALE | BY_FACTOR, ("LATENT",)),
    "ImageScale": Node("Upscale Image", "image/upscaling", IMAGE_SCALE | TO_SIZE, ("IMAGE",)),
    "ImageScaleBy": Node("Upscale Image By", "image/upscaling", IMAGE_SCALE | BY_FACTOR, ("IMAGE",)),
    "UpscaleModelLoader": Node("Load Upscale Model", "loaders", {"model_name": combo("upscalers")}, ("UPSCALE_MODEL",)),
    "ImageUpscaleWithModel": Node(
        "Upscale Image (using Model)",
        "image/upscaling",
        {"upscale_model": Input("UPSCALE_MODEL"), "image": Input("IMAGE")},
        ("IMAGE",),
    ),
    "SaveImage": Node(
        "Save Image",
        "image",
        {"images": Input("IMAGE"), "filename_prefix": Input("STRING", default="ComfyUI", required=False)},
        is_output=True,
    ),
    "PreviewImage": Node("Preview Image", "image", {"images": Input("IMAGE")}, is_output=True),
    "PrimitiveInt": Node("Int", "utils/primitive", {"value": integer(-(2**63), 2**64 - 1, 0)}, ("INT",)),
    "PrimitiveFloat": Node("Float", "utils/primitive", {"value": decimal(-1e18, 1e18, 0)}, ("FLOAT",)),
    "PrimitiveString": Node("String", "utils/primitive", {"value": TEXT_INPUT}, ("STRING",)),
    "PrimitiveStringMultiline": Node("String (Multiline)", "utils/primitive", {"value": TEXT_INPUT}, ("STRING",)),
    "PrimitiveBoolean": Node("Boolean", "utils/primitive", {"value": Input("BOOLEAN", default=True)}, ("BOOLEAN",)),
}
