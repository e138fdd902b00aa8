"""Step 9: measure a model folder: recognisability, colours, scenes, pairs, copies, diversity, guidance, speed.

Prompts are held out: their openings (`HELD_OUT_TEMPLATES`) and the pairs (`recipes.HELD_OUT_PAIRS`) never occur in
training captions. What a picture shows is decided by the judges of `classifier.py`, which saw real art only and are
checked on held-out real art first; the same measures taken on real compositions are in the record as ceilings.
Writes ``evaluation.json`` and sample sheets. With ``--speed`` it only times the model on the CPU and adds that to the
record.

Where the GPU is elsewhere, the sampling can be done apart: ``--collect requests.json`` writes down what would be
sampled, ``--sample requests.json --pictures DIR`` (on the GPU; needs only the model) samples it, and ``--pictures DIR``
measures.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import resource
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from .captions import with_article, without_colours
from .classifier import SIDE, load
from .pack import Pack
from .picture_features import (
    dominant_hue,
    gradient_histogram,
    has_hue,
    judge_rows,
    object_crop,
    sheet,
    spread_of,
    to_tensor,
)
from .recipe_sampler import RecipeSampler
from .recipes import HELD_OUT_PAIRS, Recipes
from .rendering import render
from .sampling import Collector, Sampler, StoredPictures, sample_requests

#: Openings that no caption of the training has.
HELD_OUT_TEMPLATES = ("show me {}", "there is {} here", "i would like to see {}", "we found {}", "look at {}")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink")
COLOURED_THINGS = ("heart", "car", "apple", "house", "star")
BACKGROUND_THINGS = ("cat", "rocket", "tree")
SCENE_THINGS = ("cat", "robot", "car", "penguin")
EVERYDAY = (
    "a red apple", "a banana", "a slice of pizza", "a hamburger", "an ice cream", "a birthday cake",
    "a cup of coffee", "a strawberry", "a carrot", "french fries", "a donut", "a cookie", "a cat", "a dog", "a horse",
    "a pig", "a cow", "a lion", "an elephant", "a penguin", "a frog", "a fish", "a butterfly", "an owl", "a bee",
    "a turtle", "a rabbit", "a monkey", "a snowman", "a robot", "a ghost", "an alien", "a unicorn", "a dragon",
    "a rocket", "a red car", "a bus", "a train", "an airplane", "a sailboat", "a bicycle", "a helicopter",
    "a house with a garden", "a castle", "a tent", "a tree", "a sunflower", "a red rose", "a cactus", "a mushroom",
    "the sun", "a rainbow", "the moon", "a snowflake", "a red heart", "a yellow star", "a crown", "a guitar",
    "a camera", "a key", "a book", "a light bulb", "an umbrella", "a soccer ball",
)  # fmt: skip


class Evaluation:
    """All measures of one model; results gather in `record`."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.device, self.threads = torch.device(args.device), args.threads
        self.out = Path(args.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.pack = Pack.load(args.data)
        self.textures = torch.from_numpy(self.pack.textures(threads=args.threads))
        self.scenes = torch.from_numpy(self.pack.backgrounds(threads=args.threads))
        self.concept_judge, self.scene_judge, report = load(args.judge, self.device)
        dtype = getattr(torch, args.dtype)
        self.sampler: Collector | StoredPictures | Sampler
        if args.collect:
            self.sampler = Collector()
        elif args.pictures:
            Path(args.pictures).mkdir(parents=True, exist_ok=True)
            self.sampler = StoredPictures(args.pictures, lambda: Sampler(args.model, args.device, args.batch, dtype))
        else:
            self.sampler = Sampler(args.model, args.device, args.batch, dtype)
        self.steps, self.guidance, self.count = args.steps, args.guidance, args.concepts
        self.scene_names = sorted(self.pack.scene_types)
        self.record: dict[str, Any] = {
            "steps": args.steps,
            "guidance": args.guidance,
            "arithmetic": args.dtype,
            "judge_on_real_art": report,
            "templates": HELD_OUT_TEMPLATES,
        }
        concepts = self.pack.concepts
        ids = sorted(range(len(concepts)), key=lambda i: -concepts[i]["w"])
        pool = [i for i in ids if concepts[i]["w"] >= 1.2] or ids
        random.Random(7).shuffle(pool)
        self.tested = pool[: self.count]
        self.accepted = [self._accepted(c) for c in range(len(concepts))]

    def _accepted(self, concept: int) -> list[int]:
        """Concepts that answer to the same name (two drawings of a cat, say)."""
        entries = self.pack.concepts
        own = entries[concept]
        return [
            i
            for i, e in enumerate(entries)
            if i == concept
            or e["noun"] == own["noun"]
            or own["names"][0] in e["names"]
            or e["names"][0] in own["names"]
        ]

    def named(self, noun: str) -> list[int]:
        """Concepts that carry this name."""
        found = [i for i, e in enumerate(self.pack.concepts) if noun in e["names"] or e["noun"] == noun]
        return found or [i for i, e in enumerate(self.pack.concepts) if noun in " ".join(e["names"]).split()]

    def ranks(self, scores: torch.Tensor, accepted: list[list[int]]) -> list[int]:
        """Rank (0: best) of the best accepted class in each row."""
        order = scores.argsort(1, descending=True).cpu().numpy()
        return [int(np.isin(row, want).argmax()) for row, want in zip(order, accepted, strict=True)]

    @staticmethod
    def summary(ranks: list[int]) -> dict[str, Any]:
        r = np.array(ranks)
        return {"n": len(r)} | {f"top{k}": round(float((r < k).mean()), 4) for k in (1, 5, 20)}

    def concepts_of(self, pictures: np.ndarray) -> torch.Tensor:
        return judge_rows(self.concept_judge, to_tensor([object_crop(p) for p in pictures], self.device))

    def generate(self, prompts: list[str], seeds: list[int] | None = None, **more: Any) -> np.ndarray:
        seeds = seeds if seeds is not None else list(range(1000, 1000 + len(prompts)))
        return self.sampler(prompts, seeds, **({"steps": self.steps, "guidance": self.guidance} | more))

    def real(self, objects: list[list[tuple[int, list[float]]]], backgrounds: list[list[float]]) -> np.ndarray:
        """Real compositions, as `generate` returns them."""
        n = len(objects)
        recipes = Recipes(
            np.full((n, 3), -1, np.int32),
            np.zeros((n, 3, 12), np.float32),
            np.array(backgrounds, np.float32),
            np.zeros((n, 3), np.float32),
            np.zeros(n, np.uint8),
            [],
        )
        for i, placed in enumerate(objects):
            for k, (image, row) in enumerate(placed):
                recipes.images[i, k], recipes.objects[i, k] = image, row
        return render(self.textures, self.scenes, recipes).permute(0, 2, 3, 1).numpy()

    def retrieval(self) -> None:
        """Which of all concepts is it? Plain names and held-out templates; then copies, and the older feature."""
        names = [self.pack.concepts[c]["names"][0] for c in self.tested]
        accepted = [self.accepted[c] for c in self.tested]
        held = [HELD_OUT_TEMPLATES[i % len(HELD_OUT_TEMPLATES)].format(with_article(n)) for i, n in enumerate(names)]
        pictures = {
            "plain_names": self.generate(names, self.tested),
            "held_out_templates": self.generate(held, self.tested),
        }
        result: dict[str, Any] = {"concepts": len(self.pack.concepts)}
        for key, made in pictures.items():
            ranks = self.ranks(self.concepts_of(made), accepted)
            result[key] = self.summary(ranks)
            result[key]["missed"] = [n for n, r in zip(names, ranks, strict=True) if r >= 5]
        sampler = RecipeSampler(self.pack, 5)
        placed = []
        for c in self.tested:
            scale = sampler.rng.uniform(0.86, 1.0)
            placed.append([sampler.place(sampler.image(c), *sampler.centred(scale), scale, rotation=0.03)])
        white = [[0, 255, 255, 255, 255, 255, 255, 0]] * len(placed)
        real = self.real(placed, white)
        result["ceiling_on_real_art"] = self.summary(self.ranks(self.concepts_of(real), accepted))
        # Nearest neighbour of a hand-made feature among all art, as version 0 was measured.

        def crop_art(i: int) -> np.ndarray:
            rgba = self.textures[i].numpy().astype(np.float32).transpose(1, 2, 0) / 255
            return object_crop(rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:], 128)

        with ThreadPoolExecutor(self.threads) as pool:
            art = list(pool.map(crop_art, range(len(self.textures))))
        features, thumbs = [], []
        for i in range(0, len(art), 256):
            x = to_tensor(art[i : i + 256], self.device)
            features.append(gradient_histogram(x))
            thumbs.append(F.interpolate(x, size=(SIDE, SIDE), mode="area"))
        feature, thumb = torch.cat(features), torch.cat(thumbs)
        owner = torch.tensor([i["c"] for i in self.pack.images], device=self.device)
        copies: dict[str, Any] = {}
        for key, made in (pictures | {"ceiling_on_real_art": real}).items():
            x = to_tensor([object_crop(p, 128) for p in made], self.device)
            near = gradient_histogram(x) @ feature.T
            best = torch.full((len(x), len(self.pack.concepts)), -9.0, device=self.device)
            best.scatter_reduce_(1, owner[None].expand(len(x), -1), near, "amax")
            result.setdefault("nearest_neighbour", {})[key] = self.summary(self.ranks(best, accepted))
            small = F.interpolate(x, size=(SIDE, SIDE), mode="area").flatten(1)
            distance = torch.cdist(small, thumb.flatten(1)) / small.shape[1] ** 0.5
            copies[key] = distance.min(1).values
            if key == "plain_names":  # how far the pictures of one concept are from each other
                own = torch.cdist(thumb.flatten(1), thumb.flatten(1)) / small.shape[1] ** 0.5
                own = own + 9 * (owner[:, None] != owner[None]) + 9 * torch.eye(len(own), device=self.device)
                copies["real_art_to_its_nearest_sister"] = own.min(1).values
        self.record["retrieval"] = result
        self.record["nearest_training_picture"] = {
            "measure": "root mean square difference of 64x64 object crops, 0..1",
            **{k: spread_of(v) for k, v in copies.items()},
        }
        sheet(pictures["plain_names"], 20, 80, self.out / "concepts.png")

    def colours(self) -> None:
        """Hue of objects on white and of plain backgrounds."""
        for key, things, template in (
            ("object_colour", COLOURED_THINGS, "show me a {colour} {thing}"),
            ("background_colour", BACKGROUND_THINGS, "show me a {thing} on a {colour} background"),
        ):
            requests = [(colour, thing, seed) for thing in things for colour in COLOURS for seed in (0, 1)]
            made = self.generate(
                [template.format(colour=c, thing=t).replace("a orange", "an orange") for c, t, _ in requests]
            )
            right, wrong = 0, []
            for (colour, thing, _), picture in zip(requests, made, strict=True):
                if key == "object_colour":
                    pixels = picture[np.abs(picture - 1).max(-1) > 0.1]
                else:
                    pixels = np.concatenate([picture[:16].reshape(-1, 3), picture[-16:].reshape(-1, 3)])
                good = has_hue(dominant_hue(pixels), colour)
                right += good
                if not good:
                    wrong.append(f"{colour} {thing}: {dominant_hue(pixels)}")
            self.record[key] = {"n": len(requests), "right": round(right / len(requests), 4), "wrong": wrong}

    def scenes_asked(self) -> None:
        """Kind of background, and the thing in front of it (best of a few windows)."""
        requests = [(kind, thing) for kind in self.scene_names for thing in SCENE_THINGS]
        prompts = []
        for i, (kind, thing) in enumerate(requests):
            phrases = self.pack.scene_types[kind]["ctx"]
            prompts.append(f"{HELD_OUT_TEMPLATES[i % 5].format(with_article(thing))} {phrases[i % len(phrases)]}")
        made = self.generate(prompts)
        small = F.interpolate(to_tensor(made, self.device), size=(SIDE, SIDE), mode="area")
        seen = judge_rows(self.scene_judge, small).argmax(1).cpu().tolist()
        right = [self.scene_names.index(kind) == s for (kind, _), s in zip(requests, seen, strict=True)]
        sampler = RecipeSampler(self.pack, 9, shares=(0, 0, 0, 1, 0, 0, 0, 0, 0))
        real = sampler.batch(96)
        truth = [self.scene_names.index(self.pack.scenes[int(b[1])]["t"]) for b in real.backgrounds]
        pixels = F.interpolate(render(self.textures, self.scenes, real), size=(SIDE, SIDE), mode="area")
        ceiling = judge_rows(self.scene_judge, pixels.to(self.device)).argmax(1).cpu().tolist()
        thing_ranks = self.ranks(self.windows(made), [self.named(thing) for _, thing in requests])
        wrong = [
            f"{kind}/{thing}: {([*self.scene_names, 'plain'])[s]}"
            for (kind, thing), s, r in zip(requests, seen, right, strict=True)
            if not r
        ]
        self.record["scene"] = {
            "n": len(requests), "right": round(float(np.mean(right)), 4), "thing": self.summary(thing_ranks),
            "ceiling_on_real_art": round(float(np.mean([a == b for a, b in zip(truth, ceiling, strict=True)])), 4),
            "wrong": wrong,
        }  # fmt: skip
        sheet(made, 16, 96, self.out / "scenes.png")

    def windows(self, pictures: np.ndarray) -> torch.Tensor:
        """Largest class probability over a few square windows around the middle."""
        x = to_tensor(pictures, self.device)
        best = None
        for side in (150, 180):
            for cx in (112, 128, 144):
                for cy in (128, 150):
                    x0, y0 = max(0, cx - side // 2), min(256 - side, max(0, cy - side // 2))
                    window = F.interpolate(x[:, :, y0 : y0 + side, x0 : x0 + side], size=(SIDE, SIDE), mode="area")
                    p = judge_rows(self.concept_judge, window)
                    best = p if best is None else torch.maximum(best, p)
        assert best is not None
        return best

    def halves(self, pictures: np.ndarray, pairs: list[tuple[str, str]]) -> list[tuple[bool, bool]]:
        """For each picture whether (top 1, top 5) both things are found, one in each half, in either order."""
        left = self.concepts_of(pictures[:, :, :128])
        right = self.concepts_of(pictures[:, :, 128:])
        found = []
        for i, (a, b) in enumerate(pairs):
            wanted_a, wanted_b = (sorted({j for c in self.named(n) for j in self.accepted[c]}) for n in (a, b))
            ranks = [self.ranks(half[i : i + 1], [w])[0] for half in (left, right) for w in (wanted_a, wanted_b)]
            found.append(tuple(max(ranks[0], ranks[3]) < k or max(ranks[1], ranks[2]) < k for k in (1, 5)))
        return found

    def pairs(self) -> None:
        """Two things in one picture, pairs that training never showed."""
        pairs = [tuple(sorted(p)) for p in sorted(HELD_OUT_PAIRS, key=sorted)]
        pairs = [p for p in pairs if all(self.named(n) for n in p)]
        if not pairs:
            return
        prompts = [f"{with_article(a)} and {with_article(b)}" for a, b in pairs]
        held = [HELD_OUT_TEMPLATES[i % 5].format(p) for i, p in enumerate(prompts)]
        made = self.generate(prompts)
        result: dict[str, Any] = {"n": len(pairs)}
        for key, pictures in (("plain", made), ("held_out_templates", self.generate(held))):
            found = np.array(self.halves(pictures, pairs))
            result[key] = {
                "both_top1": round(float(found[:, 0].mean()), 4),
                "both_top5": round(float(found[:, 1].mean()), 4),
            }
            result[key]["missed"] = [" and ".join(p) for p, f in zip(pairs, found, strict=True) if not f[1]]
        sampler = RecipeSampler(self.pack, 6)
        placed = [
            [
                sampler.place(sampler.image(self.named(n)[0], "3d"), x, 128, 0.48)
                for n, x in zip(p, (65, 191), strict=True)
            ]
            for p in pairs
        ]
        real = np.array(self.halves(self.real(placed, [[0, 255, 255, 255, 255, 255, 255, 0]] * len(pairs)), pairs))
        result["ceiling_on_real_art"] = {"both_top1": float(real[:, 0].mean()), "both_top5": float(real[:, 1].mean())}
        self.record["pairs"] = result
        sheet(made, 10, 128, self.out / "pairs.png", [f"{a}+{b}" for a, b in pairs])

    def everyday(self) -> None:
        """The sheet that is looked at, and what the judge says of it."""
        made = self.generate(list(EVERYDAY))
        nouns = [p.split(" ", 1)[1] if p.startswith(("a ", "an ", "the ")) else p for p in EVERYDAY]
        accepted = [self.named(n) or self.named(without_colours(n, n)) for n in nouns]
        accepted = [sorted({j for c in w for j in self.accepted[c]}) for w in accepted]
        rows = [i for i, w in enumerate(accepted) if w]
        ranks = self.ranks(self.concepts_of(made[rows]), [accepted[i] for i in rows])
        self.record["everyday"] = self.summary(ranks) | {
            "missed": [EVERYDAY[i] for i, r in zip(rows, ranks, strict=True) if r >= 5]
        }
        sheet(made, 8, 128, self.out / "everyday.png", list(EVERYDAY))

    def variety(self) -> None:
        """Seeds, guidance, negative prompt, degraded words."""
        some = self.tested[:12]
        names = [self.pack.concepts[c]["names"][0] for c in some]
        made = self.generate([n for n in names for _ in range(4)], list(range(4 * len(names))))
        small = F.interpolate(to_tensor(made, self.device), size=(SIDE, SIDE), mode="area").view(len(names), 4, -1)
        apart = torch.stack([torch.pdist(x) for x in small]) / small.shape[2] ** 0.5
        self.record["seed_diversity"] = {
            "measure": "root mean square difference of two seeds, 64x64 pictures, 0..1",
            **spread_of(apart.flatten()),
        }
        half = self.tested[:30]
        names, accepted = [self.pack.concepts[c]["names"][0] for c in half], [self.accepted[c] for c in half]
        self.record["guidance_sweep"] = {
            str(g): self.summary(self.ranks(self.concepts_of(self.generate(names, half, guidance=g)), accepted))
            for g in (1.0, 2.5, 3.5, 5.0, 7.5)
        }
        self.record["steps_sweep"] = {
            str(s): self.summary(self.ranks(self.concepts_of(self.generate(names, half, steps=s)), accepted))
            for s in (8, 12, 16, 20)
        }
        seeds = list(range(16))
        red: dict[str, float] = {}
        for thing in ("an apple", "a heart"):
            for name, more in (("without", {}), ("with_negative_red", {"negative": "red"})):
                made = self.generate([thing] * 16, seeds, **more)
                hues = [dominant_hue(p[np.abs(p - 1).max(-1) > 0.1]) for p in made]
                red[f"red_{thing.split()[1]}s_{name}"] = float(np.mean([has_hue(hue, "red") for hue in hues]))
        sharp = []
        for extra in ({}, {"negative": "blurry, low quality, deformed"}):
            x = to_tensor(self.generate(names, half, **extra), self.device).mean(1, keepdim=True)
            laplace = F.conv2d(x, x.new_tensor([[0, 1, 0], [1, -4, 1], [0, 1, 0]])[None, None])
            sharp.append(round(float(laplace.var(dim=(1, 2, 3)).mean()) * 1e3, 4))
        self.record["negative_prompt"] = {
            **red,
            "sharpness_without": sharp[0],
            "sharpness_with_quality_words": sharp[1],
        }

    def run(self, parts: list[str]) -> dict[str, Any]:
        for part in parts:
            began = time.monotonic()
            getattr(self, part)()
            print(f"[evaluate] {part} {time.monotonic() - began:.1f} s", flush=True)
            write(self.out, self.record)
        return self.record


PARTS = ("retrieval", "colours", "scenes_asked", "pairs", "everyday", "variety")


def write(out: Path, record: dict[str, Any]) -> None:
    """Merge into ``evaluation.json``."""
    path = out / "evaluation.json"
    old = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(old | record, indent=1) + "\n")


