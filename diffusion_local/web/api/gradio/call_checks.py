"""Validates and rewrites Gradio calls before Gradio gets them, and decides which caller may read which results.

Gradio does not know who owns a file, a session or an event. Therefore a file reference is replaced by one that only
``Uploads`` can read, so Gradio itself never opens a file or a URL; a session hash is moved to a namespace of the
caller; and an event can be read or cancelled only by the caller who started it.
"""

import json
import re
from collections import OrderedDict
from hashlib import sha256
from typing import Any

from diffusion_local.errors import InvalidParams, NotFound
from diffusion_local.messages import message
from diffusion_local.web.api.gradio.allowed_routes import RouteKind
from diffusion_local.web.api.gradio.uploads import Uploads
from diffusion_local.web.api.request_limits import MAX_STRUCTURE, Structure

MAX_DEPTH = 32  # levels of nested values
MAX_EVENTS = 1000  # remembered per account; older ones are dropped with their results
#: A dict with any of these keys is treated as Gradio's FileData, even if fields are missing or invalid.
FILE_KEYS = ("path", "url", "meta")
#: Key of the dict that an endpoint gets in place of a FileData.
UPLOAD = "upload"
SESSION_HASH = re.compile(r"[A-Za-z0-9_-]{1,64}")
#: Fields that a caller may send; all others are dropped.
FIELDS_OF_KIND = {
    RouteKind.CALL: ("data", "session_hash", "fn_index", "trigger_id", "event_data"),
    RouteKind.CANCEL: ("session_hash", "fn_index", "event_id"),
    RouteKind.RESET: ("event_id",),
}


class Calls:
    """The calls of one process. Used in its event loop only."""

    def __init__(self, uploads: Uploads) -> None:
        self._uploads = uploads
        self._events: dict[str, OrderedDict[str, str]] = {}  # owner: {event id: Gradio's key of its results}

    def body(self, kind: RouteKind, body: bytes, owner: str) -> dict[str, Any]:
        """A body as passed to Gradio. Raises InvalidParams, and NotFound for things that are not the caller's."""
        structure = Structure()
        structure.add(body)
        if structure.excessive:
            raise InvalidParams("body", message("structure_bytes", most=MAX_STRUCTURE))
        try:
            call = json.loads(body.decode())
        except (ValueError, RecursionError):
            raise InvalidParams("body", message("json_body")) from None
        if not isinstance(call, dict):
            raise InvalidParams("body", message("json_object"))
        if kind is RouteKind.CALL_BY_NAME:
            return {str(name): self._checked(value, owner) for name, value in call.items()}
        fields = {name: call[name] for name in FIELDS_OF_KIND[kind] if call.get(name) is not None}
        if kind is RouteKind.CALL:
            if not isinstance(fields.get("data"), list):
                raise InvalidParams("data", message("parameter_list"))
            for name in ("data", "event_data"):
                fields |= {name: self._checked(fields[name], owner)} if name in fields else {}
        if "session_hash" in fields:
            fields["session_hash"] = session_key(owner, fields["session_hash"])
        if kind is RouteKind.CANCEL:
            self.results(fields.get("event_id"), owner)
        return fields

    def _checked(self, value: Any, owner: str, depth: int = 0) -> Any:
        if depth > MAX_DEPTH:
            raise InvalidParams("data", message("json_nested", most=MAX_DEPTH))
        if isinstance(value, list):
            return [self._checked(each, owner, depth + 1) for each in value]
        if not isinstance(value, dict):
            return value
        if any(key in value for key in FILE_KEYS):
            self._uploads.file(value.get("path"), owner)
            return {UPLOAD: value["path"]}
        return {key: self._checked(each, owner, depth + 1) for key, each in value.items()}

    # -- events ------------------------------------------------------------------------------------------------------

    def started(self, event_id: str, session: str | None, owner: str) -> list[str]:
        """Record an event's owner; returns the keys of results that are dropped for it."""
        events = self._events.setdefault(owner, OrderedDict())
        events[event_id] = session or event_id
        forgotten = [events.popitem(last=False)[1] for _ in range(len(events) - MAX_EVENTS)]
        return [key for key in forgotten if key not in events.values()]

    def results(self, event_id: object, owner: str) -> str:
        """Gradio's key of an event's results. Raises NotFound."""
        events = self._events.get(owner, OrderedDict())
        key = events.get(event_id) if isinstance(event_id, str) else None
        if key is None:
            raise NotFound(message("no_event"))
        return key


def session_key(owner: str, session: object) -> str:
    """A caller's session hash as passed to Gradio: unique to the account. Raises InvalidParams."""
    if not isinstance(session, str) or not SESSION_HASH.fullmatch(session):
        raise InvalidParams("session_hash", message("session_hash"))
    return f"{sha256(owner.encode()).hexdigest()[:16]}-{session}"
