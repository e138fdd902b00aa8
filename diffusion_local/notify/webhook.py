"""One webhook message on its way: signed, sent to a checked address, its answer read no further than needed."""

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
from diffusion_local.notify.addresses import AllowedAddress, Target, check
from diffusion_local.settings import Settings

PREFIX = "whsec_"
BYTES = range(24, 65)


def secret_of(settings: Settings) -> str:
    """The one of config.toml, else the one kept in the home, made at the first call. Raises InvalidParams."""
    if settings.webhook_secret:
        return checked(settings.webhook_secret, "webhook_secret")
    return kept_in(settings.home / "webhook.secret")


def kept_in(path: Path) -> str:
    """The secret in a file of the home, made at the first call. Raises InvalidParams if the file holds none."""
    with contextlib.suppress(FileNotFoundError):
        return checked(path.read_text(encoding="ascii", errors="replace").strip(), path.name)
    return keep(path, PREFIX + base64.b64encode(secrets.token_bytes(32)).decode())


def keep(path: Path, secret: str) -> str:
    """Write it for the owner's eyes only, whole or not at all; where two do so at once the first one holds for both."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".secret-")  # made with mode 0600
    part = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secret + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(part, path)
        except FileExistsError:
            return checked(path.read_text(encoding="ascii").strip(), path.name)
        except OSError:  # a file system without links
            part.replace(path)
        return secret
    finally:
        part.unlink(missing_ok=True)


def checked(secret: str, where: str) -> str:
    """Raises InvalidParams without repeating the secret."""
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(PREFIX) or len(key) not in BYTES:
        raise InvalidParams(where, message("hook_secret"))
    return secret


CONNECT_SECONDS = 5.0
READ_SECONDS = 10.0  # between two pieces of an answer
ALL_SECONDS = 20.0  # for everything, so that an answer that drips in does not hold the line
MOST_READ = 4096  # bytes of an answer's body
EXCERPT = 500  # letters of it that are kept
GONE = 410  # the receiver does not exist any more: asking again is of no use


@dataclass(frozen=True, slots=True)
class Outcome:
    """``status`` is the HTTP status, or a command's exit status; None if there was no answer."""

    delivered: bool
    status: int | None = None
    answer: str = ""
    error: str = ""
    final: bool = False  # not to be tried again


def post(url: str, message_id: str, payload: str, secret: str, allow_private: str) -> Outcome:
    """Send once. Whatever happens is in the outcome; nothing is raised for what the other side does."""
    try:
        target = check(url, AllowedAddress.of(allow_private))
    except InvalidParams as refused:
        return Outcome(False, error=refused.message)
    return asyncio.run(in_time(target, payload, headers(message_id, payload, secret)))


def headers(message_id: str, payload: str, secret: str) -> dict[str, str]:
    """By Standard Webhooks 1.0: the id stays the same over retries, the time is that of the attempt."""
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


async def in_time(target: Target, payload: str, headers: dict[str, str]) -> Outcome:
    import httpx

    try:
        async with asyncio.timeout(ALL_SECONDS):
            return await send(target, payload, headers)
    except TimeoutError:
        return Outcome(False, error=f"no whole answer within {ALL_SECONDS:g} s")
    except (httpx.HTTPError, ssl.SSLError, OSError) as error:
        return Outcome(False, error=f"{type(error).__name__}: {error}"[:EXCERPT])


async def send(target: Target, payload: str, headers: dict[str, str]) -> Outcome:
    """To the first of the checked addresses that takes the connection; the name serves for Host and certificate only.

    No proxy and no netrc of the environment is used: either would connect to somewhere that was not checked.
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
                return outcome(response.status_code, await beginning(response))
            finally:
                await response.aclose()
    raise AssertionError("a checked target has an address")


async def beginning(response: "httpx.Response") -> str:  # type: ignore[name-defined]  # noqa: F821
    """The first MOST_READ bytes of an answer, as it came: nothing is unpacked."""
    read = b""
    async for piece in response.aiter_raw():
        read += piece
        if len(read) >= MOST_READ:
            break
    return printable(read[:MOST_READ].decode("utf-8", "replace"))


def outcome(status: int, answer: str) -> Outcome:
    if 200 <= status < 300:
        return Outcome(True, status, answer)
    if 300 <= status < 400:
        return Outcome(False, status, answer, "it redirects, which is not followed; give the address it leads to")
    return Outcome(False, status, answer, f"it answered {status}", final=status == GONE)


def printable(text: str) -> str:
    return "".join(sign if sign.isprintable() or sign == "\n" else "\ufffd" for sign in text)[:EXCERPT]
