"""Recipes are read back, ours and others'; a third party's reader reads ours; hostile ones do no harm."""

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import ExifTags
from PIL import Image as PIL
from PIL.PngImagePlugin import PngInfo
from sd_parsers import ParserManager

from diffusion_local.compose import open_files
from diffusion_local.domain import Image, Kind, Params
from diffusion_local.errors import InvalidParams
from diffusion_local.gallery import recipes
from diffusion_local.options import a1111
from diffusion_local.options.types import Lora
from diffusion_local.settings import Settings
from tests.support import params

FACTS = {"lora_hashes": {"ink": "0123456789"}, "model_hash": "abcdef0123", "vae_hash": "fedcba9876", "rung": "resident"}
FULL = params(
    prompt="a (red:1.2) apple,\nin the rain",
    negative="blurry, ugly",
    model="some, model",
    kind=Kind.IMG2IMG,
    source="a" * 64,
    strength=0.55,
    loras=(Lora("ink", 0.8), Lora("style/wash", -1.5)),
    vae="bright",
    clip_skip=2,
    schedule="Karras",
    variation_seed=11,
    variation_strength=0.25,
)


def saved(settings: Settings, made: Params) -> Path:
    settings.make_folders()
    files = open_files(settings)
    image = Image("id", "id", "2026/01/02/id", made, 128, 128, 0, "2026-01-02T03:04:05.000Z", 1.5)
    files.save(image.key, PIL.new("RGB", (128, 128), "teal"), recipes.to_texts(image, FACTS))
    return files.picture(image.key).local_path


def test_our_picture_gives_every_setting_back(settings: Settings) -> None:
    found = recipes.read_picture(saved(settings, FULL).read_bytes())
    assert Params.from_dict(found.settings) == FULL
    assert found.facts == FACTS


def test_our_text_alone_gives_all_that_a1111_has_names_for() -> None:
    found = recipes.read_text(a1111.format_recipe(FULL, FACTS))
    expected = FULL.to_dict()
    for ours in ("kind", "source"):
        del expected[ours]
    assert found.settings == expected
    assert found.others["Model hash"] == "abcdef0123"
    assert found.others["Lora hashes"] == "ink: 0123456789"


def test_an_upscaled_picture_says_so() -> None:
    made = params(kind=Kind.UPSCALE, source="a" * 64, upscaler="Lanczos", scale=2.0, sampler="", steps=1, guidance=0.0)
    text = a1111.format_recipe(made)
    assert "Postprocess upscale by: 2, Postprocess upscaler: Lanczos" in text
    assert recipes.read_text(text).settings["kind"] == "upscale"


def test_a_third_partys_reader_reads_our_picture(settings: Settings) -> None:
    found = ParserManager().parse(saved(settings, replace(FULL, model="a model")))
    assert found is not None
    assert "a (red:1.2) apple" in found.full_prompt
    assert found.full_negative_prompt == "blurry, ugly"
    [sampler] = found.samplers
    assert (sampler.name, str(sampler.parameters["seed"]), str(sampler.parameters["steps"])) == ("DPM++ 2M", "7", "4")
    assert {model.name for model in found.models} >= {"a model"}


FOREIGN = """masterpiece, (castle:1.3) <lora:ink:0.6>
on a hill
Negative prompt: lowres, bad anatomy
Steps: 28, Sampler: DPM++ 2M Karras, CFG scale: 7.5, Seed: 3141592653, Size: 832x1216, Model hash: 31e35c80fc, \
Model: sd_xl_base_1.0, Denoising strength: 0.4, Clip skip: 2, Hires upscale: 2, Lora hashes: "ink: aa, b: cc", \
Version: v1.10.1"""


def test_a_foreign_text_becomes_settings() -> None:
    found = recipes.read_text(FOREIGN)
    assert found.settings == {
        "prompt": "masterpiece, (castle:1.3)\non a hill",
        "negative": "lowres, bad anatomy",
        "steps": 28,
        "guidance": 7.5,
        "seed": 3141592653,
        "hires_scale": 2.0,
        "hires_strength": 0.4,
        "clip_skip": 2,
        "width": 832,
        "height": 1216,
        "sampler": "DPM++ 2M",
        "schedule": "Karras",
        "model": "sd_xl_base_1.0",
        "loras": [{"name": "ink", "weight": 0.6}],
    }
    assert set(found.others) == {"Model hash", "Lora hashes", "Version"}


def test_a_sampler_without_a_like_here_is_kept_by_its_name() -> None:
    found = recipes.read_text("a cat\nSteps: 20, Sampler: DPM adaptive, Schedule type: Turbo, Seed: 7")
    assert (found.others["Sampler"], found.others["Schedule type"]) == ("DPM adaptive", "Turbo")
    assert "sampler" not in found.settings
    assert "Sampler" not in recipes.read_text(FOREIGN).others


