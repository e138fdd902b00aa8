"""``python -m diffusion_local.web``: serve the page and the API until stopped."""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any, Literal

import uvicorn

from diffusion_local import disk
from diffusion_local.compose import open_services
from diffusion_local.disk import private_umask
from diffusion_local.errors import UserError
from diffusion_local.image_decoding import return_freed_memory
from diffusion_local.settings import Settings, go_offline
from diffusion_local.system import logs
from diffusion_local.web.api.request_limits import MOST_HEADER_BYTES
from diffusion_local.web.connection_limits import Connections, Protocol, listen, raise_file_limit
from diffusion_local.web.proxies import trusted

log = logging.getLogger(__name__)

WEBSOCKETS: Literal["websockets-sansio"] = "websockets-sansio"  # uvicorn's name of its implementation
MOST_MESSAGE_BYTES = 64 * 1024  # of a WebSocket message; clients do not need to send any
STARTUP_FAILURE = 3  # exit status, the same as uvicorn's own
TICK_SECONDS = 1.0
GRACE_SECONDS = 0.5  # for responses in progress at a stop; then open event streams are cut off


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    try:
        with private_umask(), disk.storage_errors():
            settings = Settings.load()
            logs.start(settings, "web")
            go_offline(settings.home)
            serve(settings, options.supervised)
    except UserError as error:
        print(f"diffusion-local: {error}", file=sys.stderr)
        return 2
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m diffusion_local.web", description=__doc__)
    parser.add_argument("--supervised", action="store_true", help="stop when standard input closes")
    return parser.parse_args(argv)


class WebServer(uvicorn.Server):
    """A server that exits normally on SIGINT and SIGTERM; uvicorn's own raises the signal again at the end.

    It waits for its end, where uvicorn's own looks ten times per second, a good part of an idle studio's work.
    """

    _exits = False
    _wake: Callable[[], object] | None = None

    @property
    def should_exit(self) -> bool:
        """Whether to stop. Any thread may set it."""
        return self._exits

    @should_exit.setter
    def should_exit(self, exits: bool) -> None:
        self._exits = exits
        if self._wake is not None:
            self._wake()

    async def main_loop(self) -> None:
        loop, woken = asyncio.get_running_loop(), asyncio.Event()
        self._wake = partial(loop.call_soon_threadsafe, woken.set)
        while not await self.on_tick(0):  # also sets the time that responses have in their Date header
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(woken.wait(), TICK_SECONDS)
        self._wake = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        for name in ("SIGINT", "SIGTERM", "SIGBREAK"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), self.handle_exit)
        yield

    async def startup(self, sockets: Any = None) -> None:
        await draw_once(self.config.app)
        await super().startup(sockets)


async def draw_once(app: Any) -> None:
    """Render the page once at startup, bypassing the middleware, so that the first visitor does not wait for FastAPI to
    build its routes and Gradio its page.
    """
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/",
        "raw_path": b"/",
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
        "client": ("127.0.0.1", 0),
        "server": ("127.0.0.1", 0),
        "app": app,
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        pass

    try:
        await app.router(scope, receive, send)
    except Exception:  # the server can still start; the first visitor gets the error
        log.warning("The page could not be drawn in advance.", exc_info=True)


def serve(settings: Settings, supervised: bool = False) -> None:
    return_freed_memory()
    from diffusion_local.web.app import create_app  # here, because gradio reads the environment on import

    logging.getLogger("uvicorn.error").addFilter(not_cut_off)
    services = open_services(settings)
    app = create_app(services.studio, settings, services=services)
    connections = Connections(raise_file_limit(), trusted(settings))
    try:
        listeners = listen(settings.host, settings.port, connections)
    except OSError as error:  # the port was free when the supervisor checked it
        log.error("cannot listen on %s:%d: %s", settings.host, settings.port, error)
        sys.exit(STARTUP_FAILURE)
    config = uvicorn.Config(
        app,
        loop="asyncio",  # its loop calls Listener.accept, which counts connections; uvloop's does not
        http=partial(Protocol, connections),  # type: ignore[arg-type]  # uvicorn calls it like a class
        ws=WEBSOCKETS if find_spec("websockets") else "none",
        ws_max_size=MOST_MESSAGE_BYTES,
        ws_max_queue=1,
        h11_max_incomplete_event_size=MOST_HEADER_BYTES,
        log_config=None,
        log_level=settings.log_level,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # web.proxies applies them, from trusted proxies only
        ssl_certfile=settings.tls_cert or None,
        ssl_keyfile=settings.tls_key or None,
    )
    config.timeout_graceful_shutdown = GRACE_SECONDS  # type: ignore[assignment]  # an int by its type, any number works
    server = WebServer(config)
    app.state.watch.stopping = lambda: server.should_exit  # by which event streams know that they must end
    if supervised:
        threading.Thread(target=stop_at_end_of_input, args=(server,), daemon=True).start()
    server.run(listeners)


def not_cut_off(record: logging.LogRecord) -> bool:
    """Log filter: False for uvicorn's errors about open streams, which a stop cuts off on purpose."""
    cut = record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError)
    return not cut and "timeout graceful shutdown exceeded" not in record.getMessage()


def stop_at_end_of_input(server: WebServer) -> None:
    """Stop the server when standard input closes. The supervisor holds the other end, so this also covers its death."""
    while os.read(sys.stdin.fileno(), 1024):
        continue
    server.should_exit = True


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    os._exit(code)  # nothing is left to save, and the libraries' normal teardown is slow
