"""Where webhooks may go: nothing inside, in no spelling, unless the settings name it."""

import ipaddress
import socket
from typing import Any

import pytest

from diffusion_local.errors import InvalidParams
from diffusion_local.notify import outbound_hosts
from diffusion_local.notify.outbound_hosts import AllowedTargets, check_target, is_numeric_host, is_public, parse_url
from tests.support import refused

NOTHING = AllowedTargets()


def names(monkeypatch: pytest.MonkeyPatch, **known: list[str]) -> list[str]:
    """Names that resolve to these addresses; the names that were asked for."""
    asked = []

    def resolve(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        asked.append(host)
        found = known.get(host.replace(".", "_"))
        if found is None:
            raise socket.gaierror("Name or service not known")
        return [(0, 0, 0, "", (each, port)) for each in found]

    monkeypatch.setattr(outbound_hosts.socket, "getaddrinfo", resolve)
    return asked


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.1.2.3", "0.0.0.0", "10.0.0.1", "172.16.5.4", "192.168.0.10", "169.254.169.254", "100.64.0.1",
        "100.100.100.200", "168.63.129.16", "192.0.0.192", "224.0.0.1", "240.0.0.1", "255.255.255.255", "198.18.0.1",
        "192.0.2.7",
        "[::1]", "[::]", "[fe80::1]", "[fc00::1]", "[fd00:ec2::254]", "[ff02::1]", "[::ffff:127.0.0.1]",
        "[::ffff:10.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "[64:ff9b::10.1.2.3]", "[2002:7f00:1::]",
        "[2002:c0a8:1::1]", "[::127.0.0.1]", "[2001:0:7f00:1::]", "[64:ff9b:1::1]", "[2001:db8::1]",
    ],
)  # fmt: skip
def test_an_address_inside_is_refused(host: str) -> None:
    with refused(InvalidParams, "hook_private", field="webhook"):
        check_target(f"http://{host}:8080/hook", NOTHING)


@pytest.mark.parametrize(
    "host",
    ["2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "127.1", "017700000001", "127.0.0.01", "0x", "1.2.3.4.5",
     "0X7F.0.0.1", "127.0.0.1.", "10.0.0.256"],
)  # fmt: skip
def test_other_spellings_of_numbers_are_refused(host: str) -> None:
    with pytest.raises(InvalidParams, match="webhook: "):
        check_target(f"http://{host}/", NOTHING)


@pytest.mark.parametrize("host", ["8.8.8.8", "[2606:4700::1111]", "[64:ff9b::8.8.8.8]", "[::ffff:8.8.8.8]"])
def test_an_address_outside_is_allowed(host: str) -> None:
    assert [str(each) for each in check_target(f"https://{host}/x", NOTHING).addresses] == [
        str(ipaddress.ip_address(host.strip("[]")))
    ]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://example.com/", "must begin with https"),
        ("file:///etc/passwd", "must begin with https"),
        ("gopher://example.com", "must begin with https"),
        ("javascript:alert(1)", "must begin with https"),
        ("//example.com/x", "must begin with https"),
        ("example.com", "must begin with https"),
        ("https://", "must"),
        ("https:///path", "must"),
        ("http://user:pass@example.com/", "user name or password"),
        ("http://user@example.com/", "user name or password"),
        ("http://example.com@127.0.0.1/", "user name or password"),
        ("http://example.com:22/", "must have port"),
        ("http://example.com:0/", "must have port"),
        ("http://example.com:25/", "must have port"),
        ("http://example.com:99999/", "must"),
        ("http://example.com\\@127.0.0.1/", "without spaces"),
        ("http://example.com/\r\nHost: x", "without spaces"),
        ("http://exa mple.com/", "without spaces"),
        ("http://[fe80::1%25eth0]/", "must"),
        ("http://[::1", "must"),
        ("http://127.0.0.1%2f@example.com", "must"),
        ("", "must"),
        ("https://example.com/" + "x" * 2000, "at most 2,000"),
    ],
)
def test_what_is_no_address_is_told_why(monkeypatch: pytest.MonkeyPatch, url: str, words: str) -> None:
    asked = names(monkeypatch)
    with pytest.raises(InvalidParams, match=r"^webhook: ") as error:
        check_target(url, NOTHING)
    assert words in error.value.message
    assert asked == []


def test_every_address_of_a_name_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, good_example=["8.8.8.8", "2606:4700::1111"], bad_example=["8.8.8.8", "10.0.0.1"])
    assert [str(each) for each in check_target("https://good.example/x", NOTHING).addresses] == [
        "8.8.8.8",
        "2606:4700::1111",
    ]
    with pytest.raises(InvalidParams, match=r"bad.example \(10.0.0.1\) is an address"):
        check_target("https://bad.example/x", NOTHING)


def test_a_name_that_nobody_knows_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, empty_example=[])
    for host in ("nowhere.example", "empty.example"):
        with pytest.raises(InvalidParams, match=f"webhook: {host} cannot be found"):
            check_target(f"https://{host}/", NOTHING)


def test_a_name_service_that_does_not_answer_holds_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    over = threading.Event()
    monkeypatch.setattr(outbound_hosts.socket, "getaddrinfo", lambda *_, **__: over.wait(30))
    monkeypatch.setattr(outbound_hosts, "RESOLVE_SECONDS", 0.05)
    with refused(InvalidParams, "hook_found_why", field="webhook"):
        check_target("https://slow.example/", NOTHING)
    over.set()


def test_what_the_settings_name_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, nas_local=["192.168.1.7"], other_local=["192.168.2.7"])
    allowed = AllowedTargets.parse("10.0.0.0/8, nas.local\nfd00::/8 127.0.0.1")
    for url in ("http://10.1.2.3:8123/", "http://NAS.local:8123/", "http://[fd00::5]/", "http://127.0.0.1:7000/"):
        check_target(url, allowed)
    for url in ("http://192.168.1.7/", "http://other.local/", "http://127.0.0.2/", "http://[::ffff:10.1.2.3]/"):
        with pytest.raises(InvalidParams):
            check_target(url, allowed)
    assert AllowedTargets.parse("") == NOTHING
    with refused(InvalidParams, "hook_networks", field="webhook_allow_private"):
        AllowedTargets.parse("10.0.0.0/8, http://nas")


def test_an_international_name_is_looked_up_as_it_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = names(monkeypatch, **{"xn--bcher-kva_example": ["8.8.8.8"]})
    check_target("https://bücher.example/", NOTHING)
    assert asked == ["xn--bcher-kva.example"]


@pytest.mark.parametrize("host", ["example.com", "1.2.3.4", "v1.example.com", "0x7f.example", "::1", "a1", "1a"])
def test_what_is_no_number(host: str) -> None:
    assert not is_numeric_host(host)


def test_reading_alone_asks_no_name_service(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = names(monkeypatch)
    assert parse_url("https://anything.example/x").host == "anything.example"
    assert asked == []


def test_public_is_what_is_out_there() -> None:
    assert is_public(ipaddress.ip_address("1.1.1.1"))
    assert not is_public(ipaddress.ip_address("::ffff:192.168.1.1"))
