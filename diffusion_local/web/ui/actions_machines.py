"""What the buttons on machines do: make a code, pause, drain, resume, change, remove."""

from diffusion_local.queue.machines import IGNORE, WAIT, Machine
from diffusion_local.studio import Studio
from diffusion_local.web.ui import view_machines
from diffusion_local.web.ui.effects import Effect, Verb, said
from diffusion_local.web.ui.words import say, translated


def machine_invite(studio: Studio, key: str) -> Effect:
    return Effect(panel=view_machines.invitation(studio.machines.invite()))


def machine_pause(studio: Studio, key: str) -> Effect:
    return changed(studio.machines.pause(key))


def machine_drain(studio: Studio, key: str) -> Effect:
    return changed(studio.machines.drain(key))


def machine_resume(studio: Studio, key: str) -> Effect:
    return changed(studio.machines.resume(key))


def machine_hours(studio: Studio, key: str) -> Effect:
    """``key`` is the machine's name and, on the next line, the hours that were typed."""
    name, _, hours = key.partition("\n")
    return changed(studio.machines.change(name, hours=hours))


def machine_share_wait(studio: Studio, key: str) -> Effect:
    return changed(studio.machines.change(key, gpu_share=WAIT))


def machine_share_ignore(studio: Studio, key: str) -> Effect:
    return changed(studio.machines.change(key, gpu_share=IGNORE))


def machine_remove(studio: Studio, key: str) -> Effect:
    studio.machines.remove(key)
    return Effect(toast=said(say("machines.removed", name=key)))


def changed(machine: Machine) -> Effect:
    words = say("machines.changed", name=machine.name)
    return Effect(toast=said(f"{words} {translated(machine.resting)}".strip()))


VERBS: dict[str, Verb] = {
    "machine_invite": machine_invite,
    "machine_pause": machine_pause,
    "machine_drain": machine_drain,
    "machine_resume": machine_resume,
    "machine_hours": machine_hours,
    "machine_share_wait": machine_share_wait,
    "machine_share_ignore": machine_share_ignore,
    "machine_remove": machine_remove,
}
