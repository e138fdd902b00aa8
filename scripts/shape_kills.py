"""A list that mixes everything that shapes a picture, made twice: undisturbed, and with the worker killed in between.

    python scripts/shape_kills.py --jobs 100 --kills 25 --record scripts/results/shape-kills.json

The list goes round a second pass, a ControlNet, img2img, inpainting of the masked region alone, outpainting, details,
a cut-out, regions, and references of three kinds (an IP-Adapter, InstructPix2Pix and FLUX.1 Kontext). A kill is a
SIGKILL of the worker's process while a job of the wanted feature runs; each job is hit once at most, as a second time
would end it. Afterwards every job must have one picture, with the same pixels and options as in the undisturbed run.
Then `diffusion-local captions` describes one picture of each feature, and is killed as well: each picture must have the
caption of the undisturbed run, by which the gallery's search finds it. All models but the starter are tiny random ones.
Exit status 1 if anything differs.
"""

import argparse
import contextlib
import io
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from chaos_audit import audit
from PIL import Image as PIL
from PIL import ImageDraw
from safetensors.torch import save_file

from diffusion_local.actor import LOCAL, run_as
from diffusion_local.compose import Services, open_services
from diffusion_local.domain import Job, State
from diffusion_local.models.catalog import read_folder
from diffusion_local.paths import assets
from diffusion_local.settings import Settings

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from tests.engine import test_ip_adapters, test_references  # noqa: E402
from tests.engine.vision_models import caption_model, detector_model, saliency_weights  # noqa: E402

SIZE, STEPS = 128, 3
POLL_SECONDS = 0.01
#: How often the command that describes pictures is killed.
CAPTION_KILLS = 4
#: Width of the text that the starter's UNet attends to.
STARTER_WIDTH = 256
SUBJECTS = ("a red apple", "a lighthouse", "a blue vase", "a green tree", "a yellow boat")


def features(source: str, mask: str) -> dict[str, dict[str, Any]]:
    """Options by feature."""
    box = {"x": 0, "y": 0, "width": 0.5, "height": 1, "weight": 0.8}
    inpaint = {"kind": "inpaint", "source": source, "mask": mask, "strength": 0.9}
    return {
        "second pass": {"hires_scale": 1.5, "hires_steps": 2, "hires_upscaler": "Lanczos"},
        "second pass in tiles": {"hires_scale": 2, "hires_steps": 2, "hires_tile": 192, "hires_upscaler": "Latent"},
        "control": {"controls": [{"image": source, "type": "canny", "weight": 0.8}]},
        "img2img": {"kind": "img2img", "source": source, "strength": 0.6},
        "inpaint only masked": inpaint | {"inpaint_area": "Only masked", "mask_padding": 16, "mask_blur": 4},
        "outpaint": {"kind": "inpaint", "source": source, "strength": 1.0, "outpaint": "left:64"},
        "details": {"details": [{"target": "person", "confidence": 0, "steps": 2, "limit": 1}]},
        "cut-out": {"background": "transparent"},
        "regions": {"regions": [box | {"prompt": "a green tree"}, box | {"x": 0.5, "prompt": "a red car"}]},
        "IP-Adapter": {"references": [{"image": source, "use": "style", "weight": 0.6, "mask": mask}]},
        "InstructPix2Pix": {"model": "instruct", "references": [{"image": source}], "image_guidance": 2.0},
        "Kontext": {"model": "kontext", "references": [{"image": source}], "guidance": 3.0},
    }


def open_home(home: Path) -> tuple[Services, dict[str, dict[str, Any]]]:
    """The services of a new home with the tiny models and the pictures to begin from."""
    settings = Settings.load(
        {}, home=home, engine="diffusers", device="cpu", threads=1, batch_size="1", port=0, log_level="info"
    )
    torch.manual_seed(3)
    write_models(settings)
    services = open_services(settings)
    circle, mask = PIL.new("RGB", (SIZE, SIZE), "#3060a0"), PIL.new("L", (SIZE, SIZE), 0)
    ImageDraw.Draw(circle).ellipse((30, 30, 98, 98), fill="#e8c040")
    mask.paste(255, (32, 32, 80, 96))
    return services, features(add(services, circle), add(services, mask))


def write_models(settings: Settings) -> None:
    """Tiny models with random weights, in the folders of a home."""
    starter = read_folder(assets() / "starter", "starter", "Starter")
    for name, make in (("instruct", test_references.instruct), ("kontext", test_references.kontext)):
        make(starter).save_pretrained(settings.models / name)
    adapter = test_ip_adapters.plain(STARTER_WIDTH) | test_ip_adapters.attention(starter.folder, STARTER_WIDTH)
    settings.ip_adapters.mkdir(parents=True)
    save_file(adapter, settings.ip_adapters / "plain.safetensors")
    test_ip_adapters.write_encoder(settings.clip_vision / "image_encoder")
    detector_model(settings.preprocessors)
    caption_model(settings.preprocessors / "caption", starter.folder / "tokenizer")
    folder = settings.preprocessors / "background"
    folder.mkdir(parents=True)
    save_file(saliency_weights(), folder / "u2netp.safetensors")


