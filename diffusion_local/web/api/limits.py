"""How much a request to the programs' doors may carry: its length is declared, and no prompt is a megabyte long."""

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from diffusion_local.settings import Settings

MOST_BYTES = 1024 * 1024
DOORS = ("/api/", "/v1/", "/sdapi/", "/predictions")


class BodyLimit:
    """ASGI middleware: 413 for a body that is too long, 411 for one of unknown length (RFC 9110)."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._lists = settings.max_list_mb * 1_000_000 + MOST_BYTES  # a form has some bytes around its file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(DOORS):
            headers = Headers(scope=scope)
            length = headers.get("content-length")
            if length is None and "transfer-encoding" in headers:
                await refusal(411, "length_required", "Say how long the body is (Content-Length).")(
                    scope, receive, send
                )
                return
            most = self._most(scope["path"])
            if length is not None and (not length.isdigit() or int(length) > most):
                text = f"The body must have at most {most:,} bytes."
                await refusal(413, "content_too_large", text)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _most(self, path: str) -> int:
        return self._lists if path.startswith("/api/v1/lists") else MOST_BYTES


def refusal(status: int, code: str, message: str) -> JSONResponse:
    return JSONResponse({"error": {"code": code, "message": message}}, status, headers={"Connection": "close"})
