"""The page's Jinja2 templates, with autoescaping, and its icons.

Every value that is not ``Markup`` is escaped. ``say`` inserts a phrase, which is trusted HTML, and escapes its values.
Icons are outlines of one weight in the colour of the surrounding text.
"""

import re
from functools import cache
from pathlib import Path
from typing import Any
from zlib import crc32

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from diffusion_local import serializers
from diffusion_local.options import a1111
from diffusion_local.web.ui import addresses, words

ICON_PATHS = {
    "alert": '<circle cx="12" cy="12" r="8.5"/><path d="M12 7.8v5M12 16v.01"/>',
    "back": '<path d="M9 6.5L4.5 11 9 15.5"/><path d="M5 11h9a5 5 0 0 1 0 10h-3"/>',
    "bell": '<path d="M5 16h14l-2-3V9.5a5 5 0 0 0-10 0V13z"/><path d="M10 19.5h4"/>',
    "board": '<path d="M4 7.5A1.5 1.5 0 0 1 5.5 6H10l2 2.5h6.5A1.5 1.5 0 0 1 20 10v7a1.5 1.5 0 0 1-1.5 1.5h-13'
    'A1.5 1.5 0 0 1 4 17z"/>',
    "bookmark": '<path d="M7 4.500h10v15l-5-3.800-5 3.800z"/>',
    "brush": '<path d="M14.5 5.5l4 4L11 17l-4-4z"/><path d="M7 13c-2 .6-2.2 2.6-3.5 5.5 3 0 5.5-.2 7-1.7"/>',
    "check": '<path d="M5 12.500l4.5 4.500L19 7.5"/>',
    "clock": '<circle cx="12" cy="12" r="8"/><path d="M12 7.500V12l3 2"/>',
    "close": '<path d="M6.5 6.500l11 11M17.5 6.500l-11 11"/>',
    "compare": '<rect x="4" y="5" width="16" height="14" rx="2"/><path d="M12 3v18"/>',
    "copy": '<rect x="8.5" y="8.5" width="11" height="11" rx="2.5"/><path d="M5 15.5v-8A2.5 2.5 0 0 1 7.5 5h8"/>',
    "create": '<path d="M12 3.500l1.9 5.1 5.1 1.9-5.1 1.900L12 17.500l-1.9-5.100L5 10.500l5.1-1.900z"/>'
    '<path d="M18.5 16v4M16.5 18h4"/>',
    "dice": '<rect x="4.5" y="4.5" width="15" height="15" rx="3.5"/>'
    '<path stroke-width="2.4" d="M9 9h.01M15 9h.01M12 12h.01M9 15h.01M15 15h.01"/>',
    "down": '<path d="M6.5 9.500L12 15l5.5-5.5"/>',
    "download": '<path d="M12 4.5v10.5M7.5 11l4.5 4.5 4.5-4.5M5 19.5h14"/>',
    "eraser": '<path d="M13.5 5.500l5 5-8 8H7l-2.5-2.500z"/><path d="M9.5 9.500l5 5M10 18.500h9"/>',
    "fit": '<path d="M4.5 9V4.500H9M15 4.500h4.500V9M19.5 15v4.500H15M9 19.500H4.500V15"/>',
    "frame": '<rect x="8" y="8" width="8" height="8"/><path stroke-dasharray="2 2.500" d="M4 4h16v16H4z"/>',
    "gallery": '<rect x="3.5" y="4.5" width="17" height="15" rx="2.5"/><circle cx="9" cy="10" r="1.6"/>'
    '<path d="M4 17l5-4 3.5 2.500L16 12l4.5 4"/>',
    "grip": '<path stroke-width="2.4" d="M9.5 7h.01M9.5 12h.01M9.5 17h.01M14.5 7h.01M14.5 12h.01M14.5 17h.01"/>',
    "hand": '<path d="M12 4v16M4 12h16M9.5 6.500L12 4l2.500 2.500M9.5 17.500L12 20l2.500-2.500"/>'
    '<path d="M6.5 9.500L4 12l2.500 2.500M17.5 9.500L20 12l-2.500 2.500"/>',
    "help": '<circle cx="12" cy="12" r="8.5"/>'
    '<path d="M9.7 9.500a2.3 2.3 0 1 1 3.3 2.100c-.7.4-1 .8-1 1.700M12 16.200v.01"/>',
    "image": '<rect x="4.5" y="4.5" width="15" height="15" rx="2.5"/><path d="M12 9v6M9 12h6"/>',
    "info": '<circle cx="12" cy="12" r="8.5"/><path d="M12 11v5M12 8v.01"/>',
    "invert": '<circle cx="12" cy="12" r="8"/><path fill="currentColor" d="M12 4a8 8 0 0 1 0 16z"/>',
    "left": '<path d="M14.5 6L8.5 12l6 6"/>',
    "lists": '<path d="M9 7h10M9 12h10M9 17h10"/><path stroke-width="2.4" d="M5 7h.01M5 12h.01M5 17h.01"/>',
    "lock": '<rect x="5.5" y="11" width="13" height="8.5" rx="2"/><path d="M8.5 11V8a3.5 3.5 0 0 1 7 0v3"/>',
    "loop": '<path d="M5 11V9.500A3.500 3.500 0 0 1 8.500 6H19l-2.500-2.500"/>'
    '<path d="M19 13v1.500a3.500 3.500 0 0 1-3.500 3.500H5l2.500 2.500"/>',
    "minus": '<path d="M6 12h12"/>',
    "models": '<path d="M12 3.500l7.5 4.200v8.600L12 20.500l-7.5-4.200V7.700z"/>'
    '<path d="M4.8 7.900L12 12l7.2-4.100M12 12v8.3"/>',
    "more": '<path stroke-width="2.6" d="M6 12h.01M12 12h.01M18 12h.01"/>',
    "pause": '<path stroke-width="2.4" d="M9 6.500v11M15 6.500v11"/>',
    "phone": '<rect x="7" y="3.5" width="10" height="17" rx="2.5"/><path d="M11 17.5h2"/>',
    "play": '<path d="M8 5.500l10.5 6.500L8 18.500z"/>',
    "plus": '<path d="M12 6v12M6 12h12"/>',
    "queue": '<path d="M12 4l8 4-8 4-8-4z"/><path d="M4.5 12l7.5 3.7 7.5-3.700M4.5 16l7.5 3.7 7.5-3.7"/>',
    "redo": '<path d="M15 6.500l4.500 4.500-4.500 4.500"/><path d="M19.500 11h-9a5 5 0 0 0 0 10h3"/>',
    "retry": '<path d="M18.5 9A7 7 0 1 0 19 13"/><path d="M19 4.500V9h-4.5"/>',
    "right": '<path d="M9.5 6l6 6-6 6"/>',
    "search": '<circle cx="10.5" cy="10.5" r="6"/><path d="M15 15l4.5 4.5"/>',
    "settings": '<path d="M4 8h9M17 8h3M4 16h3M11 16h9"/><circle cx="15" cy="8" r="2"/><circle cx="9" cy="16" r="2"/>',
    "star": '<path d="M12 4l2.45 5.05 5.55.8-4 3.9.95 5.5L12 16.65 7.05 19.25 8 13.75 4 9.85l5.55-.8z"/>',
    "stop": '<rect x="7" y="7" width="10" height="10" rx="1.5"/>',
    "swap": '<path d="M5 9h13l-3.5-3.500M19 15H6l3.5 3.5"/>',
    "trash": '<path d="M5 7h14M10 7V4.5h4V7M7 7l.8 12.5h8.4L17 7M10.5 10.5v5.5M13.5 10.5v5.5"/>',
    "upscale": '<path d="M13.5 4.500h6v6M19.5 4.500L13 11"/><rect x="4.5" y="11.5" width="8" height="8" rx="1.5"/>',
    "use": '<path d="M5 12h11M12 7l5 5-5 5"/><path d="M19.5 5v14"/>',
    "vary": '<path d="M4 8h3.500c4 0 5 8 9 8H20M4 16h3.500c1.5 0 2.6-1.1 3.5-2.600"/>'
    '<path d="M13.5 9.800c.8-1.1 1.7-1.8 3-1.800H20"/>'
    '<path d="M17.5 5.500L20 8l-2.5 2.500M17.5 13.500L20 16l-2.5 2.5"/>',
}


