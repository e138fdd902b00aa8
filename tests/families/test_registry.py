"""Each family of models has a sound record, and an engine half that goes with it."""

import re
from typing import Any

import diffusers
import pytest

from diffusion_local import families
from diffusion_local.engine import samplers
from diffusion_local.engine.families import FAMILIES as ENGINES
from diffusion_local.families import recognised
from diffusion_local.families.family import Family
from diffusion_local.families.sign import Sign
from diffusion_local.messages import translate
from diffusion_local.models.curated import curated_models
from diffusion_local.models.parts import LATENTS, PARTS_BY_ID
from diffusion_local.options.limits import check_size
from diffusion_local.options.option import DENOISED
from diffusion_local.options.samplers import SAMPLERS, SCHEDULES, Sampling
from tests.support import PACKAGE

RECORDS = list(families.FAMILIES.values())
SUPPORTED = [family for family in RECORDS if family.supported]
CHINESE = re.compile(r"[\u4e00-\u9fff]")


def by_id(family: Family) -> str:
    return family.id


every = pytest.mark.parametrize("family", RECORDS, ids=by_id)
supported = pytest.mark.parametrize("family", SUPPORTED, ids=by_id)


def test_the_supported_families_are_those_of_the_engine() -> None:
    assert {family.id for family in SUPPORTED} == set(ENGINES)


@pytest.mark.parametrize("package", ["families", "engine/families"])
def test_every_module_of_a_package_of_families_is_one(package: str) -> None:
    modules = {path.stem for path in (PACKAGE / package).glob("*.py")} - {"__init__", *families.HELPERS}
    assert modules == set(ENGINES)


@every
def test_a_family_is_registered_under_its_id(family: Family) -> None:
    """A supported family is named as its module; those that are only recognised share one."""
    assert families.get(family.id) is family
    assert (PACKAGE / f"families/{family.id}.py").is_file() == family.supported
    assert (family in recognised.RECOGNISED_FAMILIES) != family.supported


@supported
def test_both_halves_do_the_same_kinds_of_work(family: Family) -> None:
    """All kinds of work use one pipeline, but for UNets that read a mask."""
    engine = ENGINES[family.id]
    assert all(set(kinds) <= set(DENOISED) and kinds for kinds in family.pipelines.values())
    assert (engine.inpainting is not None) == family.unet


@every
def test_every_pipeline_class_exists(family: Family) -> None:
    assert family.pipelines
    for name in family.pipelines:
        found = getattr(diffusers, name)  # a stand-in where a library that it asks for is not installed
        assert issubclass(found, diffusers.DiffusionPipeline) or found._backends
        assert families.of_pipeline(name)[0] is family


def problem_of(family: Family, pipeline: str) -> str:
    return family.architectures[family.variants[pipeline]].problem if pipeline in family.variants else ""


@supported
def test_loras_are_for_pipelines_that_take_them(family: Family) -> None:
    run = [name for name in family.pipelines if not problem_of(family, name)]
    pipelines = [getattr(diffusers, name) for name in run]
    assert {hasattr(pipeline, "load_lora_weights") for pipeline in pipelines} == {family.loras}


@every
def test_every_architecture_has_a_title_and_a_family_of_its_own(family: Family) -> None:
    assert family.title
    assert family.architectures
    for name, architecture in family.architectures.items():
        assert families.title_of(name) == architecture.title != ""
        assert families.of_architecture(name) is family
        assert families.ARCHITECTURES.get(architecture.adapters or name) in family.architectures.values()


def configs() -> list[dict[str, Any]]:
    """Configurations of denoisers, with and without the entries that tell architectures apart."""
    return [
        {},
        *({"cross_attention_dim": width} for width in (256, 768, 1024, 1280, 2048, [768])),
        {"guidance_embeds": True},
        {"num_layers": 38},
        {"dual_attention_layers": [0, 1]},
        *({"joint_attention_dim": width} for width in (7680, 12288, [1])),
    ]


@every
def test_every_architecture_that_is_found_is_declared(family: Family) -> None:
    found = {family.architecture_of(lambda part, entry=entry: entry) for entry in configs()}
    assert found | set(family.variants.values()) <= set(family.architectures)
    assert set(family.variants) <= set(family.pipelines)


@supported
def test_defaults_are_within_limits(family: Family) -> None:
    defaults, limits = family.defaults, family.limits
    check_size(defaults.width, defaults.height, limits, family.id)
    assert 1 <= defaults.steps <= limits.max_steps
    assert 0 <= defaults.guidance <= limits.max_guidance
    assert defaults.sampler in family.sampling.samplers


