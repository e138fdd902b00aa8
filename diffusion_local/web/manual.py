"""``/manual``: the manual as HTML, rendered on the server from Markdown. Its pages load nothing from other hosts."""

import posixpath
import re
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from diffusion_local import manual
from diffusion_local.paths import assets
from diffusion_local.web.ui.templates import render
from diffusion_local.web.ui.words import LANGUAGE_TAGS, language, say

if TYPE_CHECKING:
    from markdown_it.token import Token

#: Groups of topics: (key of the title's phrase, prefix of the topics).
PAGE_GROUPS = (("page.manual_guides", ""), ("page.manual_reference", "reference/"), ("page.manual_inside", "inside/"))


def add(app: FastAPI) -> None:
    @app.get("/manual", include_in_schema=False)
    def front_page(request: Request) -> RedirectResponse:
        return RedirectResponse(f"{root(request)}/manual/{manual.TOPICS[0]}")

    @app.get("/manual/search", include_in_schema=False)
    def search(request: Request, q: str = "") -> HTMLResponse:
        return html_response(request, say("page.manual_search"), query=q, results=manual.search(q, language()))

    @app.get("/manual/{topic:path}", include_in_schema=False)
    def topic_page(request: Request, topic: str) -> HTMLResponse:
        page = manual.page(topic, language())
        note = "" if page.language == language() else say("page.manual_english")
        return html_response(request, page.title, topic, note=note, body=Markup(to_html(page, root(request))))


def html_response(request: Request, title: str, topic: str = "", **parts: Any) -> HTMLResponse:
    empty = {"query": "", "results": None, "note": "", "body": ""}
    words = {name: say(f"page.manual_{name}") for name in ("search", "contents", "nothing")}
    content = template().render(
        **(empty | parts),
        title=title,
        topic=topic,
        words=words,
        tag=LANGUAGE_TAGS[language()],
        root=root(request),
        groups=groups(),
        longest=manual.MAX_QUERY,
        font=Markup(render("font.html")),
        style=Markup((assets() / "templates" / "manual.css").read_text(encoding="utf-8")),
    )
    return HTMLResponse(content)


def groups() -> list[dict[str, Any]]:
    known = manual.pages(language())
    return [
        {"title": say(phrase), "pages": [page for page in known if group_prefix(page.topic) == start]}
        for phrase, start in PAGE_GROUPS
    ]


def group_prefix(topic: str) -> str:
    folder = posixpath.dirname(topic)
    return f"{folder}/" if folder else ""


def to_html(page: manual.Page, root: str) -> str:
    """A page as HTML. Raw HTML in the Markdown is escaped; links between pages are rewritten to ``/manual``."""
    from markdown_it import MarkdownIt  # here, because most processes show no manual

    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = markdown.parse(page.text)
    for place, token in enumerate(tokens):
        if token.type == "heading_open":
            token.attrSet("id", manual.slug(tokens[place + 1].content))
        for child in token.children or []:
            if child.type == "link_open":
                link(child, page, root)
    html = markdown.renderer.render(tokens, markdown.options, {})
    html = html.replace("<table>", '<div class="table" tabindex="0"><table>').replace("</table>", "</table></div>")
    return html.replace("<pre>", '<pre tabindex="0">')  # what scrolls can be reached by keyboard


def link(token: "Token", page: manual.Page, root: str) -> None:
    """Rewrite a relative link to another topic. A link to any other file, which is not served, loses its target."""
    parts = urlsplit(str(token.attrGet("href")))
    if parts.scheme or not parts.path:
        return
    translated = "" if page.language == "en" else f"{page.language}/"
    folder = posixpath.dirname(translated + page.topic)
    topic = posixpath.normpath(posixpath.join(folder, parts.path)).removeprefix(translated).removesuffix(".md")
    if topic in manual.TOPICS:
        token.attrSet("href", f"{root}/manual/{topic}" + (f"#{parts.fragment}" if parts.fragment else ""))
    else:
        token.attrs.pop("href")


def root(request: Request) -> str:
    """The path under which a reverse proxy serves the studio, without a trailing slash."""
    return re.sub(r"/+$", "", str(request.scope.get("root_path", "")))


@cache
def template() -> Any:
    loader = FileSystemLoader(assets() / "templates")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined).get_template("manual.html")
