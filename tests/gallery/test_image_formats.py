"""Pictures as WebP and JPEG: with the recipe inside, never under a thumbnail's name, and found again by the sweep."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import ExifTags
from PIL import Image as PIL
from sd_parsers import ParserManager

from diffusion_local.compose import Services, open_files, open_services
from diffusion_local.domain import Image
from diffusion_local.engine.fake import FakeEngine
from diffusion_local.gallery import image_formats, recipes
from diffusion_local.gallery.sweep import rebuild, sweep
from diffusion_local.settings import Settings
from diffusion_local.worker.stopping import Stop
from tests.workers import open_runner

KEY = "2026/11/22/01J0000000000000000000000"
PICTURE = PIL.radial_gradient("L").convert("RGB")
PROMPT = "ein roter Apfel, äöü 🍎"


@pytest.fixture(params=["webp", "jpeg"])
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def other(settings: Settings, form: str) -> Services:
    """A house that keeps no PNG."""
    return open_services(replace(settings, image_format=form, sidecar="on"))


def image_in(services: Services) -> tuple[Image, Path]:
    services.studio.submit(PROMPT, width=128, height=128, steps=1)
    runner = open_runner(services, "cpu0", FakeEngine(0), Stop())
    runner.run_due_jobs()
    runner.close()
    [image] = services.images.page()
    return image, services.files.picture(image.key).local_path


def test_the_recipe_is_inside_for_other_tools_and_for_ours(other: Services, form: str) -> None:
    image, path = image_in(other)
    with PIL.open(path) as stored:
        assert stored.format == form.upper()
        comment = stored.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]
        assert recipes.decode_comment(comment).startswith(PROMPT)
    assert recipes.read_picture(path.read_bytes()).settings["prompt"] == PROMPT
    result = ParserManager().parse(path)
    assert result is not None
    assert [prompt.value for prompt in result.prompts] == [PROMPT]
    assert json.loads(path.with_name(f"{image.id}.json").read_text(encoding="utf-8"))["params"]["prompt"] == PROMPT


def test_it_has_its_own_name_beside_its_thumbnail(other: Services, form: str) -> None:
    image, path = image_in(other)
    thumbnail = other.files.thumbnail(image.key)
    assert (path.name, thumbnail.name) == (image.id + image_formats.SUFFIX_BY_FORMAT[form], f"{image.id}.webp")
    thumbnail.delete()
    with other.files.thumbnail(image.key).open() as file, PIL.open(file) as small:
        assert max(small.size) <= 320
    other.files.discard(image.key)
    assert [each for each in path.parent.iterdir() if each.name.startswith(image.id)] == []


def test_the_sweep_keeps_it_and_moves_one_without_a_row(other: Services) -> None:
    image, path = image_in(other)
    stray = path.with_name(path.name.replace(image.id, "01ARZ3NDEKTSV4RRFFQ69G5FAV"))
    stray.write_bytes(path.read_bytes())
    swept = sweep(other.files, other.database)
    assert (swept.strays, swept.missing) == ([stray.relative_to(other.settings.gallery_folder).as_posix()], [])
    assert path.exists()
    assert other.files.thumbnail(image.key).exists()
    assert path.with_name(f"{image.id}.json").exists()
    path.unlink()
    assert sweep(other.files, other.database).missing == [image.id]


def test_a_lost_row_is_written_again_from_it(other: Services) -> None:
    image, _ = image_in(other)
    with other.database.write() as db:
        db.execute("DELETE FROM images")
        db.execute("DELETE FROM jobs")
    assert rebuild(other.files, other.database) == 1
    found = other.images.get(image.id)
    assert (found.key, found.params) == (image.key, image.params)


def test_a_second_try_in_another_format_does_not_double(settings: Settings) -> None:
    settings.make_folders()
    open_files(settings).save(KEY, PICTURE, {})
    saved = open_files(replace(settings, image_format="jpeg")).save(KEY, PICTURE, {})
    assert saved.key == f"{KEY}.jpg"
    assert sorted(path.suffix for path in settings.gallery_folder.rglob("*.*")) == [".jpg", ".webp"]


def test_what_a_format_cannot_hold_is_kept_as_png(settings: Settings) -> None:
    settings.make_folders()
    long = {"parameters": "x" * 40_000, "diffusion-local": "{}"}
    assert open_files(replace(settings, image_format="jpeg")).save(KEY, PICTURE, long).key == KEY
    wide = PIL.new("RGB", (image_formats.MAX_SIDE["webp"] + 1, 1))
    assert open_files(replace(settings, image_format="webp")).save(KEY, wide, {}).key == KEY
