"""Measures the GPU memory of SDXL and FLUX with a ControlNet against the memory policy's estimate.

    python scripts/bench_control_memory.py --record scripts/results/gpu-control-memory.json
    python scripts/bench_control_memory.py --device cpu --tiny --only sdxl     (without figures of memory)

Real architectures with random weights, at 1024x1024 and in half precision: SDXL's ControlNet has the first half of its
UNet, FLUX's has 5 double and 10 single blocks like the published union model. No text encoders are used: prompts are
embeddings. Takes about 40 s on an H200, and 40 GiB.
"""

import argparse
import gc
import json
import sys
import time
from pathlib import Path
from typing import Any

import diffusers
import torch
from bench_models import CONFIGS, FLUX_TRANSFORMER, SD3_VAE, build, shrunk

from diffusion_local.engine.memory import GIB, Extras, MemoryNeed, Weights, estimate
from diffusion_local.engine.placement import tile

STEPS, SIDE, TINY_SIDE = 4, 1024, 64
FLUX_SMALL = {"num_layers": 2, "num_single_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2,
    "joint_attention_dim": 32, "pooled_projection_dim": 32, "axes_dims_rope": [4, 4, 8]}  # fmt: skip
RUNGS = ("resident", "vae_tiling")


def sdxl(device: str, tiny: bool) -> tuple[Any, Any, dict[str, torch.Tensor]]:
    """(pipeline without ControlNet, pipeline with one, embeddings of a prompt)."""

    def part(name: str) -> Any:
        config = json.loads((CONFIGS / "sdxl" / name / "config.json").read_text())
        return build(json_class(config), shrunk(name, config) if tiny else config, device, torch.float16)

    unet, vae = part("unet"), part("vae")
    names = ("in_channels", "down_block_types", "block_out_channels", "layers_per_block", "cross_attention_dim",
        "transformer_layers_per_block", "attention_head_dim", "use_linear_projection", "addition_embed_type",
        "addition_time_embed_dim", "projection_class_embeddings_input_dim", "norm_num_groups")  # fmt: skip
    net = build("ControlNetModel", {name: unet.config[name] for name in names}, device, torch.float16)
    nothing = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    scheduler = diffusers.EulerDiscreteScheduler.from_pretrained(CONFIGS / "sdxl" / "scheduler")
    parts = {"unet": unet, "vae": vae, "scheduler": scheduler, **nothing}
    width = unet.config.cross_attention_dim
    pooled = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
    given = {"prompt_embeds": (1, 77, width), "pooled_prompt_embeds": (1, pooled)}
    given |= {f"negative_{name}": shape for name, shape in given.items()}
    return (
        diffusers.StableDiffusionXLPipeline(**parts),
        diffusers.StableDiffusionXLControlNetPipeline(controlnet=net, **parts),
        {name: torch.zeros(shape, device=device, dtype=torch.float16) for name, shape in given.items()},
    )


def flux(device: str, tiny: bool) -> tuple[Any, Any, dict[str, torch.Tensor]]:
    """Like ``sdxl``, in bfloat16."""
    config = FLUX_TRANSFORMER | (FLUX_SMALL if tiny else {})
    vae = (shrunk("vae", SD3_VAE) if tiny else SD3_VAE) | {"scaling_factor": 0.3611, "shift_factor": 0.1159}
    deep = {"num_layers": 1, "num_single_layers": 1} if tiny else {"num_layers": 5, "num_single_layers": 10}
    parts = {
        "transformer": build("FluxTransformer2DModel", config, device, torch.bfloat16),
        "vae": build("AutoencoderKL", vae, device, torch.bfloat16),
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0),
        **dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")),
    }
    net = build("FluxControlNetModel", config | deep, device, torch.bfloat16)
    given = {
        "prompt_embeds": (1, 512, config["joint_attention_dim"]),
        "pooled_prompt_embeds": (1, config["pooled_projection_dim"]),
    }
    return (
        diffusers.FluxPipeline(**parts),
        diffusers.FluxControlNetPipeline(controlnet=net, **parts),
        {name: torch.zeros(shape, device=device, dtype=torch.bfloat16) for name, shape in given.items()},
    )


FAMILIES = {"sdxl": sdxl, "flux": flux}


def json_class(config: dict[str, Any]) -> str:
    return str(config["_class_name"])


def count(part: torch.nn.Module) -> int:
    return sum(each.numel() for each in part.parameters())


def needs(pipe: Any, net: Any, side: int) -> tuple[MemoryNeed, MemoryNeed]:
    """The memory policy's estimates without and with the ControlNet."""
    denoiser = getattr(pipe, "unet", None) or pipe.transformer
    name = "unet" if hasattr(pipe, "unet") else "transformer"
    weights = Weights({name: count(denoiser), "vae": count(pipe.vae)}, upcasts_vae=bool(pipe.vae.config.force_upcast))
    return estimate(weights, 2, side, side), estimate(weights, 2, side, side, extras=Extras(beside=count(net)))


def measure(name: str, device: str, tiny: bool) -> dict[str, Any]:
    began = time.monotonic()
    plain, controlled, given = FAMILIES[name](device, tiny)
    side = TINY_SIDE if tiny else SIDE
    bare, steered = needs(plain, controlled.controlnet, side)
    told: dict[str, Any] = {
        "parameters": count(getattr(plain, "unet", None) or plain.transformer),
        "control_parameters": count(controlled.controlnet),
        "seconds_to_build": round(time.monotonic() - began, 1),
    }
    picture = torch.rand(1, 3, side, side, device=device, dtype=given["prompt_embeds"].dtype)
    more = {"image": picture} if name == "sdxl" else {"control_image": picture}
    kept = held()
    for rung in RUNGS:
        for pipe in (plain, controlled):
            pipe.set_progress_bar_config(disable=True)
            tile(pipe.vae, rung)
        for words, pipe, need, extra in (("plain", plain, bare, {}), ("control", controlled, steered, more)):
            reset()
            with torch.inference_mode():
                pipe(**given, **extra, width=side, height=side, num_inference_steps=STEPS, output_type="pt")
            # the ControlNet is on the device in both cases, but only one of them uses it
            unused = 0 if words == "control" else 2 * told["control_parameters"]
            taken, expected = peak() - unused, need.bytes_at(rung)
            told[f"{rung}_{words}"] = {
                "expected_gib": round(expected / GIB, 2),
                "measured_gib": round(taken / GIB, 2),
                "expected_by_measured": round(expected / taken, 3) if taken > 0 else None,
            }
    told["held_gib"] = round(kept / GIB, 2)
    return told


def held() -> int:
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0


def reset() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak() -> int:
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small parts, to try the script")
    parser.add_argument("--only", choices=list(FAMILIES))
    parser.add_argument("--record", type=Path, help="write the figures to this JSON file")
    options = parser.parse_args()
    on_gpu = options.device != "cpu"
    found: dict[str, Any] = {
        "command": "python scripts/bench_control_memory.py",
        "device": torch.cuda.get_device_name(0) if on_gpu else "CPU",
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
    }
    for name in [options.only] if options.only else FAMILIES:
        found[name] = measure(name, options.device, options.tiny)
        reset()
        print(name, json.dumps(found[name], indent=2), flush=True)
    if options.record:
        options.record.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    too_low = [
        f"{name} {case}"
        for name in FAMILIES
        for case, each in found.get(name, {}).items()
        if isinstance(each, dict) and each["expected_by_measured"] is not None and each["expected_by_measured"] < 1
    ]
    print("estimates below the measured peak:", too_low or "none")
    return 1 if too_low else 0


if __name__ == "__main__":
    sys.exit(main())
