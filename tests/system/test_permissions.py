"""Older homes: databases and secrets are closed at the start, everything else is reported, and closed on request."""

import errno
import logging
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from diffusion_local.compose import Services, open_files
from diffusion_local.health.doctor import Finding, examine
from diffusion_local.settings import Settings
from diffusion_local.supervisor.supervisor import check_modes
from diffusion_local.system import permissions
from diffusion_local.system.permissions import close_all, shared, tighten_secrets

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX modes")

SECRETS = ("app.db", "app.db-wal", "queue.db", "app.before-m002_images.db", "webhook.secret", "config.toml")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture
def old(services: Services) -> Settings:
    """A home as it was made under umask 022."""
    home = services.settings.home
    (home / "tls").mkdir()
    for name in (*SECRETS, "tls/key.pem", "tls/cert.pem", "logs/web.log"):
        if not (home / name).exists():
            (home / name).write_bytes(b"")
    for path in (home, *home.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return services.settings


def finding(settings: Settings, name: str = "permissions") -> Finding:
    [found] = [each for each in examine(settings, open_files(settings)) if each.name == name]
    return found


def test_at_the_start_only_databases_and_secrets_are_closed(old: Settings, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_modes(old)
    for name in (*SECRETS, "tls/key.pem"):
        assert mode(old.home / name) == 0o600, name
        assert f"{old.home / name}: 0644 -> 0600" in caplog.text
    for name in ("", "gallery", "logs", "tls", "sources", "models"):
        assert mode(old.home / name) == 0o755, name
    assert mode(old.home / "tls/cert.pem") == mode(old.home / "logs/web.log") == 0o644
    assert "doctor --fix" in caplog.text
    caplog.clear()
    check_modes(old)
    assert "0644 -> 0600" not in caplog.text


def test_the_doctor_tells_and_closes_on_request(old: Settings) -> None:
    found = finding(old)
    assert (found.ok, found.grave) == (False, False)
    for name in ("home", "gallery", "sources", "logs", "app.db"):
        assert name in found.text
    assert "models" not in found.text
    changed = close_all(old)
    assert all(not each.problem for each in changed)
    assert {each.path for each in changed} >= {old.home, old.gallery_folder, old.database_file, old.logs}
    assert mode(old.home) == mode(old.gallery_folder) == 0o700
    assert mode(old.models) == 0o755
    assert finding(old).ok
    assert close_all(old) == []


def test_a_gallery_shared_on_purpose_is_no_complaint(old: Settings) -> None:
    close_all(old)
    old.home.chmod(0o711)
    old.gallery_folder.chmod(0o755)
    assert shared(old) == [old.gallery_folder]
    found = finding(old)
    assert (found.ok, found.text) == (True, "others may read gallery")
    assert tighten_secrets(old) == []


@pytest.mark.parametrize(
    ("error", "messages"),
    [
        (PermissionError(errno.EPERM, "Operation not permitted"), "another user"),
        (OSError(errno.ENOTSUP, "Operation not supported"), "not supported"),
        (OSError(errno.EROFS, "Read-only file system"), "Read-only"),
        (None, "same mode"),
    ],
    ids=["owner", "unsupported", "read-only", "ignored"],
)
def test_a_file_system_that_refuses_is_told_and_no_failure(
    old: Settings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: OSError | None,
    messages: str,
) -> None:
    def refuse(path: Path, mode: int, **more: Any) -> None:
        if error:
            raise error

    monkeypatch.setattr(Path, "chmod", refuse)
    with caplog.at_level(logging.WARNING):
        check_modes(old)
    assert f"{old.database_file} stays 0644" in caplog.text
    assert messages in caplog.text
    assert all(each.problem for each in close_all(old))


def test_links_are_left_alone(old: Settings, tmp_path: Path) -> None:
    outside = tmp_path / "elsewhere.toml"
    outside.write_text("")
    outside.chmod(0o644)
    (old.home / "config.toml").unlink()
    (old.home / "config.toml").symlink_to(outside)
    close_all(old)
    assert mode(outside) == 0o644


def test_windows_has_no_modes(old: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(permissions, "MODES", False)
    assert close_all(old) == shared(old) == []


def test_a_home_that_is_not_there_is_nothing_to_close(settings: Settings) -> None:
    assert close_all(settings) == []
    assert not settings.home.exists()
