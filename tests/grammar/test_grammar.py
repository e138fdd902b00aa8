"""The grammar of prompts: what each level reads, and that what it reads can be written and read again."""

from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_local.errors import InvalidParams
from diffusion_local.grammar import prompt_templates, prompt_weights, schedules, tags
from diffusion_local.lists.wildcards import Expander

SIGNS = st.sampled_from(
    ["{", "}", "|", "$$", "2$$", "1-2$$", "0.5::", "__a__", "__", "_", "\\", "[", "]", "(", ")", ":", "0.5", "3", ".5",
     "a", "b ", " ", "<lora:my__ink__v2:0.8>", "<lyco:x|y:1>", "<", ">", "BREAK", " BREAK ", "AND", "\n", ",", "$"]
)  # fmt: skip
PROMPTS = st.one_of(st.lists(SIGNS, max_size=25).map("".join), st.text(max_size=40))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("wildcards")
    (made / "a.txt").write_text("x\n2::y_\n")
    return made


@pytest.mark.fuzz
@settings(max_examples=1500, deadline=None)
@given(prompt=PROMPTS)
def test_a_template_is_the_same_when_it_is_written_and_read_again(folder: Path, prompt: str) -> None:
    try:
        tree = Expander(folder).parse(prompt)
    except InvalidParams:
        return
    again = prompt_templates.parse(tree.to_text(), reader(folder))
    assert again == tree
    assert again.sample(Random(3)) == tree.sample(Random(3))


def reader(folder: Path):  # type: ignore[no-untyped-def]
    expander = Expander(folder)
    return lambda name: expander.parse(f"__{name}__")


@pytest.mark.fuzz
@settings(max_examples=1500, deadline=None)
@given(prompt=PROMPTS)
def test_a_schedule_is_the_same_when_it_is_written_and_read_again(prompt: str) -> None:
    parts = schedules.parse(prompt)
    assert schedules.parse(schedules.to_text(parts)) == parts
    assert len(schedules.prompt_per_step(prompt, 7)) == 7


@pytest.mark.fuzz
@settings(max_examples=1500, deadline=None)
@given(prompt=PROMPTS)
def test_weights_are_the_same_when_they_are_written_and_read_again(prompt: str) -> None:
    parts = prompt_weights.parse_parts(prompt)
    assert prompt_weights.parse_parts(prompt_weights.to_text(parts)) == parts


@pytest.mark.fuzz
@settings(max_examples=500, deadline=None)
@given(prompt=PROMPTS)
def test_tags_are_the_same_when_they_are_written_and_read_again(prompt: str) -> None:
    found = tags.find_tags(prompt)
    assert tags.find_tags(" ".join(tag.to_text() for tag in found)) == found


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("a [cat:dog:0.5]", ["a cat", "a cat", "a dog", "a dog"]),
        ("a [cat:dog:1]", ["a cat", "a dog", "a dog", "a dog"]),
        ("a [dog:0.25]", ["a ", "a dog", "a dog", "a dog"]),
        ("a [cat::.75] x", ["a cat x", "a cat x", "a cat x", "a  x"]),
        ("[a|b|c]", ["a", "b", "c", "a"]),
        ("[a|] x", ["a x", " x", "a x", " x"]),
        ("[[a|b]:c:0.5]", ["a", "b", "c", "c"]),
        ("[a (b:1.2):c:0.5]", ["a (b:1.2)", "a (b:1.2)", "c", "c"]),
        ("([a:b:2]:1.3)", ["(a:1.3)", "(a:1.3)", "(b:1.3)", "(b:1.3)"]),
        ("[word] (x:1.2)", ["[word] (x:1.2)"] * 4),
        (r"\[a:b:0.5\] [a\:b:c:0.5]", [r"\[a:b:0.5\] a\:b"] * 2 + [r"\[a:b:0.5\] c"] * 2),
        ("[a:b:9]", ["a"] * 4),
        ("[a:b:c]", ["[a:b:c]"] * 4),
        ("[a:b:0.5", ["[a:b:0.5"] * 4),
        ("(a [b) c:d:0.5]", ["(a [b) c:d:0.5]"] * 4),
        ("12:30 [", ["12:30 ["] * 4),
    ],
)  # fmt: skip
def test_a_prompt_changes_from_step_to_step_as_in_a1111(prompt: str, texts: list[str]) -> None:
    assert schedules.prompt_per_step(prompt, 4) == texts


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("a BREAK b", [["a"], ["b"]]),
        ("a BREAK (b:1.2) c BREAK", [["a"], ["b", " c"]]),
        ("(a BREAK b:1.2)", [["a"], ["b"]]),
        ("BREAKFAST and BREAKs", [["BREAKFAST and BREAKs"]]),
        ("", [[""]]),
    ],
)
def test_break_begins_another_part(prompt: str, parts: list[list[str]]) -> None:
    assert [[piece.text for piece in part] for part in prompt_weights.parse_parts(prompt)] == parts


