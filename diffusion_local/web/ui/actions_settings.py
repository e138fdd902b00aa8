"""What the controls of the Settings tab do: change, take back, look anew."""

from diffusion_local.studio import Studio
from diffusion_local.web.ui.effects import Effect, Verb, said
from diffusion_local.web.ui.words import say


def change_setting(studio: Studio, key: str) -> Effect:
    """``key`` is the setting's name and, on the next line, what was typed or chosen."""
    name, _, value = key.partition("\n")
    changed = studio.preferences.change(name, value)
    return told(changed.later is not None, name)


def reset_setting(studio: Studio, key: str) -> Effect:
    return told(studio.preferences.reset(key).later is not None, key)


def told(later: bool, name: str) -> Effect:
    return Effect(toast=said(say("settings.saved_later" if later else "settings.saved", name=name)))


def check_health(studio: Studio, key: str) -> Effect:
    studio.health.look()
    return Effect(toast=said(say("settings.looking")))


VERBS: dict[str, Verb] = {
    "change_setting": change_setting,
    "reset_setting": reset_setting,
    "check_health": check_health,
}
