"""Params of every kind of work: completed from what is given, or refused with field and limit."""

import io
import json
import math
import pickle
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PIL

from diffusion_local import families
from diffusion_local.compose import Services
from diffusion_local.domain import Kind, Params
from diffusion_local.errors import InvalidParams, NotFound
from diffusion_local.messages import verbatim
from diffusion_local.models.catalog import Catalog
from diffusion_local.options import validate
from diffusion_local.options.limits import Limits, nearest_size
from diffusion_local.options.types import RUNGS, Lora
from diffusion_local.options.validate import extract_lora_tags, seed_series
from diffusion_local.options.values import MAX_SEED
from diffusion_local.paths import assets

SOURCE, MASK, NONE, TALL = "a" * 64, "b" * 64, "c" * 64, "d" * 64


def size_of(source_id: str) -> tuple[int, int]:
    if source_id == NONE:
        raise NotFound(verbatim("none"))
    return (64, 128) if source_id == TALL else (640, 480)


@pytest.fixture
def catalog() -> Catalog:
    return Catalog(assets() / "starter", Path("no-such-folder"), size_of)


def complete(catalog: Catalog, prompt: str = "a boat", **settings: Any) -> Params:
    model = catalog.default
    value = validate.check_names({"seed": 1} | settings)
    return validate.complete(model.id, model.defaults, model.limits, prompt, value, size_of)


def test_the_pictures_given_speak_of_the_kind(catalog: Catalog) -> None:
    assert complete(catalog).kind is Kind.TXT2IMG
    assert complete(catalog, source=SOURCE).kind is Kind.IMG2IMG
    assert complete(catalog, source=SOURCE, mask=MASK).kind is Kind.INPAINT
    assert complete(catalog, source=SOURCE, kind="Upscale").kind is Kind.UPSCALE


def test_strength_and_size_come_from_kind_and_source(catalog: Catalog) -> None:
    made = complete(catalog, source=SOURCE)
    assert (made.strength, made.width, made.height) == (0.6, 512, 384)
    assert complete(catalog, source=SOURCE, mask=MASK).strength == 1.0
    assert complete(catalog, source=SOURCE, width=256, height=256).width == 256


@pytest.mark.parametrize(
    ("size", "fitted"),
    [((256, 256), (256, 256)), ((1000, 500), (512, 256)), ((30, 60), (128, 256)), ((5000, 10), (512, 128))],
)
def test_a_source_is_fitted_to_the_model(size: tuple[int, int], fitted: tuple[int, int]) -> None:
    limits = Limits(min_size=128, max_size=512, max_pixels=512 * 512)
    assert nearest_size(*size, limits) == fitted


def test_a_fitted_size_never_has_too_many_pixels() -> None:
    limits = Limits(min_size=64, max_size=2048, max_pixels=600 * 600, multiple=16)
    for width in range(64, 3000, 97):
        for height in range(64, 3000, 131):
            got = nearest_size(width, height, limits)
            assert got[0] * got[1] <= limits.max_pixels
            assert all(64 <= side <= 2048 and side % 16 == 0 for side in got)


def test_upscaling_needs_no_prompt_and_gives_the_larger_size(catalog: Catalog) -> None:
    made = complete(catalog, "", kind="upscale", source=SOURCE, upscaler="lanczos", steps=30, sampler="Euler")
    assert (made.width, made.height, made.scale, made.upscaler, made.steps) == (1280, 960, 2.0, "Lanczos", 1)


