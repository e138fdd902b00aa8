"""The doctor: looks at everything, breaks over nothing, and what it offers brings things back."""

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from diffusion_local.compose import Services, open_files, open_services
from diffusion_local.db.database import Database, translate_errors
from diffusion_local.engine.fake import FakeEngine
from diffusion_local.errors import DatabaseProblem, UserError
from diffusion_local.health import storage_checks
from diffusion_local.health.doctor import Finding, back_up, examine, rebuild_gallery, styles
from diffusion_local.messages import message
from diffusion_local.settings import Settings
from diffusion_local.worker.stopping import Stop
from tests.workers import open_runner


def found(settings: Settings) -> dict[str, Finding]:
    return {finding.name: finding for finding in examine(settings, open_files(settings))}


def made(services: Services, count: int = 3) -> list[str]:
    ids = services.studio.submit("a red apple", count=count, width=128, height=128, steps=2).job_ids
    runner = open_runner(services, "cpu0", FakeEngine(0), Stop())
    runner.run_due_jobs()
    runner.close()
    return ids


def test_a_sound_home_is_found_sound(services: Services) -> None:
    services.workers.register("cpu0", 10, "CPU")
    findings = found(services.settings)
    assert {name: finding.text for name, finding in findings.items() if not finding.ok} == {}
    assert findings.keys() >= {"diffusion-local", "torch", "home", "disk", "database", "device cpu0", "model starter"}
    assert "process 10" in findings["worker cpu0"].text


def test_a_database_that_another_program_holds_is_named(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_checks, "PATIENCE_SECONDS", 0.01)  # readiness answers sooner than a lock is given up

    def locked(database: Database) -> None:
        threading.Event().wait(0.2)
        raise DatabaseProblem(message("database_locked", file="app.db", seconds=15))

    monkeypatch.setattr(Database, "probe", locked)
    finding = found(services.settings)["storage"]
    assert not finding.ok
    assert "locked by another program" in finding.text


def test_a_home_that_is_not_there_is_not_made(settings: Settings) -> None:
    findings = found(settings)
    assert not findings["home"].ok
    assert findings["database"].text == "not created yet"
    assert not settings.home.exists()


def test_what_is_wrong_comes_with_what_to_do(services: Services) -> None:
    (services.settings.models / "broken").mkdir()
    services.database.close()
    services.settings.database_file.write_bytes(b"no database " * 1000)
    findings = found(services.settings)
    for name in ("database", "model broken"):
        assert not findings[name].ok
        assert findings[name].mend
    assert "damaged" in findings["database"].text
    assert "doctor --rebuild" in findings["database"].mend


def test_a_backup_is_a_whole_database_and_overwrites_nothing(services: Services, tmp_path: Path) -> None:
    ids = made(services)
    target = tmp_path / "copy" / "app.db"
    target.parent.mkdir()
    back_up(services.settings, target)
    other = Settings.load({}, home=target.parent, engine="fake")
    assert sorted(job.id for job in open_services(other).studio.jobs()) == ids
    with pytest.raises(UserError, match="already exists"):
        back_up(services.settings, target)


def test_a_backup_that_cannot_be_made_says_why(services: Services, tmp_path: Path) -> None:
    with pytest.raises(UserError):
        back_up(services.settings, tmp_path / "no" / "such" / "folder.db")
    with pytest.raises(UserError, match="no database"):
        back_up(Settings.load({}, home=tmp_path / "nowhere"), tmp_path / "copy.db")
    services.database.close()
    services.settings.database_file.write_bytes(b"no database " * 1000)
    with pytest.raises(UserError, match="damaged"):
        back_up(services.settings, tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists()


def test_the_gallery_comes_back_from_the_pictures_alone(services: Services) -> None:
    ids = made(services)
    before = services.studio.gallery()
    services.database.close()
    for file in services.settings.home.glob("app.db*"):
        file.unlink()
    assert rebuild_gallery(services.settings, open_files(services.settings)) == 3
    assert rebuild_gallery(services.settings, open_files(services.settings)) == 0
    after = open_services(services.settings).studio.gallery()
    assert sorted(image.id for image in after) == ids
    assert after == before


def test_a_rebuild_takes_foreign_and_damaged_pictures_for_what_they_are(services: Services) -> None:
    [kept] = made(services, 1)
    folder = next(services.settings.gallery_folder.rglob("*.png")).parent
    (folder / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"x" * 50)
    (folder / "empty.png").write_bytes(b"")
    from PIL import Image as PIL

    PIL.new("RGB", (8, 8)).save(folder / "foreign.png")
    assert rebuild_gallery(services.settings, open_files(services.settings)) == 0
    assert [image.id for image in services.studio.gallery()] == [kept]


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        ("database or disk is full", "See the message."),
        ("disk I/O error", "See the message."),
        ("database is locked", "See the message."),
        ("attempt to write a readonly database", "See the message."),
        ("database disk image is malformed", "doctor --rebuild"),
    ],
)
def test_only_a_damaged_database_is_to_be_set_aside(
    services: Services, monkeypatch: pytest.MonkeyPatch, error: str, advice: str
) -> None:
    def fail(database: Database) -> list[str]:
        with translate_errors(database.path):
            raise sqlite3.DatabaseError(error)

    monkeypatch.setattr(Database, "findings", fail)
    result = found(services.settings)["database"]
    assert (result.ok, advice in result.mend, error in result.text) == (False, True, error != "database is locked")


def test_a_file_of_styles_that_gives_none_is_named(services: Services) -> None:
    (services.settings.home / "styles.csv").write_bytes("name,prompt\nNacht,dunkle Straße\n".encode("cp1252"))
    [found] = styles(services.settings)
    assert (found.name, found.ok, found.grave) == ("styles", False, False)
    (services.settings.home / "styles.csv").write_bytes("name,prompt\nNacht,dunkle Straße\n".encode())
    assert not list(styles(services.settings))


def test_folders_that_may_not_be_read_are_named(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "folders" not in found(services.settings)
    closed, real = services.settings.loras, Path.iterdir

    def iterdir(folder: Path) -> Iterator[Path]:
        if folder == closed:  # permissions do not bind the administrator, who may run this
            raise PermissionError(13, "Permission denied")
        return real(folder)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    result = found(services.settings)["folders"]
    assert (result.ok, "loras" in result.text, "chown" in result.mend) == (False, True, True)