def speed(args: argparse.Namespace) -> None:
    """Seconds a picture (256x256, guidance on) on the CPU and the peak memory of this process."""
    torch.set_num_threads(args.threads)
    result: dict[str, Any] = {"threads": args.threads, "processor": platform.machine(), "torch": torch.__version__}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        sampler = Sampler(args.model, "cpu", 1, dtype)
        sampler(["a red car"], [0], steps=2)
        times = {}
        for steps in (8, 12, 16, 20):
            taken = []
            for seed in range(3):
                began = time.monotonic()
                sampler(["a red car"], [seed], steps=steps, guidance=args.guidance)
                taken.append(time.monotonic() - began)
            times[str(steps)] = round(min(taken), 3)
        result[name] = {"seconds": times, "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}
        print(name, result[name], flush=True)
    write(Path(args.out), {"speed": result})


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="diffusers folder of the model")
    parser.add_argument("--out", default="evaluation", help="folder for evaluation.json and the sheets")
    parser.add_argument("--data", help="folder of the packed art")
    parser.add_argument("--judge", help="folder of the judge (classifier)")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--concepts", type=int, default=200, help="concepts in the retrieval test")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--guidance", type=float, default=3.5)
    parser.add_argument("--batch", type=int, default=4, help="pictures sampled at once (64 on a GPU)")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"), help="arithmetic")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--collect", help="write the requests to this file instead of sampling")
    parser.add_argument("--sample", help="only sample the requests of this file into --pictures")
    parser.add_argument("--pictures", help="folder of pictures sampled before; what is missing is sampled")
    parser.add_argument("--seconds", type=float, default=0, help="with --sample: stop after this time")
    parser.add_argument("--speed", action="store_true", help="only time the model on the CPU")
    args = parser.parse_args(argv)
    if not (args.speed or args.sample) and not (args.data and args.judge):
        parser.error("--data and --judge are needed")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    if args.speed:
        Path(args.out).mkdir(parents=True, exist_ok=True)
        speed(args)
    elif args.sample:
        sample_requests(args)
    else:
        torch.manual_seed(0)
        evaluation = Evaluation(args)
        evaluation.run(args.parts)
        if isinstance(evaluation.sampler, Collector):
            Path(args.collect).write_text(json.dumps(evaluation.sampler.requests))
            print(f"{len(evaluation.sampler.requests)} requests")


if __name__ == "__main__":
    main()
