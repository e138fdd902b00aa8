"""Lines to entries: flags, CSV and JSONL; every line is an entry, a bad line with its number, or says nothing."""

import contextlib
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_local.errors import InvalidParams
from diffusion_local.lists.entries import LIST_OPTIONS, OPTION_SPELLINGS, BadLine, Entry
from diffusion_local.lists.list_formats import LIST_PARSERS, format_of, parse


def one(line: str, form: str = "text") -> Entry | BadLine:
    [found] = parse(line.encode(), form)
    return found


def values(line: str, form: str = "text") -> dict[str, Any]:
    found = one(line, form)
    assert isinstance(found, Entry), found
    return dict(found.values)


def reason(line: str, form: str = "text") -> str:
    found = one(line, form)
    assert isinstance(found, BadLine), found
    return found.reason


# -- text ----------------------------------------------------------------------------------------------------------


def test_a_line_takes_every_flag() -> None:
    line = (
        'a castle --seed 7 --size 768x512 --steps 30 --model sdxl --neg "blurry" --count 2 --guidance 5 '
        '--sampler "Euler a" --expand no --kind txt2img'
    )
    assert values(line) == {
        "prompt": "a castle", "seed": "7", "width": 768, "height": 512, "steps": "30", "model": "sdxl",
        "negative": "blurry", "count": "2", "guidance": "5", "sampler": "Euler a", "expand": "no",
        "kind": "txt2img",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("line", "messages"),
    [
        ("a castle", {"prompt": "a castle"}),
        ("  a castle  ", {"prompt": "a castle"}),
        ("a (red:1.2) castle, 8k -- fine - yes", {"prompt": "a (red:1.2) castle, 8k -- fine - yes"}),
        ("a castle#2", {"prompt": "a castle#2"}),
        ("x --seed=7 --steps = 4", {"prompt": "x", "seed": "7", "steps": "4"}),
        ("x --neg blurry, ugly hands --seed 7", {"prompt": "x", "negative": "blurry, ugly hands", "seed": "7"}),
        ("x --neg 'a \"b\" --seed 7' --seed 8", {"prompt": "x", "negative": 'a "b" --seed 7', "seed": "8"}),
        (r'x --neg "a \"b\" \\ c"', {"prompt": "x", "negative": 'a "b" \\ c'}),
        ('x --neg "" --seed 7', {"prompt": "x", "seed": "7"}),
        ("x --neg --seed 7", {"prompt": "x", "seed": "7"}),
        ('"a --castle" --seed 7', {"prompt": "a --castle", "seed": "7"}),
        ('"hello" says the sign', {"prompt": '"hello" says the sign'}),
        ('--prompt "a castle" --negative_prompt "x" --width 512 --height 768 --cfg_scale 7 --sampler_name "Euler a"',
         {"prompt": "a castle", "negative": "x", "width": "512", "height": "768", "guidance": "7",
          "sampler": "Euler a"}),
        ("--seed 7", {"seed": "7"}),
        ("a —old— cup —seed 7 –negative-prompt fog", {"prompt": "a —old— cup", "seed": "7", "negative": "fog"}),
        ('--prompt "a" --sd_model m --subseed 5 --subseed_strength 0.2 --batch_size 2',
         {"prompt": "a", "model": "m", "variation_seed": "5", "variation_strength": "0.2", "count": "2"}),
        ('"prompt: a sign"', {"prompt": "prompt: a sign"}),
        ("prompter: a man in a box", {"prompt": "prompter: a man in a box"}),
        ("x --size 768×512", {"prompt": "x", "width": 768, "height": 512}),
    ],
)  # fmt: skip
def test_what_a_line_says(line: str, messages: dict[str, Any]) -> None:
    assert values(line) == messages


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("prompt: a castle", "line: begins with 'prompt:', as in YAML"),
        ("- prompt: a castle", "line: begins with '- prompt:', as in YAML"),
        ("prompts:", "line: begins with 'prompts:'"),
        ("Negative prompt: fog", "line: begins with 'Negative prompt:'"),
        ("Steps: 20, Sampler: Euler a, Seed: 7", "line: begins with 'Steps:'"),
        ("x --stepz 3", "--stepz: is not a flag. Known: --prompt, --negative"),
        ("x --seed", "--seed: needs a value"),
        ("x --seed --steps 3", "--seed: needs a value"),
        ("x --seed 1 --seed 2", "--seed: is given twice"),
        ("x --neg a --negative b", "--negative: is given twice"),
        ('x --neg "a', "--neg: has an unclosed quotation mark"),
        ('x --neg "a"b', "--neg: has an unclosed quotation mark"),
        ('x --neg "a" b --seed 7', "--neg: is followed by text that belongs to no flag"),
        ("x --size huge", "size: must be WIDTHxHEIGHT"),
        ("x --size 512", "size: must be WIDTHxHEIGHT"),
        (f"x --size {'9' * 5000}x1", "size: must be WIDTHxHEIGHT"),
        ("x --size 512x512 --width 512", "size: must be left out"),
        ("x --expand maybe", "expand: must be one of random, all, no"),
        ("x --kind video", "kind: must be one of txt2img"),
        ("x" * 10_001, "has 10,001 characters; at most 10,000"),
    ],
)
def test_a_bad_line_says_why(line: str, words: str) -> None:
    assert words in reason(line)


