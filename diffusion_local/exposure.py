"""Whether strangers can reach a server that has no accounts, where each of them would be taken for its owner."""

from urllib.parse import urlsplit

from diffusion_local.errors import UserError
from diffusion_local.messages import Message, message
from diffusion_local.network import is_loopback
from diffusion_local.settings import Settings


def exposing(settings: Settings) -> str:
    """The setting by which others than this machine's users reach the server, with its value; empty if none does."""
    if not is_loopback(settings.host):
        return f"host = {settings.host}"
    for name in ("trusted_proxies", "root_path"):
        if value := getattr(settings, name).strip().strip("/"):
            return f"{name} = {value}"
    for name in ("allowed_hosts", "cors_origins"):
        for each in getattr(settings, name).split(","):
            if each.strip() and not is_loopback(host_of(each.strip())):
                return f"{name} = {each.strip()}"
    return ""


def host_of(text: str) -> str:
    """The host name of a name or of an origin; the text itself if it is neither."""
    try:
        return urlsplit(text if "//" in text else f"//{text}").hostname or text
    except ValueError:
        return text


def closed(settings: Settings, has_accounts: bool, forwarded: str = "") -> Message | None:
    """Why a server without accounts must not serve, as a sentence; None if it may.

    ``forwarded`` is the header by which a request says that a proxy or a tunnel passed it on, if it has one: where
    none is configured, that is one whose operator forgot about it, and anybody may stand behind it.
    """
    if has_accounts or settings.auth == "none":
        return None
    if setting := exposing(settings):
        return message("exposed", setting=setting)
    if forwarded:
        return message("exposed_by_proxy", header=forwarded)
    return None


def check_exposure(settings: Settings, has_accounts: bool) -> None:
    """Raises UserError where others could reach a server that has no accounts."""
    if reason := closed(settings, has_accounts):
        raise UserError(reason)