@pytest.mark.parametrize(
    ("settings", "field", "words"),
    [
        ({"kind": "video"}, "kind", "txt2img, img2img, inpaint, upscale"),
        ({"kind": "img2img"}, "source", "is required for img2img"),
        ({"kind": "inpaint", "source": SOURCE}, "mask", "is required for inpaint"),
        ({"kind": "txt2img", "source": SOURCE}, "source", "left out for kind txt2img"),
        ({"strength": 0.5}, "strength", "left out"),
        ({"source": SOURCE, "strength": 1.5}, "strength", "from 0 to 1"),
        ({"source": "../../etc/passwd"}, "source", "64 hexadecimal digits"),
        ({"source": NONE}, "source", "an unknown source picture"),
        ({"source": SOURCE, "mask": NONE}, "mask", "an unknown source picture"),
        ({"kind": "upscale", "source": SOURCE, "scale": 9}, "scale", "from 1 to 8"),
        ({"loras": 3}, "loras", "must be a list"),
        ({"loras": [{"weight": 1}]}, "loras", "a name and a weight"),
        ({"loras": ["../up"]}, "loras", "name of a file"),
        ({"loras": ["a:5"]}, "loras", "from -4 to 4"),
        ({"loras": ["a:1", "a:2"]}, "loras", "each LoRA once"),
        ({"loras": [f"l{place}" for place in range(9)]}, "loras", "at most 8"),
        ({"vae": "/etc/passwd"}, "vae", "name of a file"),
        ({"clip_skip": 13}, "clip_skip", "from 0 to 12"),
        ({"schedule": "Weekly"}, "schedule", "Karras"),
        ({"variation_strength": 2}, "variation_strength", "from 0 to 1"),
        ({"variation_strength": 0.5, "variation_seed": -2}, "variation_seed", "from 0 to"),
        ({"rung": "ladder"}, "rung", ", ".join(RUNGS)),
    ],
)
def test_what_is_out_of_its_limits_is_named(catalog: Catalog, settings: dict, field: str, words: str) -> None:
    with pytest.raises(InvalidParams) as refused:
        complete(catalog, **settings)
    assert refused.value.field == field
    assert words in refused.value.problem


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"source": SOURCE, "width": 256, "height": 256, "hires_scale": 1.5},
        {"source": SOURCE, "mask": MASK, "mask_blur": 4, "inpaint_area": "Only masked"},
        {"source": SOURCE, "outpaint": "left:64", "controls": [{"image": SOURCE, "type": "canny"}]},
        {"source": SOURCE, "kind": "upscale"},
    ],
)
def test_all_fields_of_a_picture_make_it_again(catalog: Catalog, settings: dict[str, Any]) -> None:
    made = complete(catalog, **settings)
    options = {name: value for name, value in asdict(made).items() if name != "prompt"}
    assert complete(catalog, made.prompt, **options) == made
    if made.kind is not Kind.UPSCALE:  # which sets steps and guidance itself
        assert validate.ignored_warnings(made, options) == []


@pytest.mark.parametrize(
    "settings",
    [{"outpaint": "left:0"}, {"outpaint": "all:0"}, {"outpaint": "640x480"}, {"outpaint": {"left": 0}}],
)
def test_an_outpaint_that_adds_nothing_needs_a_mask(catalog: Catalog, settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidParams) as refused:
        complete(catalog, source=SOURCE, **settings)
    assert refused.value.field == "outpaint"
    assert complete(catalog, source=SOURCE, mask=MASK, **settings).mask == MASK


def test_a_fault_that_two_rules_meet_is_named_once(catalog: Catalog) -> None:
    for settings in ({"source": SOURCE, "outpaint": "left:-5"}, {"hires_scale": math.nan}):
        with pytest.raises(InvalidParams) as refused:
            complete(catalog, **settings)
        assert refused.value.also == ()


@pytest.mark.parametrize(
    "given",
    ["ink:0.8, style/wash:-1", ["ink:0.8", {"name": "style/wash", "weight": -1}], (Lora("ink", 0.8), "style/wash:-1")],
)
def test_loras_are_written_in_several_ways(catalog: Catalog, given: object) -> None:
    assert complete(catalog, loras=given).loras == (Lora("ink", 0.8), Lora("style/wash", -1.0))


