"""``POST /api/v1/worker``: the calls of workers on other machines (see ``dispatch.wire``).

The body is one call as ``dispatch.wire`` packs it, with the slot and, after ``take``, the session. The credential must
have the scope ``worker``. A session may access only the jobs that its slot holds, whoever owns them.
"""

import asyncio
import contextlib
import secrets
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import anyio.to_thread
from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, Response

from diffusion_local import actor
from diffusion_local.actor import LOCAL, Actor, Scope, acting
from diffusion_local.compose import Services
from diffusion_local.dispatch import matching, wire
from diffusion_local.dispatch.leased import LeasedDispatch
from diffusion_local.dispatch.matching import InstalledFiles
from diffusion_local.dispatch.storage_faults import Storage
from diffusion_local.domain import utc_now
from diffusion_local.errors import DiffusionLocalError, InvalidParams, LeaseLost, NotFound, echo
from diffusion_local.messages import message
from diffusion_local.web.api.watch import Watch
from diffusion_local.web.known_workers import admit

T = TypeVar("T")

WORKER_PATH = "/worker"
MOST_SESSIONS = 1000
#: Threads for calls of workers: more would wait for the interpreter and the database's lock, and delay the page.
#: Uploads to a bucket mostly wait for it.
WORKER_THREADS, BUCKET_THREADS = 2, 8
MAX_VERSION = 40  # characters
MOST_WAIT = 20.0  # seconds per call; proxies close slower requests


