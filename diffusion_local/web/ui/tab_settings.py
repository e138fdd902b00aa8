"""Settings: how the machine does, what is set and where, and what can be changed."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from diffusion_local.actor import Scope, current
from diffusion_local.domain import Snapshot
from diffusion_local.errors import InvalidParams
from diffusion_local.queue.machines import machine_of
from diffusion_local.studio import Studio
from diffusion_local.web.ui import view, view_machines, view_settings
from diffusion_local.web.ui.live import live

# -- handlers -------------------------------------------------------------------------------------------------------


def draw(studio: Studio, snapshot: Snapshot, now: datetime) -> str:
    """All of it for an admin; versions and whether things are well for everybody."""
    health = studio.health
    admin = Scope.ADMIN in current().scopes
    parts = [view_settings.look()]
    parts.append(view_settings.findings(health.findings(), health.looking, admin, health.shows_paths()))
    if admin:
        own = [each for each in snapshot.workers if not machine_of(each.slot)]
        parts.append(view_settings.machine(own, health.vitals(), studio.preferences.settings, now))
        parts.append(view_machines.machines(studio.machines.all()))
        parts.append(preferences(studio))
        if health.shows_paths():
            parts.append(view_settings.folders(studio.preferences.settings))
    parts.append(view_settings.versions(health.versions()))
    return "".join(parts)


def preferences(studio: Studio) -> str:
    """A config.toml that cannot be read is told in its place."""
    try:
        return view_settings.preferences(studio.preferences.all(), studio.health.shows_paths())
    except InvalidParams as error:
        return view.notice("bad", view.text(view.problem(error)))


def pulse(studio: Studio) -> str:
    """Changes with what the database's revision does not tell: config.toml, what the doctor found; for an admin, who
    is shown them, GPUs and disk too."""
    health = studio.health
    found = [(each.name, each.ok, each.text) for each in health.findings()]
    told = (studio.preferences.mark(), health.looking, found)
    if Scope.ADMIN not in current().scopes:
        return repr(told)
    vitals = health.vitals()
    gpus = [(gpu.name, gpu.used >> 27, gpu.temperature) for gpu in vitals.gpus]
    return repr((told, gpus, vitals.free >> 28, vitals.gallery >> 20, beats(studio)))


def beats(studio: Studio) -> list[Any]:
    """What machines show, without the time of each heartbeat."""
    return [
        replace(each, seen_at="", slots=[replace(slot, seen_at="") for slot in each.slots])
        for each in studio.machines.all()
    ]


# -- layout ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SettingsTab:
    drawn: Any

    @property
    def asked(self) -> list[Any]:
        return []


def layout(studio: Studio) -> SettingsTab:
    return SettingsTab(live("settings"))