def test_a_variation_without_a_seed_draws_one(catalog: Catalog) -> None:
    assert complete(catalog, variation_strength=0.2).variation_seed is not None
    assert complete(catalog, variation_seed=5).variation_seed is None


def test_seeds_count_up_and_of_a_variation_only_its_own(catalog: Catalog) -> None:
    assert [each.seed for each in seed_series(complete(catalog), 3)] == [1, 2, 3]
    varied = seed_series(complete(catalog, variation_strength=0.2, variation_seed=7), 2)
    assert [(each.seed, each.variation_seed) for each in varied] == [(1, 7), (1, 8)]
    with pytest.raises(InvalidParams, match="seed: must be at most"):
        seed_series(complete(catalog, seed=MAX_SEED), 2)


def test_a_tag_in_the_prompt_is_a_lora(catalog: Catalog) -> None:
    made = extract_lora_tags(complete(catalog, "a boat <lora:style/ink:0.7>, night<lora:wash>", loras="dry:2"))
    assert (made.prompt, made.loras) == ("a boat, night", (Lora("dry", 2.0), Lora("style/ink", 0.7), Lora("wash")))
    with pytest.raises(InvalidParams, match="prompt: must not be empty"):
        extract_lora_tags(complete(catalog, "<lora:ink:1>"))


@pytest.mark.parametrize(
    ("family", "sampler", "schedule", "words"),
    [
        ("sd", "DDIM", "Karras", "with DDIM (got Karras)"),
        ("flux", "Euler a", "", "Euler, DPM++ 2M, UniPC"),
        ("sd3", "Euler", "SGM Uniform", "Automatic, Karras, Exponential with Euler"),
    ],
)
def test_samplers_and_schedules_are_those_of_the_family(
    catalog: Catalog, family: str, sampler: str, schedule: str, words: str
) -> None:
    model = catalog.default
    value = {"seed": 1, "sampler": sampler, "schedule": schedule}
    with pytest.raises(InvalidParams, match=re.escape(words)):
        validate.complete(
            model.id, model.defaults, model.limits, "a boat", value, size_of, families.get(family).sampling
        )
    value = {"seed": 1, "sampler": "euler", "schedule": "karras"}
    made = validate.complete(
        model.id, model.defaults, model.limits, "a boat", value, size_of, families.get(family).sampling
    )
    assert (made.sampler, made.schedule) == ("Euler", "Karras")


def test_files_are_checked_before_the_job_waits_in_line(services: Services) -> None:
    layer = "lora_unet_down_blocks_0_attentions_0_attn2_to_k"
    ink = {f"{layer}.lora_down.weight": ("F32", [2, 2048]), f"{layer}.lora_up.weight": ("F32", [640, 2])}
    write_header(services.settings.loras / "xl.safetensors", ink)
    (services.settings.loras / "old.pt").write_bytes(pickle.dumps({}))
    submit = services.studio.submit
    with pytest.raises(InvalidParams, match=r"loras: names a file that does not exist: 'none'\. Known: old, xl"):
        submit("a boat", loras=["none"])
    with pytest.raises(InvalidParams, match=r"loras: cannot be 'old'\. old\.pt is cut short"):
        submit("a boat", loras=["old"])
    with pytest.raises(InvalidParams, match="'xl': it is made for SDXL, not "):
        submit("a boat <lora:xl:0.5>")
    with pytest.raises(InvalidParams, match="vae: names a file"):
        submit("a boat", vae="none")
    source = services.sources.add(png()).id
    with pytest.raises(InvalidParams, match="upscaler: names a file"):
        submit("", kind="upscale", source=source, upscaler="none")


def write_header(path: Path, tensors: dict[str, tuple[str, list[int]]]) -> None:
    """A safetensors file of zeros."""
    header, end = {}, 0
    for name, (dtype, shape) in tensors.items():
        size = 4 * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(end))


def png() -> bytes:
    data = io.BytesIO()
    PIL.new("RGB", (64, 64)).save(data, "PNG")
    return data.getvalue()