def test_an_array_of_arrays_is_no_prompt() -> None:
    assert "must be a JSON object" in next(iter(parse(b'[["a", "b"], ["c"]]', "text"))).reason  # type: ignore[union-attr]
    assert values("[[dog]] and [[[cat]]]") == {"prompt": "[[dog]] and [[[cat]]]"}


def test_comments_and_blank_lines_say_nothing_and_are_counted() -> None:
    found = list(parse(b"# night\n\n  \na\n  # b\nc --x 1\n", "text"))
    assert [(type(each), each.line) for each in found] == [(Entry, 4), (BadLine, 6)]


# -- CSV and JSONL -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_reads_rows_by_their_header(delimiter: str) -> None:
    data = '\nPrompt,Seed,Negative Prompt,cfg_scale\n"a, b; c\td",7,,5\n\nsecond,,ugly\n'.replace(",", delimiter)
    data = data.replace(f"a{delimiter} b", "a, b")
    [first, second] = parse(data.encode(), "csv")
    assert isinstance(first, Entry)
    assert first.line == 3
    assert first.values["seed"] == "7"
    assert first.values["guidance"] == "5"
    assert "negative" not in first.values
    assert second == Entry(5, {"prompt": "second", "negative": "ugly"})


def test_csv_reports_unknown_columns_by_name_and_reads_the_rest() -> None:
    [bad, entry] = parse(b"prompt,mood,stepz\nx,dark,3\n", "csv")
    assert isinstance(bad, BadLine)
    assert (bad.line, bad.reason.split(". Known")[0]) == (1, "unknown columns: mood, stepz")
    assert entry == Entry(2, {"prompt": "x"})


def test_csv_counts_lines_over_cells_with_line_ends_and_goes_on_after_bad_rows() -> None:
    data = 'prompt,seed\n"a\nb",1\nc,2,3\n"d"e,4\n' + "x" * 60_000 + "\nf,5\n"
    found = list(parse(data.encode(), "csv"))
    assert [(type(each), each.line) for each in found] == [
        (Entry, 2), (BadLine, 4), (BadLine, 5), (BadLine, 6), (Entry, 7),
    ]  # fmt: skip
    assert [each.reason.split(";")[0].split(":")[0] for each in found if isinstance(each, BadLine)] == [
        "has 3 cells", "is not CSV up to line 5", "has 60,000 characters",
    ]  # fmt: skip


def test_a_row_that_holds_a_line_too_long_is_left_out() -> None:
    data = 'prompt,seed\n"a\n' + "x" * 60_000 + '\nb",1\nc,2\n'
    found = list(parse(data.encode(), "csv"))
    assert [(type(each), each.line) for each in found] == [(BadLine, 3), (Entry, 5)]


def test_csv_tells_of_a_quotation_mark_that_swallows_the_rest() -> None:
    found = list(parse(b'prompt\na\n"b\nc\nd\n', "csv"))
    assert isinstance(found[1], BadLine)
    assert (found[1].line, found[1].reason) == (3, "is not CSV up to line 5: unexpected end of data.")


