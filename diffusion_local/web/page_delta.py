"""``/look``: the parts of an open page that changed since its last request, or 204. Each page polls once a second
(``look.js``).

The route bypasses Gradio and FastAPI; with nothing changed it costs a tenth of a Gradio event.
"""

import json
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from diffusion_local import __version__, disk
from diffusion_local.errors import InvalidParams, UserError
from diffusion_local.messages import message
from diffusion_local.queue.groups import JobFilter
from diffusion_local.studio import Studio
from diffusion_local.web.error_responses import NOT_CACHED
from diffusion_local.web.ui import (
    tab_create,
    tab_gallery,
    tab_lists,
    tab_models,
    tab_queue,
    tab_settings,
    view,
    view_now,
)
from diffusion_local.web.ui.words import language

#: For each tab its draw function, and how many values of the page that takes (``asked`` of the tab).
TABS: dict[str, tuple[Callable[..., str], int]] = {
    "create": (tab_create.draw, 2),
    "lists": (tab_lists.draw, 1),
    "queue": (tab_queue.draw, 1),
    "gallery": (tab_gallery.draw, 1),
    "models": (tab_models.draw, 0),
    "settings": (tab_settings.draw, 0),
}
#: For tabs that show state from outside the database, a function whose result changes with that state.
PULSES: dict[str, Callable[[Studio], str]] = {"models": tab_models.pulse, "settings": tab_settings.pulse}
#: The gallery's tiles are a separate part, so that a new picture, which changes the count above, does not resend them.
TILES = "tiles"
TILES_OF = re.compile("<!--tiles-->(.*)<!--/tiles-->", re.DOTALL)
PAGE_PARTS = ("now", "notices", "drawer", *TABS, TILES)

Delta = tuple[str, dict[str, str]]  # (the new ``seen``, HTML of the changed parts)


def delta_since(studio: Studio, seen: str, tab: str, tab_values: Sequence[Any], drawer: bool = False) -> Delta | None:
    """The parts that changed since ``seen``, the token of the page's last answer; None if nothing changed.

    ``asked``: the values of all tabs, in the order of ``TABS``; ``drawer``: whether the queue's drawer is open.
    """
    try:
        with disk.storage_errors():
            return changes(studio, seen, tab if tab in TABS else "create", tab_values, drawer)
    except UserError as error:  # a database problem, which the status bar shows until it is resolved
        return "", {"now": view_now.now_problem(error)}


def changes(studio: Studio, seen: str, tab: str, tab_values: Sequence[Any], drawer: bool) -> Delta | None:
    """As `delta_since`, but raises errors of the database.

    ``seen`` begins with a key of all state that the parts show; while that is the same, nothing is drawn. A checksum of
    the HTML of each of ``PAGE_PARTS`` follows.
    """
    now = view.utc()
    draw, count = TABS[tab]
    first = sum(each for _, each in list(TABS.values())[: list(TABS).index(tab)])
    values = [*tab_values[first : first + count], *[""] * count][:count]
    health = view_now.worker_health(studio.workers(), now) + studio.storage.fault(wait=False)
    key = f"{studio.revision()}-{mark(health)}"
    key += f"-{mark(repr((tab, values, drawer, language(), PULSES[tab](studio) if tab in PULSES else '')))}"
    seen_key, *seen_marks = seen.split() or [""]
    if key == seen_key:
        return None
    snapshot = studio.snapshot()
    drawn = {
        "now": view_now.now_line(snapshot, now),
        "notices": view_now.worker_notice(snapshot, now),
        tab: draw(studio, snapshot, now, *values),
    }
    if tab == "gallery" and (tiles := TILES_OF.search(drawn[tab])):
        drawn[TILES] = tiles[1]
        drawn[tab] = TILES_OF.sub("<!--tiles-->", drawn[tab])
    if drawer:
        drawn["drawer"] = view_now.drawer(snapshot, studio.groups.live(JobFilter("waiting"), view_now.MAX_BATCHES), now)
    marks = dict(zip(PAGE_PARTS, seen_marks, strict=False))
    changed = {part: html for part, html in drawn.items() if mark(html) != marks.get(part)}
    marks |= {part: mark(html) for part, html in changed.items()}
    return " ".join([key, *(marks.get(part, "-") for part in PAGE_PARTS)]), changed


def mark(content: str) -> str:
    return f"{zlib.crc32(content.encode('utf-8', 'replace')):x}"


def add(app: FastAPI, studio: Studio, restart: Path) -> None:
    """``restart``: the file that exists from the request of a restart until its end (``preferences.restart_file``)."""

    def poll(*arguments: Any) -> tuple[Delta | None, bool]:
        return delta_since(studio, *arguments), restart.exists()

    async def answer(request: Request) -> Response:
        arguments = parse_poll(await request.body())
        found, restarting = await run_in_threadpool(poll, *arguments)
        if found is None and not restarting:
            return Response(status_code=204, headers=NOT_CACHED)
        seen, parts = found or (arguments[0], {})
        body = {"version": __version__, "seen": seen, "parts": parts}
        return JSONResponse(body | {"restarting": True} if restarting else body, headers=NOT_CACHED)

    app.add_route("/look", answer, methods=["POST"], include_in_schema=False)


def parse_poll(body: bytes) -> tuple[str, str, list[Any], bool]:
    """Parse the request: (seen, open tab, values of the tabs, whether the drawer is open). Raises InvalidParams."""
    try:
        sent = json.loads(body)
        seen, tab, asked, drawer = sent["seen"], sent["tab"], sent["asked"], sent.get("drawer", False)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise InvalidParams(
            "body", message("look_json", example='{"seen": "", "tab": "create", "asked": []}')
        ) from None
    if not (isinstance(seen, str) and isinstance(tab, str) and isinstance(asked, list)):
        raise InvalidParams("body", message("look_fields"))
    return seen, tab, asked, drawer is True
