"""Large models for measurements, with random weights: their parts, prompts and formats."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import diffusers
import torch

ROOT = Path(__file__).parent.parent
CONFIGS = ROOT / "assets" / "configs"


def engine_module(name: str) -> Any:
    """Import a module of the engine without its package, so that few libraries must be installed."""
    spec: Any = spec_from_file_location(f"diffusion_local.engine.{name}", ROOT / f"diffusion_local/engine/{name}.py")
    module = sys.modules[spec.name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


quantised, kept_blocks, _, streaming = map(engine_module, ("quantised", "kept_blocks", "block_weights", "streaming"))
WORDS = 512
DTYPE = torch.bfloat16
TINY = {"num_layers": 2, "num_single_layers": 2, "num_attention_heads": 2, "joint_attention_dim": 96,
    "pooled_projection_dim": 32, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2, "dim": 256,
    "cap_feat_dim": 64}  # fmt: skip
TINY_VAE = {"block_out_channels": [32, 32, 32, 32], "layers_per_block": 1, "base_dim": 16}
TINY_ENCODER = {"num_layers": 2, "num_hidden_layers": 2, "d_model": 64, "d_ff": 64, "num_heads": 2, "d_kv": 32,
    "hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32,
    "vocab_size": 512}  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """A model. ``steps``: per picture; ``guided``: whether the transformer runs twice per step."""

    config: str
    pipeline: str
    steps: int
    guided: bool = False
    call: dict[str, Any] = field(default_factory=dict)


SUBJECTS = {
    "flux1_dev": Subject("flux_dev", "FluxPipeline", 28),
    "flux2_klein_4b": Subject("flux2_klein_4b", "Flux2KleinPipeline", 4, call={"guidance_scale": 1.0}),
    "z_image_turbo": Subject("z_image", "ZImagePipeline", 9, call={"guidance_scale": 0.0}),
    "qwen_image": Subject("qwen_image", "QwenImagePipeline", 20, guided=True),
    "flux2_klein_9b": Subject("flux2_klein_9b", "Flux2KleinPipeline", 4, call={"guidance_scale": 1.0}),
}
#: Text encoders by configuration folder and part.
ENCODERS = {
    "t5_xxl": ("flux_dev", "text_encoder_2"),
    "qwen3_4b": ("z_image", "text_encoder"),
    "qwen25_vl_7b": ("qwen_image", "text_encoder"),
    "qwen3_8b": ("flux2_klein_9b", "text_encoder"),
    "gemma2_2b": ("sana", "text_encoder"),
}


def build(device: str, library: Any, name: str, config: Any) -> Any:
    """A part with random weights, generated on the device; matrices are normal, for realistic quantisation errors."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(DTYPE)
    torch.manual_seed(0)
    try:
        with torch.device(device):
            made = (
                getattr(library, name).from_config(config) if library is diffusers else getattr(library, name)(config)
            )
    finally:
        torch.set_default_dtype(before)
    made = made.to(device, DTYPE).eval().requires_grad_(False)
    for each in made.parameters():
        if each.dim() == 2:
            each.normal_(std=each.shape[1] ** -0.5)
    return made


def pipeline_of(subject: Subject, device: str, tiny: bool) -> Any:
    """A pipeline without text encoders."""
    folder = CONFIGS / subject.config
    index = json.loads((folder / "model_index.json").read_text())

    def part(name: str, small: dict[str, Any]) -> Any:
        config = json.loads((folder / name / "config.json").read_text())
        small = {key: each for key, each in small.items() if key in config} if tiny else {}
        return build(device, diffusers, index[name][1], config | small)

    scheduler = getattr(diffusers, index["scheduler"][1]).from_pretrained(folder / "scheduler")
    nothing = {name: None for name in index if name.startswith(("text_encoder", "tokenizer"))}
    options = {"is_distilled": True} if subject.pipeline == "Flux2KleinPipeline" else {}
    pipe = getattr(diffusers, subject.pipeline)(
        transformer=part("transformer", TINY), vae=part("vae", TINY_VAE), scheduler=scheduler, **nothing, **options
    )
    pipe.set_progress_bar_config(disable=True)
    pipe.vae.enable_tiling()
    if hasattr(pipe.vae, "tile_latent_min_size"):  # the engine's tile size
        pipe.vae.tile_sample_min_size, pipe.vae.tile_latent_min_size = 512, 64
    return pipe


def prompt_of(subject: Subject, pipe: Any, device: str, tiny: bool) -> dict[str, Any]:
    config, generator = pipe.transformer.config, torch.Generator(device).manual_seed(3)
    words = 8 if tiny else WORDS

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device=device, dtype=DTYPE)

    if subject.pipeline == "ZImagePipeline":
        return {"prompt_embeds": [noise(words, config.cap_feat_dim)]}
    found = {"prompt_embeds": noise(1, words, config.joint_attention_dim)}
    if subject.pipeline == "FluxPipeline":
        found["pooled_prompt_embeds"] = noise(1, config.pooled_projection_dim)
    if subject.guided:
        found["negative_prompt_embeds"] = noise(1, words, config.joint_attention_dim)
    return found


def store_as_q8_0(module: torch.nn.Module) -> None:
    """Convert the layers that other formats quantise to GGUF's Q8_0, with diffusers' own layer."""
    import gguf
    from diffusers.quantizers.gguf.utils import GGUFLinear, GGUFParameter

    for name, layer in list(quantised.layers_in_blocks(module)):
        outer, _, own = name.rpartition(".")
        blocks = layer.weight.view(-1, 32).float()
        scale = blocks.abs().amax(1, keepdim=True) / 127
        numbers = (blocks / scale.clamp(min=1e-12)).round().to(torch.int8)
        packed = torch.cat([scale.half().view(torch.uint8), numbers.view(torch.uint8)], 1)
        new = GGUFLinear(layer.in_features, layer.out_features, layer.bias is not None, DTYPE, layer.weight.device)
        kind = gguf.GGMLQuantizationType.Q8_0
        new.weight = GGUFParameter(packed.view(layer.out_features, -1), quant_type=kind)
        new.bias = layer.bias
        setattr(module.get_submodule(outer), own, new.requires_grad_(False))


def store_as_fp8(module: Any) -> None:
    """Store weights as the engine does with ``precision = fp8``."""
    whole = ("pos_embed", "patch_embed", "^proj_in$", "^proj_out$", "^conv_in$", "^conv_out$")
    module.enable_layerwise_casting(torch.float8_e4m3fn, DTYPE, skip_modules_pattern=whole)


FORMS: dict[str, Callable[[torch.nn.Module], Any]] = {
    "bf16": lambda module: None,
    "int8": lambda module: quantised.quantise(module, quantised.INT8, module.device),
    "nf4": lambda module: quantised.quantise(module, quantised.NF4, module.device),
    "fp8": store_as_fp8,
    "q8_0": store_as_q8_0,
}
