"""Wildcards and choices: what they become, that counts are known before, and that nothing endless is begun."""

import time
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_local.errors import InvalidParams
from diffusion_local.grammar.trees import MANY, Text
from diffusion_local.lists.wildcards import Expander
from tests.support import soon


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in {
        "animal": "cat\n# not this\n\ndog\n",
        "colours/warm": "red\n0::never\n",
        "pair": "__animal__ and {a|b}\n",
        "empty": "# nothing\n",
        "self": "a __self__\n",
        "one": "__two__\n",
        "two": "x\n{y|__one__}\n",
        "chinese": "苹果\n",
        "binary": "\0\1\0\2",
        "long": "x" * 10_001,
    }.items():
        path = tmp_path / f"{name}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text.encode("gbk" if name == "chinese" else "utf-8"))
    (tmp_path.parent / "secret.txt").write_text("secret")
    return tmp_path


def combinations(template: str, folder: Path = Path("nowhere")) -> list[str]:
    node = Expander(folder).parse(template)
    found = list(node.combinations())
    assert node.count == len(found)
    return found


@pytest.mark.parametrize(
    ("template", "found"),
    [
        ("a castle", ["a castle"]),
        ("{red|blue} car", ["red car", "blue car"]),
        ("{a|b}{c|d}", ["ac", "ad", "bc", "bd"]),
        ("{a|{b|c} d}", ["a", "b d", "c d"]),
        ("{a||b}", ["a", "", "b"]),
        ("{a} {}", ["a "]),
        ("{2$$a|b|c}", ["a,b", "a,c", "b,a", "b,c", "c,a", "c,b"]),
        ("{2$$ and $$a|b}", ["a and b", "b and a"]),
        ("{1-2$$a|b}", ["a", "b", "a,b", "b,a"]),
        ("{0-1$$a|b}", ["", "a", "b"]),
        ("{-2$$a|b}", ["a", "b", "a,b", "b,a"]),
        ("{2-$$a|b}", ["a,b", "b,a"]),
        ("{5$$a|b}", ["a,b", "b,a"]),
        ("{2$${a|b}|c}", ["a,c", "b,c", "c,a", "c,b"]),
        ("{0.5::rare|2::often}", ["rare", "often"]),
        (r"\{a\|b\} \_\_x\_\_ \\", r"{a|b} __x__ \\"),
        ("a | b } snake_case", ["a | b } snake_case"]),
        (r"{a\|b|c}", ["a|b", "c"]),
    ],
)
def test_what_a_template_becomes(template: str, found: list[str] | str) -> None:
    assert combinations(template) == ([found] if isinstance(found, str) else found)


@pytest.mark.parametrize(
    ("template", "found"),
    [
        ("a __animal__", ["a cat", "a dog"]),
        ("__colours/warm__", ["red", "never"]),
        ("__pair__", ["cat and a", "cat and b", "dog and a", "dog and b"]),
        ("{2$$__animal__}", ["cat,dog", "dog,cat"]),
        ("__chinese__ __animal__", ["苹果 cat", "苹果 dog"]),
    ],
)
def test_what_wildcards_become(template: str, found: list[str], folder: Path) -> None:
    assert combinations(template, folder) == found


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("a {b", "a { without its }"),
        ("{-1::a|b}", "has a choice with -1::, which is neither a weight"),
        ("{a|0,5::b}", "has a choice with 0,5::, which is neither a weight"),
        ("{1.5$$a|b}", r"has a choice with 1.5\$\$, which is neither a weight"),
        ("{1,2$$a|b}", r"has a choice with 1,2\$\$, which is neither a weight"),
        ("{@a|b}", "has {@, a sampling mode"),
        ("{~__animal__}", "has {~, a sampling mode"),
        ("{!a|b}", "has {!, a sampling mode"),
        ("{a|{b}", "a { without its }"),
        ("${x=a}", "variable"),
        ("{" * 30 + "a" + "}" * 30, "braces nested more than 20 deep"),
        ("{3-1$$a|b}", "lowest first"),
        ("{999$$a|b}", "0 to 100 options"),
        ("{0::a|0::b}", "weight 0"),
        ("__nobody__", r"one choice a line. Known: animal, binary, chinese, colours/warm"),
        ("__../secret__", "there is no wildcards/../secret.txt"),
        (f"__{'x' * 200}__", "there is no wildcards/xxx"),
        ("__empty__", "wildcards/empty.txt is empty"),
        ("__self__", "in a loop: self > self"),
        ("__one__", "in a loop: one > two > one"),
        ("__binary__", "wildcards/binary.txt is a binary file"),
        ("__long__", "wildcards/long.txt: line 1 has 10,001 characters"),
    ],
)
def test_what_cannot_be_expanded_is_told(template: str, words: str, folder: Path) -> None:
    with pytest.raises(InvalidParams, match=words):
        Expander(folder).parse(template)


