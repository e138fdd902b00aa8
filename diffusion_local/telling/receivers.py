"""Who is told of what: the addresses of the settings and of batches, and the command hooks."""

import re
from datetime import time

from diffusion_local.errors import InvalidParams, echo
from diffusion_local.messages import message
from diffusion_local.settings import Settings
from diffusion_local.store.notices import EVENTS
from diffusion_local.telling import hooks
from diffusion_local.telling.addresses import Allowed, read

MOST_TRIES = 8  # 10 s, then 4 times longer each: the last about 15 hours after the first
#: Events that a batch's own webhook hears of.
BATCH_OPTIONS = ("batch.done", "job.failed")


def webhooks(settings: Settings) -> list[str]:
    return list(dict.fromkeys(re.findall(r"[^\s,]+", settings.webhooks)))


def events(settings: Settings) -> set[str]:
    return set(re.findall(r"[^\s,]+", settings.webhook_events))


def check_settings(settings: Settings) -> None:
    """Raises InvalidParams naming the setting that cannot be used; names are not looked up in the network."""
    for url in webhooks(settings):
        read(url, "webhooks")
    unknown = events(settings) - set(EVENTS)
    if unknown:
        raise InvalidParams(
            "webhook_events", message("hook_events", known=list(EVENTS), got=echo(", ".join(sorted(unknown))))
        )
    Allowed.of(settings.webhook_allow_private)
    morning(settings)


def morning(settings: Settings) -> time | None:
    """The local time of the night's report; None for none. Raises InvalidParams."""
    text = settings.report_at.strip()
    if not text:
        return None
    if not re.fullmatch(r"([01]?\d|2[0-3]):[0-5]\d", text):
        raise InvalidParams("report_at", message("report_clock", got=echo(text)))
    hours, minutes = text.split(":")
    return time(int(hours), int(minutes))


def receivers(settings: Settings, event: str, webhook: str) -> dict[str, int]:
    """The number of tries by receiver; ``webhook`` is the batch's own, or empty."""
    found = [*webhooks(settings)] if event in events(settings) else []
    if webhook and event in BATCH_OPTIONS:
        found.append(webhook)
    tries = dict.fromkeys(found, MOST_TRIES)
    hook = hooks.receiver_of(settings, event)
    return tries | ({hook: 1} if hook else {})
