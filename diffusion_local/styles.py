"""Style presets: a prompt and a negative prompt that are put around a person's own.

``assets/styles.csv`` has a few; ``styles.csv`` in the home, in the form that A1111 keeps (``name,prompt,
negative_prompt``), adds to them and replaces those of the same name. Where a template has no ``{prompt}`` it is
appended after a comma, as A1111 does.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diffusion_local.authority import guarded
from diffusion_local.errors import InvalidParams, echo
from diffusion_local.messages import message
from diffusion_local.options.values import check_prompt
from diffusion_local.settings import assets

SLOT = "{prompt}"
MAX_STYLES = 20  # at once
FILE = "styles.csv"


@dataclass(frozen=True, slots=True)
class Style:
    name: str
    prompt: str
    negative: str


@guarded("styles")
class Styles:
    """Read afresh each time: an edited file needs no restart."""

    def __init__(self, home: Path) -> None:
        self._files = (assets() / FILE, home / FILE)

    def all(self) -> list[Style]:
        """Those of the home first. What cannot be read is left out."""
        bundled, own = (read(path) for path in self._files)
        own_names = {style.name for style in own}
        return [*own, *(style for style in bundled if style.name not in own_names)]

    def apply(self, names: Sequence[str], prompt: str, negative: str) -> tuple[str, str]:
        """(prompt, negative prompt) with these styles around them, in their order. Raises InvalidParams."""
        if len(names) > MAX_STYLES:
            raise InvalidParams("styles", message("at_most", most=MAX_STYLES, got=len(names)))
        known = {style.name: style for style in self.all()}
        for name in names:
            if name not in known:
                raise InvalidParams("styles", message("styles_among", known=list(known), got=echo(name)))
            prompt = around(known[name].prompt, prompt)
            negative = around(known[name].negative, negative)
            check_prompt("prompt", prompt)
            check_prompt("negative", negative)
        return prompt, negative


def around(template: str, text: str) -> str:
    if SLOT in template:
        return template.replace(SLOT, text)
    return ", ".join(part for part in (text.strip(), template.strip()) if part)


def read(path: Path) -> list[Style]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [
                {(key or "").strip().casefold(): value for key, value in row.items()} for row in csv.DictReader(file)
            ]
    except (OSError, UnicodeDecodeError, csv.Error):
        return []
    found = {}
    for row in rows:
        name, prompt, negative = (written(row.get(key)) for key in ("name", "prompt", "negative_prompt"))
        if name and (prompt or negative):
            found[name] = Style(name, prompt, negative)
    return list(found.values())


def written(value: object) -> str:
    """A cell as text; a row with too few cells has None there."""
    return value.strip() if isinstance(value, str) else ""
