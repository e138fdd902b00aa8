"""Train the edge ControlNet of the starter model, and measure it.

It learns from the starter model's own pictures, so it needs nothing but `assets/starter`: pictures of a list of prompts
are sampled, moved, scaled and mirrored, and their Canny edges (the app's own preprocessor) become the control. The
network is a small `diffusers.ControlNetModel`: the convolutional part of the denoiser's encoder, which begins with the
denoiser's weights, without attention. Only it is trained; the denoiser stays as it is (Zhang et al. 2023,
arXiv:2302.05543).

    python -m scripts.starter.train_control --out W/control --minutes 3          (one GPU)

Writes a diffusers folder with int8 rows (``controlnet/``), ``control.json`` (figures) and ``control.jpg``.

The evaluation makes pictures of held-out things from the edges of other pictures of them, mirrored, scaled and
shifted, and compares edges: F1 with a tolerance of two pixels, with the control, without it (same prompt, same seed),
and between unrelated edges (chance).
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from .assemble import quantise_rows
from .control_evaluation import evaluate
from .control_examples import Examples
from .models import noise_schedule, save_json
from .shipped_starter import ROOT, Starter, read_part
from .train_denoiser import draw_timesteps

CONDITION_CHANNELS = (16, 32, 64, 96)


def control_config(unet: Any) -> dict[str, Any]:
    """Configuration of the ControlNet for this denoiser: its shapes without attention."""
    return {
        "in_channels": unet.config.in_channels,
        "block_out_channels": tuple(unet.config.block_out_channels),
        "down_block_types": ("DownBlock2D",) * len(unet.config.block_out_channels),
        "mid_block_type": "UNetMidBlock2D",
        "layers_per_block": unet.config.layers_per_block,
        "cross_attention_dim": unet.config.cross_attention_dim,
        "norm_num_groups": unet.config.norm_num_groups,
        "conditioning_embedding_out_channels": CONDITION_CHANNELS,
    }


def build_control(unet: Any) -> Any:
    """A `ControlNetModel` with the denoiser's weights where names and shapes agree; its outputs begin at zero."""
    from diffusers import ControlNetModel

    control = ControlNetModel(**control_config(unet))
    own = control.state_dict()
    own |= {k: v.float() for k, v in unet.state_dict().items() if k in own and own[k].shape == v.shape}
    control.load_state_dict(own)
    return control


class Controlled(nn.Module):
    """ControlNet and frozen denoiser as one function of (noisy latents, timesteps, text states, edges)."""

    def __init__(self, control: nn.Module, unet: nn.Module) -> None:
        super().__init__()
        self.control, self.unet = control, unet

    def forward(self, noisy: Any, timesteps: Any, states: Any, edges: Any) -> torch.Tensor:
        down, middle = self.control(noisy, timesteps, states, edges, return_dict=False)
        return self.unet(
            noisy, timesteps, states, down_block_additional_residuals=down, mid_block_additional_residual=middle,
            return_dict=False,
        )[0]  # fmt: skip


