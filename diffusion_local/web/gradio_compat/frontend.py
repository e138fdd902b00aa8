"""The scripts and styles that Gradio's page loads, from the files of its build.

The page's scripts import each other in a chain, and each kind of component brings style sheets of its own: fifty
requests, most of which start only when others are done. The page names all scripts at its start, and gets all styles
as one sheet.
"""

import gzip
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI, Request, Response

BUILD = Path(gr.__file__).parent / "templates" / "frontend"
ENTRY = re.compile(r'src="\./assets/(index-[\w-]+\.js)"')
ENTRY_STYLE = re.compile(r'<link rel="stylesheet" crossorigin href="\./assets/(index-[\w-]+\.css)">')
NAMES = re.compile(r"m\.f=(\[[^\]]*\])")  # of the files that a script's imports refer to by number
IMPORT = r"import\(`\./(%s)`\)(?:\.then\([^)]*\)|;return\{default:\w\}\})?,__vite__mapDeps\(\[([\d,]*)\]\)"
ROOT = "column"  # the kind of component around all others
CLIENTS_ONLY = "api"  # components of endpoints, which the page does not draw
SHEET = "/assets/gradio.css"
FOREVER = {"Cache-Control": "private, max-age=31536000, immutable", "Vary": "Accept-Encoding"}


@dataclass(frozen=True, slots=True)
class Frontend:
    """Names of files in Gradio's ``assets``, in the order in which its page loads them."""

    scripts: tuple[str, ...]
    styles: tuple[str, ...]


def frontend(kinds: Iterable[str]) -> Frontend:
    """The files of a page with these kinds of components; none where Gradio's build differs from the tested one's."""
    return _frontend(tuple(sorted({ROOT, *kinds})))


@cache
def _frontend(kinds: tuple[str, ...]) -> Frontend:
    html = (BUILD / "index.html").read_text(encoding="utf-8")
    entry, style = ENTRY.search(html), ENTRY_STYLE.search(html)
    if entry is None or style is None:
        return Frontend((), ())
    found = [entry[1], style[1]]
    main = imported(entry[1], r"(?:Index|core)-[\w-]+\.js")
    found += main
    for name in main:
        if name.startswith("Index-"):
            found += imported(name, r"Blocks-[\w-]+\.js")
        elif name.startswith("core-"):
            for kind in kinds:
                found += imported(name, r"Index-[\w-]+\.js", kind)
    there = [name for name in dict.fromkeys(found) if (BUILD / "assets" / name).is_file()]
    return Frontend(*(tuple(each for each in there if each.endswith(end)) for end in (".js", ".css")))


def imported(script: str, name: str, kind: str = "") -> list[str]:
    """The files that a script loads with its imports of ``name`` (a pattern), or with that of a kind of component."""
    text = source(script)
    names = NAMES.search(text)
    if names is None:
        return []
    files = [each.removeprefix("./") for each in json.loads(names[1])]
    pattern = IMPORT % name
    if kind:  # the entry of a kind has imports for other uses, too
        pattern = rf"[,{{]{kind}:\{{(?:\w+:\(\)=>v\(\(\)=>[^{{}}]*?)?component:\(\)=>v\(\(\)=>{pattern}"
    found: list[str] = []
    for match in re.finditer(pattern, text):
        found += [match[1], *(files[int(each)] for each in match[2].split(",") if each)]
    return found


def source(script: str) -> str:
    return (BUILD / "assets" / script).read_text(encoding="utf-8")


def kinds(config: dict[str, Any]) -> set[str]:
    """The kinds of components that a page with this configuration draws."""
    return {each["type"] for each in config["components"]} - {CLIENTS_ONLY}


def links(config: dict[str, Any]) -> str:
    """HTML that loads the page's files, for its head. Gradio's scripts load no sheet that a disabled link names."""
    files = frontend(kinds(config))
    if not files.styles:
        return ""
    theme = f"{config['root']}/theme.css?v={config['theme_hash']}"
    digest = sha256(" ".join([*files.styles, config["theme_hash"]]).encode()).hexdigest()[:16]
    styles = [theme, *(f"./assets/{name}" for name in files.styles)]
    return "".join(
        [
            f'<link rel="stylesheet" href="{SHEET.removeprefix("/")}?v={digest}">',
            *(f'<link rel="modulepreload" crossorigin href="assets/{name}">' for name in files.scripts),
            *(f'<link rel="stylesheet" disabled href="{address}">' for address in styles),
        ]
    )


def add(app: FastAPI, blocks: gr.Blocks) -> None:
    """Add the route of the one style sheet. To be called before Gradio is mounted."""

    @cache
    def sheet(packed: bool) -> bytes:
        texts = [source(name) for name in frontend(kinds(dict(blocks.config))).styles]
        content = "\n".join([*texts[:1], blocks.theme_css, *texts[1:]]).encode()  # in the order of Gradio's page
        return gzip.compress(content) if packed else content

    @app.get(SHEET, include_in_schema=False)
    def styles(request: Request) -> Response:
        packed = "gzip" in request.headers.get("accept-encoding", "")
        headers = FOREVER | ({"Content-Encoding": "gzip"} if packed else {})
        return Response(sheet(packed), media_type="text/css", headers=headers)
