"""What is said of a prompt before it is made: how much of it is read, and which words were never learned."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from diffusion_local.models.catalog import Catalog, Model
from diffusion_local.models.prompt_limits import count_read, count_tokens, prompt_warnings, tag_warnings
from diffusion_local.settings import Settings
from tests.models.test_catalog import model_folder
from tests.support import params


@pytest.fixture
def catalog(settings: Settings) -> Catalog:
    settings.make_folders()
    return Catalog(settings.starter, settings.models)


def test_a_prompt_past_the_encoders_limit_is_reported_with_both_numbers(catalog: Catalog) -> None:
    model = catalog.default
    limit, _ = count_tokens(model.folder / "tokenizer", "")
    assert limit > 10
    fits = catalog.complete("apple " * 5, {"seed": 1})
    assert prompt_warnings(model, fits) == []
    long = catalog.complete("apple " * 500, {"seed": 1, "negative": "pear " * 500})
    warnings = prompt_warnings(model, long)
    assert [warning.split(":")[0] for warning in warnings] == ["prompt", "negative"]
    assert all(f"reads {limit} tokens" in warning and "parts." in warning for warning in warnings)


def test_a_model_without_a_tokenizer_warns_of_nothing(catalog: Catalog, settings: Settings) -> None:
    model_folder(settings, "mine", {"_class_name": "StableDiffusionPipeline"})
    params = catalog.complete("apple " * 500, {"seed": 1, "model": "mine"})
    assert prompt_warnings(catalog.get("mine"), params) == []


@pytest.mark.parametrize("content", ["{}", "[]", "", "\0", '{"model": {"type": "BPE"}}'])
def test_a_damaged_tokenizer_is_as_none(catalog: Catalog, settings: Settings, content: str) -> None:
    """JSON that is no tokenizer raises a bare Exception in the tokenizers library."""
    folder = model_folder(settings, "mine", {"_class_name": "StableDiffusionPipeline"}) / "tokenizer"
    folder.mkdir()
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 77}')
    (folder / "tokenizer.json").write_text(content)
    params = catalog.complete("apple " * 500, {"seed": 1, "model": "mine"})
    assert prompt_warnings(catalog.get("mine"), params) == []


@pytest.mark.parametrize(
    ("prompt", "unknown"),
    [
        ("a café at 25°, naïve & “quoted” — №1", ""),
        ("魑魅 on a 红苹果, 魍魉, 魑魅", "魑魅, 魍魉"),
        ("красное яблоко", "красное, яблоко"),
        ("a happy 👩‍🚀!", "👩‍🚀"),
        ("سماء", "سماء"),
    ],
)
def test_words_of_a_script_that_the_starter_never_saw_are_told(catalog: Catalog, prompt: str, unknown: str) -> None:
    params = catalog.complete(prompt, {"seed": 1})
    text = [f"prompt: Starter was trained on English only; it does not know {unknown}"] if unknown else []
    assert prompt_warnings(catalog.default, params) == text


def test_of_other_models_it_is_not_known_what_they_read(catalog: Catalog, settings: Settings) -> None:
    model_folder(settings, "mine", {"_class_name": "StableDiffusionPipeline"})
    params = catalog.complete("红苹果", {"seed": 1, "model": "mine"})
    assert prompt_warnings(catalog.get("mine"), params) == []


def another(starter: Model, folder: Path, family: str, part: str) -> Model:
    """A model whose tokenizer of most tokens is in ``part``."""
    (folder / part).mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / part / name).write_bytes((starter.folder / "tokenizer" / name).read_bytes())
    config = json.loads((folder / part / "tokenizer_config.json").read_text())
    (folder / part / "tokenizer_config.json").write_text(json.dumps(config | {"model_max_length": 512}))
    return replace(starter, id="mine", family=family, architecture=family, folder=folder, scripts=())


@pytest.mark.parametrize(
    ("family", "part", "limit"),
    [("flux", "tokenizer_2", 510), ("sd3", "tokenizer_3", 254), ("pixart", "tokenizer", 298)],
)
def test_the_others_read_what_their_longest_encoder_reads(
    catalog: Catalog, tmp_path: Path, family: str, part: str, limit: int
) -> None:
    model = another(catalog.default, tmp_path / "mine", family, part)
    assert count_read(model, "apple " * 100) == (limit, 100)
    assert prompt_warnings(model, params(prompt="apple " * 100)) == []
    text = f"prompt: the model reads {limit} tokens; this prompt has 600, and its end is ignored."
    assert prompt_warnings(model, params(prompt="apple " * 600)) == [text]


def test_weights_are_for_models_that_know_them(catalog: Catalog, tmp_path: Path) -> None:
    weighted = params(prompt="an (apple:1.3) on a table (really)")
    assert prompt_warnings(catalog.default, weighted) == []
    model = another(catalog.default, tmp_path / "mine", "flux", "tokenizer_2")
    assert prompt_warnings(model, weighted) == [
        "prompt: the model does not support weights; (apple:1.3) is read literally."
    ]
    assert prompt_warnings(model, params(prompt="a cat (at 5:30 pm), \\(a:1\\)")) == []


def test_what_a_model_has_no_use_for_is_told(catalog: Catalog, tmp_path: Path) -> None:
    value = params(negative="blurry", clip_skip=2)
    assert prompt_warnings(catalog.default, value) == []
    model = another(catalog.default, tmp_path / "mine", "flux", "tokenizer_2")
    assert [result.split(":")[0] for result in prompt_warnings(model, value)] == ["negative", "clip_skip"]
    assert prompt_warnings(model, params()) == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a cat, embedding:EasyNegative", "embedding:EasyNegative is syntax of ComfyUI"),
        ("a cat++ on a mat", "cat++ is syntax of InvokeAI"),
        ("a (red cat)+, mat", ")+ is syntax of InvokeAI"),
        ('("a cat", "a dog").blend(1, 1)', ").blend(1, 1) is syntax of InvokeAI"),
        ("1.5::red cat::, mat", "1.5::red cat:: is syntax of NovelAI"),
        ("a (cat:1,2)", "(cat:1,2) has a decimal comma"),
        ("a [cat:dog:0,5]", "[cat:dog:0,5] has a decimal comma"),
        ("a __my animal__ here", "__my animal__ is not a valid name of a wildcard file"),
        ("a < lora:ink:1> cat", "< lora:ink:1> is not a known tag"),
        ("a <lora=ink:1> cat", "<lora=ink:1> is not a known tag"),
        ("a cat <lora:ink:0.8", "<lora:ink:0.8 is not a known tag"),
        ("a &lt;lora:ink:1&gt; cat", "&lt;lora:ink:1&gt; is not a known tag"),
        ("a (red cat)1.3, mat", ")1.3 is syntax of InvokeAI"),
        ("a cat::2 dog::-.5", "t::2 is syntax of Midjourney"),
        ("a __@animal__ here", "__@animal__ is syntax of Dynamic Prompts"),
        ("1. a cat", "1. a cat is read as words"),
        ("- a cat", "- a cat is read as words"),
        ("• a cat", "• a cat is read as words"),
        ("a cat --ar 16:9", "--ar 16:9 is read as words"),
        ("a cat --no-hat", "--no-hat is read as words"),
        ("a cat\n  # the mat, too", "# the mat, too is read as words"),
        ("a （cat：1.2） here", "（cat：1.2） uses full-width characters"),
        ("a (cat：1.2) here", "(cat：1.2) uses full-width characters"),
        ("a ｛red｜blue｝ cat", "｛red｜blue｝ uses full-width characters"),
        ("a 《lora:ink:1》", "《lora:ink:1》 uses full-width characters"),
        ("a ‹lora:ink:1›", "‹lora:ink:1› uses full-width characters"),
        ("/imagine prompt: a cat", "/imagine is syntax of Midjourney"),
        ("a ＜lora：ink：1＞", "＜lora：ink：1＞ uses full-width characters"),
        ("a (cat:1.2", "has an unmatched ("),
        ("a cat:1.2)", "has an unmatched )"),
        ("a ((cat:1.2) [dog]]", "has an unmatched ]"),
        ("a (cat:99)", "the weight 99 is limited to 10"),
        ("a [cat:dog:when]", "[cat:dog:when] does not end in a step number"),
        ("a [cat:dog:-1] [x:y:2]", "[cat:dog:-1] does not end in a step number"),
    ],
)
def test_syntax_without_an_effect_is_warned_of_by_name(
    catalog: Catalog, settings: Settings, text: str, told: str
) -> None:
    model_folder(settings, "mine", {"_class_name": "StableDiffusionPipeline"})
    for field, texts in (("prompt", (text, "")), ("negative", ("x", text))):
        params = replace(catalog.complete("x", {"seed": 1, "model": "mine"}), prompt=texts[0], negative=texts[1])
        warnings = [*tag_warnings(*texts).values(), *prompt_warnings(catalog.get("mine"), params)]
        [found] = [each for each in warnings if told in each]
        assert found.startswith(f"{field}: ")


@pytest.mark.parametrize(
    "text",
    [
        "ratio 16:9, time 10:30, C++ book", "a (cat:1.2), [a:b:0.5], (cat, 2)", "std::vector on a screen", "__init__",
        "a -- b, (c) - d", "a < b and c > d", "size (10,5), 5,5 metres", "__a__ and __b__", "(a), [b|c], 3.5::1",
        "f.and(x)", "<my-token> <3", "a --- b", "black--white", "#1 fan", "a #tag", "(a), [b], \\(c", r"\) :\]",
        "(a [b) c]", "(x:10)", "[a:b:3] [:b:.5] [a::2]", "12:00:30", "【公式】", "一只猫（红色）", "f(2), 0.5",
    ],
)  # fmt: skip
def test_plain_words_are_not_warned_of(catalog: Catalog, settings: Settings, text: str) -> None:
    model_folder(settings, "mine", {"_class_name": "StableDiffusionPipeline"})
    params = replace(catalog.complete("x", {"seed": 1, "model": "mine"}), prompt=text)
    found = [*tag_warnings(text, "").values(), *prompt_warnings(catalog.get("mine"), params)]
    assert [each for each in found if "C++" not in each] == []
