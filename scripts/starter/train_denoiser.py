"""Step 6: train the denoiser and the text encoder on the encoded shards.

One GPU:       python -m scripts.starter.train_denoiser --latents ... --tokenizer ... --out ... --minutes 20
Several GPUs:  torchrun --nproc-per-node 4 -m scripts.starter.train_denoiser ... (the same arguments)

Loss: mean squared error of v (arXiv:2202.00512). Classifier-free guidance: captions are dropped with probability 0.1
(Ho and Salimans 2022, arXiv:2207.12598). Half of the noise levels are uniform, half logit-normal around the levels
where shapes are decided (Esser et al. 2024, arXiv:2403.03206). Plain single things come first, compositions later
(`EARLY`, `LATE`). The learning rate follows a cosine of wall-clock time, so that a run fits the time there is.

The run can be stopped and resumed: a checkpoint is written every few minutes and at the end (`--resume`). The averaged
weights for `assemble.py` are written beside it. New shards are read while training runs. `--start-from` begins with the
weights of an earlier run instead of random ones; with `--from-progress` it joins the schedules part of the way.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import nn

from .flat import FlatWeights
from .models import (
    DENOISERS,
    STEPS,
    TEXT_ENCODERS,
    TextEncoder,
    Tokenizer,
    denoiser_config,
    noise_schedule,
    save_json,
)
from .recipes import KINDS

#: Shares of the kinds of `recipes.KINDS` at the start and at the end of the run.
EARLY = (0.66, 0.14, 0.07, 0.04, 0.03, 0.015, 0.02, 0.015, 0.01)
LATE = (0.37, 0.14, 0.09, 0.13, 0.18, 0.04, 0.03, 0.01, 0.01)
CAPTION_DROPOUT = 0.1
WARM_UP = 600
#: Arguments that say where things are on this machine; they stay out of the record.
PATHS = ("latents", "tokenizer", "out", "start_from", "device")


def kind_shares(progress: float) -> torch.Tensor:
    """Shares of the kinds at ``progress`` 0..1: early mix until 0.3, late mix from 0.6."""
    blend = min(1.0, max(0.0, (progress - 0.3) / 0.3))
    return torch.tensor(EARLY) * (1 - blend) + torch.tensor(LATE) * blend


def learning_rate(peak: float, step: int, progress: float) -> float:
    """Linear warm-up by step, then a cosine by progress down to 2 % of the peak."""
    cosine = 0.5 * (1 + math.cos(math.pi * max(0.0, (progress - 0.05) / 0.95)))
    return peak * min(1.0, (step + 1) / WARM_UP) * (0.98 * cosine + 0.02)


class LatentPool:
    """This process's share of the shards, on its device."""

    def __init__(self, folder: str, rank: int, world: int, device: torch.device) -> None:
        self.folder, self.rank, self.world, self.device = Path(folder), rank, world, device
        self.seen: set[Path] = set()
        self.latents = self.tokens = self.kinds = self.order = self.starts = self.counts = torch.empty(0)

    def refresh(self) -> int:
        """Read shards that appeared since the last call; returns the number of pictures held."""
        new = []
        for path in sorted(self.folder.glob("part*.safetensors")):
            part, number = (int(x) for x in path.stem.removeprefix("part").split("-"))
            if (part + number) % self.world == self.rank and path not in self.seen:
                self.seen.add(path)
                new.append(load_file(path))
        if new:
            parts = [{"latents": self.latents, "tokens": self.tokens, "kinds": self.kinds}] if len(self.latents) else []
            parts += [{k: v.to(self.device) for k, v in shard.items()} for shard in new]
            self.latents, self.tokens, self.kinds = (
                torch.cat([p[k] for p in parts]) for k in ("latents", "tokens", "kinds")
            )
            self.order = self.kinds.long().argsort(stable=True)
            self.counts = torch.bincount(self.kinds.long(), minlength=len(KINDS))
            self.starts = self.counts.cumsum(0) - self.counts
        return len(self.latents)

    def draw(self, n: int, shares: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """n random pictures by kind: latents float32 ``[n, 4, 32, 32]``, tokens int64 ``[n, 77]``."""
        shares = shares.to(self.device) * (self.counts > 0)
        kind = torch.multinomial(shares, n, replacement=True)
        inside = (torch.rand(n, device=self.device) * self.counts[kind]).long()
        index = self.order[self.starts[kind] + inside]
        caption = torch.randint(0, self.tokens.shape[1], (n,), device=self.device)
        return self.latents[index].float(), self.tokens[index, caption].long()


def draw_timesteps(n: int, device: torch.device) -> torch.Tensor:
    """Half uniform (stratified), half logit-normal with mean 0.4 and deviation 1; int64 ``[n]``."""
    half = n // 2
    uniform = (torch.arange(half, device=device) + torch.rand(half, device=device)) / max(1, half)
    bell = torch.sigmoid(0.4 + torch.randn(n - half, device=device))
    return (torch.cat([uniform, bell]) * STEPS).long().clamp(0, STEPS - 1)


def add_fillers(tokens: torch.Tensor, share: float, vocabulary: int, end: int) -> torch.Tensor:
    """Put one to four random tokens before (and up to two behind) a share of the captions ``[n, 77]``.

    Teaches the text encoder to pass over words that it does not know.
    """
    n, length = tokens.shape
    device = tokens.device
    chosen = torch.rand(n, device=device) < share
    before = torch.randint(1, 5, (n, 1), device=device) * chosen[:, None]
    behind = torch.randint(0, 3, (n, 1), device=device) * chosen[:, None]
    place = torch.arange(length, device=device)[None]
    shifted = tokens.gather(1, (place - before).clamp_min(0))
    stop = (tokens == end).int().argmax(1, keepdim=True) + before
    random = torch.randint(0, vocabulary - 2, (n, length), device=device)
    filler = ((place >= 1) & (place <= before)) | ((place >= stop) & (place < stop + behind))
    filler = filler & (place < length - 1) & chosen[:, None]
    return torch.where(filler, random, torch.where(place == 0, tokens[:, :1], shifted))


class Denoiser(nn.Module):
    """Text encoder and UNet as one function of (noisy latents, timesteps, tokens)."""

    def __init__(self, name: str, vocabulary: int) -> None:
        super().__init__()
        from diffusers import UNet2DConditionModel

        self.text_encoder = TextEncoder(vocabulary, **TEXT_ENCODERS[name])
        self.unet = UNet2DConditionModel(**denoiser_config(name))

    def load_parts(self, folder: Path) -> None:
        """Take the weights that an earlier run, or `harden_text_encoder`, left in ``folder``."""
        for name, part in self.named_children():
            part.load_state_dict(load_file(folder / f"{name}.safetensors"))  # copies into float32

    def forward(self, noisy: torch.Tensor, timesteps: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return self.unet(noisy, timesteps, self.text_encoder(tokens), return_dict=False)[0]


class TrainingStep:
    """Forward and backward pass over fixed input buffers; compiled and captured into a CUDA graph where asked."""

    def __init__(self, model: Denoiser, weights: FlatWeights, batch: int, args: argparse.Namespace) -> None:
        self.weights, self.device = weights, weights.master.device
        dtype, side = weights.working.dtype, model.unet.config.sample_size
        shape = (batch, model.unet.config.in_channels, side, side)
        self.noisy = torch.zeros(shape, device=self.device, dtype=dtype).to(memory_format=torch.channels_last)
        self.target = torch.zeros(shape, device=self.device)
        self.timesteps = torch.zeros(batch, device=self.device, dtype=torch.long)
        self.tokens = torch.zeros(batch, 77, device=self.device, dtype=torch.long)
        self.loss = torch.zeros((), device=self.device)
        self.function = torch.compile(model, dynamic=False) if args.compile else model
        self.graph: Any = None
        if args.graph and self.device.type == "cuda":
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):  # compile and choose algorithms before the capture
                for _ in range(4):
                    self._pass()
            torch.cuda.current_stream().wait_stream(stream)
            torch.cuda.synchronize()
            self.weights.clear()
            self.graph = torch.cuda.CUDAGraph()
            # Threads of the communication library may query events meanwhile: only this thread's calls count.
            with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
                self._pass(clear=False)

    def _pass(self, clear: bool = True) -> None:
        if clear:
            self.weights.clear()
        predicted = self.function(self.noisy, self.timesteps, self.tokens)
        loss = (predicted.float() - self.target).square().mean()
        loss.backward()
        self.weights.collect()
        self.loss.copy_(loss.detach())

    def __call__(
        self, noisy: torch.Tensor, target: torch.Tensor, timesteps: torch.Tensor, tokens: torch.Tensor
    ) -> None:
        self.noisy.copy_(noisy)
        self.target.copy_(target)
        self.timesteps.copy_(timesteps)
        self.tokens.copy_(tokens)
        if self.graph is not None:
            self.graph.replay()
        else:
            self._pass()


def save_average(weights: FlatWeights, out: Path, record: dict[str, Any]) -> None:
    """Averaged weights in float16 for `assemble.py`, and the run's record."""
    for module in ("unet", "text_encoder"):
        part = out / f"{module}.safetensors.part"
        save_file(weights.export(module), part)
        part.replace(out / f"{module}.safetensors")
    save_json(out / "training.json", record)


def save_checkpoint(weights: FlatWeights, out: Path, record: dict[str, Any]) -> None:
    """Everything that `--resume` needs."""
    part = out / "checkpoint.pt.part"
    torch.save({"weights": weights.state(), "record": record}, part)
    part.replace(out / "checkpoint.pt")


def train(args: argparse.Namespace) -> dict[str, Any]:
    """Run the training; returns its record."""
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = torch.device(args.device)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    if world > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    began = time.time()

    def log(text: str) -> None:
        if rank == 0:
            print(f"[train {time.time() - began:6.1f} s] {text}", flush=True)

    tokenizer = Tokenizer(args.tokenizer)
    torch.manual_seed(args.seed)
    model = Denoiser(args.model, tokenizer.vocabulary)
    if args.start_from:
        model.load_parts(Path(args.start_from))
    model = model.to(device, memory_format=torch.channels_last)
    sizes = {n: sum(p.numel() for p in m.parameters()) / 1e6 for n, m in model.named_children()}
    log("parameters: " + ", ".join(f"{n} {v:.2f} M" for n, v in sizes.items()))
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    weights = FlatWeights(dict(model.named_children()), args.learning_rate, dtype=dtype)
    record: dict[str, Any] = {
        "arguments": {k: v for k, v in vars(args).items() if k not in PATHS},
        "devices": world, "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "parameters_m": sizes, "step": 0, "samples": 0, "seconds": 0.0, "history": [],
    }  # fmt: skip
    progress_0 = 0.0
    checkpoint = out / "checkpoint.pt"
    if args.resume and checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        weights.load(saved["weights"])
        record |= {k: saved["record"][k] for k in ("step", "samples", "seconds", "history")}
        progress_0 = float(saved["record"]["progress"])
        log(f"resumed at step {record['step']}, progress {progress_0:.3f}")
    if args.from_progress is not None:
        progress_0 = args.from_progress
    weights.synchronise()
    torch.manual_seed(args.seed + 7919 * (rank + 1) + record["step"])
    step_of = TrainingStep(model, weights, args.batch, args)
    log(f"training step ready (compile {args.compile}, graph {step_of.graph is not None})")
    pool = LatentPool(args.latents, rank, world, device)
    while pool.refresh() < args.batch:
        time.sleep(1.0)
    if world > 1:
        dist.barrier()
    signal, noise = (x.to(device) for x in noise_schedule())
    empty = torch.from_numpy(tokenizer([""])).to(device).long()
    start = time.time()
    deadline = start + 60 * args.minutes if args.minutes else math.inf
    progress, last_refresh, last_checkpoint, last_average = progress_0, start, start, start
    losses, since, mark = torch.zeros((), device=device), 0, start
    norm = torch.zeros(())
    log(f"first pictures: {len(pool.latents)} in this process")
    while True:
        if record["step"] % args.check_every == 0:
            # Process 0 looks at the clock for all. The deadline can be moved while the run goes on, by a file.
            now = time.time()
            moved = out / "deadline"
            if rank == 0 and moved.exists():
                deadline = float(moved.read_text())
            if args.steps:
                fraction = record["step"] / args.steps
            else:
                fraction = progress_0 + (1 - progress_0) * (now - start) / max(1e-6, deadline - start)
            plan = torch.tensor([fraction], device=device, dtype=torch.float64)
            if world > 1:
                dist.broadcast(plan, 0)
            progress = min(1.0, float(plan))
            shares = kind_shares(progress).to(device)
            if progress >= 1.0:
                break
            if now - last_refresh > 5:
                pool.refresh()
                last_refresh = now
        latents, tokens = pool.draw(args.batch, shares)
        if args.filler:
            tokens = add_fillers(tokens, args.filler, tokenizer.vocabulary, tokenizer.end)
        dropped = torch.rand(args.batch, device=device) < CAPTION_DROPOUT
        tokens = torch.where(dropped[:, None], empty, tokens)
        timesteps = draw_timesteps(args.batch, device)
        epsilon = torch.randn_like(latents)
        a, b = signal[timesteps][:, None, None, None], noise[timesteps][:, None, None, None]
        step_of(a * latents + b * epsilon, a * epsilon - b * latents, timesteps, tokens)
        step = record["step"]
        norm = weights.step(learning_rate(args.learning_rate, step, progress), min(args.ema, (step + 1) / (step + 10)))
        losses += step_of.loss
        since += 1
        record["step"] += 1
        record["samples"] += args.batch * world
        if record["step"] % args.log_every == 0:
            loss, now = float(losses) / since, time.time()
            record["seconds"] += now - mark
            rate = since * args.batch * world / (now - mark)
            record["history"].append([record["step"], round(record["seconds"], 1), round(loss, 5), round(rate)])
            log(
                f"step {record['step']} loss {loss:.4f} norm {float(norm):.2f} {rate:.0f} samples/s "
                f"progress {progress:.3f} pool {len(pool.latents)}"
            )
            record["progress"] = progress
            if not math.isfinite(loss):
                log("the loss is not finite")
                sys.exit(3)
            losses.zero_()
            since, mark = 0, now
            if rank == 0 and now - last_average > args.average_every:
                save_average(weights, out, record)
                last_average = now
            if rank == 0 and now - last_checkpoint > args.checkpoint_every:
                save_checkpoint(weights, out, record)
                last_checkpoint = now
    record["progress"] = progress
    record["seconds"] += time.time() - mark
    record["finished"] = True
    if device.type == "cuda":
        record["memory_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 1)
    if rank == 0:
        save_average(weights, out, record)
        save_checkpoint(weights, out, record)
        log("finished: " + json.dumps({k: v for k, v in record.items() if k not in ("history", "arguments")}))
    if world > 1:
        dist.barrier()
        dist.destroy_process_group()
    return record


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latents", required=True, help="folder of the shards (encode_latents)")
    parser.add_argument("--tokenizer", required=True, help="folder of the tokenizer")
    parser.add_argument("--out", required=True, help="folder for the checkpoint and the weights")
    parser.add_argument("--model", default="base", choices=sorted(DENOISERS))
    parser.add_argument("--minutes", type=float, default=0.0, help="length of the run in minutes of wall clock")
    parser.add_argument("--steps", type=int, default=0, help="length of the run in steps, instead of minutes")
    parser.add_argument("--batch", type=int, default=256, help="pictures a step on each device")
    parser.add_argument("--learning-rate", type=float, default=7e-4, help="peak learning rate")
    parser.add_argument("--filler", type=float, default=0.25, help="share of captions with random tokens around them")
    parser.add_argument("--from-progress", type=float, help="place on the schedules to resume at, 0..1")
    parser.add_argument("--start-from", default="", help="folder with weights of an earlier run to begin with")
    parser.add_argument("--ema", type=float, default=0.9995, help="decay of the moving average of the weights")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=False, help="torch.compile")
    parser.add_argument("--graph", action=argparse.BooleanOptionalAction, default=False, help="capture a CUDA graph")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out if there is one")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cuda", "cpu"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--check-every", type=int, default=25, help="steps between looks at the clock")
    parser.add_argument("--log-every", type=int, default=200, help="steps between lines of the log")
    parser.add_argument("--average-every", type=float, default=100, help="seconds between writes of the weights")
    parser.add_argument("--checkpoint-every", type=float, default=240, help="seconds between checkpoints")
    args = parser.parse_args(argv)
    if not args.minutes and not args.steps:
        parser.error("give --minutes or --steps")
    return args


if __name__ == "__main__":
    train(parse())
