"""How far a picture is extended, and the region of a mask."""

from typing import Any

import pytest
from PIL import Image as PIL

from diffusion_local.errors import InvalidParams
from diffusion_local.options.inpaint import Margins, check_content, check_outpaint, margins, region


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("left:128 right:64", "left:128 right:64"),
        ("RIGHT=64, left 128px", "left:128 right:64"),
        ("all:32 top:0", "left:32 right:32 bottom:32"),
        ({"bottom": 8}, "bottom:8"),
        ("1024 x 768", "1024x768"),
        ("1024x768+10+20", "1024x768+10+20"),
    ],
)
def test_an_outpaint_has_one_form(given: Any, kept: str) -> None:
    assert check_outpaint("outpaint", given) == kept
    assert check_outpaint("outpaint", kept) == kept


@pytest.mark.parametrize(
    "given", ["128", "left", "left:1 left:2", "left:128 up:1", "left:9999", "1024x", 7, "left:-1", {"near": 3}]
)
def test_what_is_no_outpaint_is_refused(given: Any) -> None:
    with pytest.raises(InvalidParams) as refused:
        check_outpaint("outpaint", given)
    assert refused.value.field == "outpaint"


def test_margins_of_sides_and_of_frames() -> None:
    assert margins("left:8 bottom:3", (10, 10)) == Margins(left=8, bottom=3)
    assert margins("30x20", (10, 10)) == Margins(10, 5, 10, 5)
    assert margins("30x20+0+10", (10, 10)) == Margins(0, 10, 20, 0)
    for frame in ("9x20", "30x20+25+0"):
        with pytest.raises(InvalidParams, match="must contain the source"):
            margins(frame, (10, 10))
    assert margins("", (10, 10)).extended((10, 10)) == (10, 10)


def test_other_names_of_what_lies_under_the_mask() -> None:
    assert [check_content("x", each) for each in ("Blur", "noise", "latent nothing")] == [
        "fill",
        "latent noise",
        "latent nothing",
    ]
    with pytest.raises(InvalidParams, match="latent noise"):
        check_content("mask_content", "mirror")


@pytest.mark.parametrize("shape", [(128, 128), (256, 128), (128, 192)])
@pytest.mark.parametrize("box", [(40, 40, 60, 60), (0, 0, 10, 30), (180, 90, 200, 100)])
def test_the_region_is_that_of_diffusers(box: tuple[int, int, int, int], shape: tuple[int, int]) -> None:
    from diffusers.image_processor import VaeImageProcessor

    mask = PIL.new("L", (200, 100))
    mask.paste(255, box)
    theirs = VaeImageProcessor().get_crop_region(mask, *shape, pad=8)
    ours = region(box, 8, shape, mask.size)
    assert max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) <= 1
    assert ours[0] <= box[0]
    assert ours[3] >= box[3]
