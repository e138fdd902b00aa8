"""Chinese prompts for a model that has learned English names only."""

from dataclasses import replace

import pytest

from diffusion_local.compose import Services
from diffusion_local.models.prompt_limits import count_read
from diffusion_local.models.starter_words import understood, unknown_words


@pytest.mark.parametrize(
    ("chinese", "english"),
    [
        ("红苹果", "red apple"),
        ("一只红色的猫", "red cat"),
        ("雪地里的机器人", "robot in the snow"),
        ("黄色背景上的蓝色的心", "blue heart on a yellow background"),
        ("企鹅和气球", "penguin and balloon"),
        ("海滩上的狗，卡通风格", "dog on the beach, cartoon"),
        ("a 红色 house 在夜晚", "a red house at night"),
        ("(西瓜:1.3)", "(watermelon:1.3)"),
    ],
)
def test_names_colours_and_scenes_are_said_in_english(services: Services, chinese: str, english: str) -> None:
    assert understood(services.catalog.default, chinese) == (english, ())


def test_words_that_are_not_known_are_named_and_left_out(services: Services) -> None:
    text, unknown = understood(services.catalog.default, "蒸汽朋克的城堡在魑魅旁边")
    assert "castle" in text
    assert "魑魅" in "".join(unknown)
    receipt = services.studio.submit("魑魅的城堡", width=128, height=128, steps=2)
    [warning] = [each for each in receipt.warnings if "魑魅" in each]
    assert "城堡" not in warning
    assert services.studio.submit("红色的城堡", width=128, height=128, steps=2).warnings == []
    [job] = services.studio.jobs(limit=1)
    assert job.params.prompt == "红色的城堡"  # kept as written


def test_a_model_that_may_read_chinese_gets_the_prompt_as_it_is(services: Services) -> None:
    for scripts in ((), ("LATIN", "CJK")):
        assert understood(replace(services.catalog.default, scripts=scripts), "红苹果") == ("红苹果", ())


def test_the_tokens_are_those_of_the_translation(services: Services) -> None:
    model = services.catalog.default
    assert count_read(model, "红苹果") == count_read(model, "red apple")


@pytest.mark.parametrize(
    ("prompt", "unknown"),
    [
        ("a red apple beside a quantum lighthouse", ("quantum", "lighthouse")),
        ("Two Butterflies, a skyscraper's clocks, (watermelon:1.3), best quality, masterpiece", ()),
        ("a tropical fish and a slice of watermelon", ()),
        ("<lora:xyzzy:0.8> a tree in __plugh__, frobnicated, frobnicated", ("frobnicated",)),
        ("魑魅的城堡 and a zeppelin", ("zeppelin", "魑魅")),
        ("", ()),
    ],
)
def test_words_that_the_starter_was_not_trained_on_are_named(
    services: Services, prompt: str, unknown: tuple[str, ...]
) -> None:
    assert unknown_words(services.catalog.default, prompt) == unknown
    assert services.studio.prompts.unknown_words(prompt) == unknown
    assert unknown_words(replace(services.catalog.default, id="another"), prompt) == ()


def test_the_starter_knows_the_words_of_its_own_examples(services: Services) -> None:
    for prompt in ("a red apple", "a blue heart", "a yellow star", "a green tree"):
        assert unknown_words(services.catalog.default, prompt) == ()
