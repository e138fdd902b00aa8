"""Rows of the database and the nouns that they hold."""

from dataclasses import MISSING, fields

from diffusion_local import serializers
from diffusion_local.db.rows import image_row, to_image
from diffusion_local.domain import Image
from tests.support import params

PARAMS = params()
IMAGE = Image(
    "01J0000000000000000000000A",
    "01J0000000000000000000000B",
    "2026/11/30/01J0000000000000000000000A",
    PARAMS,
    width=128,
    height=96,
    bytes=4321,
    created_at="2026-11-30T10:00:00.000Z",
    seconds=1.25,
    starred=True,
    trashed_at="2026-11-30T11:00:00.000Z",
    owner="ada",
    facts={"flag": "black", "rung": "resident"},
    caption="a fox",
)
#: Fields of a picture that the APIs do not send.
NOT_SENT = {"key", "owner", "facts"}


def test_every_field_of_a_picture_comes_back_from_its_row() -> None:
    same = [
        each.name for each in fields(Image) if each.default is not MISSING and getattr(IMAGE, each.name) == each.default
    ]
    assert same == [], "give them another value than their default here"
    assert to_image(image_row(IMAGE) | {"owner": IMAGE.owner, "caption": "a fox"}) == IMAGE  # set when it is there


def test_every_field_of_a_picture_is_sent_or_private() -> None:
    assert {each.name for each in fields(Image)} - set(serializers.image(IMAGE)) == NOT_SENT
