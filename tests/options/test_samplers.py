"""Samplers and schedules under the names of other tools."""

import pytest

from diffusion_local.options.samplers import (
    SAMPLERS,
    SCHEDULES,
    find_sampler,
    find_schedule,
    merge_schedule,
    normalise_name,
    split_schedule,
)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("euler A", "Euler a"),
        ("K_EULER_ANCESTRAL", "Euler a"),
        ("k_euler", "Euler"),
        ("dpmpp_2m", "DPM++ 2M"),
        ("DPMSolverMultistep", "DPM++ 2M"),
        ("DPM++ 2M Karras", "DPM++ 2M Karras"),
        ("uni_pc", "UniPC"),
        ("DDIMScheduler", "DDIM"),
        ("PNDM", ""),
        ("", ""),
    ],
)
def test_a_sampler_is_known_by_the_names_of_other_tools(text: str, name: str) -> None:
    assert find_sampler(text) == name


@pytest.mark.parametrize(
    ("text", "name"), [("sgm_uniform", "SGM Uniform"), ("karras", "Karras"), ("trailing", "SGM Uniform"), ("turbo", "")]
)
def test_a_schedule_is_known_by_the_names_of_other_tools(text: str, name: str) -> None:
    assert find_schedule(text) == name


def test_no_two_samplers_or_schedules_share_a_spelling() -> None:
    for spellings in (
        [normalise_name(each) for name, sampler in SAMPLERS.items() for each in (name, *sampler.spellings)],
        [normalise_name(each) for name, others in SCHEDULES.items() for each in (name, *others)],
    ):
        assert len(spellings) == len(set(spellings))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("DPM++ 2M Karras", ("DPM++ 2M", "Karras")),
        ("Euler a SGM Uniform", ("Euler a", "SGM Uniform")),
        ("Euler a", ("Euler a", "")),
        ("DPM adaptive Karras", ("", "")),
        ("Karras", ("", "")),
    ],
)
def test_older_versions_of_a1111_name_both_in_one(text: str, parts: tuple[str, str]) -> None:
    assert split_schedule(text) == parts


def test_a_pair_that_is_one_sampler_here_goes_by_its_name() -> None:
    assert merge_schedule("DPM++ 2M", "Karras") == ("DPM++ 2M Karras", "")
    assert merge_schedule("DPM++ 2M Karras", "Karras") == ("DPM++ 2M Karras", "")
    assert merge_schedule("Euler", "Karras") == ("Euler", "Karras")
    assert merge_schedule("", "Karras") == ("", "Karras")