class Sessions:
    """The sessions of this process. An unknown session was opened before a restart, and continues by its lease."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._storage: Storage | None = None
        self._installed = InstalledFiles(services.catalog)
        self._open: dict[str, LeasedDispatch] = {}
        self._lock = threading.Lock()

    def take(self, slot: str, account: str, version: str) -> wire.SlotGrant:
        """Open a session for a slot. Raises HomeInUse and InvalidParams."""
        dispatch = self._dispatch(slot, account)
        terms = dispatch.enter(version, wire.PROTOCOL)
        self._keep(dispatch)
        return wire.SlotGrant(dispatch.session, terms, utc_now())

    def get(self, slot: str, session: str, account: str) -> LeasedDispatch:
        """Raises LeaseLost unless this account took the session for this slot."""
        dispatch = self._open.get(session)
        if dispatch is None:
            lease = self._services.leases.get(slot)
            if lease is None or not secrets.compare_digest(lease.session, session):
                raise LeaseLost(message("lease_lost", slot=slot))
            dispatch = self._dispatch(slot, lease.account)
            dispatch.session = session
            self._keep(dispatch)
        if dispatch.slot != slot or dispatch.account != account:
            raise LeaseLost(message("lease_lost", slot=slot))
        return dispatch

    def _dispatch(self, slot: str, account: str) -> LeasedDispatch:
        with self._lock:
            self._storage = self._storage or Storage(self._services)
        return LeasedDispatch(self._services, slot, self._storage, account, self._installed)

    def _keep(self, dispatch: LeasedDispatch) -> None:
        with self._lock:
            while len(self._open) >= MOST_SESSIONS:
                self._open.pop(next(iter(self._open)))
            self._open[dispatch.session] = dispatch


class Rings:
    """Wakes waiting requests immediately at a ring of this process; the watch notices rings of other processes."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    def ring(self) -> None:
        """Wake all waiting requests. May be called from any thread."""
        for future in list(self._waiting):
            with contextlib.suppress(RuntimeError):  # its loop has ended
                future.get_loop().call_soon_threadsafe(end, future)

    @contextlib.contextmanager
    def ringing(self) -> Iterator[asyncio.Future[None]]:
        """A future that completes at the next ring."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            yield future
        finally:
            self._waiting.discard(future)


def end(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def raising(error: Exception) -> Callable[[], Any]:
    def call() -> Any:
        raise error

    return call


class Calls:
    """Executes the calls of workers on other machines."""

    def __init__(self, services: Services, watch: Watch) -> None:
        self._services = services
        self._watch = watch
        self._sessions, self._bell = Sessions(services), Rings()
        self._threads: anyio.CapacityLimiter | None = None
        services.queue.listeners.append(self._bell.ring)

    async def answer(self, who: Actor, head: dict[str, Any], name: str, arguments: dict[str, Any]) -> bytes:
        """Execute a call of ``who`` and return the packed answer or error. ``head`` has its slot and session."""
        slot, session = str(head.get("slot", "")), str(head.get("session", ""))
        account = f"{who.name}/{who.token}"
        if name == "wait":
            return await self._wait(arguments["seconds"], slot, session, account)
        version = str(head.get("version", ""))[:MAX_VERSION]
        return await self._in_turn(self._execute, name, arguments, slot, session, account, version)

    async def _in_turn(self, work: Callable[..., T], *args: Any) -> T:
        """Run in a thread, a few at a time."""
        most = BUCKET_THREADS if self._services.settings.gallery else WORKER_THREADS
        self._threads = self._threads or anyio.CapacityLimiter(most)
        return await anyio.to_thread.run_sync(work, *args, limiter=self._threads)

    async def _wait(self, seconds: float, slot: str, session: str, account: str) -> bytes:
        """Wait up to ``seconds`` for a change of the queue since this session's last call; the response says whether
        there was one.
        """
        try:
            dispatch, now = await self._in_turn(self._waiting, slot, session, account)
        except DiffusionLocalError as error:
            return wire.response(raising(error))
        seen, dispatch.seen_moment = dispatch.seen_moment, now
        if seen in (None, now):
            left = min(max(seconds, 0.0), MOST_WAIT)
            with self._bell.ringing() as rings:
                changed = asyncio.ensure_future(self._watch.until(lambda then: then[1] != now, left))
                either: list[asyncio.Future[Any]] = [changed, rings]
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                if not changed.done():
                    changed.cancel()
                elif (moment := changed.result()) is None:
                    return wire.pack({"answer": False}, [])
                else:
                    dispatch.seen_moment = moment[1]
        return wire.pack({"answer": True}, [])

    def _waiting(self, slot: str, session: str, account: str) -> tuple[LeasedDispatch, int]:
        """The dispatch of a session, after renewing its lease, and the number of the queue's newest event."""
        with acting(LOCAL):
            dispatch = self._sessions.get(slot, session, account)
            dispatch.call("paused", {})
            return dispatch, self._services.studio.moment()[1]

    def _execute(
        self, name: str, arguments: dict[str, Any], slot: str, session: str, account: str, version: str
    ) -> bytes:
        with acting(LOCAL):  # workers run the jobs of all owners
            if name == "take":
                return wire.response(lambda: self._sessions.take(slot, account, version))
            return wire.response(lambda: self._sessions.get(slot, session, account).call(name, arguments))


def router(services: Services, calls: Calls) -> APIRouter:
    workers = APIRouter(tags=["workers"])

    @workers.post(WORKER_PATH, include_in_schema=False, response_class=Response)
    async def call(request: Request) -> Response:
        who = actor.current()
        who.require(Scope.WORKER)  # before the body is read
        admit(request.scope, who)
        return Response(await calls.answer(who, *opened(await request.body())), media_type=wire.WIRE_MEDIA_TYPE)

    @workers.get(f"{WORKER_PATH}/file", include_in_schema=False, response_class=FileResponse)
    def file(kind: str, name: str, path: str) -> FileResponse:
        """A model file for a worker that lacks it; supports ranges."""
        actor.current().require(Scope.WORKER)
        shared = None
        if services.settings.share_models == "on":
            with acting(LOCAL):
                shared = matching.find_shared(services, kind, name)
        if shared is None or path not in shared.files:
            raise NotFound(message("no_shared_file", name=echo(name)))
        return FileResponse(shared.files[path], media_type="application/octet-stream")

    return workers


def opened(body: bytes) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """(head, call, arguments) of a request. Raises InvalidParams."""
    try:
        head, blobs = wire.unpack(body)
        return head, *wire.parse_arguments(head, blobs)
    except wire.UnreadableMessage as error:
        raise InvalidParams("body", message("worker_body", error=str(error))) from None