@pytest.mark.parametrize(
    ("data", "words"),
    [("a castle\nb\n", "a column named prompt"), ("prompt,seed,Seed\n", "seed occurs twice")],
)
def test_a_csv_without_a_usable_header_is_refused(data: str, words: str) -> None:
    with pytest.raises(InvalidParams, match=words):
        list(parse(data.encode(), "csv"))


def test_jsonl_reads_objects_and_strings() -> None:
    data = '{"prompt": "a", "seed": 7, "size": "512x768", "cfg": 5.5, "negative": null}\n\n# c\n// d\n"just this"\n'
    assert list(parse(data.encode(), "jsonl")) == [
        Entry(1, {"prompt": "a", "seed": 7, "guidance": 5.5, "width": 512, "height": 768}),
        Entry(5, {"prompt": "just this"}),
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "is not JSON"),
        ("a castle", "is not JSON"),
        ("[1]", "must be a JSON object"),
        ("7", "must be a JSON object"),
        ('{"prompt": "x", "mood": 1}', "unknown fields: mood. Known: prompt"),
        ('{"prompt": "x", "cfg": 1, "guidance": 2}', "has the same field twice"),
        ('{"seed": ' + "9" * 6000 + "}", "is not JSON"),
        ("[" * 40_000, "is not JSON"),
    ],
)
def test_a_bad_line_of_jsonl_says_why(line: str, words: str) -> None:
    assert words in reason(line, "jsonl")


def test_results_of_an_export_say_nothing() -> None:
    assert values('{"prompt": "x", "state": "done", "file": "a.png", "error": "", "job_id": "1"}', "jsonl") == {
        "prompt": "x"
    }


# -- all -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "form"),
    [("a.txt", "text"), ("a", "text"), ("a.CSV", "csv"), ("a.tsv", "csv"), ("a.jsonl", "jsonl"), ("a.ndjson", "jsonl")],
)
def test_a_name_tells_the_format(name: str, form: str) -> None:
    assert format_of(name) == form


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(InvalidParams, match="format: must be one of text, csv, jsonl"):
        parse(b"", "xml")


def test_the_names_from_other_tools_mean_fields() -> None:
    assert set(OPTION_SPELLINGS.values()) <= set(LIST_OPTIONS)
    assert not set(OPTION_SPELLINGS) & set(LIST_OPTIONS)


PIECES = st.sampled_from(
    [
        "--seed",
        " --size 8x8",
        '"',
        "'",
        "\\",
        "--",
        "=",
        " ",
        "7",
        "a castle",
        "{a|b}",
        "__x__",
        "#",
        "--neg ",
        "\t",
        ",",
    ]
)
#: Any text: as hypothesis has it by itself, which takes a second to find out which characters UTF-8 has.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
LINES = st.lists(st.lists(PIECES | TEXTS, max_size=8).map("".join), max_size=12)


@given(LINES)
@settings(max_examples=200, deadline=None)
def test_every_line_of_any_text_is_an_entry_or_a_bad_line_with_its_number(lines: list[str]) -> None:
    written = [line.replace("\r", "").replace("\n", "").encode(errors="ignore").decode() for line in lines]
    try:
        found = list(parse("\n".join(written).encode(), "text"))
    except InvalidParams:  # control characters make it binary
        return
    says = [place for place, line in enumerate(written, 1) if line.strip() and not line.strip().startswith("#")]
    if written and written[0].startswith("\ufeff"):
        return
    assert [each.line for each in found] == says
    assert all(each.reason for each in found if isinstance(each, BadLine))


@given(st.binary(max_size=300), st.sampled_from(sorted(LIST_PARSERS)))
@settings(max_examples=300, deadline=None)
def test_no_bytes_break_a_parser(data: bytes, form: str) -> None:
    with contextlib.suppress(InvalidParams):
        numbers = [each.line for each in parse(data, form)]
        assert numbers == sorted(numbers)


@given(st.lists(st.lists(PIECES | st.text('ab\n\r;"', max_size=4), max_size=5).map("".join), max_size=9))
@settings(max_examples=150, deadline=None)
def test_no_table_breaks_the_csv_parser(rows: list[str]) -> None:
    for each in parse(("prompt,seed\n" + "\n".join(rows)).encode(), "csv"):
        assert each.line > 1


