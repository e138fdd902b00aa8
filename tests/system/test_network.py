"""Where others reach this machine, and its announcement."""

from dataclasses import replace

import pytest

from diffusion_local.settings import Settings
from diffusion_local.system import network


def test_a_server_of_this_machine_is_reached_by_nobody_else(settings: Settings) -> None:
    assert network.other_urls(settings) == []
    assert network.local_url(replace(settings, port=7860)) == "http://127.0.0.1:7860"
    assert network.local_url(replace(settings, host="::1", port=7860)) == "http://[::1]:7860"


def test_others_use_this_machines_addresses(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "addresses", lambda: ["192.168.1.5", "2001:db8::5"])
    open_to_all = replace(settings, host="0.0.0.0", port=80, tls_cert="cert.pem", root_path="/studio")
    assert network.other_urls(open_to_all) == ["https://192.168.1.5:80/studio"]
    assert network.other_urls(replace(open_to_all, host="::")) == [
        "https://192.168.1.5:80/studio",
        "https://[2001:db8::5]:80/studio",
    ]
    assert network.other_urls(replace(settings, host="192.168.1.5", port=80)) == ["http://192.168.1.5:80"]


def test_addresses_are_others_to_use() -> None:
    assert not [each for each in network.addresses() if each.startswith(("127.", "169.254.", "fe80"))]


def test_an_announced_server_is_found_and_gone_afterwards() -> None:
    from zeroconf import Zeroconf

    name = f"diffusion-local on {network.socket.gethostname().split('.')[0]}.{network.SERVICE}"
    if not network.addresses():
        pytest.skip("this machine is in no network")
    with network.announced(7860, "/studio"):
        searching = Zeroconf()
        try:
            found = searching.get_service_info(network.SERVICE, name, timeout=3000)
        finally:
            searching.close()
        if found is None:
            pytest.skip("no multicast here")
        assert found.port == 7860
        assert found.properties[b"path"] == b"/studio/"


def test_nothing_is_announced_that_was_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "addresses", lambda: pytest.fail("was asked"))
    with network.announced(7860, wanted=False):
        pass
