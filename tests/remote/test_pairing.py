"""Pairing: a code becomes a worker's token once, and binds the certificate that the worker saw."""

import ssl
from dataclasses import replace
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path

import httpx
import pytest

from diffusion_local.accounts.pairings import CODE_CHARS, key_of, new_code, proof_of
from diffusion_local.actor import LOCAL, NOBODY, run_as
from diffusion_local.compose import Services
from diffusion_local.domain import utc_text
from diffusion_local.errors import Conflict, InvalidParams, ServerProblem
from diffusion_local.machines import fingerprint_of
from diffusion_local.remote import pairing
from diffusion_local.supervisor.supervisor import write_address
from diffusion_local.system.network import self_signed
from diffusion_local.web.ui import view_settings
from tests.support import sql
from tests.web.conftest import client_of, free_port

NONCE = "n" * 32


def proved(code: str, machine: str = "attic", fingerprint: str = "", nonce: str = NONCE) -> dict[str, str]:
    return {"machine": machine, "proof": proof_of(key_of(code), machine, fingerprint, nonce), "nonce": nonce}


@pytest.fixture
def owned(services: Services) -> Services:
    """A studio with an account."""
    services.studio.accounts.add("ann", "correct horse")
    return services


def test_a_code_is_read_whatever_its_case_separators_and_lookalikes() -> None:
    code = new_code()
    assert len(code.replace("-", "")) == CODE_CHARS
    assert key_of(code) == key_of(code.lower().replace("-", " ").replace("0", "o").replace("1", "l"))
    assert key_of(code) != key_of(new_code())


def test_a_code_comes_with_the_address_of_the_server_that_runs(owned: Services) -> None:
    settings = owned.settings
    assert f"--join http://127.0.0.1:{settings.port} " in owned.studio.machines.invite().command
    write_address(replace(settings, port=28765))  # as with `serve --port 28765`
    assert "--join http://127.0.0.1:28765 " in owned.studio.machines.invite().command
    write_address(replace(settings, port=28765, host="192.0.2.7"))
    made = owned.studio.machines.invite()
    assert "--join http://192.0.2.7:28765 " in made.command
    assert not made.unreachable


def test_a_studio_that_no_other_machine_can_reach_says_so(owned: Services) -> None:
    assert owned.settings.host == "127.0.0.1"
    made = owned.studio.machines.invite()
    assert made.unreachable
    told = view_settings.invitation(made)
    assert "serve --lan" in told
    assert f'data-copy="{made.command}"' in told
    assert "serve --lan" not in view_settings.invitation(replace(made, unreachable=False))


def test_a_code_works_once(owned: Services) -> None:
    machines = owned.studio.machines
    made = machines.invite()
    joined = machines.join(**proved(made.code))
    who = owned.studio.accounts.by_token(joined.token)
    assert who is not None
    assert (who.name, {str(each) for each in who.scopes}) == ("ann", {"read", "worker"})
    with pytest.raises(InvalidParams, match="used or expired"):
        machines.join(**proved(made.code))


def test_a_code_is_dead_after_five_wrong_tries(owned: Services) -> None:
    machines = owned.studio.machines
    made = machines.invite()
    for _ in range(5):
        with pytest.raises(InvalidParams):
            machines.join(**proved(new_code()))
    with pytest.raises(InvalidParams):
        machines.join(**proved(made.code))
    machines.join(**proved(machines.invite().code))


@pytest.mark.parametrize("by", [timedelta(minutes=5, seconds=1), timedelta(hours=-1)], ids=["late", "clock set back"])
def test_a_code_is_dead_after_five_minutes(owned: Services, by: timedelta) -> None:
    made = owned.studio.machines.invite()
    at = utc_text(datetime.fromisoformat(made.expires_at) - by)
    with sql(owned.settings) as db:
        db.execute("UPDATE pairings SET expires_at = ?", [at])
    with pytest.raises(InvalidParams):
        owned.studio.machines.join(**proved(made.code))


@pytest.mark.parametrize(
    "wrong",
    [{"machine": "../x"}, {"machine": "A"}, {"proof": "short"}, {"nonce": "n" * 500}, {"proof": "é" * 40}],
    ids=str,
)
def test_bad_input_uses_no_code_up(owned: Services, wrong: dict[str, str]) -> None:
    made = owned.studio.machines.invite()
    with pytest.raises(InvalidParams, match=next(iter(wrong))):
        owned.studio.machines.join(**proved(made.code) | wrong)
    owned.studio.machines.join(**proved(made.code))


def test_the_code_itself_is_not_stored(owned: Services) -> None:
    made = owned.studio.machines.invite()
    with sql(owned.settings) as db:
        assert made.code not in "\n".join(db.iterdump())


