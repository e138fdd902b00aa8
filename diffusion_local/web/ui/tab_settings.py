"""The Settings tab: settings with their origin and controls to change them, accounts, machines, and health."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from markupsafe import Markup

from diffusion_local.actor import Scope, current
from diffusion_local.domain import Snapshot
from diffusion_local.errors import InvalidParams
from diffusion_local.studio import Studio
from diffusion_local.web.ui import view, view_settings
from diffusion_local.web.ui.live import live

# -- handlers -------------------------------------------------------------------------------------------------------


def draw(studio: Studio, snapshot: Snapshot, now: datetime) -> str:
    """The tab. Admins see everything, others only the appearance, the overall health and the versions."""
    health = studio.health
    admin = Scope.ADMIN in current().scopes
    paths = health.shows_paths()
    groups = [("look", view_settings.appearance())]
    pending, can_restart = 0, False
    if admin:
        settings = studio.preferences.settings
        own, pending = preferences(studio)
        can_restart = studio.preferences.can_restart()
        groups += own
        if current().source != "token":  # a token cannot manage accounts
            groups.append(("accounts", view_settings.accounts(people(studio), current().name)))
    groups.append(("health", view_settings.findings(health.findings(), health.looking, admin, paths)))
    if admin:
        machines = studio.machines.all()
        elsewhere = {slot.slot for machine in machines for slot in machine.slots}
        here = [each for each in snapshot.workers if each.slot not in elsewhere]
        groups.append(("machine", view_settings.machine(here, health.vitals(), settings, now)))
        groups.append(("machines", view_settings.machines(machines)))
        if paths:
            groups.append(("folders", view_settings.folders(settings)))
    groups.append(("versions", view_settings.versions(health.versions())))
    return view_settings.page(groups, pending, can_restart)


def preferences(studio: Studio) -> tuple[list[tuple[str, Markup]], int]:
    """(groups, number of changes that need a restart). If config.toml is unreadable, the only group says so."""
    try:
        settings = studio.preferences.all()
    except InvalidParams as error:
        return [("other", view.notice("bad", view.problem(error)))], 0
    pending = sum(each.later is not None for each in settings)
    return view_settings.preferences(settings, studio.health.shows_paths()), pending


def people(studio: Studio) -> list[view_settings.Person]:
    """All accounts, as an admin sees them."""
    accounts = studio.accounts
    return [
        view_settings.Person(
            each,
            accounts.allowance(each.name),
            accounts.used_today(each.name),
            len(accounts.sessions(each.name)),
            [(token.id, token.name) for token in accounts.tokens(each.name)],
        )
        for each in accounts.all()
    ]


def pulse(studio: Studio) -> str:
    """A text that changes with state outside the database's revision: config.toml and the doctor's findings; for an
    admin also GPUs, disk, accounts and machines.

    Bytes are rounded, because a redraw for every small change would be noise.
    """
    health = studio.health
    found = [(each.name, each.ok, each.text) for each in health.findings()]
    state = (studio.preferences.mark(), health.looking, found)
    if Scope.ADMIN not in current().scopes:
        return repr(state)
    vitals = health.vitals()
    gpus = [(gpu.name, gpu.used >> 27, gpu.temperature) for gpu in vitals.gpus]
    known = people(studio) if current().source != "token" else []
    return repr((state, gpus, vitals.free >> 28, vitals.gallery >> 20, known, beats(studio)))


def beats(studio: Studio) -> list[Any]:
    """All machines without the times of their heartbeats, which change too often."""
    return [
        replace(each, seen_at="", slots=[replace(slot, seen_at="") for slot in each.slots])
        for each in studio.machines.all()
    ]


# -- layout ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SettingsTab:
    drawn: Any

    @property
    def poll_inputs(self) -> list[Any]:
        return []


def layout(studio: Studio) -> SettingsTab:
    return SettingsTab(live("settings"))
