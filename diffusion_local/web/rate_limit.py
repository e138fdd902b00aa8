"""Floods: what writes is answered 429 beyond a rate per person or address, so that the page stays quick for the rest.

A bucket of BURST requests that fills up again at ``writes_per_second``. Reads are not counted: the page polls, and they
are cheap; this machine's own programs are not either. In memory, for the addresses of late; a restart forgives.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from math import ceil

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from diffusion_local.accounts.service import network_of
from diffusion_local.messages import message
from diffusion_local.settings import Settings
from diffusion_local.system.network import is_loopback
from diffusion_local.web.refusals import error_body

BURST_SECONDS = 10  # of the rate that may come at once
MOST_ADDRESSES = 10_000
READS = {"GET", "HEAD", "OPTIONS"}
#: The page's own polls, and what gradio sends beside them.
QUIET = (
    "/look",
    "/gradio_api/run/predict",
    "/gradio_api/queue/data",
    "/gradio_api/reset",
)


class RateLimit:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._app = app
        self._rate = settings.writes_per_second
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # address: (left, at)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._rate and scope["type"] == "http" and scope["method"] not in READS:
            address = (scope.get("client") or ("",))[0]
            wait = self._take(network_of(address), scope["path"].endswith(QUIET)) if not is_loopback(address) else 0.0
            if wait:
                told = error_body("too_many_requests", message("too_many_requests"))
                headers = {"Retry-After": str(ceil(wait)), "Cache-Control": "no-store"}
                await JSONResponse(told, 429, headers=headers)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _take(self, address: str, page_poll: bool) -> float:
        """0, or the seconds until there is room for another. The page's polls have a bucket of their own."""
        key = f"{address} poll" if page_poll else address
        most, now = self._rate * BURST_SECONDS, self._clock()
        left, at = self._buckets.pop(key, (most, now))
        left = min(most, left + (now - at) * self._rate)
        self._buckets[key] = (max(0.0, left - 1), now)
        while len(self._buckets) > MOST_ADDRESSES:
            self._buckets.popitem(last=False)
        return 0.0 if left >= 1 else (1 - left) / self._rate
