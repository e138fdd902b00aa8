"""Request ids, and Prometheus metrics of the number and duration of requests.

The client may choose the id (``X-Request-Id``), otherwise it is generated. It is in the response and on each log line.
"""

import re
import secrets
import time

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diffusion_local.operations.operation import API_ROOT
from diffusion_local.system import logs
from diffusion_local.web.api.dialects.prefixes import route_of

REQUEST_ID_HEADER = "X-Request-Id"
CLIENT_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
#: APIs by path prefix, for paths outside the dialects.
APIS = (
    (API_ROOT, "http"),
    ("/gradio_api", "gradio"),
    ("/mcp", "mcp"),
    ("/images", "files"),
    ("/thumbnails", "files"),
    ("/model-previews", "files"),
    ("/sources", "files"),
    ("/previews", "files"),
    ("/metrics", "health"),
    ("/healthz", "health"),
    ("/readyz", "health"),
)
LOGGED_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


class RequestMetrics:
    """HTTP metrics, counted since the process started."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        labels = ["api", "method"]
        self._count = Counter(
            "diffusion_local_http_requests", "Requests answered", [*labels, "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "diffusion_local_http_request_seconds",
            "Until an answer began",
            labels,
            buckets=BUCKETS,
            registry=self.registry,
        )

    def note(self, path: str, method: str, status: int, seconds: float) -> None:
        api, verb = api_of(path), method if method in LOGGED_METHODS else "other"
        self._count.labels(api, verb, str(status)).inc()
        self._seconds.labels(api, verb).observe(seconds)


def api_of(path: str) -> str:
    return route_of(path)[0] or next((api for prefix, api in APIS if path.startswith(prefix)), "page")


class Requests:
    """ASGI middleware, the outermost, so that it also counts refused and failed requests."""

    def __init__(self, app: ASGIApp, metrics: RequestMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
        chosen = sent if CLIENT_REQUEST_ID.fullmatch(sent) else secrets.token_hex(8)
        began = time.perf_counter()

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).setdefault(REQUEST_ID_HEADER, chosen)
                self._metrics.note(scope["path"], scope["method"], message["status"], time.perf_counter() - began)
            await send(message)

        with logs.serving(chosen):
            await self._app(scope, receive, send_with_id)
