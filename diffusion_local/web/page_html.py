"""Middleware that sets the language of each request and wraps Gradio's page in the page's own HTML."""

import gzip
import re
from collections.abc import Hashable

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diffusion_local import serializers
from diffusion_local.actor import current
from diffusion_local.image_decoding import trim_memory
from diffusion_local.web.authentication import cookie_value
from diffusion_local.web.gradio_compat import page as gradio_page
from diffusion_local.web.ui import actions, page_urls, theme, words
from diffusion_local.web.ui.templates import render

GZIP_LEVEL = 6
#: Headers by which Gradio finds the URL of its page, besides ``host``.
URL_HEADERS = (b"x-forwarded-", b"x-gradio-", b"x-direct-")
MOST_DRAWN = 8  # kept pages of Gradio's, 200 kB each
BASE = re.compile(rb'<base href="[^"]*" />')
GRADIO_META = re.compile(rb'\s*<meta\s[^>]*(?:property="og:|name="twitter:)[^>]*>')  # gradio's own advertisement


def shell(path: str, url: str = "") -> str:
    """The navigation around Gradio's page for this path; ``url``: the address for phones on the network, if any."""
    view = path.removeprefix(page_urls.ROUTE_PREFIX).strip("/").split("/")[0]
    person = current()
    return render(
        "shell.html",
        views=[each for each in page_urls.VIEWS if each != "queue"],
        open_view=view if view in page_urls.VIEWS else "create",
        now="",
        unknown=not page_urls.is_page_url(path),
        phone_url=url,
        who=person.name if person.source == "session" else "",
    )


class PageHtml:
    """ASGI middleware: sets the language of each request, and completes the page's HTML."""

    def __init__(self, app: ASGIApp, url: str = "") -> None:
        """``url``: address at which other devices reach the page; empty if they cannot."""
        self._app = app
        self._url = url
        self._drawn: dict[Hashable, tuple[Message, bytes]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        code = words.preferred(
            cookie_value(headers.get("cookie", ""), words.COOKIE), headers.get("accept-language", "")
        )
        with words.speaking(code):
            variant = words.LANGUAGE_TAGS[code], "gzip" in headers.get("accept-encoding", "")
            if scope["method"] == "GET" and page_urls.serves(scope["path"]):
                await self._page(scope, receive, send, *variant)
            elif scope["method"] == "GET" and headers.get("sec-fetch-mode") == "navigate":
                if await self._missing(scope, receive, send):
                    await self._page(scope, receive, send, *variant)
            else:
                await self._app(scope, receive, send)

    async def _missing(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """Send the application's response unless it is 404, and return whether it was.

        For navigation in a browser: a person who typed a wrong address then gets the page instead of an API's error.
        """
        missing = False

        async def pass_on(message: Message) -> None:
            nonlocal missing
            missing = missing or message.get("status") == 404
            if not missing:
                await send(message)

        await self._app(scope, receive, pass_on)
        return missing

    async def _page(self, scope: Scope, receive: Receive, send: Send, tag: str, packed: bool) -> None:
        path = str(scope["path"])
        start, body = await self._of_gradio(scope, receive)
        answer_headers = MutableHeaders(raw=list(start["headers"]))
        status = start["status"]
        if answer_headers.get("content-type", "").startswith("text/html"):
            body = page(body, tag, shell(path, self._url))
            if not page_urls.is_page_url(path):
                status = 404  # the shell also tells the reader
            if packed:
                body = gzip.compress(body, GZIP_LEVEL)
                answer_headers["content-encoding"] = "gzip"
            answer_headers["content-length"] = str(len(body))
            answer_headers["content-language"] = tag
            answer_headers.add_vary_header("Cookie, Accept-Language, Accept-Encoding")
        await send({**start, "status": status, "headers": answer_headers.raw})
        await send({"type": "http.response.body", "body": body})
        await run_in_threadpool(trim_memory)  # a page and its opening events take megabytes for a moment

    async def _of_gradio(self, scope: Scope, receive: Receive) -> tuple[Message, bytes]:
        """Gradio's page: (start of the response, body). Its parts are those of the layout, which never changes, the URL
        at which a browser reaches it, and the language; so it is drawn once for each, in 40 ms and a few megabytes.
        """
        url = tuple(each for each in scope["headers"] if each[0] == b"host" or each[0].startswith(URL_HEADERS))
        key = (scope["scheme"], scope.get("root_path", ""), serializers.root(), url, words.language())
        if key not in self._drawn:
            plain = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
            # Gradio serves a single page; router.js opens the view of the address.
            inner = {**scope, "path": "/", "raw_path": b"/", "query_string": b"", "headers": plain}
            start, body = await collected(self._app, inner, receive)
            if start["status"] != 200:
                return start, body
            while len(self._drawn) >= MOST_DRAWN:
                self._drawn.pop(next(iter(self._drawn)))
            self._drawn[key] = start, gradio_page.trimmed(body, words.say)
        return self._drawn[key]


async def collected(app: ASGIApp, scope: Scope, receive: Receive) -> tuple[Message, bytes]:
    """The whole response of an application: (its start, its body)."""
    start: Message = {}
    parts: list[bytes] = []

    async def collect(message: Message) -> None:
        if message["type"] == "http.response.start":
            start.update(message)
        elif message["type"] == "http.response.body":
            parts.append(message.get("body", b""))

    await app(scope, receive, collect)
    return start, b"".join(parts)


def page(html: bytes, tag: str, around: str = "") -> bytes:
    """Complete Gradio's HTML: language tag, base URL, head, and ``around`` (HTML) before Gradio's part."""
    html = GRADIO_META.sub(b"", html)
    html = BASE.sub(b"", html, count=1)  # the template has another, for the root of a proxy
    html = html.replace(b"<gradio-app", around.encode() + b"<gradio-app", 1)
    html = html.replace(b'lang="en"', f'lang="{tag}"'.encode(), 1)
    root = serializers.root()
    head = render(
        "head.html",
        tag=tag,
        words=words.of_script(),
        form_verbs=actions.FORM_VERBS,
        root=root,
        style=theme.PAGE_STYLE,
        script=theme.PAGE_SCRIPT,
    )
    # Not through Gradio's ``head`` argument, which its page applies only once its scripts run, after the first paint.
    return html.replace(b"<head>", head.encode(), 1)
