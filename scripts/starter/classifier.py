"""Step 8: train the judge of the evaluation on real art only: which concept is it, and which kind of background.

Two small residual networks (He et al. 2016, arXiv:1512.03385) look at 64x64 pictures. They are trained on real
pictures with augmentations (place, size, rotation, hue, background, blur, noise) and never see a generated one. One
picture in ten is held out: those are used only to check the judge (`report` in the result). Runs on the CPU or a GPU.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from .pack import Pack
from .rendering import affine_matrix, shift_hue

SIDE = 64  # what the networks see
TEXTURE = 96  # resolution that the views are cut from


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if stride > 1 or inputs != outputs else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + (x if self.skip is None else self.skip(x)))


class Judge(nn.Module):
    """Pictures ``[n, 3, 64, 64]`` in 0..1 -> logits ``[n, classes]``; `features` gives ``[n, 4 * width]``."""

    def __init__(self, classes: int, width: int = 48) -> None:
        super().__init__()
        w = width
        self.body = nn.Sequential(
            nn.Conv2d(3, w, 3, 2, 1, bias=False), nn.BatchNorm2d(w), nn.ReLU(),
            _Block(w, w, 1), _Block(w, 2 * w, 2), _Block(2 * w, 4 * w, 2), _Block(4 * w, 4 * w, 2),
        )  # fmt: skip
        self.head = nn.Linear(4 * w, classes)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x * 2 - 1).mean((2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x))


class Views:
    """Augmented views of real art."""

    def __init__(self, pack: Pack, device: torch.device, threads: int, seed: int = 3) -> None:
        self.pack, self.device = pack, device
        self.textures = torch.from_numpy(pack.textures(TEXTURE, threads)).to(device)
        self.scenes = torch.from_numpy(pack.backgrounds(TEXTURE, threads)).to(device)
        self.concepts = torch.tensor([i["c"] for i in pack.images], device=device)
        self.hues = torch.tensor([i["hue"] or 0.0 for i in pack.images], device=device)
        names = sorted(pack.scene_types)
        self.scene_kinds = torch.tensor([names.index(s["t"]) for s in pack.scenes], device=device)
        rng = np.random.default_rng(seed)
        of_concept = pack.images_of_concepts()
        held = [rng.choice(v) for v in of_concept.values() if len(v) >= 3 and rng.random() < 0.39]
        mask = torch.zeros(len(pack.images), dtype=torch.bool)
        mask[torch.tensor(held, dtype=torch.long)] = True
        self.held_out, self.kept = mask.nonzero()[:, 0].to(device), (~mask).nonzero()[:, 0].to(device)
        scene_mask = torch.from_numpy(rng.random(len(pack.scenes)) < 0.2).to(device)
        self.scenes_held_out, self.scenes_kept = scene_mask.nonzero()[:, 0], (~scene_mask).nonzero()[:, 0]

    def _uniform(self, n: int, low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(n, device=self.device)

    def _paste(self, canvas: torch.Tensor, images: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        source = self.textures[images].float() / 255
        rgb, alpha = source[:, :3], source[:, 3:]
        shifted = torch.rand(len(images), device=self.device) < 0.15
        rows = rows.clone()
        rows[:, 6], rows[:, 7] = self.hues[images], self._uniform(len(images), 0, 360)
        rows[:, 8:10], rows[:, 10] = 1.0, 0.0
        rgb = torch.where(shifted[:, None, None, None], shift_hue(rgb, rows), rgb)
        grid = F.affine_grid(affine_matrix(rows), [len(images), 4, SIDE, SIDE], align_corners=False)
        layer = F.grid_sample(torch.cat([rgb * alpha, alpha], 1), grid, align_corners=False)
        return canvas * (1 - layer[:, 3:]) + layer[:, :3]

    def _spoil(self, x: torch.Tensor) -> torch.Tensor:
        """Brightness, blur by resampling, and noise."""
        n = len(x)
        x = x * self._uniform(n, 0.9, 1.1)[:, None, None, None]
        small = int(torch.randint(20, 48, ()))
        soft = F.interpolate(F.interpolate(x, size=(small, small), mode="area"), size=(SIDE, SIDE), mode="bilinear")
        x = torch.where((torch.rand(n, device=self.device) < 0.35)[:, None, None, None], soft, x)
        noise = torch.randn_like(x) * self._uniform(n, 0, 0.06)[:, None, None, None]
        return (x + noise).clamp(0, 1)

    def _rows(self, n: int, low: float, high: float, shift: float) -> torch.Tensor:
        rows = torch.zeros(n, 12, device=self.device)
        rows[:, 0], rows[:, 1] = 128 + self._uniform(n, -shift, shift), 128 + self._uniform(n, -shift, shift)
        rows[:, 2], rows[:, 4] = self._uniform(n, low, high), self._uniform(n, -0.12, 0.12)
        rows[:, 3] = (torch.rand(n, device=self.device) < 0.3).float()
        return rows

    def concept_views(self, n: int, images: torch.Tensor | None = None, clean: bool = False) -> tuple:
        """n views with their concepts; ``clean``: on white, hardly moved, not spoilt."""
        if images is None:
            images = self.kept[torch.randint(0, len(self.kept), (n,), device=self.device)]
        n = len(images)
        canvas = torch.ones(n, 3, SIDE, SIDE, device=self.device)
        if clean:
            source = self.textures[images].float() / 255
            grid = F.affine_grid(affine_matrix(self._rows(n, 0.94, 1.0, 4)), [n, 4, SIDE, SIDE], align_corners=False)
            layer = F.grid_sample(
                torch.cat([source[:, :3] * source[:, 3:], source[:, 3:]], 1), grid, align_corners=False
            )
            return canvas * (1 - layer[:, 3:]) + layer[:, :3], self.concepts[images]
        draw = torch.rand(n, device=self.device)[:, None, None, None]
        solid = torch.rand(n, 3, 1, 1, device=self.device).expand_as(canvas)
        scene = self.scenes[torch.randint(0, len(self.scenes), (n,), device=self.device)].float() / 255
        scene = F.interpolate(scene, size=(SIDE, SIDE), mode="area")
        canvas = torch.where(draw < 0.6, canvas, torch.where(draw < 0.8, solid, scene))
        x = self._paste(canvas, images, self._rows(n, 0.72, 1.08, 16))
        return self._spoil(x), self.concepts[images]

    def scene_views(self, n: int, scenes: torch.Tensor | None = None) -> tuple:
        """n compositions with the kind of their background; the last class is a plain background."""
        chosen = scenes is not None
        if scenes is None:
            scenes = self.scenes_kept[torch.randint(0, len(self.scenes_kept), (n,), device=self.device)]
        n = len(scenes)
        canvas = F.interpolate(self.scenes[scenes].float() / 255, size=(SIDE, SIDE), mode="area")
        canvas = torch.where((torch.rand(n, device=self.device) < 0.5)[:, None, None, None], canvas.flip(-1), canvas)
        labels = self.scene_kinds[scenes]
        if not chosen:
            plain = torch.rand(n, device=self.device) < 0.15
            colour = torch.rand(n, 3, 1, 1, device=self.device)
            colour = torch.where((torch.rand(n, device=self.device) < 0.5)[:, None, None, None], 1.0, colour)
            canvas = torch.where(plain[:, None, None, None], colour.expand_as(canvas), canvas)
            labels = torch.where(plain, len(self.pack.scene_types), labels)
        images = self.kept[torch.randint(0, len(self.kept), (n,), device=self.device)]
        return self._spoil(self._paste(canvas, images, self._rows(n, 0.45, 0.75, 40))), labels


def _fit(model: Judge, draw: Any, seconds: float, batch: int, steps: int, name: str) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.02)
    model.train()
    began, step, total = time.monotonic(), 0, 0.0
    while True:
        progress = step / steps if steps else (time.monotonic() - began) / seconds
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 100) * max(0.01, 1 - progress)
        x, y = draw(batch)
        loss = F.cross_entropy(model(x.contiguous(memory_format=torch.channels_last)), y, label_smoothing=0.05)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        step, total = step + 1, total + float(loss.detach())
        if step % 200 == 0:
            print(f"[judge] {name} step {step} loss {total / 200:.3f} {time.monotonic() - began:.0f} s", flush=True)
            total = 0.0
    model.eval()


@torch.no_grad()
def top_k(model: Judge, x: torch.Tensor, y: torch.Tensor, k: int) -> float:
    """Share of rows whose class is among the k best."""
    hits = [
        (model(a).topk(min(k, model.head.out_features), 1).indices == b[:, None]).any(1)
        for a, b in zip(x.split(256), y.split(256), strict=True)
    ]
    return round(float(torch.cat(hits).float().mean()), 4)


def train(args: argparse.Namespace) -> dict[str, Any]:
    """Train both judges; writes ``judge.safetensors`` and ``judge.json``; returns the report."""
    device = torch.device(args.device)
    torch.manual_seed(0)
    if args.threads:
        torch.set_num_threads(args.threads)
    pack = Pack.load(args.data)
    views = Views(pack, device, max(1, args.threads))
    width = args.width
    concept = Judge(len(pack.concepts), width).to(device, memory_format=torch.channels_last)
    scene = Judge(len(pack.scene_types) + 1, width // 2).to(device, memory_format=torch.channels_last)
    _fit(scene, views.scene_views, args.seconds * 0.15, args.batch, args.steps, "scene")
    _fit(concept, views.concept_views, args.seconds * 0.85, args.batch, args.steps, "concept")
    held_x, held_y = views.concept_views(0, views.held_out, clean=True)
    fresh_x, fresh_y = views.concept_views(args.check)
    checked = views.kept[torch.randperm(len(views.kept), device=device)[: args.check]]
    clean_x, clean_y = views.concept_views(0, checked, clean=True)
    scenes = views.scenes_held_out.repeat(8)
    scene_x, scene_y = views.scene_views(0, scenes)
    report = {
        "held_out_pictures": len(views.held_out),
        "held_out_top1": top_k(concept, held_x, held_y, 1),
        "held_out_top5": top_k(concept, held_x, held_y, 5),
        "augmented_views_top1": top_k(concept, fresh_x, fresh_y, 1),
        "clean_views_top1": top_k(concept, clean_x, clean_y, 1),
        "clean_views_top5": top_k(concept, clean_x, clean_y, 5),
        "held_out_scenes_top1": top_k(scene, scene_x, scene_y, 1),
    }
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    state = {f"concept.{k}": v for k, v in concept.state_dict().items()}
    state |= {f"scene.{k}": v for k, v in scene.state_dict().items()}
    half = {k: (v.half() if v.is_floating_point() else v).contiguous().cpu() for k, v in state.items()}
    save_file(half, out / "judge.safetensors")
    settings = {"concepts": len(pack.concepts), "scenes": len(pack.scene_types) + 1, "width": width}
    (out / "judge.json").write_text(json.dumps({"settings": settings, "report": report}, indent=1) + "\n")
    print(json.dumps(report), flush=True)
    return report


def load(folder: str | Path, device: torch.device | str = "cpu") -> tuple[Judge, Judge, dict[str, Any]]:
    """Concept judge, scene judge and their report."""
    meta = json.loads((Path(folder) / "judge.json").read_text())
    settings = meta["settings"]
    state = load_file(Path(folder) / "judge.safetensors")
    judges = []
    for part, classes, width in (
        ("concept", settings["concepts"], settings["width"]),
        ("scene", settings["scenes"], settings["width"] // 2),
    ):
        judge = Judge(classes, width)
        own = {k.removeprefix(part + "."): v for k, v in state.items() if k.startswith(part + ".")}
        judge.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in own.items()})
        judges.append(judge.eval().to(device))
    return judges[0], judges[1], meta["report"]


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of the packed art")
    parser.add_argument("--out", required=True, help="folder for judge.safetensors and judge.json")
    parser.add_argument("--seconds", type=float, default=600, help="time for both judges")
    parser.add_argument("--steps", type=int, default=0, help="steps for each judge, instead of time")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--check", type=int, default=2000, help="views of known pictures in the report")
    parser.add_argument("--width", type=int, default=48)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(argv)


if __name__ == "__main__":
    train(parse())
