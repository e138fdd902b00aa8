"""Rate limit: writes of an address beyond a rate get 429, so that the page stays responsive for everyone.

Each address (network) has a token bucket, refilled at ``writes_per_second``, which holds BURST_SECONDS of that rate.
Reads are not counted, because they are cheap and the page polls, nor are requests from this machine or calls of
workers. The buckets of recent addresses are in memory and lost on restart.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from math import ceil, floor

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diffusion_local.accounts.service import network_of
from diffusion_local.messages import message
from diffusion_local.settings import Settings
from diffusion_local.system.network import is_loopback
from diffusion_local.web.error_responses import error_response
from diffusion_local.web.host_check import SAFE_METHODS

BURST_SECONDS = 10  # seconds of the rate that may arrive at once
MOST_ADDRESSES = 10_000
#: Calls of workers on other machines, many per second. Without a worker's token they are refused at once.
WORKERS = "/api/v1/worker"
#: The page's own polls, and the requests that gradio's page sends by itself.
UNCOUNTED_PATHS = (
    "/look",
    "/gradio_api/run/predict",
    "/gradio_api/queue/data",
    "/gradio_api/reset",
)


class RateLimit:
    """ASGI middleware: answers writes beyond the rate with 429, and adds the RateLimit headers to other writes."""

    def __init__(self, app: ASGIApp, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._app = app
        self._rate = settings.writes_per_second
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # address: (left, at)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        address = (scope.get("client") or ("",))[0]
        free = scope["type"] != "http" or scope["method"] in SAFE_METHODS or scope["path"].endswith(WORKERS)
        if not self._rate or free or is_loopback(address):
            await self._app(scope, receive, send)
            return
        wait, left = self._take(network_of(address), scope["path"].endswith(UNCOUNTED_PATHS))
        headers = self._headers(left)
        if wait:
            headers |= {"Retry-After": str(ceil(wait))}
            text = message("too_many_requests")
            await error_response(429, "too_many_requests", text, headers)(scope, receive, send)
            return

        async def send_with_limits(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(headers)
            await send(message)

        await self._app(scope, receive, send_with_limits)

    def _headers(self, left: float) -> dict[str, str]:
        """Headers with the remaining quota (draft-ietf-httpapi-ratelimit-headers); ``t``: seconds until it is full."""
        most = self._rate * BURST_SECONDS
        return {
            "RateLimit-Policy": f'"writes";q={floor(most)};w={BURST_SECONDS}',
            "RateLimit": f'"writes";r={floor(left)};t={ceil((most - left) / self._rate)}',
        }

    def _take(self, address: str, page_poll: bool) -> tuple[float, float]:
        """Take a token: (seconds until the request is allowed, or 0; remaining tokens).

        The page's polls have their own bucket, so that they and the user's writes do not block each other.
        """
        key = f"{address} poll" if page_poll else address
        most, now = self._rate * BURST_SECONDS, self._clock()
        left, at = self._buckets.pop(key, (most, now))
        left = min(most, left + (now - at) * self._rate)
        after = max(0.0, left - 1)
        self._buckets[key] = (after, now)
        while len(self._buckets) > MOST_ADDRESSES:
            self._buckets.popitem(last=False)
        return (0.0 if left >= 1 else (1 - left) / self._rate), after
