"""The one place where things are put together."""

from pathlib import Path

import pytest

from diffusion_local.compose import open_services, open_studio
from diffusion_local.db import migrations
from diffusion_local.db.database import Database
from diffusion_local.errors import DatabaseProblem
from diffusion_local.settings import Settings


def test_a_house_is_opened_in_an_empty_place_and_again(settings: Settings) -> None:
    first = open_services(settings)
    job_ids = first.studio.submit("x").job_ids
    assert [job.id for job in open_studio(settings).jobs()] == job_ids
    assert {path.name for path in settings.home.iterdir() if path.is_dir()} >= {
        "gallery",
        "locks",
        "logs",
        "models",
    }


def test_a_damaged_database_is_told_and_not_touched(settings: Settings) -> None:
    settings.make_folders()
    settings.database_file.write_bytes(b"no database " * 1000)
    with pytest.raises(DatabaseProblem, match="damaged"):
        open_services(settings)
    assert settings.database_file.read_bytes() == b"no database " * 1000


def test_homes_do_not_know_each_other(settings: Settings, tmp_path: Path) -> None:
    other = Settings.load({}, home=tmp_path / "other", engine="fake")
    [job_id] = open_studio(settings).submit("x").job_ids
    assert open_studio(other).jobs() == []
    assert open_studio(settings).job(job_id).id == job_id


def test_a_new_database_of_a_test_is_a_copy_of_the_template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise each of thousands of tests runs every migration."""
    monkeypatch.setattr(migrations, "statements", pytest.fail)
    opened = Database.open(tmp_path / "app.db")
    with opened.read() as db:
        assert db.scalar("SELECT count(*) FROM queue") == 1
    opened.close()
