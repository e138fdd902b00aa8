"""Settings: one precedence, one place that reads the environment, and words for whatever is wrong."""

import os
from dataclasses import MISSING
from pathlib import Path
from typing import Any

import pytest

from diffusion_local.errors import InvalidParams
from diffusion_local.settings import ENVIRONMENT_PREFIX, Settings, go_offline, keep_kernels, names, specs


def load(home: Path, environ: dict[str, str] | None = None, toml: str = "", **overrides: Any) -> Settings:
    home.mkdir(exist_ok=True)
    if toml:
        (home / "config.toml").write_text(toml)
    return Settings.load({ENVIRONMENT_PREFIX + "HOME": str(home)} | (environ or {}), **overrides)


def test_the_command_line_beats_the_environment_beats_the_file_beats_the_default(tmp_path: Path) -> None:
    environ = {ENVIRONMENT_PREFIX + "PORT": "2", ENVIRONMENT_PREFIX + "MAX_COUNT": "22"}
    toml = "port = 3\nmax_count = 33\nmax_queued = 333"
    settings = load(tmp_path, environ, toml, port=1)
    assert (settings.port, settings.max_count, settings.max_queued, settings.host) == (1, 22, 333, "127.0.0.1")


def test_what_is_not_given_on_the_command_line_does_not_count(tmp_path: Path) -> None:
    assert load(tmp_path, {ENVIRONMENT_PREFIX + "PORT": "2"}, port=None).port == 2


def test_the_home_comes_from_the_command_line_first(tmp_path: Path) -> None:
    assert Settings.load({ENVIRONMENT_PREFIX + "HOME": "/elsewhere"}, home=tmp_path).home == tmp_path
    assert Settings.load({ENVIRONMENT_PREFIX + "HOME": "~/pictures"}).home == Path.home() / "pictures"
    assert Settings.load({}, home=Path("here")).home == Path.cwd() / "here"
    with pytest.raises(InvalidParams, match="home: cannot be ~no-such-user/x: there is no such user"):
        Settings.load({ENVIRONMENT_PREFIX + "HOME": "~no-such-user/x"})
    assert Settings.load({}).home.name == "diffusion-local"


@pytest.mark.parametrize(
    ("environ", "toml", "overrides", "words"),
    [
        ({"PORT": "http"}, "", {}, "DIFFUSION_LOCAL_PORT: must be of type int"),
        ({"PORT": ""}, "", {}, "DIFFUSION_LOCAL_PORT: must be of type int"),
        ({"PROT": "7861"}, "", {}, "DIFFUSION_LOCAL_PROT: is not a setting; DIFFUSION_LOCAL_PORT is."),
        ({"IMAGEFORMAT": "webp"}, "", {}, "DIFFUSION_LOCAL_IMAGE_FORMAT is."),
        ({}, "port = true", {}, "config.toml: port: must be of type int"),
        ({}, "port = inf", {}, "config.toml: port: must be of type int"),
        ({}, "port = 7861.5", {}, "config.toml: port: must be of type int"),
        ({}, "port = " + "[" * 50_000, {}, "config.toml: cannot be read"),
        ({"STOP_GRACE": "nan"}, "", {}, "DIFFUSION_LOCAL_STOP_GRACE: must"),
        ({"STOP_GRACE": "inf"}, "", {}, "DIFFUSION_LOCAL_STOP_GRACE: must"),
        ({"MAX_COUNT": "-1"}, "", {}, "must not be negative"),
        ({}, "engine = 'gpu'", {}, "config.toml: engine: must be one of diffusers, fake"),
        ({}, "", {"device": "tpu"}, "--device: must be one of auto, cuda, mps, cpu"),
        ({}, "prot = 7861", {}, "config.toml: prot: is not a setting"),
        ({}, "home = '/elsewhere'", {}, "config.toml: home: is not a setting"),
        ({}, "port = = 3", {}, "config.toml: cannot be read"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(
    tmp_path: Path, environ: dict[str, str], toml: str, overrides: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidParams) as error:
        load(tmp_path, {ENVIRONMENT_PREFIX + name: value for name, value in environ.items()}, toml, **overrides)
    assert words in error.value.message


def test_variables_of_hooks_and_of_other_programs_are_no_settings(tmp_path: Path) -> None:
    facts = {"EVENT": "batch.done", "BATCH_ID": "b", "NAME": "night", "REPORT": "r"}
    load(tmp_path, {ENVIRONMENT_PREFIX + name: text for name, text in facts.items()})
    load(tmp_path, {ENVIRONMENT_PREFIX + "COMPOSE_PROJECT": "x", "PROT": "5"})


def test_a_file_that_notepad_saved_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(b"\xef\xbb\xbfport = 7861\r\n")
    assert Settings.load({}, home=tmp_path).port == 7861


def test_a_child_loads_equal_settings(tmp_path: Path) -> None:
    settings = load(tmp_path, port=1, engine="fake", stop_grace=0.25, allowed_hosts="a, b")
    assert Settings.load(settings.to_env()) == settings
    assert settings.child_environ().items() >= settings.to_env().items()
    assert settings.child_environ().items() >= {"PATH": os.environ["PATH"]}.items()


def test_every_setting_says_what_it_is() -> None:
    for field in specs():
        assert field.metadata["doc"], field.name
        if field.metadata.get("choices"):
            assert field.default in field.metadata["choices"]
    assert [field.name for field in specs() if field.default is MISSING] == ["home"]


def test_everything_lies_in_the_home(tmp_path: Path) -> None:
    settings = load(tmp_path / "home")
    settings.make_folders()
    settings.make_folders()
    places = [
        value
        for name in dir(Settings)
        if isinstance(getattr(Settings, name), property) and isinstance(value := getattr(settings, name), Path)
    ]
    assert len(places) >= 7
    outside = [place for place in places if not place.is_relative_to(settings.home)]
    assert outside == [settings.starter, settings.starter_control]
    assert (settings.starter / "model_index.json").is_file()


def test_going_offline_says_exactly_what_gradio_compares_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    changed: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", changed)
    go_offline(tmp_path)
    assert changed["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert changed["HF_HUB_OFFLINE"] == "1"
    assert changed["GRADIO_TEMP_DIR"].startswith(str(tmp_path))  # not the system's, which others may read


def test_names_are_the_fields() -> None:
    assert names()[0] == "home"
    assert set(names()) == {field.name for field in specs()}


def test_compiled_kernels_are_kept_in_the_home_unless_the_environment_says_where(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"):
        monkeypatch.setenv(name, "")  # put back as it was afterwards
        monkeypatch.delenv(name)
    keep_kernels(settings.kernels)
    assert os.environ["TRITON_CACHE_DIR"] == str(settings.home / "kernels")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(settings.home / "kernels" / "inductor")
    keep_kernels(tmp_path)
    assert os.environ["TRITON_CACHE_DIR"] == str(settings.home / "kernels")
