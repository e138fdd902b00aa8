"""Handlers of the Settings tab: settings, restart, health, accounts, and machines (pair, pause, drain, resume, change,
remove).
"""

from urllib.parse import parse_qsl

from diffusion_local.accounts.store import QUOTA_COLUMNS
from diffusion_local.errors import InvalidParams
from diffusion_local.messages import message
from diffusion_local.queue.machines import IGNORE, WAIT, Machine
from diffusion_local.studio import Studio
from diffusion_local.web.ui import view_settings
from diffusion_local.web.ui.effects import Effect, Verb, new_toast
from diffusion_local.web.ui.words import has_phrase, say, translated


def change_setting(studio: Studio, key: str) -> Effect:
    """Save a setting. ``key``: its name and, on the next line, the new value."""
    name, _, value = key.partition("\n")
    changed = studio.preferences.change(name, value)
    return saved_toast(changed.later is not None, name)


def reset_setting(studio: Studio, key: str) -> Effect:
    return saved_toast(studio.preferences.reset(key).later is not None, key)


def saved_toast(later: bool, name: str) -> Effect:
    title = say(f"titles.{name}") if has_phrase(f"titles.{name}") else name
    return Effect(toast=new_toast(say("settings.saved_later" if later else "settings.saved", name=title)))


def restart(studio: Studio, key: str) -> Effect:
    studio.preferences.restart()
    return Effect(toast=new_toast(say("settings.restarting"), kind="restarting"))  # which look.js notices


def check_health(studio: Studio, key: str) -> Effect:
    studio.health.start_check()
    return Effect(toast=new_toast(say("settings.looking")))


# -- accounts; ``key`` is a name and, on the next line, URL-encoded form fields ---------------------------------------


def fields_of(key: str) -> tuple[str, dict[str, str]]:
    name, _, written = key.partition("\n")
    return name.strip(), dict(parse_qsl(written, keep_blank_values=True))


def account_add(studio: Studio, key: str) -> Effect:
    _, sent = fields_of(key)
    account = studio.accounts.add(sent.get("name", "").strip(), sent.get("password", ""), sent.get("role") or None)
    studio.health.start_check()  # what it said about signing in may no longer hold
    return Effect(toast=new_toast(say("settings.account_added", name=account.name)))


def account_role(studio: Studio, key: str) -> Effect:
    name, _, role = key.partition("\n")
    studio.accounts.set_role(name, role)
    return account_changed(name)


def account_limits(studio: Studio, key: str) -> Effect:
    """Set an account's own limits. An empty field restores the limit of the settings."""
    name, sent = fields_of(key)
    studio.accounts.set_limits(name, **{each: limit_of(each, sent[each]) for each in QUOTA_COLUMNS if each in sent})
    return account_changed(name)


def limit_of(name: str, text: str) -> int | None:
    if not text.strip():
        return None
    if not text.strip().isascii() or not text.strip().isdigit() or len(text) > 13:
        raise InvalidParams(name, message("not_negative"))
    return int(text)


def account_password(studio: Studio, key: str) -> Effect:
    name, sent = fields_of(key)
    studio.accounts.set_password(name, sent.get("password", ""))
    return account_changed(name)


def account_token(studio: Studio, key: str) -> Effect:
    name, _, token = key.partition(" ")
    studio.accounts.remove_token(name, token)
    return account_changed(name)


def account_out(studio: Studio, key: str) -> Effect:
    studio.accounts.sign_out(key)
    return account_changed(key)


def account_remove(studio: Studio, key: str) -> Effect:
    studio.accounts.remove(key)
    return Effect(toast=new_toast(say("settings.account_removed", name=key)))


def account_changed(name: str) -> Effect:
    return Effect(toast=new_toast(say("settings.account_changed", name=name)))


def machine_invite(studio: Studio, key: str) -> Effect:
    return Effect(panel=view_settings.invitation(studio.machines.invite()))


def machine_pause(studio: Studio, key: str) -> Effect:
    return changed(studio.machines.pause(key))


def machine_drain(studio: Studio, key: str) -> Effect:
    return changed(studio.machines.drain(key))


def machine_resume(studio: Studio, key: str) -> Effect:
    return changed(studio.machines.resume(key))


def machine_hours(studio: Studio, key: str) -> Effect:
    """Set a machine's working hours. ``key``: its name and, on the next line, the hours."""
    name, _, hours = key.partition("\n")
    return changed(studio.machines.change(name, hours=hours))


def machine_share_wait(studio: Studio, key: str) -> Effect:
    return changed(studio.machines.change(key, gpu_share=WAIT))


def machine_share_ignore(studio: Studio, key: str) -> Effect:
    return changed(studio.machines.change(key, gpu_share=IGNORE))


def machine_remove(studio: Studio, key: str) -> Effect:
    studio.machines.remove(key)
    return Effect(toast=new_toast(say("machines.removed", name=key)))


def changed(machine: Machine) -> Effect:
    words = say("machines.changed", name=machine.name)
    return Effect(toast=new_toast(f"{words} {translated(machine.resting)}".strip()))


VERBS: dict[str, Verb] = {
    "change_setting": change_setting,
    "reset_setting": reset_setting,
    "restart": restart,
    "check_health": check_health,
    "account_add": account_add,
    "account_role": account_role,
    "account_limits": account_limits,
    "account_password": account_password,
    "account_token": account_token,
    "account_out": account_out,
    "account_remove": account_remove,
    "machine_invite": machine_invite,
    "machine_pause": machine_pause,
    "machine_drain": machine_drain,
    "machine_resume": machine_resume,
    "machine_hours": machine_hours,
    "machine_share_wait": machine_share_wait,
    "machine_share_ignore": machine_share_ignore,
    "machine_remove": machine_remove,
}
