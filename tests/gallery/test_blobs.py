"""The contract of a backend for bytes, over each one: whole or not at all, found by key, never outside of its area."""

import contextlib
import errno
import os
import secrets
import shutil
import subprocess
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import boto3
import pytest
from obstore.store import MemoryStore

from diffusion_local.errors import DiskFull, InvalidParams, StorageProblem
from diffusion_local.gallery import local_blobs, object_blobs
from diffusion_local.gallery.blobs import Area, Blobs, MemoryBlobs, StoredFile
from diffusion_local.gallery.local_blobs import LocalBlobs
from diffusion_local.settings import Settings
from tests.support import eventually

KEY = "gallery/2026/11/22/01J0000000000000000000000.png"
OTHER = "gallery/2026/11/22/01J0000000000000000000001.png"
BACKENDS = ("folders", "memory")


@pytest.fixture(params=(*BACKENDS, "objects", "s3"))
def blobs(request: pytest.FixtureRequest, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Blobs:
    settings.make_folders()
    if request.param == "folders":
        return LocalBlobs(settings)
    if request.param == "memory":
        return MemoryBlobs()
    monkeypatch.setattr(object_blobs, "TOUCH_SECONDS", -1.0)
    if request.param == "objects":
        return object_blobs.ObjectBlobs(MemoryStore())
    return object_blobs.open_bucket(request.getfixturevalue("bucket"))


@pytest.fixture(params=BACKENDS)
def little_room(request: pytest.FixtureRequest, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Blobs:
    """A backend with 1,000 free bytes, told by its disk or by itself."""
    settings.make_folders()
    if request.param == "memory":
        return MemoryBlobs(1000)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(local_blobs.shutil, "disk_usage", lambda _: usage(1000, 0, 1000))
    return LocalBlobs(settings)


@pytest.fixture
def bucket(s3_server: str) -> str:
    """URL of a new bucket, with a prefix."""
    name = f"b{secrets.token_hex(8)}"
    client = boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1")
    client.create_bucket(Bucket=name)
    return f"s3://{name}/studio/one?endpoint={s3_server}&region=us-east-1"


def put(blobs: Blobs, key: str, content: bytes = b"content", **options: bool) -> int:
    return blobs.write(key, lambda file: file.write(content), **options)


def keys(blobs: Blobs, prefix: str) -> list[str]:
    return [stat.key for stat in blobs.list(prefix)]


@pytest.mark.parametrize("area", Area)
@pytest.mark.parametrize("durable", [False, True])
def test_what_was_written_is_read_back(blobs: Blobs, area: Area, durable: bool) -> None:
    before = time.time()
    assert put(blobs, f"{area}/a/b.png", b"12345", durable=durable) == 5
    file = StoredFile(blobs, f"{area}/a/b.png")
    assert (file.read_bytes(), file.exists(), file.name, file.suffix) == (b"12345", True, "b.png", ".png")
    stat = file.stat()
    assert (stat.key, stat.size) == (f"{area}/a/b.png", 5)
    assert before - 2 <= stat.modified <= time.time() + 2
    assert file.sha256() == "5994471abb01112afcc18159f6cc74b4f511b99806da59b3caf5a9c173cacfc5"
    assert list(file.chunks(2)) == [b"12", b"34", b"5"]


def test_any_part_can_be_read(blobs: Blobs) -> None:
    put(blobs, KEY, b"0123456789")
    with blobs.open(KEY) as file:
        file.seek(4)
        assert file.read(3) == b"456"
        file.seek(-2, os.SEEK_END)
        assert file.read() == b"89"


def test_what_is_absent_is_said_to_be_so(blobs: Blobs) -> None:
    file = StoredFile(blobs, KEY)
    assert (file.exists(), blobs.stat(KEY)) == (False, None)
    for read in (file.open, file.read_bytes, file.stat, file.sha256, lambda: next(file.chunks())):
        with pytest.raises(FileNotFoundError) as error:
            read()
        assert error.value.errno == errno.ENOENT
    file.delete()
    file.touch()
    assert not file.exists()


def test_a_write_that_fails_half_way_leaves_what_was_there(blobs: Blobs) -> None:
    def half(file: IO[bytes]) -> None:
        file.write(b"half")
        raise RuntimeError("the power of two")

    with pytest.raises(RuntimeError):
        blobs.write(KEY, half)
    assert keys(blobs, "gallery/") == []
    put(blobs, KEY, b"before")
    with pytest.raises(RuntimeError):
        blobs.write(KEY, half, durable=True)
    assert StoredFile(blobs, KEY).read_bytes() == b"before"
    assert keys(blobs, "gallery/") == [KEY]


def test_nothing_is_seen_of_a_blob_until_it_is_whole(blobs: Blobs) -> None:
    def write(file: IO[bytes]) -> None:
        file.write(b"first half, ")
        file.flush()
        assert blobs.stat(KEY) is None
        assert keys(blobs, "gallery/") == []
        file.write(b"second half")

    blobs.write(KEY, write)
    assert StoredFile(blobs, KEY).read_bytes() == b"first half, second half"


def test_a_reader_keeps_what_it_opened(blobs: Blobs) -> None:
    put(blobs, KEY, b"old" * 1000)
    with blobs.open(KEY) as file:
        assert file.read(3) == b"old"
        put(blobs, KEY, b"new" * 1000)
        file.seek(0)
        assert file.read() == b"old" * 1000
    assert StoredFile(blobs, KEY).read_bytes() == b"new" * 1000


def test_a_listing_has_every_key_below_a_prefix_in_order(blobs: Blobs) -> None:
    written = [
        "gallery/2026/11/22/b.png",
        "gallery/2026/11/22/a.webp",
        "gallery/2026/11/22/a.png",
        "gallery/2025/a.png",
    ]
    for key in (*written, "sheets/one-1.webp", "sheets/one-2.webp", "sheets/two-1.webp"):
        put(blobs, key)
    assert keys(blobs, "gallery/") == sorted(written)
    assert keys(blobs, "gallery/2026/") == sorted(written)[1:]
    assert keys(blobs, "gallery/2026/11/22/a") == ["gallery/2026/11/22/a.png", "gallery/2026/11/22/a.webp"]
    assert keys(blobs, "sheets/one-") == ["sheets/one-1.webp", "sheets/one-2.webp"]
    assert keys(blobs, "sheets/three-") == keys(blobs, "reports/") == keys(blobs, "gallery/1999/1/") == []
    assert {stat.size for stat in blobs.list("gallery/")} == {7}


def test_a_listing_goes_on_while_its_blobs_are_deleted(blobs: Blobs) -> None:
    for place in range(20):
        put(blobs, f"previews/{place:02}.webp")
    for stat in blobs.list("previews/"):
        blobs.delete(stat.key)
    assert keys(blobs, "previews/") == []


def test_a_blob_can_be_moved_to_another_area_and_replaces_what_is_there(blobs: Blobs) -> None:
    put(blobs, KEY, b"moved")
    target = KEY.replace("gallery", "strays")
    put(blobs, target, b"older")
    blobs.move(KEY, target)
    assert StoredFile(blobs, target).read_bytes() == b"moved"
    assert blobs.stat(KEY) is None
    with pytest.raises(Exception, match=r"No such file"):
        blobs.move(KEY, target)


def test_a_touch_sets_the_time_to_now(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    put(blobs, KEY)
    later = time.time() + 1000
    if (path := blobs.local_path(KEY)) is not None:
        os.utime(path, (1.0, 1.0))
        assert StoredFile(blobs, KEY).stat().modified == 1.0
        blobs.touch(KEY)
        assert StoredFile(blobs, KEY).stat().modified > later - 2000
    elif isinstance(blobs, MemoryBlobs):
        monkeypatch.setattr(time, "time", lambda: later)
        blobs.touch(KEY)
        assert StoredFile(blobs, KEY).stat().modified == later
    else:  # by the store's clock
        before = StoredFile(blobs, KEY).stat().modified
        assert eventually(lambda: blobs.touch(KEY) or StoredFile(blobs, KEY).stat().modified > before)
        assert StoredFile(blobs, KEY).read_bytes() == b"content"


def test_a_reserve_is_kept_free(little_room: Blobs) -> None:
    assert little_room.free_bytes() == 1000
    little_room.write(KEY, lambda file: file.write(b"12345"), reserve=500)
    with pytest.raises(DiskFull, match="disk_reserve_mb"):
        little_room.write(OTHER, lambda file: file.write(b"12345"), reserve=2_000_000)
    assert keys(little_room, "gallery/") == [KEY]


@pytest.mark.skipif(not shutil.which("mount"), reason="no mount command")
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_does_not_fit_is_disk_full_and_leaves_nothing(settings: Settings, backend: str) -> None:
    settings.make_folders()
    with small_disk(settings.gallery_folder) if backend == "folders" else contextlib.nullcontext():
        blobs: Blobs = LocalBlobs(settings) if backend == "folders" else MemoryBlobs(200_000)
        with pytest.raises(DiskFull):
            put(blobs, KEY, bytes(400_000), durable=True)
        with pytest.raises(DiskFull):
            blobs.probe("gallery/2026/11/22", 400_000)
        assert keys(blobs, "gallery/") == []
        put(blobs, KEY, bytes(50_000))
        blobs.probe("gallery/2026/11/22", 4096)
        assert keys(blobs, "gallery/") == [KEY]
        assert blobs.free_bytes() < 200_000


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", folder]).returncode:
        pytest.skip("cannot mount a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=False)


def test_a_probe_leaves_nothing(blobs: Blobs) -> None:
    blobs.probe("gallery/2026/11/22", 4096)
    assert keys(blobs, "gallery/") == []
    assert blobs.free_bytes() > 4096


@pytest.mark.parametrize(
    "key",
    [
        "app.db",
        "gallery",
        "gallery/",
        "locks/gpu0",
        "gallery/../app.db",
        "gallery/./a.png",
        "gallery//a.png",
        "gallery/.hidden.png",
        "/etc/passwd",
        "gallery/a\\..\\b.png",
        "gallery/a\0.png",
    ],
)
def test_what_leads_out_of_the_areas_is_no_key(blobs: Blobs, key: str) -> None:
    put(blobs, KEY)
    for refused in (
        lambda: put(blobs, key),
        lambda: blobs.stat(key),
        lambda: blobs.open(key),
        lambda: blobs.delete(key),
        lambda: blobs.touch(key),
        lambda: blobs.move(KEY, key),
        lambda: blobs.probe(key, 1),
    ):
        with pytest.raises(ValueError, match="not a key"):
            refused()
    assert keys(blobs, "gallery/") == [KEY]


def test_half_written_files_of_the_dead_are_dropped_after_their_time(settings: Settings) -> None:
    settings.make_folders()
    blobs = LocalBlobs(settings)
    put(blobs, KEY)
    for area in Area:
        folder = (
            blobs.local_path(f"{area}/2026/11/22/x").parent
            if area in (Area.GALLERY, Area.STRAYS)
            else (blobs.local_path(f"{area}/x").parent)
        )
        folder.mkdir(parents=True, exist_ok=True)
        young, old = (folder / f".{name}.part" for name in ("young", "old"))
        for part in (young, old):
            part.write_bytes(b"half")
        os.utime(old, (time.time() - 7200,) * 2)
        assert keys(blobs, f"{area}/") == [KEY] * (area is Area.GALLERY)
        blobs.drop_unfinished(area, 3600)
        assert (young.exists(), old.exists()) == (True, False)


def test_areas_may_lie_on_different_disks(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gallery on a disk of its own: a picture that is moved aside is copied whole, then deleted."""
    settings.make_folders()
    blobs = LocalBlobs(settings)
    put(blobs, KEY, b"picture")
    replace = Path.replace

    def across(source: Path, target: Path) -> Path:
        if source.is_relative_to(settings.gallery_folder) and not Path(target).is_relative_to(settings.gallery_folder):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", across)
    target = KEY.replace("gallery", "strays")
    blobs.move(KEY, target)
    assert StoredFile(blobs, target).read_bytes() == b"picture"
    assert keys(blobs, "gallery/") == []


def test_a_link_to_a_folder_above_does_not_catch_a_listing(settings: Settings) -> None:
    settings.make_folders()
    blobs = LocalBlobs(settings)
    put(blobs, KEY)
    (settings.gallery_folder / "2026" / "again").symlink_to(settings.gallery_folder, target_is_directory=True)
    assert KEY in keys(blobs, "gallery/")


# -- buckets -----------------------------------------------------------------------------------------------------------


def test_a_large_blob_is_read_by_ranges_of_one_version(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_blobs, "WHOLE_BYTES", 1000)
    monkeypatch.setattr(object_blobs, "RANGE_BYTES", 700)
    blobs = object_blobs.open_bucket(bucket)
    content = bytes(range(256)) * 20
    put(blobs, KEY, content)
    asked: list[tuple[int, int]] = []
    read = object_blobs.ObjectBlobs.read_range

    def counted(self: object_blobs.ObjectBlobs, key: str, start: int, end: int, version: str | None) -> bytes:
        asked.append((start, end))
        return read(self, key, start, end, version)

    monkeypatch.setattr(object_blobs.ObjectBlobs, "read_range", counted)
    with blobs.open(KEY) as file:
        file.seek(3000)
        assert file.read(10) == content[3000:3010]
        assert asked == [(3000, 3700)]
        file.seek(-5, os.SEEK_END)
        assert file.read() == content[-5:]
        file.seek(0)
        assert file.read() == content
    with blobs.open(KEY) as file:
        put(blobs, KEY, content[::-1])
        with pytest.raises(StorageProblem):  # parts of two versions are never mixed
            file.read()


def test_two_studios_share_a_bucket_by_their_prefixes(bucket: str) -> None:
    one, other = object_blobs.open_bucket(bucket), object_blobs.open_bucket(bucket.replace("/one", "/two"))
    put(one, KEY)
    assert keys(one, "gallery/") == [KEY]
    assert keys(other, "gallery/") == []


def test_a_listing_of_many_comes_in_pages_and_in_order(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_blobs, "LIST_CHUNK", 7)
    blobs = object_blobs.open_bucket(bucket)
    written = sorted(f"previews/{place:03}.webp" for place in range(40))
    for key in reversed(written):
        put(blobs, key)
    assert keys(blobs, "previews/") == written


def test_a_bucket_that_is_not_there_is_told(bucket: str) -> None:
    absent = object_blobs.open_bucket(bucket.replace("s3://b", "s3://absent-"))
    for call in (
        lambda: put(absent, KEY),
        lambda: absent.probe("gallery/2026", 10),
        lambda: keys(absent, "gallery/"),
    ):
        with pytest.raises(StorageProblem, match="There is no bucket s3://absent-"):
            call()


def test_a_store_that_does_not_answer_is_told_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_blobs, "RETRIES", {"max_retries": 0})
    away = object_blobs.open_bucket("s3://bucket/x?endpoint=http://127.0.0.1:9&region=us-east-1")
    for call in (
        lambda: put(away, KEY),
        lambda: away.stat(KEY),
        lambda: away.open(KEY),
        lambda: keys(away, "gallery/"),
    ):
        with pytest.raises(StorageProblem, match="s3://bucket/x cannot be used now"):
            call()


@pytest.mark.parametrize(
    "url", ["s3://", "http://bucket/x", "s3://bucket/x?colour=red", "s3://key:secret@bucket/x", "bucket"]
)
def test_what_is_no_bucket_is_refused_without_its_secret(url: str) -> None:
    with pytest.raises(InvalidParams, match="gallery: must be a bucket") as refused:
        object_blobs.open_bucket(url)
    assert "secret" not in str(refused.value)