@pytest.mark.parametrize("zero", [0, 0.0, "0"])
def test_a_strength_of_zero_is_zero(catalog: Catalog, zero: Any) -> None:
    made = complete(catalog, source=SOURCE, strength=zero)
    assert made.strength == 0.0
    assert Params.from_dict(made.to_dict()) == made
    assert complete(catalog, source=SOURCE, **{"strength": made.to_dict()["strength"]}).strength == 0.0


@pytest.mark.parametrize("zero", [0, "0"])
def test_a_scale_of_zero_is_out_of_its_limits(catalog: Catalog, zero: Any) -> None:
    with pytest.raises(InvalidParams, match="scale: must be from 1 to 8"):
        complete(catalog, "", kind="upscale", source=SOURCE, scale=zero)


@pytest.mark.parametrize(
    ("options", "ignored"),
    [
        ({"variation_seed": 7}, ["variation_seed"]),
        ({"variation_seed": -1}, []),
        ({"variation_seed": 7, "variation_strength": 0.2}, []),
        ({"hires_steps": 4, "hires_tile": 256}, ["hires_steps", "hires_tile"]),
        ({"hires_steps": 4, "hires_scale": 1.5}, []),
    ],
)
def test_an_option_without_the_one_that_it_needs_is_warned_of(
    catalog: Catalog, options: dict[str, Any], ignored: list[str]
) -> None:
    made = complete(catalog, "x", **options)
    warnings = validate.ignored_warnings(made, options)
    assert [each.id for each in warnings] == ["no_effect_without"] * len(ignored)
    assert [each.params["name"] for each in warnings] == ignored


def test_zero_that_has_no_effect_is_told(catalog: Catalog) -> None:
    upscale = {"kind": "upscale", "source": SOURCE, "guidance": 0}
    assert validate.ignored_warnings(complete(catalog, "", **upscale), upscale) == [
        "guidance: has no effect for kind upscale; it is ignored."
    ]


def test_a_decimal_comma_is_told(catalog: Catalog) -> None:
    with pytest.raises(InvalidParams, match="guidance: must have a decimal point, not a comma"):
        complete(catalog, guidance="7,5")


def test_a_control_character_in_a_prompt_is_told(catalog: Catalog) -> None:
    with pytest.raises(InvalidParams, match=r"control character U\+0000"):
        complete(catalog, "a boat\0")


@pytest.mark.parametrize(
    ("given", "sampler", "schedule"),
    [
        ({"sampler": "DPM++ 2M SDE Karras"}, "DPM++ 2M SDE", "Karras"),
        ({"sampler": "dpmpp_2m_sde_exponential"}, "DPM++ 2M SDE", "Exponential"),
        ({"sampler": "Euler a SGM Uniform"}, "Euler a", "SGM Uniform"),
        ({"sampler": "DPM++ 2M Karras"}, "DPM++ 2M Karras", ""),
        ({"sampler": "DPM++ 2M SDE Karras", "schedule": "Exponential"}, "DPM++ 2M SDE", "Exponential"),
    ],
)
def test_a_sampler_may_name_its_schedule(catalog: Catalog, given: dict, sampler: str, schedule: str) -> None:
    made = complete(catalog, **given)
    assert (made.sampler, made.schedule) == (sampler, schedule)


@pytest.mark.parametrize("name", ["te,st1", 'a "b"', "old:ink", "x, y:0.5", "ink"])
@pytest.mark.parametrize("weight", [0.8, 0.12345678, -1, 1e-07])
def test_a_lora_written_as_text_is_read_the_same(catalog: Catalog, name: str, weight: float) -> None:
    loras = (Lora(name, weight), Lora("other", 0.1 + 0.2))
    assert complete(catalog, loras=", ".join(map(str, loras))).loras == loras


