"""What can be run: models from their own files, and Params checked against them with field and limit."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from diffusion_local import families
from diffusion_local.domain import Params
from diffusion_local.errors import InvalidParams, NotFound
from diffusion_local.models.catalog import Catalog
from diffusion_local.options.samplers import DIFFUSION, check_sampler, check_schedule
from diffusion_local.options.values import MAX_PROMPT_CHARS, MAX_SEED
from diffusion_local.settings import Settings
from tests.models.files import write_header


@pytest.fixture
def catalog(settings: Settings) -> Catalog:
    settings.make_folders()
    return Catalog(settings.starter, settings.models)


def model_folder(settings: Settings, name: str, index: object = None, weights: bool = True) -> Path:
    folder = settings.models / name
    folder.mkdir(parents=True)
    if index is not None:
        text = index if isinstance(index, str) else json.dumps(index)
        (folder / "model_index.json").write_text(text)
    if weights:
        (folder / "unet").mkdir()
        (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"12345678")
    return folder


def test_the_starter_is_there_ready_and_first(catalog: Catalog) -> None:
    assert [model.id for model in catalog.all()] == ["starter"]
    assert catalog.default.ready, catalog.default.problem
    assert catalog.default.size_bytes > 1_000_000


def test_a_new_folder_is_found_without_a_restart(catalog: Catalog, settings: Settings) -> None:
    model_folder(settings, "mine", {"_class_name": "StableDiffusionXLPipeline"})
    model = catalog.get("mine")
    assert (model.ready, model.family, model.defaults.width, model.size_bytes) == (True, "sdxl", 1024, 8)


@pytest.mark.parametrize(
    ("index", "weights", "words"),
    [
        (None, True, "model_index.json is missing"),
        ("{", True, "model_index.json is damaged"),
        ("[]", True, "model_index.json is damaged"),
        ({"_class_name": ["x"]}, True, "damaged"),
        ({}, True, "not supported"),
        ({"_class_name": "MusicPipeline"}, True, "'MusicPipeline' is not supported"),
        ({"_class_name": "StableDiffusionPipeline"}, False, "no .safetensors weights"),
    ],
)
def test_a_folder_that_is_no_model_says_why(
    catalog: Catalog, settings: Settings, index: object, weights: bool, words: str
) -> None:
    model_folder(settings, "broken", index, weights)
    model = catalog.get("broken")
    assert not model.ready
    assert words in model.problem
    assert catalog.default.id == "starter"


def test_hidden_folders_files_and_a_second_starter_are_no_models(catalog: Catalog, settings: Settings) -> None:
    for name in (".hidden", "starter"):
        model_folder(settings, name, {"_class_name": "StableDiffusionPipeline"})
    (settings.models / "notes.txt").write_text("buy a bigger GPU")
    assert [model.id for model in catalog.all()] == ["starter"]


def test_an_unknown_model_is_named_with_those_that_are_known(catalog: Catalog) -> None:
    with pytest.raises(NotFound, match=r"no model 'sdxl'. Known: starter"):
        catalog.get("sdxl")


def test_what_is_not_said_is_the_models_default(catalog: Catalog) -> None:
    params = catalog.complete("  a red apple ", {"seed": 7, "steps": None, "negative": None})
    defaults = catalog.default.defaults
    assert params == Params(
        "a red apple", "", "starter", defaults.width, defaults.height, defaults.steps, defaults.guidance,
        defaults.sampler, 7,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("width", 260, "multiple of 8 (got 260; try 256 or 264)"),
        ("height", 100, "from 128 to 512 (got 100)"),
        ("width", 520, "from 128 to 512"),
        ("width", 256.5, "whole number"),
        ("steps", 0, "from 1 to 100 (got 0)"),
        ("steps", 101, "from 1 to 100"),
        ("steps", "many", "must be a number"),
        ("steps", True, "must be from 1"),
        ("steps", [4], "must be a number"),
        ("guidance", -0.1, "from 0 to 30"),
        ("guidance", math.nan, "from 0 to 30"),
        ("guidance", math.inf, "from 0 to 30"),
        ("sampler", "Magic", "must be one of DPM++ 2M"),
        ("sampler", 3, "must be one of"),
        ("model", "sdxl", "no model 'sdxl'"),
        ("model", 5, "must be a model's id"),
        ("seed", -2, f"from 0 to {MAX_SEED}"),
        ("seed", MAX_SEED + 1, "from 0 to"),
        ("seed", 1e300, "from 0 to"),
        ("seed", 10**400, "must be a number"),
        ("prompt", "", "must not be empty"),
        ("prompt", " \n\t ", "must not be empty"),
        ("prompt", "x" * (MAX_PROMPT_CHARS + 1), "at most 10,000 characters (got 10,001)"),
        ("prompt", None, "must be text"),
        ("prompt", 5, "must be text"),
        ("prompt", "half a \ud83c sign", "must be text"),
        ("negative", "x" * (MAX_PROMPT_CHARS + 1), "at most 10,000 characters"),
        ("negative", ["x"], "must be text"),
        ("negative", "half a \ud83c sign", "must be text"),
        ("stepz", 4, "is not an option"),
    ],
)
def test_bad_input_is_refused_with_field_and_limit(catalog: Catalog, field: str, value: Any, words: str) -> None:
    sent = {"prompt": "a red apple", "seed": 7} | {field: value}
    with pytest.raises(InvalidParams) as refused:
        catalog.complete(sent.pop("prompt"), sent)
    assert refused.value.field == field
    assert words in refused.value.message


def test_the_pixels_of_a_picture_have_a_limit_of_their_own(catalog: Catalog, settings: Settings) -> None:
    model_folder(settings, "mine", {"_class_name": "StableDiffusionPipeline"})
    assert catalog.complete("x", {"seed": 1, "model": "mine", "width": 2048, "height": 2048}).cost > 0
    with pytest.raises(InvalidParams, match="width"):
        catalog.complete("x", {"seed": 1, "model": "mine", "width": 2056, "height": 2048})


@pytest.mark.parametrize("name", DIFFUSION.samplers)
def test_a_sampler_is_known_however_it_is_written(catalog: Catalog, name: str) -> None:
    assert catalog.complete("x", {"seed": 1, "sampler": name.upper()}).sampler == name


def test_a_family_has_samplers_of_its_own() -> None:
    sprint = families.get("sana_sprint").sampling
    assert sprint.samplers == ("SCM",)
    assert "SCM" not in families.get("sd").sampling.samplers + families.get("flux").sampling.samplers
    with pytest.raises(InvalidParams, match="must be one of SCM"):
        check_sampler("Euler", sprint)
    with pytest.raises(InvalidParams, match="schedule"):
        check_schedule("Karras", "SCM", sprint)


@pytest.mark.parametrize(
    ("pipeline", "words"),
    [("CogView3PlusPipeline", "CogView4 can"), ("FluxControlPipeline", "FLUX.1 dev can")],
)
def test_a_family_that_is_not_run_says_what_to_take_instead(
    catalog: Catalog, settings: Settings, pipeline: str, words: str
) -> None:
    folder = model_folder(settings, "mine", {"_class_name": pipeline}, weights=False)
    write_header(folder / "transformer/diffusion_pytorch_model.safetensors", {"x": (2, 2)})
    model = catalog.get("mine")
    assert (model.state, model.ready) == ("recognised", False)
    assert "is recognised but cannot be run yet" in model.problem
    assert words in model.problem