def icon(name: str, pixels: int = 20, filled: bool = False) -> str:
    fill = "currentColor" if filled else "none"
    return (
        f'<svg class="icon" viewBox="0 0 24 24" width="{pixels}" height="{pixels}" aria-hidden="true" fill="{fill}" '
        f'stroke="currentColor" stroke-width="1.6" stroke-linecap="round" stroke-linejoin="round">'
        f"{ICON_PATHS[name]}</svg>"
    )


TEMPLATE_FOLDER = Path(__file__).parent / "templates"


def say(key: str, **values: Any) -> Markup:
    """A phrase as HTML, with escaped values. Numbers stay numbers, because phrases have format specifiers for them."""
    safe = {name: value if isinstance(value, int | float) else escape(value) for name, value in values.items()}
    return Markup(words.say(key, **safe))


def hue(text: str) -> int:
    """A stable hue in degrees (0 to 359) for a name."""
    return crc32(text.encode()) % 360


def sentence(text: str) -> Markup:
    """Escape text and set `names` in backticks as ``<code>``."""
    return Markup(re.sub(r"`([^`<>]+)`", r"<code>\1</code>", str(escape(text))))


@cache
def environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(TEMPLATE_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters |= {"hue": hue, "sentence": sentence}
    made.globals |= {
        "say": say,
        "known": words.has_phrase,
        "translated": words.translated,
        "icon": lambda *args, **more: Markup(icon(*args, **more)),
        "shapes": serializers,
        "recipe_text": a1111.format_recipe,
        "address": addresses.address,
    }
    return made


def render(name: str, /, **values: Any) -> str:
    """Render a template. The result is trusted HTML as a plain ``str``; wrap it in ``Markup`` for another template."""
    return environment().get_template(name).render(values)


def macro(name: str, /, *args: Any, **values: Any) -> str:
    """Call a macro of ``macros.html``, for HTML that Python code builds."""
    return str(getattr(_macros(), name)(*args, **values))


@cache
def _macros() -> Any:
    return environment().get_template("macros.html").module
