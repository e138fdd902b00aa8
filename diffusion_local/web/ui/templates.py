"""The page's HTML: Jinja2 templates with autoescaping. Whatever a person wrote is escaped unless it is ``Markup``.

Templates say words with ``say``: the phrase is trusted HTML of ours, its values are escaped.
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
from diffusion_local.web.ui.icons import icon

FOLDER = Path(__file__).parent / "templates"


def say(key: str, **values: Any) -> Markup:
    """A phrase as HTML; numbers keep their type, as phrases format them."""
    safe = {name: value if isinstance(value, int | float) else escape(value) for name, value in values.items()}
    return Markup(words.say(key, **safe))


def hue(text: str) -> int:
    """A colour for a name, in degrees, the same each time."""
    return crc32(text.encode()) % 360


def sentence(text: str) -> Markup:
    """Text in which `names` are set apart."""
    return Markup(re.sub(r"`([^`<>]+)`", r"<code>\1</code>", str(escape(text))))


@cache
def environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters |= {"hue": hue, "sentence": sentence}
    made.globals |= {
        "say": say,
        "known": words.known,
        "translated": words.translated,
        "icon": lambda *args, **more: Markup(icon(*args, **more)),
        "shapes": serializers,
        "recipe_text": a1111.format_recipe,
        "address": addresses.address,
    }
    return made


def render(name: str, /, **values: Any) -> str:
    """A template with these values, as text that may go into other HTML."""
    return environment().get_template(name).render(values)


def macro(name: str, /, *args: Any, **values: Any) -> str:
    """A single macro of ``macros.html``, for HTML that is not a template yet."""
    return str(getattr(_macros(), name)(*args, **values))


@cache
def _macros() -> Any:
    return environment().get_template("macros.html").module
