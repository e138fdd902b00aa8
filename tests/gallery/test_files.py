"""Picture files: whole or not at all, with their recipe inside, and room for nothing half-written."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import IO

import pytest
from PIL import Image as PIL

from diffusion_local.compose import Services, open_files
from diffusion_local.domain import Job
from diffusion_local.errors import DiskFull
from diffusion_local.gallery import recipes, retention
from diffusion_local.gallery.blobs import Blobs, MemoryBlobs, StoredFile
from diffusion_local.gallery.files import ImageFiles, key_for
from diffusion_local.gallery.image_formats import webp
from diffusion_local.gallery.local_blobs import LocalBlobs, write_atomically
from diffusion_local.queue.jobs import JobStore
from diffusion_local.settings import Settings
from tests import forking
from tests.support import enqueue, image_of

KEY = "2026/11/22/01J0000000000000000000000"


@pytest.fixture(params=["folders", "memory"])
def blobs(request: pytest.FixtureRequest, settings: Settings) -> Blobs:
    settings.make_folders()
    return LocalBlobs(settings) if request.param == "folders" else MemoryBlobs()


@pytest.fixture
def files(blobs: Blobs, settings: Settings) -> ImageFiles:
    return ImageFiles(blobs, settings)


def listed(blobs: Blobs) -> list[str]:
    """What lies in the gallery."""
    return [stat.key.removeprefix("gallery/") for stat in blobs.list("gallery/")]


def noise(size: int = 256) -> PIL.Image:
    """A picture that does not compress."""
    return PIL.frombytes("RGB", (size, size), os.urandom(size * size * 3))


def kept(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_picture_lies_under_its_key_with_a_thumbnail_beside_it(blobs: Blobs, files: ImageFiles) -> None:
    picture = noise()
    saved = files.save(KEY, picture, {"parameters": "a red apple"})
    assert listed(blobs) == [f"{KEY}.png", f"{KEY}.webp"]
    assert saved == (KEY, files.picture(KEY).stat().size)
    with files.picture(KEY).open() as file, PIL.open(file) as stored:
        assert stored.tobytes() == picture.tobytes()


def test_a_key_is_relative_and_made_of_day_and_job(store: JobStore) -> None:
    [job_id] = enqueue(store)
    job: Job = store.get(job_id)
    key = key_for(job.id, job.created_at)
    assert key == f"{job.created_at[:10].replace('-', '/')}/{job_id}"
    assert not Path(key).is_absolute()


def test_the_recipe_is_inside_for_other_tools_and_for_ours(files: ImageFiles, store: JobStore) -> None:
    [job_id] = enqueue(store, prompt="ein roter Apfel, äöü 🍎", negative="blurry")
    image = image_of(store.get(job_id))
    files.save(KEY, noise(), recipes.to_texts(image, {"engine": "fake"}))
    with files.picture(KEY).open() as file, PIL.open(file) as stored:
        stored.load()
        texts = stored.info
    assert texts["parameters"].splitlines()[:2] == ["ein roter Apfel, äöü 🍎", "Negative prompt: blurry"]
    assert json.loads(texts["diffusion-local"])["params"]["prompt"] == "ein roter Apfel, äöü 🍎"


def test_a_lost_thumbnail_is_made_again(blobs: Blobs, files: ImageFiles) -> None:
    files.save(KEY, noise(640), {})
    thumbnail = files.thumbnail(KEY)
    thumbnail.delete()
    with files.thumbnail(KEY).open() as file, PIL.open(file) as small:
        assert (small.format, max(small.size)) == ("WEBP", 320)
    assert listed(blobs) == [f"{KEY}.png", f"{KEY}.webp"]


def test_a_second_try_overwrites_and_never_doubles(blobs: Blobs, files: ImageFiles) -> None:
    files.save(KEY, noise(), {})
    second = noise()
    files.save(KEY, second, {})
    assert listed(blobs) == [f"{KEY}.png", f"{KEY}.webp"]
    with files.picture(KEY).open() as file, PIL.open(file) as stored:
        assert stored.tobytes() == second.tobytes()


def test_what_fails_half_way_leaves_nothing_and_keeps_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "picture.png"
    target.write_bytes(b"before")

    def half(file: IO[bytes]) -> None:
        file.write(b"half")
        raise RuntimeError("the power of two")

    with pytest.raises(RuntimeError):
        write_atomically(target, half, durable=True)
    assert kept(tmp_path) == ["picture.png"]
    assert target.read_bytes() == b"before"


def test_readers_see_the_whole_file_or_none(tmp_path: Path) -> None:
    target = tmp_path / "picture.png"

    def write(file: IO[bytes]) -> None:
        file.write(b"first half, ")
        file.flush()
        assert not target.exists()
        file.write(b"second half")

    write_atomically(target, write)
    assert target.read_bytes() == b"first half, second half"


def test_discard_takes_both_files_and_does_not_mind_their_absence(blobs: Blobs, files: ImageFiles) -> None:
    files.save(KEY, noise(), {})
    files.discard(KEY)
    files.discard(KEY)
    assert listed(blobs) == []


WITH_A_LIMIT = """
import os, resource, sys
from diffusion_local.errors import DiskFull
from diffusion_local.settings import Settings
from diffusion_local.compose import Services, open_files
from PIL import Image
settings = Settings.load()
settings.make_folders()
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
try:
    open_files(settings).save("2026/11/22/job", Image.frombytes("RGB", (512, 512), os.urandom(512 * 512 * 3)), {})
