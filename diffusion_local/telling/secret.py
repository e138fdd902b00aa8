"""The secret that webhooks are signed with (Standard Webhooks: ``whsec_`` and base64 of 24 to 64 bytes)."""

import base64
import binascii
import contextlib
import os
import secrets
import tempfile
from pathlib import Path

from diffusion_local.errors import InvalidParams
from diffusion_local.messages import message
from diffusion_local.settings import Settings

PREFIX = "whsec_"
BYTES = range(24, 65)


def secret_of(settings: Settings) -> str:
    """The one of config.toml, else the one kept in the home, made at the first call. Raises InvalidParams."""
    if settings.webhook_secret:
        return checked(settings.webhook_secret, "webhook_secret")
    path = settings.home / "webhook.secret"
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
