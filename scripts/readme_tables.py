"""Writes README's tables that come from the code: settings, options, modules. ``--check``: whether they are fresh."""

import ast
import re
import sys
from dataclasses import MISSING
from pathlib import Path
from typing import get_origin

from diffusion_local.options.table import BATCH_OPTIONS, OPTIONS, SETTINGS
from diffusion_local.settings import specs

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PACKAGE = ROOT / "diffusion_local"


def main() -> int:
    text = README.read_text(encoding="utf-8")
    fresh = text
    for name, table in (("settings", settings_table), ("options", options_table), ("modules", modules_table)):
        fresh = replaced(fresh, name, table())
    if "--check" in sys.argv:
        return int(fresh != text)
    README.write_text(fresh, encoding="utf-8")
    return 0


def replaced(text: str, name: str, table: str) -> str:
    marks = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
    return re.sub(marks, lambda found: found[1] + table + found[2], text, flags=re.DOTALL)


def settings_table() -> str:
    lines = ["| setting | default | meaning |", "|---|---|---|"]
    for each in specs():
        default = "platform's user data folder" if each.default is MISSING else f"`{each.default}`"
        meaning = each.metadata["doc"]
        if choices := each.metadata.get("choices"):
            meaning += f" ({', '.join(choices)})"
        lines.append(f"| `{each.name}` | {'' if default in ('``', '`()`') else default} | {meaning} |")
    return "\n".join(lines) + "\n"


def options_table() -> str:
    lines = ["| setting of a picture | type | meaning |", "|---|---|---|"]
    for option in [*(OPTIONS[name] for name in SETTINGS), *BATCH_OPTIONS.values()]:
        kind = "list" if get_origin(option.taken) is list else option.taken.__name__
        lines.append(f"| `{option.name}` | {kind} | {option.meaning} |")
    return "\n".join(lines) + "\n"


def modules_table() -> str:
    lines = ["| module | is |", "|---|---|"]
    for path in sorted(PACKAGE.rglob("*.py"), key=lambda path: (len(path.parts), path)):
        document = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        name = (
            path.relative_to(PACKAGE).as_posix().removesuffix("/__init__.py") if path.parent != PACKAGE else path.name
        )
        if document and name != "__init__.py":
            first = re.split(r"(?<=[.:])\s", " ".join(document.split("\n\n")[0].split()), maxsplit=1)[0].rstrip(":")
            lines.append(f"| `{name}` | {first.replace('``', '`').replace('|', '/')} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