def add(services: Services, picture: PIL.Image) -> str:
    data = io.BytesIO()
    picture.save(data, "PNG")
    return services.sources.add(data.getvalue()).id


def submit(services: Services, mixed: dict[str, dict[str, Any]], count: int) -> dict[str, str]:
    """Submit the list; returns the feature of each job by its id, in the order of the list."""
    names = list(mixed)
    lines = []
    for number in range(count):
        options = {"prompt": SUBJECTS[number % len(SUBJECTS)], "steps": STEPS, "seed": number}
        size = {} if "outpaint" in mixed[names[number % len(names)]] else {"width": SIZE, "height": SIZE}
        lines.append(json.dumps(options | size | mixed[names[number % len(names)]]))
    receipt = services.studio.lists.submit("\n".join(lines).encode(), "jsonl")
    ids = job_ids(services)
    assert len(ids) == receipt.count == count, receipt
    return {job_id: names[number % len(names)] for number, job_id in enumerate(ids)}


def job_ids(services: Services) -> list[str]:
    with services.database.read() as db:
        return [row[0] for row in db.execute("SELECT id FROM jobs ORDER BY position, id").fetchall()]


class Worker:
    """A worker process of the slot cpu0, started anew whenever it is gone."""

    def __init__(self, services: Services) -> None:
        self._environ = services.settings.child_environ() | {"PYTHONPATH": str(REPOSITORY)}
        self._log = (services.settings.home / "worker.log").open("ab")
        self.process: subprocess.Popen[bytes] | None = None

    def keep(self) -> None:
        if self.process is None or self.process.poll() is not None:
            command = [sys.executable, "-m", "diffusion_local.worker", "--slot", "cpu0"]
            self.process = subprocess.Popen(command, env=self._environ, stdout=self._log, stderr=self._log)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def work(services: Services, count: int, victims: dict[str, int], seconds: float) -> list[str]:
    """Run the queue until every job has ended; returns the jobs during which the worker was killed.

    ``victims``: by job the step from which on its worker is killed, once.
    """
    worker, hit = Worker(services), list[str]()
    deadline, reported = time.monotonic() + seconds, -1
    try:
        while time.monotonic() < deadline:
            worker.keep()
            running = services.studio.jobs(state="running")
            for job in running:
                if job.id not in hit and must_die(job, victims):
                    worker.kill()
                    hit.append(job.id)
            counts = services.studio.snapshot(0, 0).counts
            done = count - counts[State.QUEUED] - counts[State.RUNNING]
            if done == count:
                break
            if done // 10 > reported:
                reported = done // 10
                print(f"{done} of {count} ended, {len(hit)} kills", file=sys.stderr, flush=True)
            time.sleep(POLL_SECONDS)
    finally:
        worker.kill()
    return hit


def must_die(job: Job, victims: dict[str, int]) -> bool:
    return job.id in victims and job.worker is not None and job.step >= victims[job.id]


def drawn(services: Services, ids: list[str]) -> dict[int, tuple[str, str, str]]:
    """By place in the list: hash of the pixels, hash of the options without ids of pictures, and flag."""
    found = {}
    images = services.images.of_jobs(ids)
    for place, job_id in enumerate(ids):
        if job_id not in images:
            continue
        image = images[job_id]
        with services.files.picture(image.key).open() as file, PIL.open(file) as picture:
            pixels = sha256(f"{picture.mode} {picture.size}".encode() + picture.tobytes()).hexdigest()
        found[place] = (pixels, sha256(image.params.to_json().encode()).hexdigest(), image.flag)
    return found


def describe(services: Services, count: int, kills: int, seconds: float) -> tuple[dict[str, str], int]:
    """Have the command describe the newest ``count`` pictures, killing it ``kills`` times in between.

    Returns the captions by prompt and seed, and the number of kills that hit.
    """
    environ = services.settings.child_environ() | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "diffusion_local", "captions", "--limit"]
    chance, hit, deadline = random.Random(count), 0, time.monotonic() + seconds
    while time.monotonic() < deadline and len(found := captions(services)) < count:
        process = subprocess.Popen([*command, str(count - len(found))], env=environ, stdout=subprocess.DEVNULL)
        try:
            if hit < kills:
                enough = len(found) + 1 + hit % 2
                while process.poll() is None and len(captions(services)) < enough:
                    time.sleep(POLL_SECONDS)
                time.sleep(chance.uniform(0, 2))  # while the model looks at the next one
                hit += process.poll() is None
                process.kill()
            process.wait(max(1.0, deadline - time.monotonic()))
        finally:
            process.kill()
            process.wait()
    return captions(services), hit


def captions(services: Services) -> dict[str, str]:
    """Captions of the gallery by the prompt and seed of their picture."""
    page = services.studio.pictures.page(500)
    return {f"{each.params.prompt} {each.params.seed}": each.caption for each in page if each.caption}


