"""Difference between pictures of ``speed`` fast or fastest and exact ones: pixels of the starter model, 20 prompts.

    python scripts/bench_error.py --out scripts/results/speed-error.json

On a machine without a GPU, ``--reference`` uses the plain-torch counterparts of the kernels. PSNR is in dB, differences
in 8-bit steps; for scale, ``other_picture`` is the distance between pictures of two prompts.

To judge the pictures of each speed by the starter's own evaluation, draw its requests and measure them afterwards:

    python -m scripts.starter.evaluate … --collect requests.json
    python scripts/bench_error.py --requests requests.json --pictures drawn
    python -m scripts.starter.evaluate … --pictures drawn/fast --out evaluated/fast
    python scripts/bench_error.py --evaluations evaluated
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import diffusers
import numpy as np
import torch

from diffusion_local.compose import open_files
from diffusion_local.domain import utc_now
from diffusion_local.engine.devices import find
from diffusion_local.engine.diffusers_engine import DiffusersEngine
from diffusion_local.engine.fused.operations import TorchOperations
from diffusion_local.engine.inputs import PictureInputs
from diffusion_local.engine.memory import RungChoice
from diffusion_local.models.catalog import Catalog
from diffusion_local.models.directories import ModelDirectories
from diffusion_local.options.table import Params
from diffusion_local.settings import Settings, go_offline, keep_kernels

RESULT = Path(__file__).parent / "results" / "speed-error.json"
SPEEDS = ("exact", "fast", "fastest")
PROMPTS = (
    "a red apple", "a green apple", "a blue house", "a yellow house", "a cat", "a dog", "two owls", "a tree at night",
    "a paper boat", "a lighthouse", "a car in the rain", "a bird on a branch", "a flower", "a fish", "a mountain",
    "a red car", "a white horse", "a cup of tea", "a boat on the sea", "a star",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=len(PROMPTS))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--reference", action="store_true", help="plain torch in place of the kernels")
    parser.add_argument("--requests", type=Path, help="requests of the starter's evaluation, drawn at each speed")
    parser.add_argument("--pictures", type=Path, help="folder for their pictures, in a folder for each speed")
    parser.add_argument("--speeds", nargs="+", choices=SPEEDS, default=list(SPEEDS), help="the first is exact")
    parser.add_argument("--evaluations", type=Path, help="only record the evaluations in this folder, one a speed")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    if (options.requests is None) != (options.pictures is None):
        parser.error("--requests and --pictures belong together")
    if options.speeds[0] != "exact":
        parser.error("--speeds: the first must be exact, which the others are compared with")
    if options.evaluations:
        record = json.loads(options.out.read_text(encoding="utf-8"))
        record["starter_evaluation"] = evaluations(options.evaluations)
        options.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        return 0
    with tempfile.TemporaryDirectory() as home:
        go_offline(Path(home))
        keep_kernels(Path(home) / "kernels")
        found = measure(options, Path(home))
    options.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=2))
    return 0


def measure(options: argparse.Namespace, home: Path) -> dict[str, Any]:
    device = find()[0]
    settings = Settings.load({}, home=home)
    settings.make_folders()
    catalog = Catalog(settings.starter, ModelDirectories.from_settings(settings))
    model = catalog.get("starter")
    made: dict[str, list[np.ndarray]] = {}
    rows: dict[str, Any] = {}
    requests = json.loads(options.requests.read_text(encoding="utf-8")) if options.requests else {}
    for speed in options.speeds:
        inputs = PictureInputs(settings, open_files(settings).open_source)
        engine = DiffusersEngine(device, materials=inputs, speed=speed)
        if options.reference and speed != "exact":
            engine._cache._operations = TorchOperations()
        engine.load(model, RungChoice(engine.ladder[0]))
        wanted = [
            catalog.complete(prompt, {"model": "starter", "seed": 1000 + place, "steps": options.steps})
            for place, prompt in enumerate(PROMPTS[: options.prompts])
        ]
        draw(engine, wanted[0])
        began = time.perf_counter()
        pictures, facts = zip(*(draw(engine, params) for params in wanted), strict=True)
        seconds = (time.perf_counter() - began) / len(wanted)
        made[speed] = list(pictures)
        rows[speed] = {
            "seconds_a_picture": round(seconds, 3),
            "made_by": facts[-1].get("fused", []),
            "dtype": facts[-1]["dtype"],
            **distance(made["exact"], made[speed]),
        }
        if requests:
            draw_requests(engine, catalog, requests, options.pictures / speed)
        engine.unload()
    shifted = made["exact"][1:] + made["exact"][:1]
    return {
        "date": utc_now()[:10],
        "device": device.words,
        "versions": {each.__name__: str(each.__version__) for each in (torch, diffusers)},
        "command": f"scripts/bench_error.py --prompts {options.prompts} --steps {options.steps}"
        + " --reference" * options.reference,
        "prompts": options.prompts,
        "steps": options.steps,
        "against_exact": rows,
        "other_picture": distance(made["exact"], shifted),
    }


def draw(engine: DiffusersEngine, params: Params) -> tuple[np.ndarray, dict[str, Any]]:
    picture = engine.generate(params, lambda step, preview: None)
    return np.asarray(picture.image, dtype=np.float32), picture.facts


def draw_requests(engine: DiffusersEngine, catalog: Catalog, requests: dict[str, list[Any]], folder: Path) -> None:
    """Draw each of the requests (key: prompt, seed, steps, guidance, negative prompt) as ``folder/key.webp``."""
    folder.mkdir(parents=True, exist_ok=True)
    for key, (prompt, seed, steps, guidance, negative) in requests.items():
        settings = {"model": "starter", "seed": seed, "steps": steps, "guidance": guidance}
        params = catalog.complete(prompt, settings | ({"negative": negative} if negative else {}))
        image = engine.generate(params, lambda step, preview: None).image
        image.save(folder / f"{key}.webp", "WEBP", quality=95, method=2)


def evaluations(folder: Path) -> dict[str, Any]:
    """Shares of pictures judged right, by speed, from ``folder/SPEED/evaluation.json``."""
    found = {}
    for speed in SPEEDS:
        if (path := folder / speed / "evaluation.json").is_file():
            told = json.loads(path.read_text(encoding="utf-8"))
            found[speed] = {
                "concepts_top1": told["retrieval"]["plain_names"]["top1"],
                "concepts_top1_held_out_openings": told["retrieval"]["held_out_templates"]["top1"],
                "object_colour": told["object_colour"]["right"],
                "background_colour": told["background_colour"]["right"],
                "scene": told["scene"]["right"],
                "pairs_both_top5": told["pairs"]["plain"]["both_top5"],
                "pairs_both_top5_held_out_openings": told["pairs"]["held_out_templates"]["both_top5"],
                "everyday_top1": told["everyday"]["top1"],
            }
    return found


def distance(ones: list[np.ndarray], others: list[np.ndarray]) -> dict[str, Any]:
    """PSNR (None if equal), mean and largest difference over pairs of pictures."""
    apart = [np.abs(one - other) for one, other in zip(ones, others, strict=True)]
    psnr = [20 * np.log10(255 / np.sqrt((each**2).mean())) for each in apart if each.any()]
    return {
        "equal": sum(not each.any() for each in apart),
        "psnr_median": round(float(median(psnr)), 1) if psnr else None,
        "psnr_least": round(float(min(psnr)), 1) if psnr else None,
        "mean_difference": round(float(np.mean([each.mean() for each in apart])), 3),
        "largest_difference": int(max(each.max() for each in apart)),
    }


if __name__ == "__main__":
    sys.exit(main())
