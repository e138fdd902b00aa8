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
import importlib.util
import json
import math
import multiprocessing
import random
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from .assemble import quantise_rows
from .captions import BACKGROUND_COLOURS, OBJECT_COLOURS, with_article
from .concepts import ALIASES, EVERYDAY
from .models import TextEncoder, Tokenizer, dequantise_rows, encode_mean, noise_schedule, save_json
from .train_denoiser import draw_timesteps

ROOT = Path(__file__).resolve().parents[2]
SCENES = ("in the snow", "on the beach", "at night", "in space", "underwater", "in a forest")
#: Every tenth thing is kept for the evaluation.
HELD_OUT = 10
CAPTION_DROPOUT = 0.3
CONDITION_CHANNELS = (16, 32, 64, 96)
TOLERANCE = 2
GUIDANCE = 3.5


def load_preprocessors() -> ModuleType:
    """The app's preprocessors, read alone: a training machine need not have the app's dependencies."""
    path = ROOT / "diffusion_local" / "engine" / "preprocessors.py"
    spec = importlib.util.spec_from_file_location("starter_preprocessors", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class Starter:
    """Text encoder, denoiser and autoencoder of the shipped model, frozen."""

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
        from diffusers import AutoencoderKL, UNet2DConditionModel

        self.device, self.dtype = device, dtype
        self.tokenizer = Tokenizer(folder / "tokenizer")
        states = _read(folder / "text_encoder")
        states = {k.removeprefix("text_model."): v.float() for k, v in states.items() if "position_ids" not in k}
        width = states["final_layer_norm.weight"].shape[0]
        layers = 1 + max(int(k.split(".")[2]) for k in states if k.startswith("encoder.layers."))
        heads = _config(folder / "text_encoder")["num_attention_heads"]
        self.text_encoder = TextEncoder(self.tokenizer.vocabulary, width, layers, heads)
        self.text_encoder.load_state_dict(states)
        config = {k: v for k, v in _config(folder / "unet").items() if k != "quantization_config"}
        self.unet = UNet2DConditionModel.from_config(config)
        self.unet.load_state_dict(dequantise_rows(_read(folder / "unet")))
        self.vae = AutoencoderKL.from_config(_config(folder / "vae"))
        self.vae.load_state_dict({k: v.float() for k, v in _read(folder / "vae").items()})
        for part in (self.text_encoder, self.unet, self.vae):
            part.to(device, dtype).eval().requires_grad_(False)
        self.unet.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def encode(self, prompts: list[str]) -> torch.Tensor:
        """Text states ``[n, 77, width]``."""
        return self.text_encoder(torch.from_numpy(self.tokenizer(prompts)).long().to(self.device))

    @torch.no_grad()
    def sample(
        self,
        prompts: list[str],
        seed: int,
        steps: int,
        control: nn.Module | None = None,
        edges: torch.Tensor | None = None,
    ) -> np.ndarray:
        """Pictures uint8 ``[n, h, w, 3]`` by DPM++ 2M with guidance; ``edges`` ``[n, 3, h, w]`` in 0..1."""
        from diffusers import DPMSolverMultistepScheduler

        scheduler = DPMSolverMultistepScheduler.from_config(_config(ROOT / "assets/starter/scheduler", "scheduler"))
        scheduler.set_timesteps(steps, device=self.device)
        side = self.unet.config.sample_size
        generator = torch.Generator().manual_seed(seed)
        shape = (len(prompts), self.unet.config.in_channels, side, side)
        latents = torch.randn(shape, generator=generator).to(self.device) * scheduler.init_noise_sigma
        states = torch.cat([self.encode([""] * len(prompts)), self.encode(prompts)])
        for t in scheduler.timesteps:
            both = scheduler.scale_model_input(torch.cat([latents, latents]), t).to(self.dtype)
            both = both.to(memory_format=torch.channels_last)
            more: dict[str, Any] = {}
            if control is not None and edges is not None:
                down, middle = control(both, t, states, torch.cat([edges, edges]).to(self.dtype), return_dict=False)
                more = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
            without, with_prompt = self.unet(both, t, states, return_dict=False, **more)[0].float().chunk(2)
            latents = scheduler.step(without + GUIDANCE * (with_prompt - without), t, latents, return_dict=False)[0]
        return self.decode(latents)

    def decode(self, latents: torch.Tensor) -> np.ndarray:
        """Pictures uint8 ``[n, h, w, 3]``."""
        scaled = latents.to(self.dtype) / self.vae.config.scaling_factor
        pixels = torch.cat([self.vae.decode(part, return_dict=False)[0] for part in scaled.split(64)]).float()
        pixels = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
        return pixels.permute(0, 2, 3, 1).cpu().numpy()


def _config(folder: Path, name: str = "") -> dict[str, Any]:
    path = folder / (f"{name}_config.json" if name else "config.json")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    found.pop("quantization_config", None)
    return found


def _read(folder: Path) -> dict[str, torch.Tensor]:
    """Weights of a part; int8 rows are multiplied by their scales."""
    states = {k: v for path in sorted(folder.glob("*.safetensors")) for k, v in load_file(path).items()}
    for name in [name for name in states if name.endswith(".weight_scale")]:
        weight, scale = name.removesuffix("_scale"), states.pop(name).float()
        whole = states[weight].float()
        states[weight] = whole * scale.reshape(-1, *[1] * (whole.dim() - 1))
    return states


def things() -> tuple[list[str], list[str]]:
    """Names of things to train with and to evaluate with, without overlap."""
    names = sorted({*EVERYDAY, *(name for names in ALIASES.values() for name in names)})
    return [n for i, n in enumerate(names) if i % HELD_OUT], names[::HELD_OUT]


def prompts_of(names: list[str], n: int, rng: random.Random) -> list[str]:
    """n prompts: things, colours, backgrounds, scenes and pairs."""

    def one() -> str:
        thing, draw = rng.choice(names), rng.random()
        colour, background = rng.choice(list(OBJECT_COLOURS)), rng.choice(list(BACKGROUND_COLOURS))
        if draw < 0.35:
            return with_article(thing)
        if draw < 0.5:
            return f"a {colour} {thing}"
        if draw < 0.7:
            return f"{with_article(thing)} on a {background} background"
        if draw < 0.85:
            return f"{with_article(thing)} {rng.choice(SCENES)}"
        return f"{with_article(thing)} and {with_article(rng.choice(names))}"

    return [one() for _ in range(n)]


def move(picture: np.ndarray, rng: random.Random) -> np.ndarray:
    """The picture mirrored, scaled and shifted at random; what comes into view repeats what is at the rim."""
    side = picture.shape[0]
    if rng.random() < 0.5:
        picture = picture[:, ::-1]
    scale = rng.uniform(0.6, 1.3)
    grown = max(side // 2, round(side * scale))
    image = Image.fromarray(np.ascontiguousarray(picture)).resize((grown, grown), Image.Resampling.BICUBIC)
    room = abs(grown - side)
    x, y = rng.randint(0, room), rng.randint(0, room)
    if grown >= side:
        return np.asarray(image)[y : y + side, x : x + side]
    return np.pad(np.asarray(image), ((y, room - y), (x, room - x), (0, 0)), mode="edge")


def moved_with_edges(pictures: np.ndarray, seed: int, moved: bool) -> tuple[np.ndarray, np.ndarray]:
    """Pictures, moved at random where asked, and their Canny edges by random thresholds, as people choose them.

    Edges are bool ``[n, h, w]``. Runs in a process of its own.
    """
    rng, canny = random.Random(seed), load_preprocessors().canny
    pictures = np.stack([move(p, rng) for p in pictures]) if moved else pictures
    return pictures, np.stack([canny(p, rng.randint(60, 140), rng.randint(150, 260))[..., 0] > 0 for p in pictures])


def edges_of(pictures: np.ndarray) -> np.ndarray:
    """Canny edges by the usual thresholds, bool ``[n, h, w]``."""
    canny = load_preprocessors().canny
    return np.stack([canny(picture)[..., 0] > 0 for picture in pictures])


def chunks(n: int, size: int = 16) -> list[slice]:
    return [slice(at, at + size) for at in range(0, n, size)]


class Examples:
    """Latents, edges and captions on the device, drawn at random."""

    def __init__(self, starter: Starter, args: argparse.Namespace, workers: Executor, log: Any) -> None:
        self.starter = starter
        prompts = prompts_of(things()[0], args.pictures, random.Random(args.seed))
        until = time.monotonic() + 60 * args.sampling_minutes
        self.prompts: list[str] = []
        self._parts: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        waiting: list[tuple[int, Future]] = []
        for at in range(0, len(prompts), args.sampling_batch):
            if at and time.monotonic() > until:
                break
            part = prompts[at : at + args.sampling_batch]
            made = starter.sample(part, args.seed + at, args.sampling_steps)
            self._take(waiting)  # while the processes were at work on the batch before, this one was sampled
            waiting = [
                (at + chunk.start, workers.submit(moved_with_edges, made[chunk], hash((at, chunk.start, v)), v > 0))
                for v in range(args.variants)
                for chunk in chunks(len(made))
            ]
            self.prompts += part
            if at // args.sampling_batch % 10 == 0:
                log(f"{len(self.prompts)} pictures")
        self._take(waiting)
        self.latents, self.edges, self.captions = (torch.cat(column) for column in zip(*self._parts, strict=True))
        self._parts.clear()
        self.tokens = torch.from_numpy(starter.tokenizer(self.prompts)).to(starter.device)
        self.bits = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], device=starter.device, dtype=torch.uint8)

    def _take(self, waiting: list[tuple[int, Future]]) -> None:
        found = [(first, *future.result()) for first, future in waiting]
        if not found:
            return
        latents = self._encode(np.concatenate([pictures for _, pictures, _ in found]))
        edges = torch.from_numpy(np.packbits(np.concatenate([edges for _, _, edges in found]), axis=-1))
        captions = torch.cat([torch.arange(first, first + len(pictures)) for first, pictures, _ in found])
        self._parts.append((latents, edges.to(self.starter.device), captions.to(self.starter.device)))

    @torch.no_grad()
    def _encode(self, pictures: np.ndarray) -> torch.Tensor:
        pixels = torch.from_numpy(pictures).to(self.starter.device).permute(0, 3, 1, 2)
        parts = [encode_mean(self.starter.vae, (part / 255).to(self.starter.dtype)) for part in pixels.split(64)]
        return torch.cat(parts).float() * self.starter.vae.config.scaling_factor

    @torch.no_grad()
    def draw(self, n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Latents ``[n, 4, h, w]``, edges ``[n, 3, 8h, 8w]`` in 0..1 and text states, a share of them empty."""
        index = torch.randint(0, len(self.latents), (n,), device=self.latents.device)
        packed = self.edges[index]
        unpacked = (packed[..., None] & self.bits).ne(0).flatten(2)
        edges = unpacked[:, None].expand(-1, 3, -1, -1).to(self.starter.dtype)
        tokens = self.tokens[self.captions[index]].long()
        empty = torch.from_numpy(self.starter.tokenizer([""])).to(tokens.device).long()
        tokens = torch.where(torch.rand(n, 1, device=tokens.device) < CAPTION_DROPOUT, empty, tokens)
        return self.latents[index], edges, self.starter.text_encoder(tokens)


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


def widened(edges: np.ndarray, by: int = TOLERANCE) -> np.ndarray:
    """Bool ``[n, h, w]``: everything within ``by`` pixels (a square) of an edge."""
    field = torch.from_numpy(edges).float()[:, None]
    return (F.max_pool2d(field, 2 * by + 1, 1, by)[:, 0] > 0).numpy()


def overlap(wanted: np.ndarray, made: np.ndarray) -> np.ndarray:
    """F1 of edges within `TOLERANCE` pixels, for each picture: ``[n]`` in 0..1."""
    precision = (made & widened(wanted)).sum((1, 2)) / np.maximum(1, made.sum((1, 2)))
    recall = (wanted & widened(made)).sum((1, 2)) / np.maximum(1, wanted.sum((1, 2)))
    return 2 * precision * recall / np.maximum(1e-9, precision + recall)


def evaluate(
    starter: Starter, control: Any, args: argparse.Namespace, workers: Executor
) -> tuple[dict[str, Any], Image.Image]:
    """Overlap of wanted and made edges on held-out prompts, and a sheet: wanted picture, edges, with, without."""
    prompts = prompts_of(things()[1], args.evaluated, random.Random(args.seed + 1))
    control, steps = control.to(starter.dtype), args.evaluation_steps

    def batches() -> Iterator[tuple[int, list[str]]]:
        for at in range(0, len(prompts), args.sampling_batch):
            yield at, prompts[at : at + args.sampling_batch]

    def edges(pictures: np.ndarray) -> np.ndarray:
        return np.concatenate(list(workers.map(edges_of, [pictures[chunk] for chunk in chunks(len(pictures))])))

    rng = random.Random(args.seed + 2)  # moved, as the model draws a thing in one place and pose by itself
    sources = np.concatenate([starter.sample(part, 900_000 + at, steps) for at, part in batches()])
    sources = np.stack([move(picture, rng) for picture in sources])
    wanted = edges(sources)
    condition = torch.from_numpy(wanted).to(starter.device)[:, None].expand(-1, 3, -1, -1)
    made = {
        name: np.concatenate(
            [
                starter.sample(texts, 500_000 + at, steps, net, condition[at : at + len(texts)])
                for (at, part) in batches()
                for texts in [[""] * len(part) if name == "with_control_no_prompt" else part]
            ]
        )
        for name, net in (("with_control", control), ("with_control_no_prompt", control), ("without_control", None))
    }
    scores = {name: overlap(wanted, edges(pictures)) for name, pictures in made.items()}
    scores["chance"] = overlap(wanted, np.roll(wanted, 1, axis=0))
    record: dict[str, Any] = {
        "measure": f"F1 of Canny edges within {TOLERANCE} pixels; mean over {len(prompts)} held-out prompts",
        "steps": steps, "guidance": GUIDANCE,
        **{name: round(float(values.mean()), 4) for name, values in scores.items()},
        "with_control_at_least_0.75": round(float((scores["with_control"] >= 0.75).mean()), 4),
    }  # fmt: skip
    lines = np.repeat((wanted * np.uint8(255))[..., None], 3, axis=-1)
    columns = [sources, lines, made["with_control"], made["with_control_no_prompt"], made["without_control"]]
    shown = min(12, len(prompts))
    rows = np.concatenate([np.concatenate([c[i] for c in columns], axis=1) for i in range(shown)])
    sheet = Image.fromarray(rows)
    return record, sheet.resize((sheet.width // 2, sheet.height // 2), Image.Resampling.BOX)


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
    control.load_state_dict({k: v.float() for k, v in _read(folder).items()})


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
