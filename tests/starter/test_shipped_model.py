"""The model that comes with the app: sizes, licences, record, and two hearts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from scripts.starter import assemble, picture_features, sampling, sources

MODEL = Path(__file__).resolve().parents[2] / "assets" / "starter"


def test_sizes() -> None:
    largest, total = assemble.sizes(MODEL)
    assert largest <= assemble.LARGEST_FILE
    assert total <= assemble.LARGEST_FOLDER


def test_configurations_are_strict_json_without_paths() -> None:
    def refuse(name: str) -> None:
        raise ValueError(name)

    for path in MODEL.rglob("*.json"):
        text = path.read_text(encoding="utf-8")
        json.loads(text, parse_constant=refuse)
        assert "_name_or_path" not in text, path


def test_licences_and_attributions_are_there() -> None:
    notice = (MODEL / "NOTICE.txt").read_text(encoding="utf-8")
    for source in sources.SOURCES:
        assert f"{source.package} {source.version}" in notice
    assert "Apache License" in (MODEL / "LICENSES" / "Apache-2.0.txt").read_text(encoding="utf-8")
    assert "Microsoft Corporation" in (MODEL / "LICENSES" / "MIT.txt").read_text(encoding="utf-8")


def test_record_has_the_figures_of_the_card() -> None:
    record = json.loads((MODEL / "evaluation.json").read_text(encoding="utf-8"))
    assert record["retrieval"]["plain_names"]["n"] == 200
    assert record["retrieval"]["held_out_templates"]["top1"] >= 0.7
    assert record["object_colour"]["right"] >= 0.97
    assert record["scene"]["right"] >= 0.95
    assert record["pairs"]["plain"]["both_top5"] >= 0.7


@pytest.mark.slow
@pytest.mark.parametrize("colour", ["red", "blue"])
def test_hearts_have_the_asked_colour(colour: str) -> None:
    sampler = sampling.Sampler(MODEL, "cpu", 1, torch.float32)
    for seed in (0, 1):
        picture = sampler([f"a {colour} heart"], [seed], steps=8, guidance=3.5)[0]
        heart = np.abs(picture - 1).max(-1) > 0.1
        assert 0.3 < heart.mean() < 0.8
        assert picture_features.has_hue(picture_features.dominant_hue(picture[heart]), colour)
