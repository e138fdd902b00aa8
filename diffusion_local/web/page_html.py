"""The HTML around gradio's page, and the language of every request."""

import gzip
import json
import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diffusion_local import serializers
from diffusion_local.web.cookies import cookie
from diffusion_local.web.ui import words

#: Gradio's components ask the browser for its language; this answers with the one that the person has chosen.
HEAD = """<head>
<script>
  for (const [name, value] of [["language", "{tag}"], ["languages", ["{tag}"]]])
    Object.defineProperty(navigator, name, {{ get: () => value, configurable: true }});
  window.diffusionLocalWords = {words};
  window.diffusionLocalRoot = {root}; // the path under which a proxy serves us
  try {{ // the same for light and dark
    const theme = localStorage.getItem("diffusion-local-theme");
    const asked = window.matchMedia.bind(window);
    if (theme) document.documentElement.style.colorScheme = theme;
    if (theme) window.matchMedia = (query) => query.includes("prefers-color-scheme")
      ? Object.assign(new EventTarget(), {{
        matches: query.includes(theme), media: query, addListener() {{}}, removeListener() {{}}
      }})
      : asked(query);
  }} catch {{}} // a browser that keeps nothing
</script>
<link rel="manifest" href="{path}/assets/icons/app.webmanifest">
<link rel="apple-touch-icon" href="{path}/assets/icons/mark-192.png">
<meta name="theme-color" content="#fafaf9" media="(prefers-color-scheme: light)">
<meta name="theme-color" content="#141312" media="(prefers-color-scheme: dark)">"""
LEVEL = 5  # of gzip: some milliseconds for a sixth of the bytes
FOREIGN = re.compile(rb'\s*<meta\s[^>]*(?:property="og:|name="twitter:)[^>]*>')  # gradio's own advertisement


class PageHtml:
    """ASGI middleware: sets the language, and writes it into the page's HTML."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        code = words.preferred(cookie(headers.get("cookie", ""), words.COOKIE), headers.get("accept-language", ""))
        with words.speaking(code):
            if scope["path"] == "/" and scope["method"] == "GET":
                await self._page(scope, receive, send, words.TAGS[code], "gzip" in headers.get("accept-encoding", ""))
            else:
                await self._app(scope, receive, send)

    async def _page(self, scope: Scope, receive: Receive, send: Send, tag: str, packed: bool) -> None:
        plain = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
        start: Message = {}
        body = b""

        async def framed(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start":
                start = message
                return
            if message["type"] != "http.response.body":
                await send(message)
                return
            body += message.get("body", b"")
            if message.get("more_body"):
                return
            told = MutableHeaders(scope=start)
            if told.get("content-type", "").startswith("text/html"):
                body = page(body, tag)
                if packed:  # half a megabyte otherwise
                    body = gzip.compress(body, LEVEL)
                    told["content-encoding"] = "gzip"
                told["content-length"] = str(len(body))
                told["content-language"] = tag
                told.add_vary_header("Cookie, Accept-Language, Accept-Encoding")
            await send(start)
            await send({"type": "http.response.body", "body": body})

        await self._app({**scope, "headers": plain}, receive, framed)


def script(value: object) -> str:
    """JSON that can stand within a script element."""
    return json.dumps(value, ensure_ascii=False).replace("<", "\\u003c")


def page(html: bytes, tag: str) -> bytes:
    html = FOREIGN.sub(b"", html)
    html = html.replace(b'lang="en"', f'lang="{tag}"'.encode(), 1)
    root = serializers.root()  # without signs that HTML has a use for: see proxies.checked_root
    head = HEAD.format(tag=tag, words=script(words.of_script()), root=script(root), path=root)
    return html.replace(b"<head>", head.encode(), 1)
