"""The doctor on a machine that joined a studio over HTTPS."""

import re
import shutil
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from diffusion_local.compose import Services
from diffusion_local.dispatch import wire
from diffusion_local.health.doctor import Finding
from diffusion_local.models.catalog import Catalog
from diffusion_local.models.digests import Digests
from diffusion_local.models.directories import ModelDirectories
from diffusion_local.remote import doctor, pairing
from diffusion_local.remote.doctor import examine
from diffusion_local.remote.spool import SPOOL_SUFFIX
from diffusion_local.settings import Settings
from diffusion_local.system.network import self_signed
from tests.web.conftest import free_port


@pytest.fixture
def paired(secure: tuple[str, Services, Path], tmp_path: Path) -> Settings:
    """The settings of a machine that has joined the studio."""
    url, services, _ = secure
    settings = Settings.load(environ={}, home=tmp_path / "worker")
    pairing.save_credential(settings.home, pairing.pair(url, services.studio.machines.invite().code, "den"))
    return settings


def findings(settings: Settings) -> dict[str, Finding]:
    return {each.name: each for each in examine(settings)}


def test_it_says_nothing_where_nothing_was_joined(tmp_path: Path) -> None:
    assert list(examine(Settings.load(environ={}, home=tmp_path))) == []


def test_it_looks_at_a_joined_machine(secure: tuple[str, Services, Path], paired: Settings) -> None:
    services = secure[1]
    Digests(services.catalog.index, services.catalog.default.folder).run()
    catalog = Catalog(paired.starter, ModelDirectories.from_settings(paired))
    found = findings(paired)
    assert list(found) == ["studio", "connection", "clock", "the studio's models", "spool"]
    assert all(each.ok for each in found.values()), found
    assert "only the studio's certificate" in found["connection"].text
    assert "not computed yet" in found["the studio's models"].text
    Digests(catalog.index, catalog.default.folder).run()
    assert "byte for byte" in findings(paired)["the studio's models"].text


def test_a_model_that_differs_is_named(
    secure: tuple[str, Services, Path], paired: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = secure[1]
    Digests(services.catalog.index, services.catalog.default.folder).run()
    own = shutil.copytree(paired.starter, tmp_path / "starter")
    weights = next(own.rglob("*.safetensors"))
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    monkeypatch.setattr(Settings, "starter", own)
    catalog = Catalog(own, ModelDirectories.from_settings(paired))
    Digests(catalog.index, catalog.default.folder).run()
    found = findings(paired)["the studio's models"]
    assert not found.ok
    assert "starter" in found.text
    assert "share_models" in found.mend


def test_it_names_a_wrong_clock(paired: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    class HourAhead(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) + timedelta(hours=1)

    monkeypatch.setattr(doctor, "datetime", HourAhead)
    found = findings(paired)["clock"]
    assert not found.ok
    assert re.search(r"by 3[56]\d\d seconds", found.text)
    assert "NTP" in found.mend


def test_it_names_a_full_spool(paired: Settings) -> None:
    folder = paired.spool / "cpu0"
    folder.mkdir(parents=True)
    (folder / f"x{SPOOL_SUFFIX}").write_bytes(b"1")
    assert "waiting" in findings(paired)["spool"].text
    found = findings(replace(paired, spool_mb=0))["spool"]
    assert not found.ok
    assert "spool_mb" in found.text


def test_it_warns_of_plain_http() -> None:
    found = doctor.connection(pairing.Credential("http://studio:7860"))
    assert (found.ok, found.grave) == (False, False)
    assert "plain HTTP" in found.text


def test_it_names_another_certificate(secure: tuple[str, Services, Path], paired: Settings, tmp_path: Path) -> None:
    self_signed(tmp_path / "other.pem", tmp_path / "other.key", [])
    credential = replace(pairing.load_credential(paired.home), certificate=(tmp_path / "other.pem").read_text())
    pairing.save_credential(paired.home, credential)
    found = findings(paired)["studio"]
    assert not found.ok
    assert "another certificate" in found.text


def test_a_studio_that_is_away_is_named(paired: Settings) -> None:
    pairing.save_credential(
        paired.home, replace(pairing.load_credential(paired.home), url=f"https://127.0.0.1:{free_port()}")
    )
    found = findings(paired)
    assert "No studio can be reached" in found["studio"].text
    assert found["spool"].ok  # the rest is looked at all the same


def test_another_version_of_the_protocol_is_named(paired: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def older(*args: Any, **kwargs: Any) -> bytes:
        head, blobs = wire.unpack(request(*args, **kwargs))
        return wire.pack(head | {"protocol": wire.PROTOCOL - 1}, blobs)

    request = wire.request
    monkeypatch.setattr(wire, "request", older)
    assert "older than its studio" in findings(paired)["studio"].text


def test_it_names_a_revoked_token(secure: tuple[str, Services, Path], paired: Settings) -> None:
    secure[1].studio.machines.remove("den")
    found = findings(paired)["studio"]
    assert not found.ok
    assert "revoked" in found.text
    assert "--code" in found.mend
