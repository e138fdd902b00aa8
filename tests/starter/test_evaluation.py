"""The judge and the measures of the evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from scripts.starter import classifier, concepts, evaluate, pack_art, picture_features, sampling, sources
from scripts.starter.recipes import HELD_OUT_PAIRS

pytestmark = pytest.mark.slow


def _disc(colour: str, centre: tuple[int, int] = (128, 128), radius: int = 60, back: str = "white") -> np.ndarray:
    image = Image.new("RGB", (256, 256), back)
    x, y = centre
    ImageDraw.Draw(image).ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour)
    return np.asarray(image, np.float32) / 255


def test_object_crop_does_not_depend_on_place_size_or_background() -> None:
    reference = picture_features.object_crop(_disc("red"))
    moved = picture_features.object_crop(_disc("red", (80, 150), 40))
    assert float(np.abs(reference - moved).mean()) < 0.02
    on_blue = picture_features.object_crop(_disc("red", back="blue"))
    assert on_blue.shape == reference.shape == (classifier.SIDE, classifier.SIDE, 3)
    assert np.allclose(on_blue[0, 0], [0, 0, 1], atol=0.02)


@pytest.mark.parametrize("colour", ["red", "orange", "yellow", "green", "blue", "purple"])
def test_hue(colour: str) -> None:
    pixels = _disc(colour)
    hue = picture_features.dominant_hue(pixels[np.abs(pixels - 1).max(-1) > 0.1])
    assert picture_features.has_hue(hue, colour)
    assert not picture_features.has_hue(hue, "blue" if colour != "blue" else "red")


def test_grey_has_no_hue() -> None:
    assert picture_features.dominant_hue(_disc("gray").reshape(-1, 3)) is None
    assert not picture_features.has_hue(None, "red")


def test_gradient_histogram_tells_shapes_apart() -> None:
    square = np.ones((256, 256, 3), np.float32)
    square[60:190, 60:190] = [1, 0, 0]
    x = picture_features.to_tensor([_disc("red"), _disc("red", radius=58), square], "cpu")
    f = picture_features.gradient_histogram(x)
    assert float(f[0] @ f[1]) > float(f[0] @ f[2]) + 0.05


def test_judge_trains_reports_and_loads(pack_folder: Path, tmp_path: Path) -> None:
    # Half the width is 8 channels: fewer crash torch 2.13 on some processors, in the backward pass of channels_last.
    arguments = ["--data", str(pack_folder), "--out", str(tmp_path), "--steps", "12", "--batch", "16", "--width", "16",
                 "--check", "32",
                 "--threads", "1", "--device", "cpu"]  # fmt: skip
    report = classifier.train(classifier.parse(arguments))
    concept, scene, loaded = classifier.load(tmp_path)
    assert loaded == report
    assert 0 <= report["held_out_top1"] <= report["held_out_top5"] <= 1
    rows = picture_features.judge_rows(concept, torch.rand(2, 3, 64, 64))
    assert rows.shape == (2, 4)
    assert torch.allclose(rows.sum(1), torch.ones(2), atol=1e-4)
    assert picture_features.judge_rows(scene, torch.rand(2, 3, 64, 64)).shape == (2, 3)


def test_requests_are_collected_and_pictures_are_stored(tmp_path: Path) -> None:
    collector = sampling.Collector()
    assert collector(["a", "b"], [1, 2], steps=3).shape == (2, 256, 256, 3)
    assert sorted(r[0] for r in collector.requests.values()) == ["a", "b"]
    calls = []

    class Painter:
        def __call__(self, prompts: list[str], seeds: list[int], **more: object) -> np.ndarray:
            calls.append((prompts, more))
            return np.stack([_disc("red")] * len(prompts))

    store = sampling.StoredPictures(tmp_path, Painter)  # type: ignore[arg-type]
    first = store(["a", "b"], [1, 2], steps=3)
    again = store(["a", "b"], [1, 2], steps=3)
    assert np.array_equal(first, again)
    assert len(calls) == 1
    assert {p.stem for p in tmp_path.glob("*.webp")} == set(collector.requests)


def test_held_out_templates_and_pairs() -> None:
    assert len(HELD_OUT_PAIRS) == 50
    assert all("{}" in template for template in evaluate.HELD_OUT_TEMPLATES)
    assert len(evaluate.EVERYDAY) == len(set(evaluate.EVERYDAY)) == 64


def test_concepts_get_everyday_names_and_weights() -> None:
    raw = [
        {"label": "automobile", "emoji": "", "hex": "1F697", "sub": "transport-ground", "names": ["automobile"],
         "kws": ["vehicle", "drive2", "car"]},
        {"label": "man: beard", "emoji": "", "hex": "1F9D4", "sub": "person", "names": ["man: beard"], "kws": []},
    ]  # fmt: skip
    found = concepts.describe(raw)
    assert list(found) == [0]
    assert found[0]["noun"] == "car"
    assert found[0]["kws"] == ["vehicle"]
    assert found[0]["w"] == pytest.approx(1.5 * 1.8)
    assert found[0]["flip"]


def test_art_is_normalised_and_measured() -> None:
    image = Image.new("RGBA", (100, 60), (0, 0, 0, 0))
    ImageDraw.Draw(image).rectangle([20, 10, 79, 39], fill=(30, 60, 220, 255))
    found = pack_art.normalise(image)
    assert found is not None
    rgba, aspect = found
    assert aspect == pytest.approx(2.0)
    rows, columns = np.nonzero(rgba[..., 3] > 128)
    assert (columns.max() - columns.min() + 1, rows.max() - rows.min() + 1) == (240, 120)
    figures = pack_art.colour_figures(rgba)
    assert concepts.dominant_colour(figures) == "blue"
    assert pack_art.normalise(Image.new("RGBA", (9, 9), (0, 0, 0, 0))) is None


def test_licences_are_checked(tmp_path: Path) -> None:
    source = sources.Source("thing", "1.0.0", "MIT", "nobody", "words", "MIT License")
    folder = tmp_path / "thing"
    folder.mkdir()
    (folder / "package.json").write_text(json.dumps({"version": "1.0.0", "license": "MIT"}))
    with pytest.raises(ValueError, match="no licence file"):
        sources.check(tmp_path, source)
    (folder / "LICENSE").write_text("MIT License\n\nCopyright")
    assert sources.check(tmp_path, source) == folder / "LICENSE"
    (folder / "package.json").write_text(json.dumps({"version": "1.0.1", "license": "MIT"}))
    with pytest.raises(ValueError, match="version"):
        sources.check(tmp_path, source)
    (folder / "package.json").write_text(json.dumps({"version": "1.0.0", "license": "GPL-3.0"}))
    with pytest.raises(ValueError, match="licence"):
        sources.check(tmp_path, source)
    assert all(s.package in sources.notice() for s in sources.SOURCES)