class TestSecondPass:
    @pytest.mark.parametrize(
        ("given", "field", "words"),
        [
            ({"hires_scale": 0.5}, "hires_scale", "at least 1"),
            ({"hires_scale": 9}, "hires_scale", "from 0 to 8"),
            ({"hires_scale": 3}, "hires_scale", "unless hires_tile"),
            ({"hires_scale": 2, "hires_tile": 64}, "hires_tile", "multiple of 8 from 128 to 512"),
            ({"hires_scale": 2, "hires_tile": 132}, "hires_tile", "multiple of 8"),
            ({"hires_scale": 2, "hires_tile": 1024}, "hires_tile", "to 512"),
            ({"hires_scale": 2, "hires_steps": 151}, "hires_steps", "to 150"),
            ({"hires_scale": 2, "hires_strength": 1.5}, "hires_strength", "to 1"),
            ({"hires_scale": 2, "hires_upscaler": "../x"}, "hires_upscaler", "name"),
            ({"hires_scale": 2, "hires_upscaler": "missing"}, "hires_upscaler", "missing"),
        ],
    )
    def test_what_cannot_be_made_is_refused(
        self, catalog: Catalog, given: dict[str, Any], field: str, words: str
    ) -> None:
        with pytest.raises(InvalidParams, match=words) as refused:
            catalog.complete("a cat", given | {"seed": 1})
        assert refused.value.field == field

    def test_a_model_that_begins_from_no_picture_makes_none(
        self, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = replace(catalog.default, kinds=(Kind.TXT2IMG,))
        monkeypatch.setattr(Catalog, "get", lambda self, model_id: model)
        with pytest.raises(InvalidParams, match="cannot start from a picture"):
            catalog.complete("a cat", {"model": "starter", "hires_scale": 2, "seed": 1})

    def test_its_options_mean_nothing_without_a_scale(self, catalog: Catalog) -> None:
        plain = catalog.complete("a cat", {"seed": 1})
        assert (
            catalog.complete("a cat", {"seed": 1, "hires_steps": 5, "hires_strength": 0.9, "hires_tile": 256}) == plain
        )

    def test_sizes_steps_and_cost(self, catalog: Catalog) -> None:
        twice = catalog.complete("a cat", {"seed": 1, "hires_scale": 2, "hires_steps": 6})
        assert (twice.width, twice.final_size, twice.peak_size) == (256, (512, 512), (512, 512))
        assert (twice.steps, twice.total_steps) == (12, 18)
        assert twice.cost == pytest.approx(12 * 0.065536 + 6 * 0.262144)
        assert twice.paced == (512 * 512, 3 + 6)
        tiled = catalog.complete("a cat", {"seed": 1, "hires_scale": 8, "hires_steps": 6, "hires_tile": 512})
        assert (tiled.final_size, tiled.peak_size) == ((2048, 2048), (512, 512))
        assert tiled.total_steps == 12 + 6 * 25


class TestInpainting:
    @pytest.mark.parametrize(
        ("given", "field", "words"),
        [
            ({"mask": TALL}, "mask", "aspect ratio of the source, 640x480"),
            ({"outpaint": "up:3"}, "outpaint", "such as"),
            ({"outpaint": "600x600"}, "outpaint", "must contain the source, 640x480"),
            ({"outpaint": "left:4097"}, "outpaint", "at most 4,096"),
            ({"outpaint": "left:640", "width": 256, "height": 256}, "width", "shape of the extended picture, 1280x480"),
            ({"outpaint": "left:640", "height": 256}, "height", "shape of the extended picture"),
            ({"outpaint": "left:4096 right:4096"}, "outpaint", "shape of the extended picture, 8832x480"),
            ({"mask": MASK, "mask_blur": 65}, "mask_blur", "to 64"),
            ({"mask": MASK, "mask_padding": -1}, "mask_padding", "from 0"),
            ({"mask": MASK, "mask_content": "mirror"}, "mask_content", "latent noise"),
            ({"mask": MASK, "mask_edges": "rough"}, "mask_edges", "soft"),
            ({"mask": MASK, "inpaint_area": "half"}, "inpaint_area", "Only masked"),
            ({"kind": "inpaint"}, "mask", "is required"),
        ],
    )
    def test_what_cannot_be_painted_is_refused(
        self, catalog: Catalog, given: dict[str, Any], field: str, words: str
    ) -> None:
        with pytest.raises(InvalidParams, match=words) as refused:
            complete(catalog, source=SOURCE, **given)
        assert refused.value.field == field

    def test_its_options_are_refused_where_nothing_is_masked(self, catalog: Catalog) -> None:
        for kind, options in ((Kind.TXT2IMG, {}), (Kind.IMG2IMG, {"source": SOURCE})):
            with pytest.raises(InvalidParams, match="must be left out") as refused:
                complete(catalog, kind=kind, mask_blur=4, **options)
            assert refused.value.field == "mask_blur"

    def test_sizes_of_a_region_and_of_an_extended_picture(self, catalog: Catalog) -> None:
        region = complete(catalog, source=SOURCE, mask=MASK, inpaint_area="only masked")
        assert (region.width, region.height) == (256, 256)  # the model's own
        wider = complete(catalog, source=SOURCE, outpaint="right:800")
        assert (wider.kind, wider.mask) == (Kind.INPAINT, "")
        assert wider.width / wider.height == pytest.approx(3, abs=0.1)
        rounded = complete(catalog, source=SOURCE, outpaint="right:7 bottom:3", width=256, height=192)
        assert (rounded.width, rounded.height) == (256, 192)
        square = {"width": 256, "height": 256}
        assert complete(catalog, source=SOURCE, outpaint="right:800", inpaint_area="Only masked", **square).width == 256


class TestEntries:
    """Errors in lists of pictures name the entry and its field."""

    @pytest.mark.parametrize(
        ("name", "entry", "field", "words"),
        [
            ("controls", {"weight": 3}, "controls[1].weight", "from 0 to 2"),
            ("controls", {"type": "sketch"}, "controls[1].type", "canny"),
            ("controls", {"start": 0.5, "end": 0.5}, "controls[1].start", "before the end"),
            ("controls", {"end": 2}, "controls[1].end", "from 0 to 1"),
            ("controls", {"model": "../x"}, "controls[1].model", "name of a file"),
            ("controls", {"mode": "oil"}, "controls[1].mode", "canny"),
            ("controls", {"colour": 1}, "controls[1]", "has the fields"),
            ("controls", {"image": "x"}, "controls[1].image", "64 hexadecimal"),
            ("controls", {"image": NONE}, "controls[1].image", "unknown source"),
            ("controls", {"image": 7}, "controls[1]", "image as text"),
            ("references", {"weight": -1}, "references[1].weight", "from 0 to 2"),
            ("references", {"use": "mood"}, "references[1].use", "style"),
            ("references", {"mask": "x"}, "references[1].mask", "64 hexadecimal"),
            ("references", {"mask": NONE}, "references[1].mask", "unknown source"),
            ("references", {"adapter": "/x"}, "references[1].adapter", "name of a file"),
        ],
    )
    def test_an_error_names_the_entry_and_its_field(
        self, catalog: Catalog, name: str, entry: dict[str, Any], field: str, words: str
    ) -> None:
        with pytest.raises(InvalidParams, match=words) as refused:
            complete(catalog, **{name: [{"image": SOURCE}, {"image": SOURCE} | entry]})
        assert (refused.value.field, refused.value.option) == (field, name)

    @pytest.mark.parametrize(("name", "most"), [("controls", 5), ("references", 10)])
    def test_too_many_are_told_with_the_limit_of_the_option(self, catalog: Catalog, name: str, most: int) -> None:
        for count in (most + 1, 40):
            with pytest.raises(InvalidParams, match=f"at most {most} entries .got {count}") as refused:
                complete(catalog, **{name: [{"image": SOURCE}] * count})
            assert refused.value.field == name
