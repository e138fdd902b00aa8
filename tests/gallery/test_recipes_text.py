"""The recipe in a picture: the text that other tools read, and our own JSON."""

import json

import pytest
from PIL import Image as PIL

from diffusion_local.domain import Params
from diffusion_local.gallery import recipes
from diffusion_local.options import a1111
from diffusion_local.options.types import Detail
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


#: The text of Forge with ADetailer, a second pass and ControlNet.
FORGE = """a woman in a park, <lora:film:0.6>
Negative prompt: blurry
Steps: 25, Sampler: Euler a, Schedule type: Automatic, CFG scale: 7, Seed: 5, Size: 512x768, Model hash: bdb59bac77, \
Model: wai, Denoising strength: 0.37, ADetailer model: face_yolov8n.pt, ADetailer prompt: "a smile, [SEP] eyes", \
ADetailer confidence: 0.3, ADetailer dilate erode: 4, ADetailer mask only top k: 2, ADetailer denoising strength: 0.4, \
ADetailer inpaint padding: 96, ADetailer use separate steps: True, ADetailer steps: 28, \
ADetailer model 2nd: yolov8x-worldv2.pt, ADetailer model classes 2nd: "dog, cat", ADetailer confidence 2nd: 0.5, \
ADetailer model 3rd: hand_yolov8n.pt, ADetailer confidence 3rd: 7, ADetailer version: 24.5.1, \
ControlNet 0: "Module: canny, Model: control_v11p_sd15_canny [d14c016b], Weight: 1.0, Resize Mode: Crop and Resize, \
Processor Res: 512, Threshold A: 100.0, Guidance Start: 0.0, Guidance End: 1.0, Pixel Perfect: True", \
RP Active: True, RP Divide mode: Matrix, RP Ratios: "1,1", Hires upscale: 1.5, Hires upscaler: Latent, \
Version: f2.0.1v1.10.1""".replace("\\\n", "")


def test_the_details_of_adetailer_are_read_and_what_has_no_option_is_named() -> None:
    found = recipes.read_text(FORGE)
    face = {"target": "face", "prompt": "a smile, eyes", "limit": 2, "padding": 96, "steps": 28}
    assert found.settings["details"] == [Detail(**face).to_dict(), Detail("dog", confidence=0.5).to_dict()]
    assert (found.settings["hires_scale"], found.settings["hires_strength"]) == (1.5, 0.37)
    assert {"ADetailer dilate erode", "ADetailer model 3rd", "ADetailer confidence 3rd", "ControlNet 0"} <= set(
        found.others
    )
    assert {"RP Active", "RP Divide mode", "RP Ratios", "ADetailer version"} <= set(found.others)
    assert not {"ADetailer model", "ADetailer steps", "ADetailer model classes 2nd"} & set(found.others)


def test_details_are_written_as_adetailer_does_and_read_back() -> None:
    details = (
        Detail("face", "a smile, wide", 0.3, 9, 0.25, 0, 2),
        Detail("hand"),
        Detail("a red, round hat", limit=16),
        Detail("person", strength=1),
    )
    text = a1111.format_recipe(params(details=details))
    assert "ADetailer model: face_yolov8n.pt" in text
    assert "ADetailer model 3rd: yolov8x-worldv2.pt" in text
    found = recipes.read_text(text)
    assert found.settings["details"][:2] == [each.to_dict() for each in details[:2]]
    assert found.settings["details"][3] == details[3].to_dict()
    assert not [name for name in found.others if name.startswith("ADetailer")]


@pytest.mark.parametrize("model", ["None", "deepfashion2_yolov8s-seg.pt", ""])
def test_a_detailer_whose_target_is_not_known_stays_among_the_rest(model: str) -> None:
    text = f"a\nSteps: 4, Seed: 1, Size: 64x64, ADetailer model: {model}, ADetailer confidence: 0.3"
    found = recipes.read_text(text)
    assert "details" not in found.settings
    assert "ADetailer confidence" in found.others
