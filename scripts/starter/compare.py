"""How much quantising changed the pictures of the model: the everyday prompts with the same seeds by two folders.

Writes the mean absolute difference of the pixels (0 to 255) beside the difference that another seed makes, and how
often a picture of the second folder is nearer to the first folder's picture of its prompt than to all others.

    python -m scripts.starter.compare --first PLAIN --second assets/starter --out comparison.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .evaluate import EVERYDAY
from .models import load_pipeline


def pictures(folder: Path, prompts: list[str], seed: int, steps: int, device: str) -> np.ndarray:
    """Of shape (prompts, height, width, 3), 0 to 255."""
    pipe = load_pipeline(folder).to(device)
    found = []
    for number, prompt in enumerate(prompts):
        generator = torch.Generator().manual_seed(seed + number)
        made = pipe(prompt, num_inference_steps=steps, guidance_scale=3.5, width=256, height=256, generator=generator)
        found.append(np.asarray(made.images[0], dtype=np.float32))
    return np.stack(found)


def compare(first: np.ndarray, second: np.ndarray, other_seed: np.ndarray) -> dict[str, Any]:
    distances = np.abs(second[:, None] - first[None]).mean((2, 3, 4))
    own = np.diag(distances)
    return {
        "prompts": len(first),
        "mean_difference": round(float(own.mean()), 2),
        "median_difference": round(float(np.median(own)), 2),
        "largest_difference": round(float(own.max()), 2),
        "mean_difference_of_another_seed": round(float(np.abs(other_seed - first).mean()), 2),
        "nearest_is_its_own": round(float((distances.argmin(1) == np.arange(len(first))).mean()), 4),
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", required=True, type=Path)
    parser.add_argument("--second", required=True, type=Path)
    parser.add_argument("--prompts", type=int, default=len(EVERYDAY))
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args(argv)
    prompts = list(EVERYDAY)[: args.prompts]
    runs = ((args.first, 0), (args.second, 0), (args.first, 10_000))
    made = [pictures(folder, prompts, seed, args.steps, args.device) for folder, seed in runs]
    args.out.write_text(json.dumps(compare(*made), indent=2) + "\n")


if __name__ == "__main__":
    main()
