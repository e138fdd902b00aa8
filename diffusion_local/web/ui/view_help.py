"""Small dialogs: keyboard shortcuts, the QR code for a phone, a picture's address that does not exist. Pure."""

from markupsafe import Markup

from diffusion_local.web.ui.templates import render

#: Keys, with the phrase that describes their effect.
KEYS = (
    ("Enter", "keys.generate"),
    ("Shift + Enter", "keys.newline"),
    ("Ctrl + ↑ ↓", "keys.weight"),
    ("Q", "keys.drawer"),
    ("/", "keys.prompt"),
    ("Esc", "keys.escape"),
    ("← →", "keys.walk"),
    ("S", "keys.star"),
    ("Delete", "keys.trash"),
    ("+ − 0", "keys.zoom"),
    ("I", "keys.recipe"),
    ("?", "keys.this"),
)


def dialog(key: str, title: str, inside: str) -> str:
    """``inside`` is HTML, ``title`` is text."""
    return render("dialog.html", key=key, title=title, inside=Markup(inside))


def keys() -> str:
    return render("keys.html", keys=KEYS)


def phone(url: str, code: str) -> str:
    """``code`` is the address as SVG."""
    return render("phone.html", url=url, code=Markup(code))


def not_found(picture: str) -> str:
    """For an address whose picture does not exist."""
    return render("not_found.html")
