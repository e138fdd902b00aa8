"""The Settings tab: what it shows to whom, and what its controls do."""

import re
from dataclasses import replace
from typing import Any

import pytest

from diffusion_local.actor import SCOPES, Actor, Role, acting
from diffusion_local.compose import Services, open_services
from diffusion_local.health.doctor import Finding
from diffusion_local.health.service import HealthStatus
from diffusion_local.preferences import EDITABLE, restart_file
from diffusion_local.settings import ENVIRONMENT_PREFIX, Settings, specs
from diffusion_local.system.gpus import Gpu
from diffusion_local.web import page_delta
from diffusion_local.web.ui import actions, tab_settings, view, view_settings, view_stage
from diffusion_local.web.ui.words import phrases, speaking
from tests.web.conftest import made


class Click:
    def __init__(self, verb: str, key: str = "") -> None:
        self._data = {"do": verb, "id": key}


def drawn(services: Services) -> str:
    return tab_settings.draw(services.studio, services.studio.snapshot(), view.utc())


def act(services: Services, verb: str, key: str = "") -> list[Any]:
    return actions.act(services.studio, Click(verb, key))  # type: ignore[arg-type]


def row(html: str, name: str) -> str:
    found = re.search(rf'<li class="row[^"]*" data-key="{name}".*?</li>', html, re.DOTALL)
    assert found, f"no row of {name}"
    return found[0]


def test_the_folder_of_the_pictures_is_told(services: Services) -> None:
    settings = services.settings
    assert str(settings.gallery_folder) in view_settings.folders(settings)
    assert "s3://pictures/all" in view_settings.folders(replace(settings, gallery="s3://pictures/all"))


def test_every_setting_is_there_with_its_meaning_in_both_languages(services: Services) -> None:
    html = drawn(services)
    for spec in specs():
        if spec.name != "home":
            assert f'<code class="raw">{spec.name}</code>' in row(html, spec.name)
            assert phrases()[f"meanings.{spec.name}"]["en"] == spec.metadata["doc"]


def test_a_change_is_written_and_told_until_the_restart(services: Services) -> None:
    assert "It takes effect after a restart" in act(services, "change_setting", "keep_trash_days\n7")[0]
    changed = row(drawn(services), "keep_trash_days")
    assert 'value="7"' in changed
    assert "takes effect after a restart" in changed
    assert 'data-do="reset_setting"' in changed
    again = Settings.load({}, home=services.settings.home)
    assert again.keep_trash_days == 7
    assert "is saved." in act(services, "reset_setting", "keep_trash_days")[0]
    assert "reset_setting" not in row(drawn(services), "keep_trash_days")


@pytest.mark.parametrize("key", ["keep_trash_days\nmany", "token\nx", "nonsense\nx", "", "max_count"])
def test_a_bad_change_is_told(services: Services, key: str) -> None:
    assert "toast warn" in act(services, "change_setting", key)[0]
    assert not (services.settings.home / "config.toml").exists()


def test_a_refused_value_names_the_setting_by_its_title(services: Services) -> None:
    assert "Time zone must be a zone" in act(services, "change_setting", "timezone\nMars")[0]
    with speaking("zh"):
        assert "时区 " in act(services, "change_setting", "timezone\nMars")[0]


def test_what_is_set_by_the_environment_has_no_control(services: Services) -> None:
    environ = {ENVIRONMENT_PREFIX + "HOME": str(services.settings.home), ENVIRONMENT_PREFIX + "MODEL_STREAK": "8"}
    other = open_services(Settings.load(environ, engine="fake"))
    fixed = row(drawn(other), "model_streak")
    assert "set by the environment" in fixed
    assert "<input" not in fixed
    assert "set on the command line" in row(drawn(other), "engine")


def test_secrets_are_not_in_the_page(services: Services) -> None:
    (services.settings.home / "config.toml").write_text(
        'token = "abc-token"\nhub_token = "abc-hub"\nwebhook_secret = "whsec_abc-hook"\nwebhooks = "https://a/abc-url"\n'
        'on_batch_done = ["abc-program"]\n'
    )
    other = open_services(Settings.load({}, home=services.settings.home, engine="fake"))
    html = drawn(other)
    assert "abc-" not in html
    assert "set, not shown" in row(html, "hub_token")


@pytest.mark.parametrize("role", [Role.USER, Role.VIEWER])
def test_others_see_versions_and_whether_all_is_well(services: Services, role: Role) -> None:
    with acting(Actor("ann", role, SCOPES[role], source="session")):
        html = drawn(services)
        assert "warn" in act(services, "change_setting", "max_count\n5")[0]
        assert "warn" in act(services, "check_health")[0]
    assert "<dt>torch</dt>" in html
    assert str(services.settings.home) not in html
    assert "keep_jobs_days" not in html
    assert "data-set=" not in html


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
    assert "An admin needs to fix this" in others