def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    calm, mixed = open_home(folder / "calm")
    mixed = chosen(mixed, options)
    calm_jobs = submit(calm, mixed, options.jobs)
    began = time.monotonic()
    work(calm, options.jobs, {}, options.seconds)
    undisturbed = time.monotonic() - began
    calm_pictures = drawn(calm, list(calm_jobs))
    calm_captions, _ = describe(calm, len(mixed), 0, options.seconds)

    hunted, mixed = open_home(folder / "hunted")
    mixed = chosen(mixed, options)
    jobs = submit(hunted, mixed, options.jobs)
    chance, victims = random.Random(options.seed), {}
    every = max(2, options.jobs // options.kills)  # apart, as a kill also hits the job that is being saved
    for job_id in list(jobs)[1::every][: options.kills]:
        victims[job_id] = chance.randint(0, hunted.jobs.get(job_id).params.total_steps)
    began = time.monotonic()
    hit = work(hunted, options.jobs, victims, options.seconds)
    disturbed = time.monotonic() - began
    made = drawn(hunted, list(jobs))
    hunted_captions, caption_kills = describe(hunted, len(mixed), CAPTION_KILLS, options.seconds)

    states = Counter(str(hunted.jobs.get(job_id).state) for job_id in jobs)
    violations = [f"calm: {each}" for each in audit(calm.settings).violations]
    violations += [f"hunted: {each}" for each in audit(hunted.settings).violations]
    if len(calm_pictures) != options.jobs:
        violations.append(f"the undisturbed run made {len(calm_pictures)} pictures")
    names = list(jobs.values())
    violations += [
        f"line {place + 1} ({names[place]}): {'no picture' if place not in made else 'another picture'}"
        for place in range(options.jobs)
        if made.get(place) != calm_pictures.get(place)
    ]
    violations += caption_violations(hunted, hunted_captions, calm_captions, len(mixed))
    with hunted.database.read() as db:
        rows = db.scalar("SELECT count(*) FROM images")
    if rows != options.jobs:
        violations.append(f"{rows} pictures of {options.jobs} jobs")
    return {
        "jobs": options.jobs,
        "features": dict(Counter(names)),
        "kills": len(hit),
        "kills_by_feature": dict(Counter(jobs[each] for each in hit)),
        "recovered_jobs": sum(hunted.jobs.get(job_id).crashes > 0 for job_id in jobs),
        "states": dict(states),
        "pictures": rows,
        "equal_pictures": sum(made.get(place) == calm_pictures.get(place) for place in range(options.jobs)),
        "captions": len(hunted_captions),
        "equal_captions": sum(calm_captions.get(key) == text for key, text in hunted_captions.items()),
        "kills_of_captions": caption_kills,
        "incomplete": sum(flag == "incomplete" for _, _, flag in made.values()),
        "seconds_undisturbed": round(undisturbed, 1),
        "seconds_with_kills": round(disturbed, 1),
        "violations": violations,
    }


def chosen(mixed: dict[str, dict[str, Any]], options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The features to run; all of them by default."""
    return {name: each for name, each in mixed.items() if not options.features or name in options.features}


def caption_violations(services: Services, found: dict[str, str], expected: dict[str, str], count: int) -> list[str]:
    """Captions that differ from those of the undisturbed run, or by which search does not find the picture."""
    violations = (
        [] if len(found) == len(expected) == count else [f"{len(found)} and {len(expected)} captions of {count}"]
    )
    for key in found.keys() & expected.keys():  # the newest pictures differ, as jobs that were killed end later
        if found.get(key) != expected.get(key):
            violations.append(f"picture {key!r}: caption {found.get(key)!r} instead of {expected.get(key)!r}")
        elif words := [each for each in found[key].split() if each.isalnum()]:
            matches = services.studio.pictures.page(500, search=words[0])
            if key not in {f"{each.params.prompt} {each.params.seed}" for each in matches}:
                violations.append(f"picture {key!r}: search does not find it by {words[0]!r}")
    return violations


def conditions(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "command": " ".join(["python scripts/shape_kills.py", *sys.argv[1:]]),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in ("torch", "diffusers", "transformers")},
        "platform": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores",
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--seconds", type=float, default=3600.0, help="the most for each of the two runs")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--features", nargs="+", default=(), help="only these, by the names in the record")
    parser.add_argument("--record", type=Path, help="write the figures to this JSON file")
    return parser.parse_args()


def main() -> int:
    run_as(LOCAL)
    options = parse()
    folder = Path(tempfile.mkdtemp(prefix="shape-kills-"))
    try:
        figures = run(options, folder)
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(folder)
    print(json.dumps(figures, indent=2))
    if options.record:
        options.record.write_text(json.dumps(conditions(options) | figures, indent=2) + "\n", encoding="utf-8")
    return 1 if figures["violations"] else 0


if __name__ == "__main__":
    sys.exit(main())
