"""A studio's workers' route within this process, and workers that join it."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from diffusion_local.actor import Actor, Role, acting
from diffusion_local.actor import Scope as Scopes
from diffusion_local.compose import Services
from diffusion_local.dispatch.local import terms_of
from diffusion_local.engine import Engine
from diffusion_local.engine.fake import FakeEngine
from diffusion_local.remote.dispatch import RemoteDispatch
from diffusion_local.remote.spool import Spool
from diffusion_local.web import error_responses
from diffusion_local.web.api.http import workers
from diffusion_local.web.api.watch import Watch
from diffusion_local.worker.runner import Runner
from diffusion_local.worker.sources import SourcePictures
from diffusion_local.worker.stopping import Stop

ROBOT = Actor("ann", Role.ADMIN, frozenset({Scopes.READ, Scopes.WORKER}), source="token", token="t1")


class As:
    """Every request is this actor's."""

    def __init__(self, app: ASGIApp, who: Callable[[], Actor]) -> None:
        self._app, self._who = app, who

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with acting(self._who()):
            await self._app(scope, receive, send)


class Studio:
    """The route of a studio, whose callers are ``who``; while it is ``away`` nothing answers."""

    def __init__(self, services: Services) -> None:
        self.who, self.away = ROBOT, False
        self.requests = 0
        app = FastAPI()
        error_responses.add(app, services.settings)
        app.include_router(workers.router(services, workers.Calls(services, Watch(services.studio))), prefix="/api/v1")
        app.add_middleware(As, who=lambda: self.who)
        self._client = TestClient(app, base_url="http://studio:7860", raise_server_exceptions=False)

    def post(self, *args: Any, **kwargs: Any) -> httpx.Response:
        self.requests += 1
        if self.away:
            raise httpx.ConnectError("no route to host")
        return self._client.post(*args, **kwargs)

    base_url = "http://studio:7860"


def joined(
    studio: Studio,
    files: dict[str, dict[str, str]] | None = None,
    machine: str = "attic",
    spool: Spool | None = None,
    on_hung: Callable[[], None] | None = None,
) -> Any:
    dispatch: Any = RemoteDispatch(studio, f"{machine}.cpu0", spool, on_hung)  # type: ignore[arg-type]
    dispatch.take(0)
    if files is not None:
        dispatch.publish_files(files)
    return dispatch


def runner(dispatch: Any, services: Services, engine: Engine | None = None, stop: Stop | None = None) -> Runner:
    terms, inputs = terms_of(services.settings), SourcePictures(dispatch)
    return Runner(dispatch, terms, engine or FakeEngine(0), services.catalog, stop or Stop(), inputs=inputs, ahead=True)


def spool_in(folder: Path, most_bytes: int = 10**9) -> Spool:
    """As a worker's process has it; several in one test are workers one after the other."""
    return Spool(folder / "spool" / "cpu0", folder / f"{time.monotonic_ns()}.lock", most_bytes)
