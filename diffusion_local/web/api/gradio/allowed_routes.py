"""Which of Gradio's routes are reachable.

Every request is refused unless ALLOWED lists its method and path, so routes added by a new version of Gradio are
unreachable. REMOVED_ROUTES lists all other current routes: a test compares both tables with the routes of the installed
version.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from starlette.routing import Match, Route
from starlette.types import Scope

API = "/gradio_api"


class RouteKind(Enum):
    """How a request to a route is checked before Gradio gets it."""

    PLAIN = auto()  # needs no check
    CALL = auto()  # JSON: {"data": [...], "session_hash": ...}; the values may refer to files
    CALL_BY_NAME = auto()  # JSON: a value for each parameter
    CANCEL = auto()  # JSON: {"event_id": ..., "session_hash": ..., "fn_index": ...}
    RESET = auto()  # JSON: {"event_id": ...}; Gradio ignores it
    EVENTS = auto()  # a session's results, by ?session_hash=
    RESULT = auto()  # one call's results, by event id


@dataclass(frozen=True)
class AllowedRoute:
    """One method and path; ``kind``: how requests are checked; ``starts``: whether the response names a new event."""

    method: str
    path: str
    kind: RouteKind = RouteKind.PLAIN
    starts: bool = False
    _route: Route = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_route", Route(self.path, _nowhere, methods=[self.method]))

    def match(self, scope: Scope) -> dict[str, Any] | None:
        """The parameters of the path; None if the request does not match."""
        if scope["method"] != self.method:  # Route also accepts HEAD for GET
            return None
        match, child = self._route.matches(scope)
        return child["path_params"] if match is Match.FULL else None


async def _nowhere(*_: Any) -> None:
    """Endpoint of routes that are only matched, never called."""


ALLOWED = (
    # the page
    AllowedRoute("GET", "/"),
    AllowedRoute("HEAD", "/"),
    AllowedRoute("GET", "/config"),
    AllowedRoute("GET", "/config/"),
    AllowedRoute("GET", "/theme.css"),
    AllowedRoute("GET", "/static/{path:path}"),
    AllowedRoute("GET", "/assets/{path:path}"),
    AllowedRoute("GET", "/favicon.ico"),
    AllowedRoute("GET", "/robots.txt"),
    AllowedRoute("GET", f"{API}/app_id"),
    # documentation of the endpoints, which clients also need
    AllowedRoute("GET", f"{API}/info"),
    AllowedRoute("GET", f"{API}/info/"),
    AllowedRoute("GET", f"{API}/openapi.json"),
    # calls that respond with their result
    AllowedRoute("POST", f"{API}/run/{{api_name}}", RouteKind.CALL),
    AllowedRoute("POST", f"{API}/run/{{api_name}}/", RouteKind.CALL),
    # calls whose results are fetched by event id
    AllowedRoute("POST", f"{API}/call/{{api_name}}", RouteKind.CALL, starts=True),
    AllowedRoute("POST", f"{API}/call/{{api_name}}/", RouteKind.CALL, starts=True),
    AllowedRoute("GET", f"{API}/call/{{api_name}}/{{event_id}}", RouteKind.RESULT),
    AllowedRoute("POST", f"{API}/call/v2/{{api_name}}", RouteKind.CALL_BY_NAME, starts=True),
    AllowedRoute("POST", f"{API}/call/v2/{{api_name}}/", RouteKind.CALL_BY_NAME, starts=True),
    AllowedRoute("GET", f"{API}/call/v2/{{api_name}}/{{event_id}}", RouteKind.RESULT),
    # calls of gradio_client and @gradio/client, and their results
    AllowedRoute("POST", f"{API}/queue/join", RouteKind.CALL, starts=True),
    AllowedRoute("GET", f"{API}/queue/data", RouteKind.EVENTS),
    AllowedRoute("POST", f"{API}/cancel", RouteKind.CANCEL),
    AllowedRoute("POST", f"{API}/reset", RouteKind.RESET),
    AllowedRoute("POST", f"{API}/reset/", RouteKind.RESET),
)

#: Gradio's routes (method, path) that respond 404, by reason.
REMOVED_ROUTES: dict[str, tuple[tuple[str, str], ...]] = {
    "served by routes of our own": (
        ("GET", "/openapi.json"),
        ("HEAD", "/openapi.json"),
        ("POST", "/login"),
        ("POST", "/login/"),
        ("GET", "/logout"),
        ("POST", f"{API}/upload"),
        ("GET", f"{API}/file={{path_or_url:path}}"),
        ("HEAD", f"{API}/file={{path_or_url:path}}"),
    ),
    "reads or serves files, or fetches addresses": (
        ("GET", f"{API}/file/{{path:path}}"),
        ("GET", f"{API}/proxy={{url_path:path}}"),
        ("HEAD", f"{API}/proxy={{url_path:path}}"),
        ("GET", f"{API}/custom_component/{{id}}/{{environment}}/{{type}}/{{file_name}}"),
        ("GET", "/svelte/{path:path}"),
        ("POST", f"{API}/process_recording"),
        ("GET", f"{API}/upload_progress"),
    ),
    "Gradio's own accounts, which are not used": (
        ("GET", f"{API}/user"),
        ("GET", f"{API}/user/"),
        ("GET", f"{API}/login_check"),
        ("GET", f"{API}/login_check/"),
        ("GET", f"{API}/token"),
        ("GET", f"{API}/token/"),
    ),
    "features that the page does not use": (
        ("GET", f"{API}/deep_link"),
        ("POST", f"{API}/component_server"),
        ("POST", f"{API}/component_server/"),
        ("GET", f"{API}/heartbeat/{{session_hash}}"),
        ("GET", f"{API}/startup-events"),
        ("GET", f"{API}/queue/status"),
        ("GET", f"{API}/runs"),
        ("GET", f"{API}/runs/"),
        ("POST", f"{API}/stream/{{event_id}}"),
        ("POST", f"{API}/stream/{{event_id}}/close"),
        ("GET", f"{API}/stream/{{session_hash}}/{{run}}/{{component_id}}/playlist.m3u8"),
        ("GET", f"{API}/stream/{{session_hash}}/{{run}}/{{component_id}}/{{segment_id}}.{{ext}}"),
        ("GET", f"{API}/stream/{{session_hash}}/{{run}}/{{component_id}}/playlist-file"),
        ("GET", "/pwa_icon"),
        ("GET", "/pwa_icon/{size}"),
        ("GET", "/manifest.json"),
    ),
    "tools of Gradio's developers": (
        ("GET", "/monitoring"),
        ("GET", "/monitoring/summary"),
        ("GET", "/monitoring/{key}"),
        ("GET", f"{API}/dev/reload"),
        ("GET", f"{API}/vibe-code"),
        ("GET", f"{API}/vibe-code/"),
        ("POST", f"{API}/vibe-code"),
        ("POST", f"{API}/vibe-code/"),
        ("POST", f"{API}/vibe-edit"),
        ("POST", f"{API}/vibe-edit/"),
        ("POST", f"{API}/undo-vibe-edit"),
        ("POST", f"{API}/undo-vibe-edit/"),
        ("POST", f"{API}/vibe-starter-queries"),
        ("POST", f"{API}/vibe-starter-queries/"),
    ),
    "other addresses of allowed routes": (
        ("GET", f"{API}/app_id/"),
        ("GET", f"{API}/theme.css"),
        ("POST", f"{API}/api/{{api_name}}"),
        ("POST", f"{API}/api/{{api_name}}/"),
    ),
}


def find(scope: Scope, allowed: Sequence[AllowedRoute] = ALLOWED) -> tuple[AllowedRoute, dict[str, Any]] | None:
    """The allowed route of a request, with the parameters of its path."""
    for route in allowed:
        parameters = route.match(scope)
        if parameters is not None:
            return route, parameters
    return None
