"""Params as JSON: what says nothing is left out, old rows are read, and nothing is lost on the way."""

import ast
import json
from pathlib import Path

import pytest

from diffusion_local.domain import Kind, Params
from diffusion_local.errors import InvalidParams
from diffusion_local.options import values
from diffusion_local.options.table import OPTIONS
from diffusion_local.options.types import Lora, Reference, Region, Use
from tests.sources import nodes, tree
from tests.support import PACKAGE, PARAMS, params, refused

FULL = params(
    kind=Kind.INPAINT,
    source="a" * 64,
    mask="b" * 64,
    strength=0.5,
    loras=(Lora("ink", 0.8), Lora("wash")),
    vae="mine",
    clip_skip=2,
    schedule="Karras",
    variation_seed=3,
    variation_strength=0.1,
    rung="resident",
)


def test_nothing_is_lost() -> None:
    for each in (PARAMS, FULL):
        assert Params.from_json(each.to_json()) == each


def test_what_is_at_its_default_is_left_out() -> None:
    assert set(json.loads(PARAMS.to_json())) == {
        "prompt", "negative", "model", "width", "height", "steps", "guidance", "sampler", "seed"
    }  # fmt: skip
    assert json.loads(FULL.to_json())["loras"] == [{"name": "ink", "weight": 0.8}, {"name": "wash", "weight": 1.0}]


def test_rows_of_an_older_and_of_a_newer_program_are_read() -> None:
    old = json.loads(PARAMS.to_json()) | {"kind": "txt2img"}
    assert Params.from_dict(old) == PARAMS
    assert Params.from_dict(old | {"holograms": True}) == PARAMS


def test_entries_that_name_pictures_are_written_and_read_as_text() -> None:
    found = (
        Reference("a" * 64),
        Reference("b" * 64, use=Use.FACE, weight=0.75, adapter="plus, face: 50%/ä=1", mask="c" * 64),
    )
    assert values.references("references", ", ".join(map(str, found))) == found
    assert values.references("references", [each.to_dict() for each in found]) == found
    assert found[0].to_dict() == {"image": "a" * 64}
    kept = Params("x", "", "m", 8, 8, 1, 1.0, "", 1, references=found)
    assert Params.from_json(kept.to_json()) == kept
    assert kept.inputs == ("a" * 64, "b" * 64, "c" * 64)


def test_a_path_with_colons_and_equals_signs_stays_whole() -> None:
    value = values.record_value("references", "/a:b/x=1.png:use=style:weight=0.5", Reference)
    assert value == {"image": "/a:b/x=1.png", "use": "style", "weight": "0.5"}


def test_regions_are_written_and_read_as_text() -> None:
    found = (
        Region("a red fox, sitting: (big:1.2)", width=0.5),
        Region("50% blue:x=1, 100%25", x=0.5, y=0.25, width=0.5, height=0.75, weight=1.0),
        Region("all of it"),
        Region("more"),
    )
    text = ", ".join(map(str, found))
    assert values.regions("regions", text) == found
    assert values.regions("regions", [each.to_dict() for each in found]) == found
    assert values.regions("regions", "a fox, red:width=0.5, a car") == (
        Region("a fox, red", width=0.5),
        Region("a car"),
    )
    assert values.regions("regions", "left:x=0.25") == (Region("left", x=0.25, width=0.75),)
    kept = Params("x", "", "m", 8, 8, 1, 1.0, "", 1, regions=found)
    assert (Params.from_json(kept.to_json()), kept.inputs) == (kept, ())


@pytest.mark.parametrize("side", ["x", "y"])
@pytest.mark.parametrize("start", [0.99, 1, 2])
def test_a_region_outside_the_picture_names_its_corner(side: str, start: float) -> None:
    with refused(InvalidParams, "range", f"regions[1].{side}") as error:
        values.regions("regions", [{"prompt": "a fox"}, {"prompt": "a car", side: start}])
    assert error.value.problem.params["high"] == "0.98"


def attributes(*paths: Path) -> set[str]:
    """Names of all attributes that these modules read."""
    return {node.attr for path in paths for node in nodes(path) if isinstance(node, ast.Attribute)}


def test_every_option_is_used_by_the_engine() -> None:
    """Directly, or by a property of Params. ``original`` is only kept for the recipe."""
    engine = attributes(*(PACKAGE / "engine").rglob("*.py"))
    module = tree(PACKAGE / "options/table.py")
    [table] = [node for node in module.body if isinstance(node, ast.ClassDef) and node.name == "Params"]
    properties = [node for node in table.body if isinstance(node, ast.FunctionDef) and node.decorator_list]
    for _ in properties:  # properties use others
        for each in properties:
            if each.name in engine:
                engine |= {node.attr for node in ast.walk(each) if isinstance(node, ast.Attribute)}
    assert set(OPTIONS) - engine == {"original"}