def test_plain_text_is_a_prompt() -> None:
    assert recipes.read_text("a cat: black, with a hat").settings == {"prompt": "a cat: black, with a hat"}
    assert recipes.read_text("").settings == {"prompt": ""}


@pytest.mark.parametrize("form", ["JPEG", "WEBP"])
@pytest.mark.parametrize(
    "comment",
    [
        b"UNICODE\0" + FOREIGN.encode("utf-16-be"),
        b"UNICODE\0" + FOREIGN.encode("utf-16-le"),
        b"ASCII\0\0\0" + FOREIGN.encode(),
    ],
)
def test_the_comment_of_a_photograph_is_read(form: str, comment: bytes) -> None:
    exif = PIL.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[recipes.USER_COMMENT] = comment
    data = io.BytesIO()
    PIL.new("RGB", (16, 16)).save(data, form, exif=exif)
    assert recipes.read_picture(data.getvalue()).settings["seed"] == 3141592653


def png(texts: dict[str, str]) -> bytes:
    info = PngInfo()
    for name, text in texts.items():
        info.add_text(name, text)
    data = io.BytesIO()
    PIL.new("RGB", (16, 16)).save(data, "PNG", pnginfo=info)
    return data.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        "x\nSteps: 1e999, Sampler: \0, Seed: -5, Size: 99999999x1, CFG scale: nan, Clip skip: many",
        "x" * 500_000,
        "a\n" + "K: 1, " * 100_000,
        "a\nSteps: 20, " + 'K: "' + "\\" * 50_000,
        "<lora:" * 20_000,
        "a" + "<lora:b:1>" * 5_000,
        "(" * 100_000,
    ],
)
def test_a_hostile_text_gives_little_and_takes_no_time(text: str) -> None:
    found = recipes.read_text(text)
    assert len(found.settings["prompt"]) <= 10_000
    assert not {"seed", "guidance", "clip_skip", "width"} & set(found.settings)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "must be a picture (PNG, "),
        (b"plain text", "must be a picture (PNG, "),
        (b"\x89PNG\r\n\x1a\n rubbish", "must be a "),
        (png({}), "has no readable recipe"),
        (png({"diffusion-local": "[" * 50_000}), "has no readable recipe"),
        (png({"diffusion-local": '{"params": {"prompt": 3}}'}), "has no readable recipe"),
    ],
)
def test_what_carries_no_recipe_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(InvalidParams, match=re.escape(words)):
        recipes.read_picture(data)


@pytest.mark.parametrize(
    ("line", "pairs"),
    [
        ('Steps: 20, Model: "a, b: c", Seed: 7', [("Steps", "20"), ("Model", '"a, b: c"'), ("Seed", "7")]),
        ('Model: "not closed, Seed: 7', [("Model", '"not closed'), ("Seed", "7")]),
        (r'Model: "a \" quote", Seed: 7', [("Model", r'"a \" quote"'), ("Seed", "7")]),
        ("a word, Steps: 20,Seed:7,", [("Steps", "20"), ("Seed", "7")]),
        (f"Long: {'x' * 2001}, Seed: 7", [("Seed", "7")]),
        ("Empty: , (odd): 1, Seed: 7", [("Empty", ""), ("Seed", "7")]),
        ("no pairs", []),
    ],
)
def test_pairs_are_read_in_one_pass(line: str, pairs: list[tuple[str, str]]) -> None:
    assert recipes.parse_pairs(line) == pairs


def test_a_line_has_only_so_many_pairs() -> None:
    assert len(recipes.parse_pairs("a: b, " * 1000)) == recipes.MAX_PAIRS


def test_what_a_tag_or_a_number_has_beyond_ours_is_named() -> None:
    read = recipes.read_text("a cat <lora:ink:0.5:0.3>\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 1.5")
    assert read.settings["loras"] == [{"name": "ink", "weight": 0.5}]
    assert "seed" not in read.settings
    assert read.others == {"<lora:ink:0.5>": "0.3", "Seed": "1.5"}


@pytest.mark.parametrize("name", ["a:b", "x:0.5", '"half', 'te,st "1"', "a.safetensors", "a  b"])
def test_our_text_gives_the_name_of_any_lora_back(name: str) -> None:
    loras = (Lora(name, 1 / 3), Lora("ink", -1e-7))
    read = recipes.read_text(a1111.format_recipe(params(loras=loras)))
    assert read.settings["loras"] == [{"name": each.name, "weight": each.weight} for each in loras]
    assert read.settings["prompt"] == params().prompt