except DiskFull as full:
    print(full.code)
"""


@pytest.mark.skipif(os.name == "nt", reason="POSIX limits")
@pytest.mark.parametrize("limit", [1000, 400_000])  # too small for the thumbnail; for the picture only
def test_a_file_that_does_not_fit_is_disk_full_and_leaves_nothing(
    settings: Settings, limit: int, tmp_path: Path
) -> None:
    child = forking.run("worker", WITH_A_LIMIT, str(limit), env=dict(os.environ), folder=tmp_path)
    assert child.stdout.split() == ["disk_full"], child.stderr
    assert kept(settings.gallery_folder) == []


@pytest.mark.skipif(not shutil.which("mount"), reason="no mount command")
def test_a_full_disk_is_disk_full_and_leaves_nothing(settings: Settings) -> None:
    settings.make_folders()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", settings.gallery_folder]).returncode:
        pytest.skip("cannot mount a small disk")
    try:
        files = open_files(settings)
        with pytest.raises(DiskFull, match="Free some space"):
            files.save(KEY, noise(512), {})
        assert kept(settings.gallery_folder) == []
        files.save(KEY, noise(64), {})  # what fits is still saved
        assert kept(settings.gallery_folder) == [f"{KEY}.png", f"{KEY}.webp"]
    finally:
        subprocess.run(["umount", "-l", settings.gallery_folder], check=False)


def test_a_preview_comes_and_goes(files: ImageFiles) -> None:
    files.save_preview("job", webp(noise(), 60))
    with files.preview("job").open() as file, PIL.open(file) as preview:
        assert preview.format == "WEBP"
    files.drop_preview("job")
    files.drop_preview("job")
    assert not files.preview("job").exists()


def test_a_preview_that_cannot_be_deleted_does_not_keep_the_others(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    for job_id in ("a", "b"):
        services.files.save_preview(job_id, b"preview")
    monkeypatch.setattr(retention, "OLD_PREVIEW_SECONDS", -1.0)
    delete = StoredFile.delete

    def failing(file: StoredFile) -> None:
        if "a" in file.key.rpartition("/")[2].partition(".")[0]:
            raise PermissionError(13, "Permission denied")
        delete(file)

    monkeypatch.setattr(StoredFile, "delete", failing)
    assert retention.delete_old_previews(services.files) == 1
    assert [file.key for file, _ in services.files.previews()] == [services.files.preview("a").key]
