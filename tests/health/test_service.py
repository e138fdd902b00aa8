"""How the machine does: looked at beside the work, once for all who ask."""

import threading

import pytest

from diffusion_local.actor import SCOPES, Actor, Role, acting
from diffusion_local.compose import Services
from diffusion_local.gallery.files import ImageFiles
from diffusion_local.health import service
from diffusion_local.health.doctor import Finding
from diffusion_local.health.service import Health
from diffusion_local.settings import Settings
from tests.support import eventually


def test_the_first_question_sends_the_doctor_and_nobody_waits(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, looks = threading.Event(), []

    def examine(settings: Settings, files: ImageFiles) -> list[Finding]:
        looks.append(settings)
        go.wait(10)
        return [Finding("disk", True, "plenty")]

    monkeypatch.setattr(service, "examine", examine)
    asked = Health(services.settings, services.images, services.files)
    assert asked.findings() == []
    assert asked.findings() == []
    assert asked.looking
    go.set()
    eventually(lambda: not asked.looking, 5)
    assert [each.name for each in asked.findings()] == ["disk"]
    assert len(looks) == 1


def test_a_doctor_that_falls_ill_is_no_end(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    def examine(settings: Settings, files: ImageFiles) -> list[Finding]:
        raise RuntimeError

    monkeypatch.setattr(service, "examine", examine)
    asked = Health(services.settings, services.images, services.files)
    asked.start_check()
    eventually(lambda: not asked.looking, 5)
    assert asked.findings() == []


def test_vitals_are_asked_once_for_a_while(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    monkeypatch.setattr(service.gpus, "read", lambda: reads.append(1) or [])
    asked = Health(services.settings, services.images, services.files)
    assert asked.vitals() == asked.vitals()
    assert len(reads) == 1
    assert 0 < asked.vitals().free <= asked.vitals().total
    assert asked.vitals().gallery == 0


@pytest.mark.parametrize(
    ("changes", "who", "seen"),
    [
        ({}, None, True),
        ({"host": "0.0.0.0"}, None, False),
        ({"trusted_proxies": "10.0.0.0/8"}, None, False),
        ({"host": "0.0.0.0"}, Role.ADMIN, True),
        ({}, Role.USER, False),
    ],
)
def test_paths_are_for_this_machines_person_and_admins(
    services: Services, changes: dict[str, str], who: Role | None, seen: bool
) -> None:
    asked = Health(Settings.load({}, home=services.settings.home, **changes), services.images, services.files)
    if who is None:
        assert asked.shows_paths() is seen
    else:
        with acting(Actor("ann", who, SCOPES[who], source="session")):
            assert asked.shows_paths() is seen
