"""A certificate of one's own: for which names, who can read its key, and that a client can check it."""

import ipaddress
import ssl
import stat
import threading
from pathlib import Path

import httpx
import pytest
import uvicorn
from cryptography import x509

from diffusion_local.errors import Conflict, InvalidParams
from diffusion_local.settings import Settings
from diffusion_local.system import network
from diffusion_local.system.network import check_tls
from tests.support import eventually
from tests.web.conftest import free_port


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "tls" / "cert.pem", tmp_path / "tls" / "key.pem"


def test_it_is_for_this_machines_names_and_those_that_are_asked_for(pair: tuple[Path, Path]) -> None:
    names, fingerprint = network.self_signed(*pair, ["studio.example", "192.0.2.7"])
    found = x509.load_pem_x509_certificate(pair[0].read_bytes())
    result = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"localhost", "studio.example"} <= set(result.get_values_for_type(x509.DNSName))
    assert {ipaddress.ip_address(each) for each in ("127.0.0.1", "192.0.2.7")} <= set(
        result.get_values_for_type(x509.IPAddress)
    )
    assert "studio.example" in names
    assert len(fingerprint) == 95


def test_nobody_else_reads_the_key_and_nothing_is_written_over(pair: tuple[Path, Path]) -> None:
    network.self_signed(*pair, [])
    assert stat.S_IMODE(pair[1].stat().st_mode) == 0o600
    before = pair[1].read_bytes()
    with pytest.raises(Conflict, match="--replace"):
        network.self_signed(*pair, [])
    assert pair[1].read_bytes() == before
    network.self_signed(*pair, [], replace=True)
    assert pair[1].read_bytes() != before
    with pytest.raises(InvalidParams, match="host name"):
        network.self_signed(*pair, ["ünicode"], replace=True)


def test_a_client_that_trusts_it_speaks_to_a_server_that_has_it(pair: tuple[Path, Path]) -> None:
    network.self_signed(*pair, [])
    port = free_port()

    async def answer(scope, receive, send):  # type: ignore[no-untyped-def]
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    config = uvicorn.Config(
        answer, port=port, lifespan="off", ssl_certfile=str(pair[0]), ssl_keyfile=str(pair[1]), log_level="warning"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        eventually(lambda: server.started)
        trusting = ssl.create_default_context(cafile=str(pair[0]))
        assert httpx.get(f"https://localhost:{port}/", verify=trusting).status_code == 204
        assert httpx.get(f"https://127.0.0.1:{port}/", verify=trusting).status_code == 204
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"https://127.0.0.1:{port}/")
    finally:
        server.should_exit = True
        thread.join(10)


def test_what_cannot_be_used_is_said_at_the_start(settings: Settings, home: Path, pair: tuple[Path, Path]) -> None:
    network.self_signed(*pair, [])
    check_tls(settings)
    check_tls(Settings.load(tls_cert=str(pair[0]), tls_key=str(pair[1])))
    for cert, key in ((pair[0], ""), ("", pair[1]), (pair[0], pair[0]), (pair[0], home / "none.pem")):
        with pytest.raises(InvalidParams, match="tls_cert"):
            check_tls(Settings.load(tls_cert=str(cert), tls_key=str(key)))