def test_pairing_again_revokes_the_token_before(owned: Services) -> None:
    machines = owned.studio.machines
    first = machines.join(**proved(machines.invite().code))
    second = machines.join(**proved(machines.invite().code))
    assert owned.studio.accounts.by_token(first.token) is None
    assert owned.studio.accounts.by_token(second.token)


def test_a_name_that_is_connected_cannot_be_taken(owned: Services) -> None:
    machines = owned.studio.machines
    first = machines.join(**proved(machines.invite().code))
    owned.workers.register("attic.gpu0", 1, "cuda:0")
    owned.leases.take("attic.gpu0", "ann/x")
    with pytest.raises(Conflict, match="already connected"):
        machines.join(**proved(machines.invite().code))
    assert owned.studio.accounts.by_token(first.token)


def test_where_nobody_signs_in_there_is_no_token(services: Services) -> None:
    joined = services.studio.machines.join(**proved(services.studio.machines.invite().code))
    assert joined.token == ""


def test_whoever_does_not_sign_in_may_only_pair(owned: Services) -> None:
    """Over HTTP, as the worker calls."""
    made = owned.studio.machines.invite()
    run_as(NOBODY)
    try:
        with client_of(owned) as client:
            assert client.post("/api/v1/machines/code").status_code == 401
            assert client.get("/api/v1/machines").status_code == 401
            wrong = client.post("/api/v1/machines/join", json=proved(new_code()))
            assert (wrong.status_code, wrong.json()["error"]["id"]) == (422, "code_wrong")
            answer = client.post("/api/v1/machines/join", json=proved(made.code))
            assert answer.status_code == 201
            bearer = {"Authorization": f"Bearer {answer.json()['token']}"}
            assert client.get("/api/v1/machines", headers=bearer).status_code == 403
    finally:
        run_as(LOCAL)


# -- over TLS ----------------------------------------------------------------------------------------------------------


def test_a_self_signed_certificate_is_proved_by_the_code_and_trusted_alone(
    secure: tuple[str, Services, Path], tmp_path: Path
) -> None:
    url, services, certificate = secure
    credential = pairing.pair(url, services.studio.machines.invite().code, "attic")
    assert sha256(ssl.PEM_cert_to_DER_cert(credential.certificate)).hexdigest() == fingerprint_of(str(certificate))
    pairing.save_credential(tmp_path, credential)
    assert pairing.load_credential(tmp_path) == credential
    assert (tmp_path / "joined.json").stat().st_mode & 0o077 == 0
    with pairing.client_of(credential) as client:
        assert client.get("/api/v1/models").status_code == 200
    self_signed(tmp_path / "other.pem", tmp_path / "other.key", [])
    other = pairing.Credential(url, credential.token, (tmp_path / "other.pem").read_text())
    with pairing.client_of(other) as client, pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        client.get("/healthz")


def test_whoever_stands_between_with_a_certificate_of_its_own_gets_nothing(
    secure: tuple[str, Services, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It passes the worker's requests on; the proof is over its own certificate, which the studio does not have."""
    url, services, _ = secure
    self_signed(tmp_path / "mallory.pem", tmp_path / "mallory.key", [])
    mallory = (tmp_path / "mallory.pem").read_text()
    monkeypatch.setattr(pairing, "untrusted_certificate", lambda url: mallory)
    monkeypatch.setattr(pairing, "trusting_only", lambda certificate: False)  # so its connection succeeds
    made = services.studio.machines.invite()
    with pytest.raises(InvalidParams):
        pairing.pair(url, made.code, "attic")


def test_an_impostor_that_knows_no_code_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(201, json={"machine": "attic", "token": "dl_x", "answer": "0" * 64})

    def client(credential: pairing.Credential) -> httpx.Client:
        return httpx.Client(base_url=credential.url, transport=httpx.MockTransport(answer))

    monkeypatch.setattr(pairing, "client_of", client)
    with pytest.raises(ServerProblem, match="not the studio that created it"):
        pairing.pair("http://studio:7860", new_code(), "attic")


def test_what_is_no_studio_is_said(monkeypatch: pytest.MonkeyPatch, owned: Services) -> None:
    with pytest.raises(ServerProblem, match="No studio can be reached"):
        pairing.pair(f"http://127.0.0.1:{free_port()}", new_code(), "attic")
    with pytest.raises(InvalidParams, match="server"):
        pairing.pair("http://", new_code(), "attic")
    with pytest.raises(InvalidParams, match="join"):
        pairing.credential_for(Path("/nowhere"), "", "")


def test_the_page_shows_a_code_to_an_admin(owned: Services) -> None:
    from tests.web.test_settings_tab import act

    shown = act(owned, "machine_invite")[3]
    assert "diffusion-local worker --join" in shown
    [code] = [word for word in shown.replace("<", " ").replace(">", " ").split() if len(word) == 11 and word[5] == "-"][
        :1
    ]
    assert owned.studio.machines.join(**proved(code)).machine == "attic"
