"""Sends one webhook message: signed, to a checked address, reading only a bounded response."""

import asyncio
import base64
import binascii
import contextlib
import os
import secrets
import ssl
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from diffusion_local import __version__
from diffusion_local.errors import InvalidParams
from diffusion_local.messages import message
from diffusion_local.notify.outbound_hosts import AllowedTargets, Target, check_target
from diffusion_local.settings import Settings

SECRET_PREFIX = "whsec_"
BYTES = range(24, 65)
CONNECT_SECONDS = 5.0
READ_SECONDS = 10.0  # maximum between two chunks of a response
TOTAL_SECONDS = 20.0  # maximum for one attempt, so that a slow response does not block the queue
MAX_READ = 4096  # bytes read of a response body
ANSWER_EXCERPT = 500  # characters stored of a response body
GONE = 410  # the receiver has been removed: retrying is pointless


def webhook_secret(settings: Settings) -> str:
    """The secret of config.toml, or the home's own, created on first use. Raises InvalidParams."""
    if settings.webhook_secret:
        return check_secret(settings.webhook_secret, "webhook_secret")
    return stored_secret(settings.home / "webhook.secret")


def stored_secret(path: Path) -> str:
    """The secret in a file of the home, created on first use. Raises InvalidParams if the file holds no secret."""
    with contextlib.suppress(FileNotFoundError):
        return check_secret(path.read_text(encoding="ascii", errors="replace").strip(), path.name)
    return store_secret(path, SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode())


def store_secret(path: Path, secret: str) -> str:
    """Write a private file atomically; returns its secret. Of two concurrent writers, both get the first one's."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".secret-")  # created with mode 0600
    part = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secret + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(part, path)
        except FileExistsError:
            return check_secret(path.read_text(encoding="ascii").strip(), path.name)
        except OSError:  # the file system has no hard links
            part.replace(path)
        return secret
    finally:
        part.unlink(missing_ok=True)


def check_secret(secret: str, where: str) -> str:
    """The secret if it is valid. Raises InvalidParams, without echoing it."""
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(SECRET_PREFIX) or len(key) not in BYTES:
        raise InvalidParams(where, message("hook_secret"))
    return secret


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of an attempt. ``status``: HTTP status, or a command's exit status; None without a response."""

    delivered: bool
    status: int | None = None
    answer: str = ""
    error: str = ""
    final: bool = False  # whether the delivery must not be retried


def post(url: str, message_id: str, payload: str, secret: str, allow_private: str) -> Outcome:
    """Make one attempt. Errors of the receiver or the connection are returned in the outcome, never raised."""
    try:
        target = check_target(url, AllowedTargets.parse(allow_private))
    except InvalidParams as refused:
        return Outcome(False, error=refused.message)
    return asyncio.run(send_in_time(target, payload, headers(message_id, payload, secret)))


def headers(message_id: str, payload: str, secret: str) -> dict[str, str]:
    """Headers of Standard Webhooks 1.0. The id stays the same across retries; the time is that of the attempt."""
    from standardwebhooks import Webhook

    now = datetime.now(UTC)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign(message_id, now, payload),
        "content-type": "application/json",
        "user-agent": f"diffusion-local/{__version__}",
        "accept-encoding": "identity",
    }


async def send_in_time(target: Target, payload: str, headers: dict[str, str]) -> Outcome:
    import httpx

    try:
        async with asyncio.timeout(TOTAL_SECONDS):
            return await send(target, payload, headers)
    except TimeoutError:
        return Outcome(False, error=f"no whole answer within {TOTAL_SECONDS:g} s")
    except (httpx.HTTPError, ssl.SSLError, OSError) as error:
        return Outcome(False, error=f"{type(error).__name__}: {error}"[:ANSWER_EXCERPT])


async def send(target: Target, payload: str, headers: dict[str, str]) -> Outcome:
    """Send to the first checked address that accepts the connection; the name is used only for Host and certificate.

    Proxies and netrc of the environment are ignored: either would connect to an unchecked address.
    """
    import httpx

    limits = httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
    async with httpx.AsyncClient(trust_env=False, follow_redirects=False, timeout=limits) as client:
        for place, address in enumerate(target.addresses):
            request = client.build_request(
                "POST",
                target.url.copy_with(host=str(address)),
                content=payload.encode(),
                headers={"host": target.url.netloc.decode(), **headers},
                extensions={"sni_hostname": target.host},
            )
            try:
                response = await client.send(request, stream=True)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                if place == len(target.addresses) - 1:
                    raise
                continue
            try:
                return outcome(response.status_code, await read_start(response))
            finally:
                await response.aclose()
    raise AssertionError("a checked target has an address")


async def read_start(response: "httpx.Response") -> str:  # type: ignore[name-defined]  # noqa: F821
    """The first MAX_READ bytes of a response, without decompression."""
    read = b""
    async for piece in response.aiter_raw():
        read += piece
        if len(read) >= MAX_READ:
            break
    return printable(read[:MAX_READ].decode("utf-8", "replace"))


def outcome(status: int, answer: str) -> Outcome:
    if 200 <= status < 300:
        return Outcome(True, status, answer)
    if 300 <= status < 400:
        return Outcome(False, status, answer, "it redirects, which is not followed; give the address it leads to")
    return Outcome(False, status, answer, f"it answered {status}", final=status == GONE)


def printable(text: str) -> str:
    return "".join(sign if sign.isprintable() or sign == "\n" else "\ufffd" for sign in text)[:ANSWER_EXCERPT]
