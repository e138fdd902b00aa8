"""Where others reach this machine, and its announcement."""

import socket
import subprocess
from dataclasses import replace

import pytest

from diffusion_local.settings import Settings
from diffusion_local.system import network
from tests.support import start_python


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


ANNOUNCE = """
import sys
from diffusion_local.system import network
network.addresses = lambda: ["127.0.0.1"]
with network.announced(7861, "/studio"):
    print("announced", flush=True)
    sys.stdin.read()
"""


def test_another_process_finds_an_announced_studio_and_finds_it_gone_when_it_has_ended() -> None:
    child = start_python(ANNOUNCE, stdin=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "announced\n"
        found = network.discover(2.0)
    finally:
        _, errors = child.communicate(timeout=60)
    if not found and ("cannot be announced" in errors or not multicast()):
        pytest.skip("no multicast here")
    assert "http://127.0.0.1:7861/studio" in found
    assert "http://127.0.0.1:7861/studio" not in network.discover(0.5)


def multicast() -> bool:
    """Whether a packet to the group of mDNS comes back on the loopback interface."""
    group, loopback = socket.inet_aton("224.0.0.251"), socket.inet_aton("127.0.0.1")
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here,
    ):
        try:
            there.bind(("", 0))
            there.settimeout(2)
            there.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group + loopback)
            here.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, loopback)
            here.sendto(b"x", ("224.0.0.251", there.getsockname()[1]))
            return there.recv(1) == b"x"
        except OSError:
            return False


def test_nothing_is_announced_that_was_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "addresses", lambda: pytest.fail("was asked"))
    with network.announced(7860, enabled=False):
        pass