def train(starter: Starter, examples: Examples, args: argparse.Namespace, log: Any) -> tuple[Any, dict[str, Any]]:
    """The averaged ControlNet in float32 and the record of its training."""
    device = starter.device
    control = build_control(starter.unet).to(device, memory_format=torch.channels_last)
    average = {k: v.detach().clone() for k, v in control.state_dict().items()}
    weights = [p for p in control.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=args.learning_rate, betas=(0.9, 0.99), weight_decay=0.01)
    function: Any = Controlled(control, starter.unet)
    if args.compile:
        function = torch.compile(function, dynamic=False)
    signal, noise = (x.to(device) for x in noise_schedule())
    record: dict[str, Any] = {
        "parameters_m": round(sum(p.numel() for p in weights) / 1e6, 3), "pictures": len(examples.prompts),
        "examples": len(examples.latents), "batch": args.batch, "history": [],
    }  # fmt: skip
    log(f"{record['parameters_m']} M parameters, {len(examples.latents)} examples")
    began, step, losses = time.monotonic(), 0, torch.zeros((), device=device)
    deadline = began + 60 * args.minutes
    while True:
        progress = step / args.steps if args.steps else (time.monotonic() - began) / (60 * args.minutes)
        if progress >= 1:
            break
        rate = min(1.0, (step + 1) / 100) * (0.5 * (1 + math.cos(math.pi * progress)) * 0.98 + 0.02)
        for group in optimizer.param_groups:
            group["lr"] = args.learning_rate * rate
        latents, edges, states = examples.draw(args.batch)
        timesteps = draw_timesteps(args.batch, device)
        epsilon = torch.randn_like(latents)
        a, b = signal[timesteps][:, None, None, None], noise[timesteps][:, None, None, None]
        noisy = (a * latents + b * epsilon).to(starter.dtype, memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            predicted = function(noisy, timesteps, states, edges)
        loss = (predicted.float() - (a * epsilon - b * latents)).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        decay = min(args.ema, (step + 1) / (step + 10))
        own = control.state_dict()
        torch._foreach_lerp_(list(average.values()), [own[k] for k in average], 1 - decay)
        losses += loss.detach()
        step += 1
        if step % args.log_every == 0:
            mean = float(losses) / args.log_every
            losses.zero_()
            record["history"].append([step, round(time.monotonic() - began, 1), round(mean, 5)])
            log(f"step {step} loss {mean:.4f}, {max(0.0, deadline - time.monotonic()):.0f} s left")
            if not math.isfinite(mean):
                raise SystemExit("the loss is not finite")
    record |= {"steps": step, "seconds": round(time.monotonic() - began, 1)}
    control.load_state_dict(average)
    return control.eval().requires_grad_(False), record


def save_control(control: Any, folder: Path) -> None:
    """A diffusers folder; matrices are int8 with one scale for each row, as the denoiser's are.

    ``control`` has these weights afterwards, so that the evaluation measures them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    states = {k: v.half().contiguous().cpu() for k, v in control.state_dict().items()}
    for name, tensor in list(states.items()):
        if tensor.dim() > 1:
            states[name], states[name.removesuffix("weight") + "weight_scale"] = quantise_rows(tensor)
    save_file(states, folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    config = {k: v for k, v in control.config.items() if not k.startswith("_")}
    noted = {"quantization_config": {"quant_method": "int8_rows"}}
    save_json(folder / "config.json", {"_class_name": "ControlNetModel", **config, **noted})
    control.load_state_dict({k: v.float() for k, v in read_part(folder).items()})


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(ROOT / "assets" / "starter"), help="diffusers folder of the starter")
    parser.add_argument("--out", required=True, help="folder for the weights and the figures")
    parser.add_argument("--minutes", type=float, default=3.0, help="length of the training in minutes")
    parser.add_argument("--steps", type=int, default=0, help="length of the training in steps, instead of minutes")
    parser.add_argument("--batch", type=int, default=192)
    parser.add_argument("--learning-rate", type=float, default=6e-4, help="peak learning rate")
    parser.add_argument("--ema", type=float, default=0.998, help="decay of the moving average of the weights")
    parser.add_argument("--pictures", type=int, default=30_000, help="pictures sampled at most")
    parser.add_argument("--sampling-minutes", type=float, default=1.2, help="sampling ends after this time")
    parser.add_argument("--sampling-batch", type=int, default=256)
    parser.add_argument("--sampling-steps", type=int, default=10)
    parser.add_argument("--variants", type=int, default=2, help="examples a picture: itself and moved copies")
    parser.add_argument("--evaluated", type=int, default=256, help="held-out prompts")
    parser.add_argument("--evaluation-steps", type=int, default=16)
    parser.add_argument("--processes", type=int, default=12, help="CPU processes that find edges")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=False, help="torch.compile")
    parser.add_argument("--log-every", type=int, default=100, help="steps between lines of the log")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cuda", "cpu"))
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Sample, train, save, evaluate; returns what is written to ``control.json``."""
    args = parse(argv)
    out, began = Path(args.out), time.monotonic()
    device = torch.device(args.device)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True

    def log(text: str) -> None:
        print(f"[control {time.monotonic() - began:6.1f} s] {text}", flush=True)

    torch.manual_seed(args.seed)
    starter = Starter(Path(args.model), device, torch.bfloat16 if device.type == "cuda" else torch.float32)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.processes, mp_context=context) as workers:
        examples = Examples(starter, args, workers, log)
        control, record = train(starter, examples, args, log)
        save_control(control, out / "controlnet")
        device_name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        result: dict[str, Any] = {"training": record | {"device": device_name}}
        save_json(out / "control.json", result)
        result["evaluation"], sheet = evaluate(starter, control, args, workers)
    log(json.dumps(result["evaluation"]))
    save_json(out / "control.json", result)
    sheet.save(out / "control.jpg", quality=85)
    log("finished")
    return result


if __name__ == "__main__":
    main()
