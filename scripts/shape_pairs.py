"""Every pair of the options that shape a picture, and triples at random, through submit, worker and gallery.

    python scripts/shape_pairs.py --triples 60 --record scripts/results/shape-pairs.json

A combination is refused at the submit by a message that names one of its options, or fails because a file is for
another model, which only its weights tell (the tiny IP-Adapter is the starter's), or is made: then nothing is missing
in the picture, its size is the expected one, the options in its file are those of the job, the recipe's text says the
same in A1111's names, and the picture made again exactly has the same pixels. That second time every other picture is
put aside in the middle for another picture, and every other one is continued by the next worker after a stop. Options
that contradict each other or that belong to different kinds of work are no combination; the table of options tells
which. Vision models run in this process. Exit status 1 if anything differs. ``--merge`` adds up the records of parts.
"""

import argparse
import contextlib
import io
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import torch
from PIL import Image as PIL
from shape_cast import SIZE, conditions, features, helped, language_model, open_home

from diffusion_local.actor import LOCAL, run_as
from diffusion_local.compose import Services
from diffusion_local.domain import Job, Lane, State
from diffusion_local.engine import vision, vision_models
from diffusion_local.engine.devices import at_slot
from diffusion_local.engine.diffusers_engine import DiffusersEngine
from diffusion_local.engine.inputs import PictureInputs
from diffusion_local.errors import UserError
from diffusion_local.gallery import recipes
from diffusion_local.options.inpaint import margins
from diffusion_local.options.table import OPTIONS, RECORDS, Params
from diffusion_local.options.types import Kind
from diffusion_local.worker.stopping import Stop
from tests.workers import open_runner

STEPS = 2
#: Kind of the failure of a picture whose file for another model could only be told from its weights.
UNFIT = "model_unavailable"
#: Options in which features may differ: the later one counts.
YIELDING = ("source", "mask", "strength", "guidance")
#: What happens to a picture while it is made again.
DISTURBANCES = ("put aside", "stopped")
#: Of so many pictures that are put aside, one is for a picture of another model.
OTHER_MODEL = 5
#: Options that the recipe's text has without a name of their own, and those that it writes in other words.
FIRST_LINES = ("prompt", "negative", "width", "height")
OTHERWISE = ("kind", "loras", "original", *RECORDS)


def shapes(services: Services) -> dict[str, dict[str, Any]]:
    """Options by feature: those of ``shape_cast``, and smaller ones that change how a picture is made."""
    found = features(services)
    inpaint = {name: found["soft mask"][name] for name in ("kind", "source", "mask", "strength")}
    return found | {
        "LoRA": {"model": "starter", "loras": [{"name": "ink", "weight": 0.7}]},
        "variation": {"variation_seed": 5, "variation_strength": 0.3},
        "schedule": {"sampler": "DPM++ 2M", "schedule": "Karras"},
        "clip skip": {"clip_skip": 2},
        "mask blur": inpaint | {"mask_blur": 6},
        "filled mask": inpaint | {"mask_content": "fill"},
        "tiled decoding": {"rung": "vae_tiling"},
        "sliced attention": {"rung": "attention_slicing"},
        "negative prompt": {"negative": "blurry, (grey:1.3)"},
    }


