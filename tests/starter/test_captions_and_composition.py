"""Captions, recipes and the renderer."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from scripts.starter import captions as words
from scripts.starter.evaluate import HELD_OUT_TEMPLATES
from scripts.starter.pack import Pack
from scripts.starter.recipe_sampler import RecipeSampler
from scripts.starter.recipes import (
    CAPTIONS,
    COLUMNS,
    HELD_OUT_PAIRS,
    KINDS,
    MODE,
    MODE_RECOLOUR,
    P0,
    POOL_SHARES,
    SCALE,
    Recipes,
    X,
    Y,
)
from scripts.starter.rendering import render

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("noun", "expected"),
    [
        ("apple", "apples"), ("slice of pizza", "slices of pizza"), ("butterfly", "butterflies"), ("fox", "foxes"),
        ("snowman", "snowmen"), ("mouse", "mice"), ("fish", "fish"), ("monkey", "monkeys"), ("bus", "buses"),
        ("house with garden", "houses with garden"), ("octopus", "octopuses"), ("glasses", "glasses"),
    ],
)  # fmt: skip
def test_plural(noun: str, expected: str) -> None:
    assert words.plural(noun) == expected


def test_article() -> None:
    assert words.with_article("apple") == "an apple"
    assert words.with_article("two cats") == "two cats"
    assert words.with_article("car") == "a car"


def test_captions_without_a_style_word_mean_the_fluent_look() -> None:
    rng = random.Random(0)
    flat = [words.decorate("cat", rng, "flat") for _ in range(400)]
    named = sum(any(w in caption for w in words.STYLE_WORDS["flat"]) for caption in flat)
    assert 0.8 < named / len(flat) < 0.95


def test_no_caption_has_a_held_out_opening_or_pair(pack_folder: Path) -> None:
    recipes = RecipeSampler(Pack.load(pack_folder), 3).batch(1500)
    openings = [template.split("{}")[0].strip() for template in HELD_OUT_TEMPLATES]
    texts = [c for row in recipes.captions for c in row]
    for opening in openings:
        assert not any(f"{opening} " in f" {text} " for text in texts), opening
    assert not any(opening in known for opening in openings for known in words.OPENINGS)


def test_held_out_pairs_are_refused(pack_folder: Path) -> None:
    pack = Pack.load(pack_folder)
    pair = sorted(next(iter(HELD_OUT_PAIRS)))
    pack.concepts = [dict(c, names=[n], noun=n) for c, n in zip(pack.concepts, [*pair, "bar", "ring"], strict=True)]
    recipes = RecipeSampler(pack, 1, (0, 0, 0, 0, 1, 0, 0, 0, 0)).batch(300)
    of_picture = np.array([i["c"] for i in pack.images])
    together = [set(of_picture[row[:2]]) for row in recipes.images]
    assert {0, 1} not in together
    assert {0, 2} in together


def test_recipes_are_reproducible_and_complete(pack_folder: Path) -> None:
    pack = Pack.load(pack_folder)
    first, second = (RecipeSampler(pack, 7).batch(200) for _ in range(2))
    assert first.captions == second.captions
    assert np.array_equal(first.objects, second.objects)
    assert all(len(c) == CAPTIONS and all(t and t == t.lower() for t in c) for c in first.captions)
    assert set(first.kinds) == set(range(len(KINDS)))
    assert sum(POOL_SHARES) == pytest.approx(1)


def test_every_kind_renders_in_range(pack_folder: Path) -> None:
    pack = Pack.load(pack_folder)
    textures, scenes = torch.from_numpy(pack.textures(64)), torch.from_numpy(pack.backgrounds(64))
    for kind in range(len(KINDS)):
        shares = tuple(float(k == kind) for k in range(len(KINDS)))
        x = render(textures, scenes, RecipeSampler(pack, kind, shares).batch(6))
        assert x.shape == (6, 3, 64, 64)
        assert bool(torch.isfinite(x).all())
        assert 0 <= float(x.min()) <= float(x.max()) <= 1


def _one(image: int, row: np.ndarray) -> Recipes:
    recipes = Recipes(np.full((1, 3), -1, np.int32), np.zeros((1, 3, COLUMNS), np.float32),
                      np.array([[0, 255, 255, 255, 255, 255, 255, 0]], np.float32), np.zeros((1, 3), np.float32),
                      np.zeros(1, np.uint8), [["x"]])  # fmt: skip
    recipes.images[0, 0], recipes.objects[0, 0] = image, row
    return recipes


def test_an_object_lands_where_it_is_asked(pack_folder: Path) -> None:
    pack = Pack.load(pack_folder)
    row = np.zeros(COLUMNS, np.float32)
    row[[X, Y, SCALE]] = 64, 192, 0.3
    x = render(torch.from_numpy(pack.textures()), torch.from_numpy(pack.backgrounds()), _one(0, row))[0]
    rows, columns = np.nonzero((x.mean(0) < 0.9).numpy())
    assert abs(rows.mean() - 191.5) < 1.5
    assert abs(columns.mean() - 63.5) < 1.5
    assert abs((columns.max() - columns.min()) - 0.3 * 240) < 4


def test_recolouring_turns_red_into_blue(pack_folder: Path) -> None:
    pack = Pack.load(pack_folder)
    row = np.zeros(COLUMNS, np.float32)
    row[[X, Y, SCALE]] = 128, 128, 1.0
    row[MODE] = MODE_RECOLOUR
    row[P0 : P0 + 5] = [0.0, *words.OBJECT_COLOURS["blue"][:4]]
    x = render(torch.from_numpy(pack.textures()), torch.from_numpy(pack.backgrounds()), _one(0, row))[0]
    red, _, blue = x[:, 128, 128].tolist()
    assert blue > 0.6 > 0.4 > red
