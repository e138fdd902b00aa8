"""The page's Jinja2 templates, with autoescaping. All HTML of the page is in ``templates``.

Every value that is not ``Markup`` is escaped. ``say`` inserts a phrase, which is trusted HTML, and escapes its values.
"""

import re
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any
from zlib import crc32

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from diffusion_local import serializers
from diffusion_local.options import a1111
from diffusion_local.web.ui import page_urls, words

TEMPLATE_FOLDER = Path(__file__).parent / "templates"


def say(key: str, **values: Any) -> Markup:
    """A phrase as HTML, with escaped values. Numbers stay numbers, because phrases have format specifiers for them."""
    if not values:
        return Markup(words.say(key))
    safe = {name: value if isinstance(value, int | float) else escape(value) for name, value in values.items()}
    return Markup(words.say(key, **safe))


def hue(text: str) -> int:
    """A stable hue in degrees (0 to 359) for a name."""
    return crc32(text.encode()) % 360


def backticks(text: str) -> list[tuple[str, str]]:
    """Split a text at its `names` in backticks: (text before, name); the last name may be empty."""
    parts = re.split(r"`([^`]+)`", text)
    return list(zip_longest(parts[::2], parts[1::2], fillvalue=""))


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
    made.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    made.filters |= {"hue": hue, "backticks": backticks}
    made.globals |= {
        "say": say,
        "known": words.has_phrase,
        "translated": words.translated,
        "shapes": serializers,
        "recipe_text": a1111.format_recipe,
        "address": page_urls.address,
    }
    made.globals["icon"] = made.get_template("icons.html").module.icon  # type: ignore[attr-defined]
    return made


def render(name: str, /, **values: Any) -> Markup:
    return Markup(environment().get_template(name).render(values).strip())


def macro(name: str, /, *args: Any, **values: Any) -> Markup:
    """Call a macro of ``macros.html``, for a small part that Python code places."""
    return Markup(getattr(_macros(), name)(*args, **values))


@cache
def _macros() -> Any:
    return environment().get_template("macros.html").module
