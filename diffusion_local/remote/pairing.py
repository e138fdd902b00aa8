"""Pairs a machine with a studio: exchanges a code for a token, and stores the token and the studio's certificate.

A certificate without a trusted authority is fetched first and verified with the code (see ``accounts.pairings``); from
then on the worker trusts only this certificate.
"""

import json
import secrets
import ssl
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import httpx

from diffusion_local import __version__
from diffusion_local.accounts.pairings import answer_of, is_equal, key_of, proof_of
from diffusion_local.disk import replace_file
from diffusion_local.errors import InvalidParams, ServerProblem
from diffusion_local.messages import deserialize, message
from diffusion_local.operations.operation import API_ROOT
from diffusion_local.remote.server import normalise_url, unreachable

CONNECT_SECONDS, READ_SECONDS = 5.0, 60.0


@dataclass(frozen=True, slots=True)
class Credential:
    """A stored pairing. ``certificate``: the only trusted certificate (PEM), or "" to trust the usual authorities."""

    url: str = ""
    token: str = ""
    certificate: str = ""
    machine: str = ""


def credential_file(home: Path) -> Path:
    return home / "joined.json"


def load_credential(home: Path) -> Credential:
    """The credential of the last pairing; an empty one if there is none."""
    try:
        noted = json.loads(credential_file(home).read_text(encoding="utf-8"))
        return Credential(**{name: str(noted[name]) for name in asdict(Credential())})
    except (OSError, ValueError, KeyError, TypeError):
        return Credential()


def save_credential(home: Path, credential: Credential) -> None:
    home.mkdir(parents=True, exist_ok=True)
    replace_file(credential_file(home), json.dumps(asdict(credential), indent=1).encode())


def client_of(credential: Credential) -> httpx.Client:
    """An HTTP client for a studio. Raises InvalidParams for an invalid URL."""
    headers = {"User-Agent": f"diffusion-local/{__version__}"}
    if credential.token:
        headers["Authorization"] = f"Bearer {credential.token}"
    timeout = httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
    verify = trusting_only(credential.certificate) if credential.certificate else True
    return httpx.Client(base_url=normalise_url(credential.url), headers=headers, timeout=timeout, verify=verify)


def trusting_only(certificate: str) -> ssl.SSLContext:
    """An SSL context that trusts only this certificate, whatever the server's host name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=certificate)
    return context


def pair(url: str, code: str, machine: str) -> Credential:
    """Exchange a pairing code for a credential. Raises InvalidParams for a wrong code, and ServerProblem."""
    whole = normalise_url(url)
    certificate = untrusted_certificate(whole)
    fingerprint = sha256(ssl.PEM_cert_to_DER_cert(certificate)).hexdigest() if certificate else ""
    key, nonce = key_of(code), secrets.token_hex(16)
    proof = proof_of(key, machine, fingerprint, nonce)
    with client_of(Credential(whole, certificate=certificate)) as client:
        body = {"machine": machine, "proof": proof, "nonce": nonce}
        try:
            answer = client.post(f"{API_ROOT}/machines/join", json=body)
            answer_json = answer.json()
        except httpx.HTTPError as error:
            raise unreachable(whole, error) from None
        except ValueError:
            raise ServerProblem(message("server_other", url=whole, status=answer.status_code)) from None
    if not answer.is_success:
        fault = answer_json.get("error") if isinstance(answer_json, dict) else None
        text = deserialize(str(fault.get("message", "")), fault) if isinstance(fault, dict) else message("went_wrong")
        if isinstance(fault, dict) and fault.get("field") == "code":
            raise InvalidParams("code", text)
        if answer.status_code in (404, 405):
            text = message("studio_no_machines")
        raise ServerProblem(message("worker_refused", url=whole, problem=text))
    token = str(answer_json.get("token", ""))
    if not is_equal(str(answer_json.get("answer", "")), answer_of(key, proof, token)):
        raise ServerProblem(message("studio_unproven", url=whole))
    return Credential(whole, token, certificate, machine)


def untrusted_certificate(url: str) -> str:
    """The certificate (PEM) of an HTTPS server if no trusted authority signed it, else ""."""
    if not url.startswith("https://"):
        return ""
    try:
        httpx.get(f"{url}/healthz", timeout=httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS))
        return ""
    except httpx.ConnectError as error:
        if "certificate" not in str(error).lower():
            raise unreachable(url, error) from None
    except httpx.HTTPError as error:
        raise unreachable(url, error) from None
    place = httpx.URL(url)
    try:
        return ssl.get_server_certificate((place.host, place.port or 443), timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise unreachable(url, error) from None


def credential_for(home: Path, url: str, token: str) -> Credential:
    """The credential for a connection: the given token, or the stored credential of the URL. Raises InvalidParams."""
    known = load_credential(home)
    if not url:
        if not known.url:
            raise InvalidParams("join", message("join_where"))
        url = known.url
    same = normalise_url(url) == known.url
    if token:
        return Credential(normalise_url(url), token, known.certificate if same else "", known.machine if same else "")
    return known if same else Credential(normalise_url(url))
