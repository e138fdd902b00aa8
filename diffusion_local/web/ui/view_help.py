"""Small dialogs: keyboard shortcuts, the QR code for a phone, and the notice of a missing picture. Pure."""

from markupsafe import Markup

from diffusion_local.web.ui.templates import render

#: Keyboard shortcuts, each with the key of the phrase that describes it.
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
    """A modal dialog. ``inside`` is HTML; ``title`` is text and gets escaped."""
    return render("dialog.html", key=key, title=title, inside=Markup(inside))


def keys() -> str:
    return render("keys.html", keys=KEYS)


def phone(url: str, code: str) -> str:
    """The dialog with the page's address for a phone. ``code``: its QR code as SVG."""
    return render("phone.html", url=url, code=Markup(code))


def not_found(picture: str) -> str:
    """The dialog for an address of a picture that does not exist."""
    return render("not_found.html")
