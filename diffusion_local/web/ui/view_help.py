"""Small dialogs of the frame: the keys, and the way to a phone. Pure."""

from diffusion_local.web.ui.view import close_button, manual_link, text
from diffusion_local.web.ui.words import say

#: Keys, and the phrase that says what they do.
KEYS = (
    ("Ctrl + Enter", "keys.generate"),
    ("Esc", "keys.escape"),
    ("← →", "keys.walk"),
    ("Enter", "keys.open"),
    ("S", "keys.star"),
    ("Delete", "keys.trash"),
    ("+ − 0", "keys.zoom"),
    ("I", "keys.recipe"),
    ("/", "keys.prompt"),
    ("?", "keys.this"),
)


def dialog(key: str, title: str, inside: str) -> str:
    return (
        '<div class="overlay" data-do="close" data-self data-key="overlay">'
        f'<div class="panel small-dialog" role="dialog" aria-modal="true" data-key="{key}" aria-label="{title}">'
        f'<div class="side">{close_button()}<h2>{title}</h2>{inside}</div></div></div>'
    )


def keys() -> str:
    rows = "".join(f"<dt><kbd>{key}</kbd></dt><dd>{say(phrase)}</dd>" for key, phrase in KEYS)
    return dialog("keys", say("page.keys"), f'<dl class="keys">{rows}</dl><p>{manual_link("page")}</p>')


def phone(url: str, code: str) -> str:
    """``code`` is the address as SVG."""
    return dialog(
        "phone",
        say("page.phone"),
        f'<p>{say("page.phone_how")}</p><div class="qr">{code}</div><p><a href="{text(url)}">{text(url)}</a></p>',
    )
