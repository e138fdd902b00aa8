"""Exports are exact: every value that an option may have comes back as it was, through every format."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_local.domain import Batch, Job, Kind, Lane, Params, new_job, utc_now
from diffusion_local.lists.entries import EXPORTS, Entry, export_lines
from diffusion_local.lists.list_formats import parse
from diffusion_local.models.catalog import Catalog
from diffusion_local.options.samplers import DIFFUSION
from diffusion_local.options.table import OPTIONS, refused_options
from diffusion_local.options.types import ControlType, Lora, Use
from diffusion_local.options.validate import complete
from diffusion_local.options.values import CONTROL_MODES, MAX_CONTROL_WEIGHT, MAX_REFERENCE_WEIGHT, MAX_SEED
from diffusion_local.paths import assets
from tests.options.test_validate import SOURCE, size_of

CATALOG = Catalog(assets() / "starter", Path("no-such-folder"), size_of)
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"], include_characters="\t\n\r"), max_size=60).map(str.strip)
NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\"), min_size=1, max_size=30)
NAMES = NAMES.map(str.strip).filter(lambda name: name and name not in (".", ".."))
HASH = st.sampled_from(["a" * 64, SOURCE])

CONTROLS = st.fixed_dictionaries(
    {
        "image": st.just(SOURCE),
        "type": st.sampled_from([str(each) for each in ControlType]),
        "model": NAMES,
        "weight": st.floats(0, MAX_CONTROL_WEIGHT),
        "start": st.floats(0, 0.4),
        "end": st.floats(0.5, 1),
        "mode": st.sampled_from(["", *CONTROL_MODES]),
    }
)
REFERENCES = st.fixed_dictionaries(
    {
        "image": st.just(SOURCE),
        "use": st.sampled_from([str(each) for each in Use]),
        "weight": st.floats(0, MAX_REFERENCE_WEIGHT),
        "adapter": st.one_of(st.just(""), NAMES),
        "mask": st.sampled_from(["", SOURCE]),
    }
)
REGIONS = st.fixed_dictionaries(
    {
        "prompt": TEXT.filter(lambda text: text and "<" not in text),
        "x": st.floats(0, 0.5),
        "y": st.floats(0, 0.5),
        "width": st.floats(0.1, 0.5),
        "height": st.floats(0.1, 0.5),
        "weight": st.floats(0, 1),
    }
)
DETAILS = st.fixed_dictionaries(
    {
        "target": TEXT.filter(bool),
        "prompt": TEXT.filter(lambda text: "<" not in text),
        "strength": st.floats(0.05, 1),
        "steps": st.integers(0, 150),
        "confidence": st.floats(0, 1),
        "padding": st.integers(0, 512),
        "limit": st.integers(1, 16),
    }
)


def values_of(name: str) -> st.SearchStrategy[Any]:
    """Values that the option takes, of the whole range between its bounds."""
    option = OPTIONS[name]
    limits = CATALOG.default.limits
    special: dict[str, st.SearchStrategy[Any]] = {
        "prompt": st.one_of(TEXT, TEXT.map(lambda text: f"# {text}"), TEXT.map(lambda text: f'"{text}"')).filter(bool),
        "negative": TEXT,
        "original": TEXT,
        "seed": st.integers(0, MAX_SEED),
        "width": st.integers(limits.min_size // 8, limits.max_size // 8).map(lambda side: side * 8),
        "height": st.integers(limits.min_size // 8, limits.max_size // 8).map(lambda side: side * 8),
        "steps": st.integers(1, limits.max_steps),
        "guidance": st.floats(0, limits.max_guidance),
        "sampler": st.sampled_from(DIFFUSION.samplers),
        "schedule": st.sampled_from(["", "Uniform", "SGM Uniform"]),
        "loras": st.lists(st.builds(Lora, NAMES, st.floats(-4, 4)), max_size=4, unique_by=lambda lora: lora.name),
        "variation_seed": st.integers(0, MAX_SEED),
        "model": st.just("starter"),
        "references": st.lists(REFERENCES, max_size=3),
        "hires_scale": st.one_of(st.just(0.0), st.floats(1, 4)),
        "hires_tile": st.integers(256 // 8, limits.max_size // 8).map(lambda side: side * 8),
        "outpaint": st.sampled_from(["", "left 64", "right 8 top 16"]),
        "controls": st.lists(CONTROLS, max_size=2),
        "regions": st.lists(REGIONS, max_size=3),
        "details": st.lists(DETAILS, max_size=2),
        "place": st.sampled_from(["", "1/2", "3/8", "16/16"]),
    }
    if name in special:
        return special[name]
    if option.is_picture:
        return HASH
    if option.choices:
        return st.sampled_from([str(each) for each in option.choices])
    if option.files:
        return NAMES
    return st.integers(*map(int, option.bounds)) if option.type is int else st.floats(*option.bounds)


@st.composite
def recipes(draw: st.DrawFn) -> Params:
    kind = draw(st.sampled_from(list(Kind)))
    names = [name for name, option in OPTIONS.items() if kind in option.kinds and name not in ("model", "kind")]
    options = {name: draw(values_of(name)) for name in names if name not in refused_options(kind)}
    model = CATALOG.default
    prompt = options.pop("prompt")
    if options.get("outpaint"):  # the size follows the extended picture
        options = {name: value for name, value in options.items() if name not in ("width", "height")}
    options["kind"] = str(kind)
    if kind is Kind.UPSCALE:
        options["scale"] = draw(st.floats(1, 8))
    return complete(model.id, model.defaults, model.limits, prompt, options, size_of)


def job_of(params: Params) -> Job:
    return new_job(Batch("b", "test", "", Lane.BATCH, 1, utc_now()), 0, params)


@pytest.mark.fuzz
@pytest.mark.parametrize("form", EXPORTS)
@settings(max_examples=200, deadline=None)
@given(made=st.lists(recipes(), min_size=1, max_size=3))
def test_every_recipe_comes_back_as_it_was(form: str, made: list[Params]) -> None:
    data = "".join(export_lines(((job_of(params), None) for params in made), form)).encode()
    model = CATALOG.default
    again = []
    for entry in parse(data, form):
        assert isinstance(entry, Entry), entry
        values = dict(entry.values)
        assert values.pop("expand") == "no"
        again.append(complete(model.id, model.defaults, model.limits, values.pop("prompt", ""), values, size_of))
    assert again == made


def test_a_prompt_that_looks_like_a_comment_is_quoted() -> None:
    params = Params("# 1 fan", "", "starter", 128, 128, 4, 5.0, "DPM++ 2M", 7)
    plain = replace(params, prompt="a fan")
    head, first, second = export_lines(((job_of(each), None) for each in (params, plain)), "csv")
    assert first.startswith('"# 1 fan",')
    assert second.startswith("a fan,")
    assert head.startswith("prompt,")
