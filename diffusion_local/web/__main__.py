"""``python -m diffusion_local.web``: serve the page and the API until stopped."""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
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
from diffusion_local.web.api.limits import MOST_HEADER_BYTES
from diffusion_local.web.connections import Connections, listen, raise_file_limit
from diffusion_local.web.protocol import Protocol
from diffusion_local.web.proxies import trusted

log = logging.getLogger(__name__)

WEBSOCKETS: Literal["websockets-sansio"] = "websockets-sansio"  # uvicorn's name of its implementation
MOST_MESSAGE_BYTES = 64 * 1024  # of a WebSocket; clients have nothing to say there
STARTUP_FAILURE = 3  # exit status, as uvicorn's own
GRACE_SECONDS = 0.5  # for answers that are under way; open event streams are cut then


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
    """Stops cleanly on SIGINT and SIGTERM; uvicorn's own server raises the signal again at the end."""

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
    """Render the page once at startup, bypassing all checks, so that the first visitor does not pay for building
    FastAPI's routes and Gradio's page.
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
    except Exception:  # then the first visitor hears of it
        log.warning("The page could not be drawn in advance.", exc_info=True)


def serve(settings: Settings, supervised: bool = False) -> None:
    return_freed_memory()
    from diffusion_local.web.app import create_app  # gradio reads the environment when it is imported

    logging.getLogger("uvicorn.error").addFilter(not_cut_off)
    services = open_services(settings)
    app = create_app(services.studio, settings, services=services)
    connections = Connections(raise_file_limit(), trusted(settings))
    try:
        listeners = listen(settings.host, settings.port, connections)
    except OSError as error:  # the supervisor has checked it; somebody was faster
        log.error("%s:%d cannot be listened on: %s", settings.host, settings.port, error)
        sys.exit(STARTUP_FAILURE)
    config = uvicorn.Config(
        app,
        loop="asyncio",  # whose way to accept connections is the one that counts them
        http=partial(Protocol, connections),  # type: ignore[arg-type]  # called as a class is
        ws=WEBSOCKETS if find_spec("websockets") else "none",
        ws_max_size=MOST_MESSAGE_BYTES,
        ws_max_queue=1,
        h11_max_incomplete_event_size=MOST_HEADER_BYTES,
        log_config=None,
        log_level=settings.log_level,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # web.proxies does this, for trusted ones
        ssl_certfile=settings.tls_cert or None,
        ssl_keyfile=settings.tls_key or None,
    )
    config.timeout_graceful_shutdown = GRACE_SECONDS  # type: ignore[assignment]  # declared int, used as seconds
    server = WebServer(config)
    app.state.watch.stopping = lambda: server.should_exit  # event streams end by themselves then
    if supervised:
        threading.Thread(target=stop_at_end_of_input, args=(server,), daemon=True).start()
    server.run(listeners)


def not_cut_off(record: logging.LogRecord) -> bool:
    """Filter uvicorn's complaints about open streams that a stop ends on purpose."""
    cut = record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError)
    return not cut and "timeout graceful shutdown exceeded" not in record.getMessage()


def stop_at_end_of_input(server: WebServer) -> None:
    """Stop when standard input closes: the supervisor holds its other end, so it closes when the supervisor dies."""
    while os.read(sys.stdin.fileno(), 1024):
        continue
    server.should_exit = True


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    os._exit(code)  # nothing is left to save, and tearing the libraries down takes longer than stopping
