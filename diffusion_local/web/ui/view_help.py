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


def keys() -> Markup:
    return render("keys.html", keys=KEYS)


def phone(url: str, code: str) -> Markup:
    """The dialog with the page's address for a phone. ``code``: its QR code as SVG."""
    return render("phone.html", url=url, code=code)


def not_found(picture: str) -> Markup:
    """The dialog for an address of a picture that does not exist."""
    return render("not_found.html")
