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
        pictures = settings.max_source_mb * 1_000_000 + MOST_BYTES  # a form has some bytes around its file
        in_base64 = 2 * (settings.max_source_mb * 1_333_334) + MOST_BYTES  # a picture and its mask, as text
        self._larger = {
            "/api/v1/lists": settings.max_list_mb * 1_000_000 + MOST_BYTES,
            "/api/v1/queue/import": settings.max_list_mb * 1_000_000 + MOST_BYTES,
            "/api/v1/lists/check": settings.max_list_mb * 1_000_000 + MOST_BYTES,
            "/api/v1/sources": pictures,
            "/api/v1/jobs": in_base64,
            "/v1/images/edits": 2 * pictures,
            "/sdapi/v1/img2img": in_base64,
            "/sdapi/v1/extra-single-image": in_base64,
            "/sdapi/v1/png-info": in_base64,
            "/predictions": in_base64,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(DOORS):
            headers = Headers(scope=scope)
            length = headers.get("content-length")
            if length is None and "transfer-encoding" in headers:
                await refusal(411, "length_required", "Say how long the body is (Content-Length).")(
                    scope, receive, send
                )
                return
            most = self._larger.get(scope["path"], MOST_BYTES)
            if length is not None and (not length.isdigit() or int(length) > most):
                text = f"The body must have at most {most:,} bytes."
                await refusal(413, "content_too_large", text)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def refusal(status: int, code: str, message: str) -> JSONResponse:
    return JSONResponse({"error": {"code": code, "message": message}}, status, headers={"Connection": "close"})
