"""The Settings tab: what it shows to whom, and what its controls do."""

import re
from typing import Any

import pytest

from diffusion_local.actor import SCOPES, Actor, Role, acting
from diffusion_local.compose import House, open_house
from diffusion_local.doctor import Finding
from diffusion_local.gpus import Gpu
from diffusion_local.health import Vitals
from diffusion_local.settings import PREFIX, Settings, specs
from diffusion_local.web.ui import actions, look, tab_settings, view, view_jobs, view_settings
from diffusion_local.web.ui.words import phrases, speaking
from tests.web.conftest import made


class Click:
    def __init__(self, verb: str, key: str = "") -> None:
        self._data = {"do": verb, "id": key}


def drawn(house: House) -> str:
    return tab_settings.draw(house.studio, house.studio.snapshot(), view.utc())


def act(house: House, verb: str, key: str = "") -> list[Any]:
    return actions.act(house.studio, Click(verb, key), "")  # type: ignore[arg-type]


def row(html: str, name: str) -> str:
    found = re.search(rf'<li class="row" data-key="{name}">.*?</li>', html, re.DOTALL)
    assert found, f"no row of {name}"
    return found[0]


def test_every_setting_is_there_with_its_meaning_in_both_languages(house: House) -> None:
    html = drawn(house)
    for spec in specs():
        if spec.name != "home":
            assert f"<code>{spec.name}</code>" in row(html, spec.name)
            assert phrases()[f"meanings.{spec.name}"]["en"] == spec.metadata["doc"]


def test_a_change_is_written_and_told_until_the_restart(house: House) -> None:
    assert "It takes effect after a restart" in act(house, "change_setting", "keep_trash_days\n7")[0]
    changed = row(drawn(house), "keep_trash_days")
    assert 'value="7"' in changed
    assert "takes effect after a restart" in changed
    assert 'data-do="reset_setting"' in changed
    again = Settings.load({}, home=house.settings.home)
    assert again.keep_trash_days == 7
    assert "is saved." in act(house, "reset_setting", "keep_trash_days")[0]
    assert "reset_setting" not in row(drawn(house), "keep_trash_days")


@pytest.mark.parametrize("key", ["keep_trash_days\nmany", "token\nx", "nonsense\nx", "", "max_count"])
def test_a_bad_change_is_told(house: House, key: str) -> None:
    assert "toast warn" in act(house, "change_setting", key)[0]
    assert not (house.settings.home / "config.toml").exists()


def test_what_is_set_by_the_environment_has_no_control(house: House) -> None:
    environ = {PREFIX + "HOME": str(house.settings.home), PREFIX + "MODEL_STREAK": "8"}
    other = open_house(Settings.load(environ, engine="fake"))
    fixed = row(drawn(other), "model_streak")
    assert "set by the environment" in fixed
    assert "<input" not in fixed
    assert "set on the command line" in row(drawn(other), "engine")


def test_secrets_are_not_in_the_page(house: House) -> None:
    (house.settings.home / "config.toml").write_text(
        'token = "abc-token"\nhub_token = "abc-hub"\nwebhook_secret = "whsec_abc-hook"\nwebhooks = "https://a/abc-url"\n'
        'on_batch_done = ["abc-program"]\n'
    )
    other = open_house(Settings.load({}, home=house.settings.home, engine="fake"))
    html = drawn(other)
    assert "abc-" not in html
    assert "set, not shown" in row(html, "hub_token")


@pytest.mark.parametrize("role", [Role.USER, Role.VIEWER])
def test_others_see_versions_and_whether_all_is_well(house: House, role: Role) -> None:
    with acting(Actor("ann", role, SCOPES[role], source="session")):
        html = drawn(house)
        assert "warn" in act(house, "change_setting", "max_count\n5")[0]
        assert "warn" in act(house, "check_health")[0]
    assert "<dt>torch</dt>" in html
    assert str(house.settings.home) not in html
    assert "keep_jobs_days" not in html
    assert "data-set" not in html


def test_findings_are_told_with_what_to_do_and_without_paths_to_others() -> None:
    found = [
        Finding("torch", True, "2.9"),
        Finding("home", True, "/secret/home"),
        Finding("database", False, "disk image is <malformed>", "Stop it."),
        Finding("model x", False, "config is missing", "Copy it.", grave=False),
    ]
    html = view_settings.findings(found, False, admin=True, paths=True)
    assert html.index("Database") < html.index("Model x") < html.index("/secret/home")
    assert "&lt;malformed&gt;" in html
    assert "Stop it." in html
    assert "Something is broken" in html
    assert "2.9" not in html
    others = view_settings.findings(found, False, admin=False, paths=False)
    assert "secret" not in others
    assert "malformed" not in others
    assert "has to be mended by an admin" in others


def test_the_machine_shows_workers_gpus_and_disk(house: House) -> None:
    house.workers.register("cpu0", 1, "CPU <x>")
    house.workers.tell("cpu0", "busy", "sdxl")
    vitals = Vitals((Gpu(0, "H100", 20 * 10**9, 80 * 10**9, 91, 0.5, 300.0),), 6 * 10**9, 10 * 10**9, 10**9)
    settings = Settings.load({}, home=house.settings.home, gpu_max_temp=85)
    html = view_settings.machine(house.workers.all(), vitals, settings, view.utc())
    assert "CPU &lt;x&gt;" in html
    assert "<b>sdxl</b> is loaded" in html
    assert "Working" in html
    assert "20.0 GB of 80.0 GB used · 91 °C · 50 % busy · 300 W" in html
    assert 'dot warn"' in row(html, "nvidia0")
    assert 'aria-valuenow="40"' in row(html, "disk")


def test_a_damaged_file_is_told_in_its_place(house: House) -> None:
    (house.settings.home / "config.toml").write_text("max_count = = 1")
    html = drawn(house)
    assert "cannot be read" in html
    assert "Versions" in html


def test_the_tab_is_drawn_anew_for_another_file(house: House) -> None:
    house.studio.health.findings()
    told, _ = look.look(house.studio, "", "settings", [])
    (house.settings.home / "config.toml").write_text("max_count = 5")
    assert "after a restart" in look.look(house.studio, told, "settings", [])[1]["settings"]


def test_it_speaks_chinese(house: House) -> None:
    with speaking("zh"):
        html = drawn(house)
    assert "已结束的任务在列表中保留的天数" in html
    assert "默认值" in html


def test_the_first_run_makes_a_picture_in_one_press(house: House) -> None:
    create = look.TABS["create"][0](house.studio, house.studio.snapshot(), view.utc(), "")
    assert 'data-do="first_picture"' in create
    outputs = act(house, "first_picture", view_jobs.EXAMPLES[0])
    assert [job.params.prompt for job in house.studio.jobs_of_batches([outputs[1]])] == [view_jobs.EXAMPLES[0]]
    made(house)
    assert "first_picture" not in look.TABS["create"][0](house.studio, house.studio.snapshot(), view.utc(), "")
