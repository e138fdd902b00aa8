"""The address for a phone, and its QR code."""

import ipaddress
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from diffusion_local.compose import Services
from diffusion_local.settings import Settings
from diffusion_local.web import lan
from diffusion_local.web.page_html import shell
from tests.web.test_page import click


def settings(**options: object) -> Settings:
    return Settings(home=Path("unused"), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]"])
def test_a_server_for_this_machine_only_has_none(host: str) -> None:
    assert lan.address(settings(host=host)) == ""


def test_a_server_for_the_network_is_found_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lan.address(settings(host="192.168.1.5", port=8000)) == "http://192.168.1.5:8000"
    assert lan.address(settings(host="fd00::5", port=8000, tls_cert="c", tls_key="k")) == "https://[fd00::5]:8000"
    monkeypatch.setattr(lan, "own_address", lambda: "10.0.0.7")
    assert lan.address(settings(host="0.0.0.0", port=8000)) == "http://10.0.0.7:8000"
    monkeypatch.setattr(lan, "own_address", lambda: "")  # no network
    assert lan.address(settings(host="0.0.0.0")) == ""


def test_the_own_address_is_one_or_none() -> None:
    found = lan.own_address()
    assert found == "" or ipaddress.ip_address(found)


def test_the_button_is_there_where_it_helps_and_opens_the_code(services: Services) -> None:
    assert 'data-do="phone"' not in shell("/ui/create")
    assert 'data-id="http://10.0.0.7:1"' in shell("/ui/create", "http://10.0.0.7:1")
    panel = click(services, "phone", "http://10.0.0.7:1")["panel"]
    svg = panel[panel.index("<svg") : panel.index("</svg>") + 6]
    assert ElementTree.fromstring(svg).get("viewBox")
    for foreign in ("javascript:alert(1)", "", "http://" + "x" * 500):
        assert click(services, "phone", foreign) == {}