def combined(chosen: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The options together; None if they contradict each other or no kind of work has all of them."""
    found: dict[str, Any] = {}
    for options in chosen:
        for name, value in options.items():
            if name in found and name in RECORDS:
                found[name] = [*found[name], *value]
            elif found.get(name, value) != value and name not in YIELDING:
                return None
            else:
                found[name] = value
    kinds = [Kind(found["kind"])] if "kind" in found else list(Kind)
    return found if any(all(kind in OPTIONS[name].kinds for name in found) for kind in kinds) else None


class Fault(Exception):
    pass


def require(holds: bool, problem: object) -> None:
    if not holds:
        raise Fault(str(problem))


class House:
    """A home and its worker, in this process."""

    def __init__(self, services: Services) -> None:
        self.services = services
        settings = services.settings
        inputs = PictureInputs(settings, services.files.open_source)
        self._engine = DiffusersEngine(at_slot("cpu0"), 1, settings.precision, 0, inputs)
        self.hit = Counter[str]()

    def work(self, disturbance: str = "") -> None:
        """Run all jobs, and disturb the first pass of the batch lane after its first step."""
        stop = Stop()
        runner = open_runner(self.services, "cpu0", self._engine, stop)
        left = [disturbance] if disturbance else []

        def urgent() -> bool:
            if not left:
                return False
            self.hit[left[0]] += 1
            if left.pop() == "stopped":
                stop.request()
            else:
                model = "starter" if self.hit["put aside"] % OTHER_MODEL else "sd1"
                self.services.studio.submit("a car", model=model, steps=1, width=SIZE, height=SIZE, seed=1)
            return True

        runner._urgent = urgent  # type: ignore[method-assign]
        try:
            runner.run_due_jobs()
        finally:
            runner.close()
        if stop.wanted.is_set():
            self.work()

    def made(self, job_id: str) -> tuple[Job, bytes]:
        """The finished job with its file. Raises Fault if it failed or its picture is incomplete."""
        job = self.services.jobs.get(job_id)
        require(job.state is State.DONE, f"{job.state}: {job.failure.message if job.failure else ''}")
        image = self.services.images.of_jobs([job_id])[job_id]
        require(image.flag != "incomplete", image.facts.get("incomplete"))
        return job, self.services.studio.picture_data(image.id)


def tried(house: House, options: dict[str, Any], disturbance: str) -> str:
    """Make a picture twice; returns "made", or "refused: " and why. Raises Fault."""
    studio, size = house.services.studio, {"width": SIZE, "height": SIZE}
    if options.get("kind") != "upscale":
        options = {"steps": STEPS} | ({} if "outpaint" in options else size) | options
    options = {"prompt": "a red apple", "seed": 3} | options
    try:
        receipt = studio.submit(**helped(house.services, options), lane=Lane.BATCH)
    except UserError as refusal:
        field = getattr(refusal, "field", "").partition("[")[0]
        require(field in options, f"refused without naming one of its options: {refusal}")
        return f"refused: {refusal}"
    named = all(warning.partition(":")[0] in options for warning in receipt.warnings)
    require(named, f"a warning without the name of an option: {receipt.warnings}")
    house.work()
    failure = house.services.jobs.get(receipt.job_ids[0]).failure
    if failure and failure.kind == UNFIT:
        return f"refused: {failure.message}"
    job, data = house.made(receipt.job_ids[0])
    picture = opened(data)
    require(picture.size == expected_size(house.services, job.params), picture.size)
    require(picture.mode == ("RGBA" if job.params.background else "RGB"), picture.mode)
    recipe = recipes.read_picture(data)
    require(recipe.settings == job.params.to_dict(), recipe.settings)
    require_said(recipe.text, job.params)
    again = studio.queue.again([job.id], exactly=True)
    house.work(disturbance)
    _, other = house.made(again.job_ids[0])
    require(opened(other).tobytes() == picture.tobytes(), f"another picture when made again, {disturbance}")
    return "made"


def opened(data: bytes) -> PIL.Image:
    with PIL.open(io.BytesIO(data)) as picture:
        picture.load()
        return picture


def expected_size(services: Services, params: Params) -> tuple[int, int]:
    if params.kind is Kind.INPAINT and params.inpaint_area == "Only masked":
        size = services.sources.size(params.source)
        return margins(params.outpaint, size).extended(size)
    return params.final_size


def require_said(text: str, params: Params) -> None:
    """Compare the recipe's text with the options of the job."""
    said = recipes.read_text(text)
    known = params.to_dict()
    for name, option in OPTIONS.items():
        if (
            known.get(name)
            and params.kind in option.kinds
            and name not in OTHERWISE
            and (option.a1111 or name in FIRST_LINES)
        ):
            value = said.settings.get(name)
            require(value == known[name], f"the text says {name} = {value!r}")


def run_here(command: list[str], sent: bytes, check: Any) -> CompletedProcess[bytes]:
    """A vision model without a process of its own, which would spend seconds on imports."""
    kind, folder, *words = command[3:]
    output = io.BytesIO()
    with torch.inference_mode():
        made = vision.FUNCTION_BY_TASK[kind](opened(sent).convert("RGB"), Path(folder), *words)
    if isinstance(made, PIL.Image):
        made.save(output, "PNG")
    else:
        output.write(json.dumps(made).encode())
    return CompletedProcess(command, 0, output.getvalue(), b"")


def run(options: argparse.Namespace, house: House) -> dict[str, Any]:
    mixed = shapes(house.services)
    names = [name for name in mixed if not options.features or name in options.features]
    several = [list(pair) for pair in combinations(names, 2)] if not options.only_triples else []
    triples = [list(each) for each in combinations(names, 3) if combined([mixed[name] for name in each]) is not None]
    several += random.Random(options.seed).sample(triples, min(options.triples, len(triples)))
    several = several[options.part - 1 :: options.parts]
    deadline = time.monotonic() + options.seconds
    counts: dict[int, Counter[str]] = {2: Counter(), 3: Counter()}
    refused: dict[str, str] = {}
    faults: dict[str, str] = {}
    for place, each in enumerate(several):
        label, together = " + ".join(each), combined([mixed[name] for name in each])
        if together is None:
            counts[len(each)]["no combination"] += 1
            continue
        if time.monotonic() > deadline:
            counts[len(each)]["not tried"] += 1
            continue
        try:
            outcome = tried(house, together, DISTURBANCES[place % 2])
        except Fault as fault:
            outcome, faults[label] = "fault", str(fault)
            print(f"{label}: {fault}", file=sys.stderr, flush=True)
        outcome, _, why = outcome.partition(": ")
        if why:
            refused[label] = why
        counts[len(each)][outcome] += 1
    return {
        "features": names,
        "pairs": dict(counts[2]),
        "triples": dict(counts[3]),
        "disturbances_that_hit": dict(house.hit),
        "refused": refused,
        "faults": faults,
    }


def merged(paths: list[Path]) -> dict[str, Any]:
    """The sum of the records of parts. A record with fewer features runs some again: its outcome replaces a fault."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    parts = [each for each in records if each["features"] == records[0]["features"]]

    def summed(name: str) -> Counter[str]:
        return sum((Counter(each[name]) for each in parts), Counter())

    counts = {2: summed("pairs"), 3: summed("triples")}
    refused = {label: why for each in parts for label, why in each["refused"].items()}
    faults = {label: why for each in parts for label, why in each["faults"].items()}
    for again in (each for each in records if each not in parts and "not tried" not in str(each)):
        for label in [each for each in faults if set(each.split(" + ")) <= set(again["features"])]:
            if label in again["faults"]:
                continue
            del faults[label]
            why = again["refused"].get(label)
            refused |= {label: why} if why else {}
            counts[label.count(" + ") + 1].subtract(["fault"])
            counts[label.count(" + ") + 1]["refused" if why else "made"] += 1
    return {
        "commands": [each["command"] for each in records],
        "features": records[0]["features"],
        "pairs": dict(+counts[2]),
        "triples": dict(+counts[3]),
        "disturbances_that_hit": dict(summed("disturbances_that_hit")),
        "refused": refused,
        "faults": faults,
        "seconds": round(sum(each["seconds"] for each in records), 1),
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--triples", type=int, default=0, help="number of triples at random")
    parser.add_argument("--only-triples", action="store_true", help="no pairs")
    parser.add_argument("--features", nargs="+", default=(), help="only these, by their names in the record")
    parser.add_argument("--part", type=int, default=1, help="run this one of --parts parts")
    parser.add_argument("--parts", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3600.0, help="begin no further picture after so long")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--record", type=Path, help="write the figures to this JSON file")
    parser.add_argument("--merge", type=Path, nargs="+", help="run nothing, and add up these records")
    return parser.parse_args()


def main() -> int:
    run_as(LOCAL)
    options = parse()
    figures = merged(options.merge) if options.merge else measured(options)
    print(json.dumps(figures, indent=2))
    if options.record:
        record = conditions("shape_pairs.py") | figures
        options.record.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return 1 if figures["faults"] else 0


def measured(options: argparse.Namespace) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp(prefix="shape-pairs-"))
    vision_models.run_child = run_here  # type: ignore[assignment]
    began = time.monotonic()
    try:
        with language_model() as helper:
            services = open_home(folder, prompt_helper_url=helper, log_level="warning")
            house = House(replace(services, settings=replace(services.settings, batch_size="1")))
            return run(options, house) | {"seconds": round(time.monotonic() - began, 1)}
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