@supported
def test_samplers_and_schedules_exist_and_a_scheduler_stands_for_each(family: Family) -> None:
    sampling: Sampling = family.sampling
    assert set(sampling.samplers) <= set(SAMPLERS)
    assert set(sampling.schedules) <= set(SCHEDULES)
    assert set(sampling.spaced) <= set(sampling.samplers)
    tables = (samplers.TABLE, samplers.FLOW_TABLE, samplers.ANGULAR)
    assert any(set(sampling.samplers) <= set(table) for table in tables)


@every
def test_a_family_that_is_not_run_says_why_in_each_language(family: Family) -> None:
    problems = [family.problem, *(each.problem for each in family.architectures.values())]
    assert all(CHINESE.search(translate("zh", problem)) for problem in problems if problem)


@pytest.mark.parametrize("known", curated_models(), ids=lambda known: known.title)
def test_the_curated_list_names_families_and_their_architectures(known: Any) -> None:
    family = families.get(known.family)
    assert family.supported
    assert known.architecture in family.architectures
    check_size(known.width, known.height, family.limits, known.title)
    assert known.sampler in family.sampling.samplers


def test_no_two_families_share_what_they_are_recognised_by() -> None:
    architectures = [each for family in RECORDS for each in family.architectures.values()]
    for shared in (
        [name for family in RECORDS for name in family.pipelines],
        [name for family in RECORDS for name in family.architectures],
        [each.text_width for each in architectures if each.text_width],
        [each.token_width for each in architectures if each.token_width],
        [word for each in architectures for word in each.lora_words],
        [group for family in RECORDS for group in {g for a in family.architectures.values() for g in a.encoders}],
    ):
        assert len(shared) == len(set(shared))


SIGNS = [(name, sign) for name, each in families.ARCHITECTURES.items() for sign in each.signs]


@pytest.mark.parametrize(("name", "sign"), SIGNS, ids=[f"{name}-{number}" for number, (name, _) in enumerate(SIGNS)])
def test_what_shows_a_sign_is_of_its_architecture(name: str, sign: Sign) -> None:
    """A file with nothing but what the sign asks for: no less specific sign of another architecture wins."""
    shapes = {tensor: tuple(length or 7 for length in shape) for tensor, shape in sign.shapes.items()}
    names = {part for whole in (*sign.has, *shapes) for part in accumulated(whole)}
    found = families.of_denoiser(names, shapes.get)
    assert found is not None
    assert found[0] == name


def accumulated(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[: count + 1]) for count in range(len(parts))]


def test_parts_that_families_need_are_known() -> None:
    known = {*PARTS_BY_ID, *LATENTS}
    for architecture in families.ARCHITECTURES.values():
        assert set(architecture.parts) <= known


def test_what_is_not_known_is_of_no_family() -> None:
    assert families.of_denoiser({"something", "something.else"}, lambda name: None) is None
    for found in (
        families.get("music"),
        families.of_architecture("music"),
        families.of_pipeline("MusicPipeline")[0],
    ):
        assert found is families.UNKNOWN
    assert not families.UNKNOWN.supported
    assert families.title_of("music") == ""


@pytest.mark.parametrize(
    ("adapter", "architecture", "fits"),
    [
        ("sd1", "sd1", True),
        ("sd1", "sd2", False),
        ("flux", "flux_dev", True),
        ("flux", "flux_schnell", True),
        ("flux", "flux2", False),
        ("sd3", "sd35_large", True),
        ("sd35_large", "sd3", False),
        ("sd3_medium", "sd35_medium", True),
        ("sd3_medium", "sd35_large", False),
        ("flux2", "flux2_klein_9b", True),
        ("flux2_klein_4b", "flux2_klein_9b", False),
        ("sd", "sd1", True),
        ("", "sd1", False),
        ("sdxl", "music", False),
    ],
)
def test_adapters_fit_their_architecture_and_those_that_share_it(adapter: str, architecture: str, fits: bool) -> None:
    assert families.fits_architecture(adapter, architecture) is fits


def test_a_variant_can_read_fewer_tokens_than_its_family() -> None:
    assert families.tokens_of("flux", "flux_dev") == 512
    assert families.tokens_of("flux", "flux_schnell") == 256
    assert families.tokens_of("music", "music") == 0