@pytest.mark.parametrize(
    ("form", "data"),
    [
        ("text", '# off\n\n   \n"# a sign" --seed 1\na boat --seed 2\n'),
        ("csv", '# off\nprompt,seed\n# off,9\n\n   \n"# a sign",1\n  # off\na boat,2\n'),
        ("csv", 'sep=;\nprompt;seed\n# off;9\n"# a sign";1\na boat;2\n'),
        ("csv", '"sep=|"\nprompt|seed\n"# a sign"|1\na boat|2\n'),
        ("csv", 'prompt\tseed\n#off\t9\n"# a sign"\t1\na boat\t2\n'),
        ("jsonl", '# off\n\n{"prompt": "# a sign", "seed": "1"}\n// off\n{"prompt": "a boat", "seed": "2"}\n'),
        ("json", '[\n# off\n\n{"prompt": "# a sign", "seed": "1"},\n// off\n{"prompt": "a boat", "seed": "2"}\n]'),
        ("text", '[{"prompt": "# a sign", "seed": "1"}, {"prompt": "a boat", "seed": "2"}]'),
        ("jsonl", '[\n{"prompt": "# a sign", "seed": "1"}, {"prompt": "a boat", "seed": "2"}\n]'),
        ("text", '{"prompt": "# a sign", "seed": "1"}\n{"prompt": "a boat", "seed": "2"}\n'),
    ],
)
def test_comments_and_quotes_mean_the_same_in_every_format(form: str, data: str) -> None:
    entries = list(parse(data.encode(), form))
    assert [dict(each.values) for each in entries if isinstance(each, Entry)] == [
        {"prompt": "# a sign", "seed": "1"},
        {"prompt": "a boat", "seed": "2"},
    ]
    assert len(entries) == 2


def test_a_cell_with_line_ends_may_hold_lines_that_look_like_comments() -> None:
    [found] = parse(b'prompt\n"a boat\n# not off\n"\n', "csv")
    assert isinstance(found, Entry)
    assert found.values["prompt"] == "a boat\n# not off\n"


def test_an_array_counts_lines_and_names_bad_items() -> None:
    found = list(parse(b'[\n  "a",\n  {"prompt": "b", "seed": 1}, 7,\n  {"promt": "c"}\n]\n', "json"))
    assert [each.line for each in found] == [2, 3, 3, 4]
    assert [type(each) for each in found] == [Entry, Entry, BadLine, BadLine]


@pytest.mark.parametrize(
    "data",
    [
        "# mine\nprompt,seed\na cup,1\n",
        "prompt;seed;guidance\na cup;1;\n",
        "sep=;\nseed;prompt\n1;a cup\n",
        '{"prompt": "a cup", "negative": "' + "x" * 300 + '", "seed": 1}\n{"prompt": "b", "seed": 2}\n',
    ],
)
def test_a_table_or_json_that_is_mistaken_for_text_is_read_as_such(data: str) -> None:
    [first, *_] = parse(data.encode(), "text")
    assert isinstance(first, Entry)
    assert (first.values["prompt"], int(first.values["seed"])) == ("a cup", 1)


@pytest.mark.parametrize("text", ["a prompt, a seed", "prompt", "prompt, a model, size", "a seed; a prompt"])
def test_a_prompt_of_words_that_name_columns_is_a_prompt(text: str) -> None:
    assert values(text) == {"prompt": text}


@pytest.mark.parametrize("text", ["[a:b:0.5] car", "[red|blue] car", '["cat"] on a mat', "{red|blue} car", "[cat]"])
def test_a_prompt_that_begins_with_a_bracket_is_a_prompt(text: str) -> None:
    assert values(text) == {"prompt": text}


@pytest.mark.parametrize(
    ("form", "data", "words"),
    [
        ("text", '[\n  "a",', "is invalid JSON from line 2"),
        ("text", '{\n "prompts": ["a"]\n}', "is not a list of prompts"),
        ("text", "<!DOCTYPE html>\n<p>a</p>", "is not a list of prompts"),
        ("json", '{"prompt": "a"}', "must be a JSON array"),
        ("json", '["a" "b"]', "expected a comma or ]"),
        ("json", '["a"] b', "must end with the closing ]"),
        ("json", "[" * 100_000, "is invalid JSON"),
    ],
)
def test_what_is_no_list_is_refused(form: str, data: str, words: str) -> None:
    with pytest.raises(InvalidParams, match=re.escape(words)):
        list(parse(data.encode(), form))