def test_the_machine_shows_workers_gpus_and_disk(services: Services) -> None:
    services.workers.register("cpu0", 1, "CPU <x>")
    services.workers.update("cpu0", "busy", "sdxl")
    vitals = HealthStatus((Gpu(0, "H100", 20 * 10**9, 80 * 10**9, 91, 0.5, 300.0),), 6 * 10**9, 10 * 10**9, 10**9)
    settings = Settings.load({}, home=services.settings.home, gpu_max_temp=85)
    html = view_settings.machine(services.workers.list_all(), vitals, settings, view.utc())
    assert "CPU &lt;x&gt;" in html
    assert "<b>sdxl</b> is loaded" in html
    assert "Working" in html
    assert "20.0 GB of 80.0 GB used · 91 °C · 50 % busy · 300 W" in html
    assert 'dot warn"' in row(html, "nvidia0")
    assert 'aria-valuenow="40"' in row(html, "disk")


def test_a_damaged_file_is_told_in_its_place(services: Services) -> None:
    (services.settings.home / "config.toml").write_text("max_count = = 1")
    html = drawn(services)
    assert "cannot be read" in html
    assert "Versions" in html


def test_the_tab_is_drawn_anew_for_another_file(services: Services) -> None:
    services.studio.health.findings()
    result, _ = page_delta.delta_since(services.studio, "", "settings", [])
    (services.settings.home / "config.toml").write_text("max_count = 5")
    assert "after a restart" in page_delta.delta_since(services.studio, result, "settings", [])[1]["settings"]


def test_it_speaks_chinese(services: Services) -> None:
    with speaking("zh"):
        html = drawn(services)
    assert "已结束的任务在列表中保留的天数" in html
    assert "在别处更改的设置" in html


def test_the_first_run_makes_a_picture_in_one_press(services: Services) -> None:
    create = page_delta.TABS["create"][0](services.studio, services.studio.snapshot(), view.utc(), "", "")
    assert 'data-do="first_picture"' in create
    outputs = act(services, "first_picture", view_stage.EXAMPLE_PROMPTS[0])
    assert [job.params.prompt for job in services.studio.jobs_of_batches([outputs[1]])] == [
        view_stage.EXAMPLE_PROMPTS[0]
    ]
    made(services)
    assert "first_picture" not in page_delta.TABS["create"][0](
        services.studio, services.studio.snapshot(), view.utc(), "", ""
    )


def test_a_setting_has_words_of_its_own_and_every_one_that_can_be_changed_a_group(services: Services) -> None:
    html = drawn(services)
    for name in EDITABLE:
        assert f"titles.{name}" in phrases(), name
        assert phrases()[f"titles.{name}"]["en"] in row(html, name)
    for each in specs():
        for choice in each.metadata.get("choices", ()):
            assert str(view_settings.choice_words(each.name, choice))


def test_a_change_that_waits_for_a_restart_is_counted_and_the_restart_is_asked_for(services: Services) -> None:
    act(services, "change_setting", "keep_trash_days\n7")
    html = drawn(services)
    assert "1 change takes effect after a restart" in html
    assert 'data-do="restart"' not in html  # nobody is there to do it
    assert "serve" in act(services, "restart")[0]
    assert not restart_file(services.settings).exists()
    (services.settings.locks / "serve.json").write_text("{}")
    assert 'data-do="restart"' in drawn(services)
    act(services, "restart")
    assert restart_file(services.settings).exists()


def test_an_admin_administers_accounts(services: Services) -> None:
    accounts = services.studio.accounts
    assert "the first one is an admin" in drawn(services)
    act(services, "account_add", "\nname=ann&password=a%20long%20one&role=admin")
    act(services, "account_add", "\nname=bob&password=a%20long%20one&role=user")
    assert [(each.name, each.role) for each in accounts.all()] == [("ann", Role.ADMIN), ("bob", Role.USER)]
    assert "toast warn" in act(services, "account_add", "\nname=bob&password=a%20long%20one")[0]
    assert 'data-wrong="password"' in act(services, "account_add", "\nname=eve&password=short")[0]
    act(services, "account_role", "bob\nviewer")
    act(services, "account_limits", "bob\nqueued=5&per_day=&pixels=0")
    assert accounts.get("bob").role is Role.VIEWER
    assert accounts.get("bob").limits == {"queued": 5, "pixels": 0}
    assert 'data-wrong="queued"' in act(services, "account_limits", "bob\nqueued=-1")[0]
    token, _ = accounts.add_token("bob", "a script", [])
    html = drawn(services)
    assert "a script" in html
    act(services, "account_token", f"bob {token.id}")
    assert accounts.tokens("bob") == []
    with acting(Actor("bob", Role.VIEWER, SCOPES[Role.VIEWER], source="session")):
        assert "account-bob" not in drawn(services)
        assert "warn" in act(services, "account_remove", "ann")[0]
    act(services, "account_remove", "bob")
    assert [each.name for each in accounts.all()] == ["ann"]