def test_an_explosion_is_counted_and_not_begun(folder: Path) -> None:
    began = time.monotonic()
    assert Expander(folder).parse("{a|b|c|d} " * 800).count == MANY
    assert Expander(folder).parse("{100$$" + "|".join("abcdefghij" * 30) + "}").count == MANY
    with pytest.raises(InvalidParams, match="picks 100 of 501 options at once; their product may be at most 50,000"):
        Expander(folder).parse("{100$$" + "|" * 500 + "}")
    assert time.monotonic() - began < soon(5)


def test_wildcards_that_double_each_other_are_refused_before_they_grow(folder: Path) -> None:
    for level in range(60):
        (folder / f"d{level}.txt").write_text(f"__d{level + 1}__ __d{level + 1}__" if level < 19 else "x")
    expander = Expander(folder)
    expander.parse("__d12__")
    with pytest.raises(InvalidParams, match="far more than 10,000 characters"):
        expander.parse("__d0__")


def test_a_chain_of_wildcards_has_an_end_however_it_is_read(folder: Path) -> None:
    for level in range(200):
        (folder / f"c{level}.txt").write_text(f"__c{level + 1}__" if level < 199 else "x")
    expander = Expander(folder)
    refused = set()
    for level in reversed(range(200)):  # the short ends first: each has its next one ready
        try:
            expander.parse(f"__c{level}__").sample(Random(1))
        except InvalidParams as error:
            refused.add(error.message)
    assert refused == {"prompt: wildcards are nested more than 20 deep."}


def test_a_draw_is_decided_by_its_seed_and_heeds_weights() -> None:
    node = Expander(Path("nowhere")).parse("{3::a|1::b|0::c} {2$$x|y|z}")
    assert node.sample(Random("7 1")) == node.sample(Random("7 1"))
    lot = Random(7)
    counts = Counter(node.sample(lot)[0] for _ in range(4000))
    assert counts["c"] == 0
    assert 2.5 < counts["a"] / counts["b"] < 3.5
    assert not any(text[2] == text[4] for text in (node.sample(lot) for _ in range(100)))


@pytest.mark.parametrize("name", ["Animal", "ANIMAL", "Colours/WARM", "upper"])
def test_a_home_of_a_system_that_does_not_tell_cases_apart_works_on_one_that_does(name: str, folder: Path) -> None:
    (folder / "Upper.TXT").write_text("cat")
    assert combinations(f"__{name}__", folder)


def test_of_two_files_that_differ_in_case_only_the_named_one_is_read(folder: Path) -> None:
    for name in ("Bird", "bird"):
        (folder / f"{name}.txt").write_text(name)
    if len(list(folder.glob("[Bb]ird.txt"))) == 1:
        pytest.skip("this file system does not tell cases apart")
    assert combinations("__Bird__", folder) == ["Bird"]
    with pytest.raises(InvalidParams, match=r"there is no wildcards/BIRD\.txt"):
        Expander(folder).parse("__BIRD__")


@pytest.mark.parametrize("line", ["{a|b", "-1::y", "1e3::z {"])
def test_a_faulty_line_of_a_file_is_named(line: str, folder: Path) -> None:
    (folder / "faulty.txt").write_text(f"good\n{line}\n")
    with pytest.raises(InvalidParams, match=r"wildcards/faulty\.txt: line 2"):
        Expander(folder).parse("__faulty__")


def test_a_file_is_read_once_for_a_list(folder: Path) -> None:
    expander = Expander(folder)
    expander.parse("__animal__")
    (folder / "animal.txt").unlink()
    assert expander.parse("a __animal__").count == 2


PIECES = st.sampled_from(
    ["{", "}", "|", "$$", "2$$", "1-2$$", "0.5::", "__animal__", "__x__", "\\", "a", " ", "${", "__"]
)


@pytest.mark.fuzz
@given(st.lists(PIECES, max_size=14).map("".join))
@settings(max_examples=500, deadline=None)
def test_any_template_is_counted_rightly_or_refused(template: str) -> None:
    try:
        node = Expander(Path("nowhere")).parse(template)
    except InvalidParams:
        return
    drawn = node.sample(Random(1))
    assert len(drawn) <= node.max_length
    if node.count <= 2000:
        every = list(node.combinations())
        assert len(every) == node.count
        assert drawn in every
    if not set(template) & set("{\\") and "__" not in template:
        assert node == Text(template)


def test_links_are_followed_as_in_the_folders_of_models(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "sea.txt").write_text("tide\n")
    (elsewhere / "loop").symlink_to(folder)
    (folder / "shared").symlink_to(elsewhere)
    (folder / "sea.txt").symlink_to(elsewhere / "sea.txt")
    assert combinations("__shared/sea__ and __sea__", folder) == ["tide and tide"]
    known = Expander(folder).known_names
    assert {"shared/sea", "sea", "colours/warm"} <= set(known)
    assert not [name for name in known if "loop" in name]


def test_a_wildcard_that_may_not_be_read_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(InvalidParams, match=r"wildcards/animal\.txt cannot be read: Permission denied"):
        Expander(folder).parse("__animal__")