@pytest.mark.parametrize(
    ("text", "found", "left"),
    [
        ("a <lora:ink:0.8> cat", [tags.Tag("lora", "ink", "0.8")], "a cat"),
        ("a cat<LYCO:x:1>, b", [tags.Tag("lyco", "x", "1")], "a cat, b"),
        ("<lora:a b.safetensors>", [tags.Tag("lora", "a b")], ""),
        ("<lora:a:1:0.5>", [tags.Tag("lora", "a", "1", ("0.5",))], ""),
        ('<lora:"a:0.5":1> x', [tags.Tag("lora", "a:0.5", "1")], "x"),
        ('<lora:"a ""b"" c": 1:2> x', [tags.Tag("lora", 'a "b" c', "1", ("2",))], "x"),
        ('<lora:"half:1> x', [tags.Tag("lora", '"half', "1")], "x"),
        ("<my-token> <3 a < b > c", [], "<my-token> <3 a < b > c"),
        (r"\<lora:a:1>", [], r"\<lora:a:1>"),
        ("<lora: in k :1> a", [tags.Tag("lora", "in k", "1")], "a"),
        ('<lora:" in":1> a', [tags.Tag("lora", " in", "1")], "a"),
        ("<hypernet:x:1> a", [tags.Tag("hypernet", "x", "1")], "a"),
    ],
)
def test_tags_are_found_and_taken_out(text: str, found: list[tags.Tag], left: str) -> None:
    assert tags.find_tags(text) == found
    assert tags.remove_tags(text) == left


@pytest.mark.parametrize(
    ("template", "all_of_it"),
    [
        ("{red|blue} <lora:my__ink__v2:0.8>", ["red <lora:my__ink__v2:0.8>", "blue <lora:my__ink__v2:0.8>"]),
        ("<lora:{a|b}:0.8>", ["<lora:{a|b}:0.8>"]),
        ("{<lora:a|b:1> x|y}", ["<lora:a|b:1> x", "y"]),
        ("{{best}} apple", ["best apple"]),
        ("{a [cat|dog] b|c}", ["a [cat|dog] b", "c"]),
        ("{a [{b|c}|d]|e}", ["a [b|d]", "a [c|d]", "e"]),
        ("{a [b|c}", ["a [b", "c"]),
        (r"a \(b\) {c|d} \\ \: \_", [r"a \(b\) c \\ \: _", r"a \(b\) d \\ \: _"]),
        (r"\\{a|b}", [r"\\a", r"\\b"]),
    ],
)
def test_templates_know_the_other_levels(template: str, all_of_it: list[str]) -> None:
    assert list(Expander(Path("nowhere")).parse(template).combinations()) == all_of_it


def test_an_error_names_the_field() -> None:
    with pytest.raises(InvalidParams) as refused:
        Expander(Path("nowhere")).parse("{a", "negative")
    assert refused.value.field == "negative"
