"""Measures the edge ControlNet on held-out prompts: overlap of the edges that were wanted with those that were made."""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from concurrent.futures import Executor
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from .control_examples import chunks, edges_of, move, prompts_of, things
from .shipped_starter import GUIDANCE, Starter

TOLERANCE = 2  # pixels


def widened(edges: np.ndarray, by: int = TOLERANCE) -> np.ndarray:
    """Bool ``[n, h, w]``: everything within ``by`` pixels (a square) of an edge."""
    field = torch.from_numpy(edges).float()[:, None]
    return (F.max_pool2d(field, 2 * by + 1, 1, by)[:, 0] > 0).numpy()


def overlap(expected: np.ndarray, made: np.ndarray) -> np.ndarray:
    """F1 of edges within `TOLERANCE` pixels, for each picture: ``[n]`` in 0..1."""
    precision = (made & widened(expected)).sum((1, 2)) / np.maximum(1, made.sum((1, 2)))
    recall = (expected & widened(made)).sum((1, 2)) / np.maximum(1, expected.sum((1, 2)))
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
    expected = edges(sources)
    condition = torch.from_numpy(expected).to(starter.device)[:, None].expand(-1, 3, -1, -1)
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
    scores = {name: overlap(expected, edges(pictures)) for name, pictures in made.items()}
    scores["chance"] = overlap(expected, np.roll(expected, 1, axis=0))
    record: dict[str, Any] = {
        "measure": f"F1 of Canny edges within {TOLERANCE} pixels; mean over {len(prompts)} held-out prompts",
        "steps": steps, "guidance": GUIDANCE,
        **{name: round(float(values.mean()), 4) for name, values in scores.items()},
        "with_control_at_least_0.75": round(float((scores["with_control"] >= 0.75).mean()), 4),
    }  # fmt: skip
    lines = np.repeat((expected * np.uint8(255))[..., None], 3, axis=-1)
    columns = [sources, lines, made["with_control"], made["with_control_no_prompt"], made["without_control"]]
    shown = min(12, len(prompts))
    rows = np.concatenate([np.concatenate([c[i] for c in columns], axis=1) for i in range(shown)])
    sheet = Image.fromarray(rows)
    return record, sheet.resize((sheet.width // 2, sheet.height // 2), Image.Resampling.BOX)
