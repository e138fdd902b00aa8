"""Modes of new files do not depend on the umask; whoever may read the gallery's folder may read new pictures."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image as PIL

from diffusion_local import disk
from diffusion_local.compose import Services, open_files, open_services
from diffusion_local.domain import State
from diffusion_local.gallery.image_formats import webp
from diffusion_local.gallery.local_blobs import write_atomically
from diffusion_local.notify.hooks import run as run_hook
from diffusion_local.settings import Settings
from tests import forking
from tests.conftest import kill_tree
from tests.support import eventually

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX modes")

UMASKS = (0o000, 0o022, 0o077)
KEY = "2026/11/22/picture"


@contextmanager
def umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def open_to_others(home: Path) -> dict[str, str]:
    return {str(path): f"{mode(path):o}" for path in (home, *home.rglob("*")) if mode(path) & disk.WRITABLE_BY_OTHERS}


@pytest.mark.parametrize("value", UMASKS, ids=oct)
def test_databases_and_folders_are_private_even_where_nobody_set_the_umask(settings: Settings, value: int) -> None:
    with umask(value):
        services = open_services(settings)
        services.studio.submit("x", width=128, height=128)
        services.database.backup(settings.home / "copy.db")
        for name in ("app.db", "app.db-wal", "app.db-shm", "queue.db", "copy.db", "app.migrate.lock"):
            assert mode(settings.home / name) == 0o600, name
        folders = [path for path in settings.home.rglob("*") if path.is_dir()]
        assert {mode(path) for path in (settings.home, *folders)} == {0o700}
        services.database.close()


@pytest.mark.parametrize("value", UMASKS, ids=oct)
def test_everything_that_the_command_line_makes_is_private(home: Path, tmp_path: Path, value: int) -> None:
    code = """
import os, sys
from diffusion_local.cli import main
os.umask(int(sys.argv[2]))
backup = sys.argv[1]
for words in (
    ["user", "add", "ann", "--password-stdin"], ["token", "add", "ann"], ["tls", "self-signed"], ["webhook", "secret"],
    ["submit", "x"], ["doctor", "--backup", backup],
    ["queue"],
):
    sys.argv = ["diffusion-local", *words]
    try:
        main()
    except SystemExit as error:
        assert not error.code, words
"""
    environ = os.environ | {"DIFFUSION_LOCAL_ENGINE": "fake", "DIFFUSION_LOCAL_PASSWORD_MEMORY_KB": "8"}
    arguments = [str(home / "backup.db"), str(value)]
    done = forking.run("worker", code, *arguments, env=environ, folder=tmp_path, given="correct horse\n")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in home.iterdir()} >= {"app.db", "queue.db", "tls", "webhook.secret", "backup.db"}
    assert open_to_others(home) == {}


def test_everything_that_serve_makes_is_private(settings: Settings, tmp_path: Path) -> None:
    log = tmp_path / "serve.log"
    with log.open("wb") as file, umask(0o000):
        child = subprocess.Popen(
            [sys.executable, "-m", "diffusion_local", "serve", "--engine", "fake", "--port", "0"],
            stdout=file,
            stderr=file,
            env=settings.child_environ(),
        )
    try:
        eventually(lambda: "is at http" in log.read_text(), 120)
        services = open_services(settings)
        ids = services.studio.submit("x", count=2, width=128, height=128, steps=2).job_ids
        eventually(lambda: all(services.studio.job(each).state is State.DONE for each in ids), 120)
        assert list(settings.gallery_folder.rglob("*.png"))
        assert {path.name for path in settings.logs.iterdir()} >= {"web.log"}
        assert open_to_others(settings.home) == {}
        services.database.close()
    finally:
        kill_tree(child)


@pytest.mark.parametrize("value", UMASKS, ids=oct)
def test_new_pictures_follow_the_gallerys_folder(settings: Settings, value: int) -> None:
    with umask(value):
        services = open_services(settings)
        for gallery, folder, file in ((0o700, 0o700, 0o600), (0o755, 0o755, 0o644), (0o2770, 0o2770, 0o640)):
            settings.gallery_folder.chmod(gallery)
            key = f"{KEY[:-1]}{gallery:o}"
            day = settings.gallery_folder / f"{gallery:o}"
            files = open_files(settings)
            files.save(f"{gallery:o}/22/{key[-6:]}", PIL.new("RGB", (8, 8)), {})
            made = list(day.rglob("*.*"))
            assert {path.suffix for path in made} == {".png", ".webp"}
            assert {mode(path) for path in made} == {file}
            assert {mode(path) for path in (day, day / "22")} == {folder}
        services.database.close()


@pytest.mark.parametrize("value", UMASKS, ids=oct)
def test_previews_and_sources_are_private_wherever_they_lie(settings: Settings, value: int) -> None:
    settings.make_folders()
    settings.previews.chmod(0o777)
    with umask(value):
        open_files(settings).save_preview("x", webp(PIL.new("RGB", (8, 8)), 60))
        write_atomically(settings.sources / "ab" / "x.png", lambda file: file.write(b"x"))
    assert mode(settings.previews / "x.webp") == mode(settings.sources / "ab" / "x.png") == 0o600
    assert mode(settings.sources / "ab") == 0o700


def test_what_was_downloaded_follows_the_models_folder(settings: Settings) -> None:
    settings.make_folders()
    tree = settings.models / "a model"
    with umask(0o077):
        (tree / "unet").mkdir(parents=True)
        (tree / "unet" / "weights").write_bytes(b"x")
    settings.models.chmod(0o755)
    disk.share_like(tree, settings.models)
    assert [mode(path) for path in (tree, tree / "unet", tree / "unet" / "weights")] == [0o755, 0o755, 0o644]


def test_hooks_and_exports_have_the_users_own_umask(services: Services) -> None:
    target = services.settings.home / "of-the-hook"
    (services.settings.home / "config.toml").write_text(f'on_queue_idle = ["touch", "{target}"]\n')
    result = Settings.load(home=services.settings.home)
    with umask(0o022), disk.private_umask():
        assert os.umask(0o077) == 0o077
        outcome = run_hook(result, "hook:on_queue_idle", '{"type": "queue.idle", "data": {}}')
        assert outcome.delivered, outcome
        with disk.inherited_umask_restored():
            (services.settings.home / "export").write_text("x")
        (services.settings.home / "own").write_text("x")
    assert [mode(services.settings.home / name) for name in ("of-the-hook", "export", "own")] == [0o644, 0o644, 0o600]
