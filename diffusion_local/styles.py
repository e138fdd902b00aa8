"""Style presets: a prompt and negative prompt wrapped around the user's.

``assets/styles.csv`` contains a few; ``styles.csv`` in the home, in A1111's format (``name,prompt,negative_prompt``),
adds more and replaces those of the same name. A template without ``{prompt}`` is appended after a comma, as in A1111.
"""

import codecs
import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diffusion_local.authority import guarded
from diffusion_local.errors import InvalidParams, echo
from diffusion_local.messages import message
from diffusion_local.options.values import check_prompt
from diffusion_local.paths import assets

PROMPT_PLACEHOLDER = "{prompt}"
MAX_STYLES = 20  # at once
STYLES_FILE = "styles.csv"
DELIMITERS = ",;\t"  # Excel chooses by the country
UTF16_BOMS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True, slots=True)
class Style:
    name: str
    prompt: str
    negative: str


@guarded("styles")
class Styles:
    """All styles. The files are read on each call, so that edits need no restart."""

    def __init__(self, home: Path) -> None:
        self._files = (assets() / STYLES_FILE, home / STYLES_FILE)

    def all(self) -> list[Style]:
        """All styles, the home's first. Unreadable files are skipped."""
        bundled, custom = (read_styles(path) for path in self._files)
        custom_names = {style.name for style in custom}
        return [*custom, *(style for style in bundled if style.name not in custom_names)]

    def apply(self, names: Sequence[str], prompt: str, negative: str) -> tuple[str, str]:
        """(prompt, negative prompt) with these styles applied in order. Raises InvalidParams."""
        if not isinstance(names, list | tuple) or not all(isinstance(each, str) for each in names):
            raise InvalidParams(
                "styles", message("styles_among", known=[each.name for each in self.all()], got=echo(names))
            )
        if len(names) > MAX_STYLES:
            raise InvalidParams("styles", message("at_most", most=MAX_STYLES, got=len(names)))
        known = {style.name: style for style in self.all()}
        folded = {name.casefold(): style for name, style in known.items()}
        for name in names:
            style = known.get(name) or folded.get(name.casefold())
            if style is None:
                raise InvalidParams("styles", message("styles_among", known=list(known), got=echo(name)))
            prompt = apply_template(style.prompt, prompt)
            negative = apply_template(style.negative, negative)
            check_prompt("prompt", prompt)
            check_prompt("negative", negative)
        return prompt, negative


def apply_template(template: str, text: str) -> str:
    if PROMPT_PLACEHOLDER in template:
        return template.replace(PROMPT_PLACEHOLDER, text)
    return ", ".join(part for part in (text.strip(), template.strip()) if part)


def read_styles(path: Path) -> list[Style]:
    """The styles of a file; none if it is missing or damaged, as ``doctor`` reports."""
    try:
        data = path.read_bytes()
        text = data.decode("utf-16" if data.startswith(UTF16_BOMS) else "utf-8-sig")
        header = text.lstrip().partition("\n")[0]
        table = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(DELIMITERS, key=header.count))
        rows = [{(key or "").strip().casefold(): value for key, value in row.items()} for row in table]
    except (OSError, UnicodeDecodeError, csv.Error):
        return []
    styles = {}
    for row in rows:
        name, prompt, negative = (cell_text(row.get(key)) for key in ("name", "prompt", "negative_prompt"))
        if name and (prompt or negative):
            styles[name] = Style(name, prompt, negative)
    return list(styles.values())


def cell_text(value: object) -> str:
    """A cell as text; missing cells are None."""
    return value.strip() if isinstance(value, str) else ""
