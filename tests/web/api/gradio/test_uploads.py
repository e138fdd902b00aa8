"""Uploaded files: whose they are, how long they stay, and how many there may be."""

import io
import stat
from pathlib import Path
from typing import Any

import pytest

from diffusion_local.compose import Services
from diffusion_local.errors import LimitReached, NotFound, QueueBlocked
from diffusion_local.web.api.gradio import uploads as module
from diffusion_local.web.api.gradio.uploads import MAX_AGE, MAX_FILES, MAX_PICTURES, Uploads

PAGE = True  # of the client


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def uploads(services: Services, clock: Clock) -> Uploads:
    return Uploads(services.settings, clock)


def keep(uploads: Uploads, owner: str, data: bytes = b"data") -> str:
    with uploads.room(owner, len(data)):
        return uploads.keep(owner, io.BytesIO(data))


def on_disk(services: Services) -> list[Path]:
    return [each for each in services.settings.uploads.rglob("*") if each.is_file()]


def test_a_file_is_read_once_and_deleted(services: Services, uploads: Uploads) -> None:
    path = keep(uploads, "ann", b"a picture")
    [file] = on_disk(services)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert uploads.take(path, "ann") == b"a picture"
    assert on_disk(services) == []
    with pytest.raises(NotFound):
        uploads.take(path, "ann")


@pytest.mark.parametrize("other", ["bob", "", "?", "ann ", "Ann"])
def test_only_its_owner_can_name_a_file(services: Services, uploads: Uploads, other: str) -> None:
    path = keep(uploads, "ann")
    with pytest.raises(NotFound):
        uploads.take(path, other)
    assert len(on_disk(services)) == 1


@pytest.mark.parametrize(
    "path", ["", "uploads", "uploads/", "uploads/..", "/etc/passwd", None, 7, ["x"], "uploads/" + "g" * 32]
)
def test_nothing_else_names_a_file(uploads: Uploads, path: Any) -> None:
    with pytest.raises(NotFound):
        uploads.file(path, "ann")


def test_a_path_with_more_after_it_names_nothing(uploads: Uploads) -> None:
    path = keep(uploads, "ann")
    for odd in (path + "\n", path + "/", path + "/..", " " + path, path.upper(), "/" + path):
        with pytest.raises(NotFound):
            uploads.file(odd, "ann")


def test_a_symlink_in_the_folder_names_nothing(services: Services, uploads: Uploads) -> None:
    keep(uploads, "ann")
    (services.settings.uploads / ("0" * 32)).symlink_to("/etc/passwd")
    with pytest.raises(NotFound):
        uploads.take("uploads/" + "0" * 32, "ann")


def test_old_files_are_deleted(services: Services, uploads: Uploads, clock: Clock) -> None:
    old = keep(uploads, "ann")
    clock.now += MAX_AGE - 1
    new = keep(uploads, "ann")
    uploads.expire()
    assert len(on_disk(services)) == 2
    clock.now += 1
    uploads.expire()
    assert [each.name for each in on_disk(services)] == [new.removeprefix("uploads/")]
    with pytest.raises(NotFound):
        uploads.take(old, "ann")


def test_files_of_an_earlier_process_are_deleted_at_start(services: Services, uploads: Uploads) -> None:
    path = keep(uploads, "ann")
    left = services.settings.home / "tmp" / "0123abcd" / "passwd"
    left.parent.mkdir(parents=True)
    left.write_text("a copy that Gradio made")
    again = Uploads(services.settings)
    assert on_disk(services) == []
    assert not left.exists()
    with pytest.raises(NotFound):
        again.take(path, "ann")


def test_number_and_size_are_bounded_for_each_owner(uploads: Uploads) -> None:
    for _ in range(MAX_FILES):
        keep(uploads, "ann")
    with pytest.raises(LimitReached):
        keep(uploads, "ann")
    keep(uploads, "bob")
    with pytest.raises(LimitReached), uploads.room("bob", MAX_PICTURES * uploads.max_bytes + 1):
        pass


def test_uploads_under_way_count(uploads: Uploads) -> None:
    size = uploads.max_bytes
    with uploads.room("ann", size), uploads.room("ann", size), uploads.room("ann", size), uploads.room("ann", size):
        with pytest.raises(LimitReached), uploads.room("ann", 1):
            pass
        with uploads.room("bob", size):
            pass
    with uploads.room("ann", size):
        pass


def test_the_disks_reserve_is_kept(uploads: Uploads, services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    free = services.settings.disk_reserve_mb * 1_000_000 + 100
    usage = module.shutil._ntuple_diskusage(10**12, 10**12 - free, free)  # type: ignore[attr-defined]
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage)
    with uploads.room("ann", 100):
        pass
    with pytest.raises(QueueBlocked, match="disk_reserve_mb"), uploads.room("ann", 101):
        pass


def test_a_file_that_cannot_be_written_leaves_nothing(services: Services, uploads: Uploads) -> None:
    class Broken(io.BytesIO):
        def read(self, *_: Any) -> bytes:
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space"), uploads.room("ann", 10):
        uploads.keep("ann", Broken())
    assert on_disk(services) == []
