"""Examples for the edge ControlNet: the starter's own pictures of a list of prompts, moved, with their Canny edges."""

from __future__ import annotations

import argparse
import importlib.util
import random
import sys
import time
from concurrent.futures import Executor, Future
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image

from .captions import BACKGROUND_COLOURS, OBJECT_COLOURS, with_article
from .concepts import ALIASES, EVERYDAY
from .models import encode_mean
from .shipped_starter import ROOT, Starter

SCENES = ("in the snow", "on the beach", "at night", "in space", "underwater", "in a forest")
#: Every tenth thing is kept for the evaluation.
HELD_OUT = 10
CAPTION_DROPOUT = 0.3


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
