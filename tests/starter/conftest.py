"""A toy pack, tokenizer, VAE and denoiser: the whole recipe at tiny size on one CPU thread."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
torch.set_num_threads(1)

SHAPES = {
    "circle": ("red", (220, 40, 40), 0.0),
    "square": ("blue", (40, 80, 220), 226.0),
    "bar": ("green", (40, 170, 60), 129.0),
    "ring": (None, (120, 120, 120), None),
}


def _picture(name: str, colour: tuple[int, int, int]) -> Image.Image:
    image = Image.new("RGBA", (256, 256), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    if name == "circle":
        draw.ellipse([8, 8, 248, 248], fill=(*colour, 255))
    elif name == "square":
        draw.rectangle([8, 8, 248, 248], fill=(*colour, 255))
    elif name == "bar":
        draw.rectangle([88, 8, 168, 248], fill=(*colour, 255))
    else:
        draw.ellipse([8, 8, 248, 248], outline=(*colour, 255), width=40)
    return image


def write_pack(folder: Path) -> Path:
    """Four shapes in four styles and two backgrounds, in the format of `scripts.starter.pack`."""
    concepts, images, blob = [], [], io.BytesIO()
    for index, (name, (colour_name, colour, hue)) in enumerate(SHAPES.items()):
        concepts.append(
            {"label": name, "sub": "shape", "w": 1.3, "names": [name, f"{name} shape"], "kws": ["shape", "plain", name],
             "noun": name, "flip": True}
        )  # fmt: skip
        for style, shift in (("3d", 0), ("color", 6), ("noto", 12), ("flat", 18)):
            buffer = io.BytesIO()
            _picture(name, tuple(min(255, v + shift) for v in colour)).save(buffer, "WEBP", lossless=True)
            data = buffer.getvalue()
            images.append(
                {"c": index, "style": style, "off": blob.tell(), "len": len(data), "hue": hue, "col": colour_name,
                 "recol": hue is not None, "w": 0.25, "ar": 1.0}
            )  # fmt: skip
            blob.write(data)
    scenes, scene_blob = [], io.BytesIO()
    for kind, colour in (("meadow", (90, 190, 80)), ("night", (15, 20, 60))):
        for _ in range(4):
            buffer = io.BytesIO()
            Image.new("RGB", (256, 256), colour).save(buffer, "WEBP", lossless=True)
            data = buffer.getvalue()
            scenes.append({"t": kind, "off": scene_blob.tell(), "len": len(data)})
            scene_blob.write(data)
    types = {
        "meadow": {"ctx": ["in a meadow", "on the grass"], "alone": "a meadow"},
        "night": {"ctx": ["at night", "under the stars"], "alone": "a night sky"},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pack.bin").write_bytes(blob.getvalue())
    (folder / "scenes.bin").write_bytes(scene_blob.getvalue())
    meta = {"concepts": concepts, "images": images, "scenes": scenes, "types": types}
    (folder / "pack.json").write_text(json.dumps(meta))
    return folder


@pytest.fixture(scope="session")
def pack_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pack(tmp_path_factory.mktemp("pack"))


@pytest.fixture(scope="session")
def tokenizer_folder(pack_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from scripts.starter import train_tokenizer

    out = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer.main(["--data", str(pack_folder), "--out", str(out), "--size", "700", "--captions", "200"])
    return out


@pytest.fixture(scope="session")
def vae_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained VAE of the recipe's shape, very narrow."""
    from scripts.starter.train_vae import build_vae

    out = tmp_path_factory.mktemp("vae")
    torch.manual_seed(0)
    build_vae((8, 8, 8, 8), groups=4).half().save_pretrained(out)
    return out


@pytest.fixture(scope="session")
def shards(
    pack_folder: Path, tokenizer_folder: Path, vae_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Two shards made in this process (the command makes them in several)."""
    from safetensors.torch import save_file

    from scripts.starter.encode_latents import shard_path
    from scripts.starter.models import Tokenizer, encode_mean, load_vae
    from scripts.starter.pack import Pack
    from scripts.starter.recipe_sampler import RecipeSampler
    from scripts.starter.rendering import render

    out = tmp_path_factory.mktemp("latents")
    pack, tokenizer, vae = Pack.load(pack_folder), Tokenizer(tokenizer_folder), load_vae(vae_folder)
    textures, scenes = torch.from_numpy(pack.textures()), torch.from_numpy(pack.backgrounds())
    for number in range(2):
        recipes = RecipeSampler(pack, number).batch(16)
        rows = tokenizer([c for captions in recipes.captions for c in captions]).reshape(16, -1, 77)
        with torch.no_grad():
            latents = encode_mean(vae, render(textures, scenes, recipes)).half()
        tensors = {"latents": latents, "tokens": torch.from_numpy(rows), "kinds": torch.from_numpy(recipes.kinds)}
        save_file(tensors, shard_path(out, 0, number))
    return out


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
