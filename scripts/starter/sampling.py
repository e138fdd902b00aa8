"""Pictures for the evaluation: sampled here, only collected as requests, or read from those sampled elsewhere."""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from .models import load_pipeline


class Sampler:
    """Pictures from a diffusers folder."""

    def __init__(self, model: str | Path, device: str, batch: int, dtype: torch.dtype = torch.float32) -> None:
        self.pipe = load_pipeline(Path(model), dtype).to(device)
        self.batch = batch

    def __call__(
        self, prompts: list[str], seeds: list[int], steps: int = 16, guidance: float = 5.0, negative: str | None = None
    ) -> np.ndarray:
        """float32 ``[n, 256, 256, 3]`` in 0..1; one seed a picture, noise drawn on the CPU."""
        out = []
        for i in range(0, len(prompts), self.batch):
            part = prompts[i : i + self.batch]
            noise = [torch.Generator().manual_seed(s) for s in seeds[i : i + self.batch]]
            out.append(
                self.pipe(
                    part, num_inference_steps=steps, guidance_scale=guidance, generator=noise, output_type="np",
                    negative_prompt=[negative] * len(part) if negative else None,
                ).images
            )  # fmt: skip
        return np.concatenate(out).astype(np.float32)


def request_key(prompt: str, seed: int, steps: int, guidance: float, negative: str | None) -> str:
    """File name of one picture."""
    return hashlib.sha256(json.dumps([prompt, seed, steps, guidance, negative]).encode()).hexdigest()[:20]


class Collector:
    """Stands in for the sampler and only writes down what is asked."""

    def __init__(self) -> None:
        self.requests: dict[str, list[Any]] = {}

    def __call__(
        self, prompts: list[str], seeds: list[int], steps: int = 16, guidance: float = 5.0, negative: str | None = None
    ) -> np.ndarray:
        for prompt, seed in zip(prompts, seeds, strict=True):
            self.requests[request_key(prompt, seed, steps, guidance, negative)] = [
                prompt,
                seed,
                steps,
                guidance,
                negative,
            ]
        return np.ones((len(prompts), 256, 256, 3), np.float32)


class StoredPictures:
    """Stands in for the sampler and reads pictures that were sampled before; samples what is missing."""

    def __init__(self, folder: str | Path, sampler: Callable[[], Sampler]) -> None:
        self.folder, self.make_sampler, self.sampler = Path(folder), sampler, None

    def __call__(
        self, prompts: list[str], seeds: list[int], steps: int = 16, guidance: float = 5.0, negative: str | None = None
    ) -> np.ndarray:
        paths = [
            self.folder / f"{request_key(p, s, steps, guidance, negative)}.webp"
            for p, s in zip(prompts, seeds, strict=True)
        ]
        missing = [i for i, path in enumerate(paths) if not path.exists()]
        if missing:
            self.sampler = self.sampler or self.make_sampler()
            more = {"steps": steps, "guidance": guidance, "negative": negative}
            made = self.sampler([prompts[i] for i in missing], [seeds[i] for i in missing], **more)
            for i, picture in zip(missing, made, strict=True):
                save_picture(picture, paths[i])
        return np.stack([np.asarray(Image.open(path), np.float32) / 255 for path in paths])


def save_picture(picture: np.ndarray, path: Path) -> None:
    """Float picture to WebP of quality 95."""
    Image.fromarray((picture * 255).round().astype(np.uint8)).save(path, "WEBP", quality=95, method=2)


def sample_requests(args: argparse.Namespace) -> None:
    """Sample the collected requests into ``--pictures``; stops after ``--seconds``."""
    began = time.monotonic()
    requests = json.loads(Path(args.sample).read_text())
    folder = Path(args.pictures)
    folder.mkdir(parents=True, exist_ok=True)
    sampler = Sampler(args.model, args.device, args.batch, getattr(torch, args.dtype))
    groups: dict[tuple, list[tuple[str, str, int]]] = {}
    for key, (prompt, seed, steps, guidance, negative) in requests.items():
        groups.setdefault((steps, guidance, negative), []).append((key, prompt, seed))
    done = 0
    with ThreadPoolExecutor(args.threads) as pool:
        for (steps, guidance, negative), rows in groups.items():
            for i in range(0, len(rows), args.batch):
                if args.seconds and time.monotonic() - began > args.seconds:
                    break
                keys, prompts, seeds = (list(column) for column in zip(*rows[i : i + args.batch], strict=True))
                made = sampler(prompts, seeds, steps=steps, guidance=guidance, negative=negative)
                for key, picture in zip(keys, made, strict=True):
                    pool.submit(save_picture, picture, folder / f"{key}.webp")
                done += len(keys)
    print(f"{done} of {len(requests)} pictures, {time.monotonic() - began:.1f} s", flush=True)
