"""Settings as a person meets them: where each was set, and changes that keep the file a person wrote."""

import stat
from pathlib import Path

import pytest

from diffusion_local.actor import SCOPES, Actor, Role, acting
from diffusion_local.errors import Conflict, Forbidden, InvalidParams
from diffusion_local.preferences import EDITABLE, Preference, Preferences
from diffusion_local.settings import ENVIRONMENT_PREFIX, Settings, names
from tests.support import refused

WRITTEN = '# mine\nkeep_jobs_days = 30  # a month\n\ntoken = "abc-secret"\n'


@pytest.fixture
def told(tmp_path: Path) -> Preferences:
    (tmp_path / "config.toml").write_text(WRITTEN)
    environ = {ENVIRONMENT_PREFIX + "HOME": str(tmp_path), ENVIRONMENT_PREFIX + "MODEL_STREAK": "8"}
    return Preferences(Settings.load(environ, device="cpu"))


def one(preferences: Preferences, name: str) -> Preference:
    return next(each for each in preferences.all() if each.name == name)


def file_of(preferences: Preferences) -> str:
    return (preferences.settings.home / "config.toml").read_text()


def test_where_each_was_set(told: Preferences) -> None:
    assert {each.name: each.origin for each in told.all() if each.origin != "default"} == {
        "keep_jobs_days": "file",
        "token": "file",
        "model_streak": "environment",
        "device": "command",
    }
    assert {each.name for each in told.all()} == set(names()) - {"home"}


def test_a_child_process_knows_where_its_parent_had_them_from(told: Preferences) -> None:
    child = Preferences(Settings.load(told.settings.to_env()))
    assert [(each.name, each.origin) for each in child.all()] == [(each.name, each.origin) for each in told.all()]
    assert child.settings == told.settings


def test_a_change_counts_after_a_restart_and_keeps_what_a_person_wrote(told: Preferences) -> None:
    changed = told.change("keep_jobs_days", " 60 ")
    assert (changed.value, changed.later, changed.origin) == (30, 60, "file")
    told.change("memory", "sequential")
    assert file_of(told).startswith("# mine\nkeep_jobs_days = 60  # a month\n\ntoken")
    again = Settings.load({ENVIRONMENT_PREFIX + "HOME": str(told.settings.home)})
    assert (again.keep_jobs_days, again.memory, again.token) == (60, "sequential", "abc-secret")
    assert list(told.settings.home.iterdir()) == [told.settings.home / "config.toml"]


def test_back_to_the_default(told: Preferences) -> None:
    assert told.reset("keep_jobs_days").later == 90
    assert "keep_jobs_days" not in file_of(told)
    assert told.reset("keep_jobs_days").later == 90  # twice is no harm


def test_a_file_that_is_not_there_is_made_for_its_owner_only(tmp_path: Path) -> None:
    preferences = Preferences(Settings.load({ENVIRONMENT_PREFIX + "HOME": str(tmp_path)}))
    preferences.change("report_at", "06:30")
    assert (tmp_path / "config.toml").read_text() == 'report_at = "06:30"\n'
    assert stat.S_IMODE((tmp_path / "config.toml").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("keep_jobs_days", "-1", "must not be negative"),
        ("keep_jobs_days", "40000", "must be from 0 to 36500"),
        ("keep_jobs_days", "many", "must be of type int"),
        ("memory", "magic", "must be one of auto"),
        ("report_at", "25:00", "must be a time of day"),
        ("timezone", "Europe/Nowhere", "must be a zone"),
        ("max_count", "0", "must be from 1"),
        ("log_level", "info\n[x]", "must be a line"),
        ("token", "x", "cannot be changed on the page"),
        ("on_batch_done", "rm", "cannot be changed on the page"),
        ("host", "0.0.0.0", "cannot be changed on the page"),
        ("nonsense", "x", "cannot be changed on the page"),
    ],
)
def test_what_cannot_be_is_told_and_nothing_is_written(told: Preferences, name: str, value: str, words: str) -> None:
    with pytest.raises(InvalidParams, match=words) as refused:
        told.change(name, value)
    assert refused.value.field == name
    assert file_of(told) == WRITTEN


def test_what_is_set_elsewhere_is_not_changed_here(told: Preferences) -> None:
    assert not one(told, "model_streak").editable
    for attempt in (lambda: told.change("model_streak", "4"), lambda: told.reset("model_streak")):
        with refused(Conflict, "set_elsewhere"):
            attempt()
    assert file_of(told) == WRITTEN


def test_a_damaged_file_is_told_and_not_overwritten(told: Preferences) -> None:
    (told.settings.home / "config.toml").write_text("keep_jobs_days = = 3\n")
    for attempt in (told.all, lambda: told.change("max_count", "5")):
        with refused(InvalidParams, "cannot_be_read", field="config.toml"):
            attempt()
    assert file_of(told) == "keep_jobs_days = = 3\n"


def test_a_folder_that_cannot_be_written_is_told(told: Preferences, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with refused(Conflict, "config_written"):
        told.change("max_count", "5")
    assert file_of(told) == WRITTEN
    assert list(told.settings.home.iterdir()) == [told.settings.home / "config.toml"]


def test_secrets_and_commands_are_never_told(told: Preferences) -> None:
    assert "abc-secret" not in repr(told.all())
    token = one(told, "token")
    assert (token.value, token.secret, token.editable) == (True, True, False)
    assert one(told, "on_batch_done").secret


@pytest.mark.parametrize("role", [Role.USER, Role.VIEWER])
def test_only_admins_see_and_change(told: Preferences, role: Role) -> None:
    with acting(Actor("ann", role, SCOPES[role], source="session")):
        for attempt in (told.all, lambda: told.change("max_count", "5"), lambda: told.reset("max_count")):
            with pytest.raises(Forbidden):
                attempt()


def test_what_can_be_changed_is_a_setting_with_limits(told: Preferences) -> None:
    for each in told.all():
        if each.name in EDITABLE and not isinstance(each.default, str):
            low, high = each.bounds or (1, 0)
            assert low <= each.default <= high, each.name