@pytest.mark.parametrize(
    ("data", "prompts"),
    [
        ("prompt,seed,\na,1,\nb,2", [("a", "1"), ("b", "2")]),
        ("prompt;seed;;;\na;1;;;\nb;2; ;", [("a", "1"), ("b", "2")]),
        (",prompt,seed\n,a,1", [("a", "1")]),
        ("prompt,seed\na,1, , ,", [("a", "1")]),
    ],
)
def test_columns_without_a_name_and_content_are_no_columns(data: str, prompts: list[tuple[str, str]]) -> None:
    found = list(parse(data.encode(), "csv"))
    assert [(each.values["prompt"], each.values["seed"]) for each in found if isinstance(each, Entry)] == prompts
    assert len(found) == len(prompts)


def test_text_in_a_column_without_a_name_is_told() -> None:
    bad, good = parse(b"prompt,,seed\na,x,1\nb,,2", "csv")
    assert isinstance(bad, BadLine)
    assert (bad.line, bad.reason) == (2, "has 'x' in a column without a name.")
    assert isinstance(good, Entry)


@pytest.mark.parametrize("head", ["id,prompt", "prompt\ttitle\tseed", "no.;prompt", "prompt,Style"])
def test_a_table_with_other_columns_is_one_in_a_text_too(head: str) -> None:
    delimiter = next(sign for sign in "\t;," if sign in head)
    row = delimiter.join("a" if name == "prompt" else "1" for name in head.split(delimiter))
    for text in (f"{head}\n{row}\n", f"\n{head}\r\n{row}"):
        bad, good = parse(text.encode(), "text")
        assert isinstance(bad, BadLine)
        assert "unknown columns" in bad.reason
        assert isinstance(good, Entry)
        assert good.values["prompt"] == "a"


@pytest.mark.parametrize("form", ["jsonl", "json"])
def test_an_object_that_has_a_name_twice_is_told(form: str) -> None:
    line = '{"prompt": "a", "seed": 1, "prompt": "b"}'
    assert "has the same field twice" in reason(f"[{line}]" if form == "json" else line, form)


def test_objects_of_an_array_without_its_brackets_are_read() -> None:
    found = list(parse(b'{"prompt": "a"},\n"b",\n{"prompt": "c,"}\n', "jsonl"))
    assert [each.values["prompt"] for each in found if isinstance(each, Entry)] == ["a", "b", "c,"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"prompt": "a", "seed": ' + "9" * 5000 + "}", "is not JSON: a number has too many digits"),
        ('{"prompt": ' + "[" * 40_000, "is not JSON: nested too deep"),
    ],
)
def test_json_beyond_the_readers_limits_is_told_in_plain_words(line: str, words: str) -> None:
    assert words in reason(line, "jsonl")
    with pytest.raises(InvalidParams, match=words.replace("not JSON", "invalid JSON from line 1")):
        list(parse(f"[{line}]".encode(), "json"))


@pytest.mark.parametrize("size", ["64x96", "64X96", "64×96", "64*96", " 64 x 96 ", "64 × 96"])
def test_a_size_is_read_however_it_is_written(size: str) -> None:
    for text, form in (
        (f"a --size {size}", "text"),
        (f"prompt,size\na,{size}", "csv"),
        (f'{{"prompt": "a", "size": "{size}"}}', "jsonl"),
    ):
        assert values(text, form) == {"prompt": "a", "width": 64, "height": 96}


@pytest.mark.parametrize(
    ("line", "prompt"),
    [
        ('"a ""b"" c"', 'a "b" c'),
        (r'"a \"b\" c"', 'a "b" c'),
        ("'it''s'", "it's"),
        ('""', None),
        ('"a" "b"', '"a" "b"'),
        ('"a ""b"" c" --seed 3', 'a "b" c'),
    ],
)
def test_a_quotation_mark_in_a_quoted_prompt_is_doubled_as_in_csv_or_escaped(line: str, prompt: str | None) -> None:
    assert values(line).get("prompt") == prompt
