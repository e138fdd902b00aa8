"""The gallery's use-cases: many at once, for good, and to take home."""

import io
import zipfile

import pytest

from diffusion_local.compose import Services
from diffusion_local.engine.fake import FakeEngine
from diffusion_local.errors import Conflict, InvalidParams, NotFound
from diffusion_local.worker.stopping import Stop
from tests.support import refused
from tests.workers import open_runner


@pytest.fixture
def made(services: Services) -> list[str]:
    ids = services.studio.submit("a red apple", count=3, width=128, height=128, steps=2).job_ids
    runner = open_runner(services, "cpu0", FakeEngine(0), Stop())
    runner.run_due_jobs()
    runner.close()
    return ids


def test_many_are_starred_and_thrown_away_at_once(services: Services, made: list[str]) -> None:
    pictures = services.studio.pictures
    pictures.star(made[:2])
    assert {image.id for image in pictures.page(starred=True)} == set(made[:2])
    pictures.trash(made)
    assert pictures.page() == []
    pictures.restore(made[:1])
    assert [image.id for image in pictures.page()] == made[:1]


def test_one_unknown_picture_stops_all(services: Services, made: list[str]) -> None:
    with pytest.raises(NotFound):
        services.studio.pictures.trash([made[0], "nobody"])
    assert len(services.studio.pictures.page()) == 3
    with pytest.raises(InvalidParams, match="1 to 1000"):
        services.studio.pictures.star([])


def test_only_the_trash_is_deleted_for_good(services: Services, made: list[str]) -> None:
    pictures, [first, second, _] = services.studio.pictures, made
    with refused(Conflict, "not_in_trash"):
        pictures.delete([first])
    path = services.files.picture(services.studio.image(first).key).local_path
    pictures.trash([first, second])
    pictures.delete([first])
    assert not path.exists()
    assert [image.id for image in pictures.page(trashed=True)] == [second]


def test_pictures_go_home_in_one_file(services: Services, made: list[str]) -> None:
    def names(**asked: object) -> list[str]:
        packed = b"".join(services.studio.pictures.zip(**asked))  # type: ignore[arg-type]
        with zipfile.ZipFile(io.BytesIO(packed)) as file:
            assert file.testzip() is None
            return file.namelist()

    [name] = names(image_ids=made[:1])
    assert name.startswith("a-red-apple-")
    assert name.endswith(".png")
    assert len(set(names())) == 3
    assert names(search="nothing like it") == []
    with pytest.raises(NotFound):
        services.studio.pictures.zip(["nobody"])
