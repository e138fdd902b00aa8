"""The recipe in a picture: the text that other tools read, and our own JSON."""

import json

import pytest
from PIL import Image as PIL

from diffusion_local.domain import Params
from diffusion_local.gallery import recipes
from diffusion_local.options import a1111
from diffusion_local.options.values import MAX_PROMPT_CHARS
from diffusion_local.queue.jobs import JobStore
from tests.support import enqueue, image_of, params


def test_the_text_has_the_form_of_a1111() -> None:
    lines = a1111.format_recipe(params(negative="blurry", guidance=5.0)).splitlines()
    assert lines[:2] == ["a red apple", "Negative prompt: blurry"]
    assert lines[2].startswith("Steps: 4, Sampler: DPM++ 2M, CFG scale: 5, Seed: 7, Size: 128x128, Model: starter, Ver")


def test_no_negative_no_line() -> None:
    assert len(a1111.format_recipe(params()).splitlines()) == 2


def test_a_name_with_a_comma_is_quoted() -> None:
    assert 'Model: "a, b"' in a1111.format_recipe(params(model="a, b"))


def test_our_json_gives_the_params_back(store: JobStore) -> None:
    [job_id] = enqueue(store, prompt="two\nlines, 🍎")
    job = store.get(job_id)
    texts = recipes.to_texts(image_of(job), {"engine": "fake"})
    picture = PIL.new("RGB", (8, 8))
    picture.info.update(texts)
    found = recipes.read_json(picture)
    assert found is not None
    assert Params.from_json(json.dumps(found["params"])) == job.params
    assert (found["job_id"], found["facts"]) == (job_id, {"engine": "fake"})


def test_a_picture_without_a_recipe_has_none() -> None:
    picture = PIL.new("RGB", (8, 8))
    for text in (None, "no json", "{}", '{"params": {"prompt": "x"}}', '{"params": 3}', "3"):
        if text is not None:
            picture.info[recipes.JSON_KEY] = text
        assert recipes.read_json(picture) is None


PAIRS = "Steps: 20, Sampler: Euler, CFG scale: 7, Seed: 5, Size: 512x768"
READ = {"steps": 20, "sampler": "Euler", "guidance": 7.0, "seed": 5, "width": 512, "height": 768}


def test_lines_below_the_pairs_are_named_and_no_part_of_the_prompts() -> None:
    text = f"a cat\nNegative prompt: ugly\n{PAIRS}\nTemplate: a {{cat|dog}}\nNegative Template: ugly\nby hand"
    assert recipes.is_a1111(text)
    found = recipes.read_text(text)
    assert found.settings == READ | {"prompt": "a cat", "negative": "ugly"}
    assert found.others == {"Template": "a {cat|dog}", "Negative Template": "ugly", "further text": "by hand"}


def test_words_and_colons_above_the_pairs_belong_to_the_prompt() -> None:
    found = recipes.read_text(f"note: a, b: c, d: e\nx: 1, y: 2, z: 3\n{PAIRS}")
    assert found.settings == READ | {"prompt": "note: a, b: c, d: e\nx: 1, y: 2, z: 3"}


@pytest.mark.parametrize(
    ("text", "prompt", "negative"),
    [
        ("a Negative prompt: sign\nNegative prompt: ugly\nbad", "a Negative prompt: sign", "ugly\nbad"),
        ("a cat Negative prompt: ugly", "a cat", "ugly"),
        ("Negative prompt: ugly", "", "ugly"),
        ("a cat\nNegative prompt:", "a cat", None),
    ],
)
def test_the_negative_prompt_begins_on_a_line_of_its_own(text: str, prompt: str, negative: str | None) -> None:
    found = recipes.read_text(f"{text}\n{PAIRS}")
    assert (found.settings["prompt"], found.settings.get("negative")) == (prompt, negative)


@pytest.mark.parametrize("size", ["0x0", "99999x99999", "512x0"])
def test_a_size_that_no_picture_has_is_named(size: str) -> None:
    found = recipes.read_text(f"a cat\nSteps: 20, Sampler: Euler, Size: {size}")
    assert not {"width", "height"} & found.settings.keys()
    assert found.others == {"Size": size}


def test_a_prompt_that_is_cut_is_told() -> None:
    found = recipes.read_text("a" * MAX_PROMPT_CHARS + "the end\nNegative prompt: " + "b" * 10_001 + f"\n{PAIRS}")
    assert len(found.settings["prompt"]) == len(found.settings["negative"]) == MAX_PROMPT_CHARS
    assert found.others == {"prompt": "… the end …", "negative": "… b …"}


@pytest.mark.parametrize(
    "comment",
    [
        b"UNICODE\0" + "TEXT".encode("utf-16-be"), b"UNICODE\0" + "TEXT".encode("utf-16-le"),
        b"UNICODE\0\xff\xfe" + "TEXT".encode("utf-16-le"), b"UNICODE\0\xfe\xff" + "TEXT".encode("utf-16-be"),
        b"UNICODE\0TEXT", b"UNICODE\0" + "TEXT".encode("utf-16-be") + b"x", b"ASCII\0\0\0TEXT",
        b"JIS\0\0\0\0\0TEXT", b"\0" * 8 + b"TEXT", b"TEXT", b"\xef\xbb\xbfTEXT", b"ASCII\0\0\0TEXT\0\0",
    ],
)  # fmt: skip
@pytest.mark.parametrize("prompt", ["a cat", "一只猫", "ein Kätzchen"])
def test_a_comment_is_read_in_whatever_encoding_it_names(comment: bytes, prompt: str) -> None:
    text = f"{prompt}\n{PAIRS}"
    head, kind, tail = b"", "utf-8", b""
    for each in ("utf-16-le", "utf-16-be", "utf-8"):
        if "TEXT".encode(each) in comment:
            head, _, tail = comment.partition("TEXT".encode(each))
            kind = each
            break
    assert recipes.decode_comment(head + text.encode(kind) + tail) == text


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be"])
def test_the_byte_order_of_a_long_chinese_comment_is_found(codec: str) -> None:
    text = "一座一层的红房子，" * 200 + f"\n{PAIRS}"
    assert recipes.decode_comment(b"UNICODE\0" + text.encode(codec)) == text


def test_pairs_whose_line_breaks_were_lost_lose_neither_prompt_nor_steps() -> None:
    found = recipes.read_text(f"a cat, red Negative prompt: ugly, bad {PAIRS}")
    assert found.settings == READ | {"prompt": "a cat, red", "negative": "ugly, bad"}


def test_a_japanese_comment_is_read() -> None:
    comment = b"JIS\0\0\0\0\0" + f"猫\n{PAIRS}".encode("iso2022_jp")
    assert recipes.decode_comment(comment) == f"猫\n{PAIRS}"
