"""``RemoteStudio``: the sentences of ``Studio`` that the command line says, to a studio on another machine.

A question about jobs is answered with their pictures and places, so those are remembered from the answer: what
``images_of`` and ``places`` say is of the same moment.
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from diffusion_local.catalog import Model
from diffusion_local.domain import Batch, Event, Image, Job, Lane, Receipt, Snapshot, State, Worker
from diffusion_local.lists.encoding import read_bounded
from diffusion_local.lists.formats import format_of
from diffusion_local.lists.plan import ListCheck
from diffusion_local.lists.prompt_lists import ListReceipt
from diffusion_local.remote import reading
from diffusion_local.remote.batches import RemoteBatches, RemoteGrids, RemoteQueueFile, progress
from diffusion_local.remote.library import RemoteLibrary
from diffusion_local.remote.reading import read
from diffusion_local.remote.reports import RemoteReports, RemoteWebhooks
from diffusion_local.remote.server import Server, part
from diffusion_local.store.sources import Source

LOOK_SECONDS = 0.5
NAMED = 100  # jobs asked for by id in one request
MOST_MB = 1000  # of a list; the server has a limit of its own
Place = tuple[int | None, float | None]


class RemoteStudio:
    def __init__(self, url: str, token: str = "") -> None:
        self._server = Server(url, token)
        self._images: dict[str, Image] = {}
        self._places: dict[str, Place] = {}
        self.lists = RemoteLists(self._server)
        self.batches = RemoteBatches(self._server)
        self.grids = RemoteGrids(self._server)
        self.queue_file = RemoteQueueFile(self._server)
        self.sources = RemoteSources(self._server)
        self.library = RemoteLibrary(self._server)
        self.reports = RemoteReports(self._server)
        self.webhooks = RemoteWebhooks(self._server)

    # -- submit and wait -------------------------------------------------------------------------------------------

    def submit(
        self,
        prompt: str,
        *,
        idempotency_key: str | None = None,
        lane: Lane = Lane.INTERACTIVE,
        **options: Any,
    ) -> Receipt:
        body = {"prompt": prompt, "lane": str(lane)} | {n: each for n, each in options.items() if each is not None}
        return read(Receipt, self._server.post("/jobs", body, headers=keyed(idempotency_key)))

    def again(self, job_ids: Sequence[str] = (), batch_id: str | None = None) -> Receipt:
        return read(Receipt, self._order("again", job_ids, batch_id, failed=not job_ids and not batch_id))

    def wait(self, job_ids: Sequence[str], timeout: float) -> list[Job]:
        """The jobs, once all have ended or ``timeout`` seconds have passed; work goes on either way."""
        deadline = time.monotonic() + timeout
        while True:
            found: list[Job] = []
            for start in range(0, len(job_ids), NAMED):
                found += self._read_jobs(id=list(job_ids[start : start + NAMED]))
            left = deadline - time.monotonic()
            if all(job.final for job in found) or left <= 0:
                return found
            time.sleep(min(LOOK_SECONDS, left))

    # -- the queue -------------------------------------------------------------------------------------------------

    def job(self, job_id: str) -> Job:
        return self._remembered(self._server.get(f"/jobs/{part(job_id)}"))

    def jobs(
        self, state: str | None = None, batch_id: str | None = None, limit: int = 50, before: str | None = None
    ) -> list[Job]:
        return self._read_jobs(state=state, batch_id=batch_id, limit=limit, before=before)

    def events(self, job_id: str) -> list[Event]:
        return [read(Event, each) for each in self._server.get(f"/jobs/{part(job_id)}/events")["events"]]

    def places(self, jobs: Sequence[Job]) -> dict[str, Place]:
        return {job.id: self._places.get(job.id, (None, None)) for job in jobs}

    def images_of(self, jobs: Sequence[Job]) -> dict[str, Image]:
        return {job.id: self._images[job.id] for job in jobs if job.id in self._images}

    def batch(self, batch_id: str) -> tuple[Batch, dict[State, int]]:
        told = self._server.get(f"/batches/{part(batch_id)}")
        return progress(told).batch, {State(state): count for state, count in told["counts"].items()}

    def cancel(self, job_ids: Sequence[str] = (), batch_id: str | None = None) -> list[str]:
        if len(job_ids) == 1 and not batch_id:  # one that has ended is refused
            self._server.post(f"/jobs/{part(job_ids[0])}/cancel")
            return list(job_ids)
        return self._order("cancel", job_ids, batch_id)["job_ids"]

    def cancel_waiting(self) -> list[str]:
        return self._order("cancel", waiting=True)["job_ids"]

    def pause(self, give_back: bool = False) -> None:
        self._server.post("/queue/pause", {"give_back": give_back})

    def resume(self) -> None:
        self._server.post("/queue/resume")

    def pause_batch(self, batch_id: str, give_back: bool = False) -> None:
        self._server.post(f"/batches/{part(batch_id)}/pause", {"give_back": give_back})

    def resume_batch(self, batch_id: str) -> None:
        self._server.post(f"/batches/{part(batch_id)}/resume")

    def stay_awake(self) -> None:
        self._server.post("/queue/stay-awake")

    def set_window(self, window: str) -> str:
        return str(self._server.ask("PUT", "/queue/window", json={"window": window})["window"])

    def set_priority(self, priority: int, job_ids: Sequence[str] = (), batch_id: str | None = None) -> list[str]:
        return self._order("priority", job_ids, batch_id, value=priority)["job_ids"]

    def move(self, to: str, job_ids: Sequence[str] = (), batch_id: str | None = None) -> list[str]:
        return self._order("move", job_ids, batch_id, to=to)["job_ids"]

    def forget(self, job_ids: Sequence[str] = (), batch_id: str | None = None, everything: bool = False) -> list[str]:
        return self._order("forget", job_ids, batch_id, ended=everything)["job_ids"]

    def snapshot(self, waiting: int = 50, ended: int = 20) -> Snapshot:
        told = self._server.get("/queue")
        seen = [*told["running"], *told["waiting"]]
        return read(
            Snapshot,
            told,
            running=[reading.job(each) for each in told["running"]],
            waiting=[reading.job(each) for each in told["waiting"][:waiting]],
            ended=[reading.job(each) for each in told["ended"][:ended]],
            eta={each["id"]: each["eta"] for each in seen if each["eta"] is not None},
            total_eta=told["eta"],
        )

    def workers(self) -> list[Worker]:
        return self.snapshot().workers

    # -- pictures and models ---------------------------------------------------------------------------------------

    def gallery(
        self, limit: int = 48, before: str | None = None, search: str = "", starred: bool = False, trashed: bool = False
    ) -> list[Image]:
        found = self._server.get("/images", limit=limit, before=before, search=search, starred=starred, trashed=trashed)
        return [reading.image(each) for each in found["images"]]

    def star(self, image_id: str, starred: bool = True) -> Image:
        return reading.image(self._server.ask("PATCH", f"/images/{part(image_id)}", json={"starred": starred}))

    def trash(self, image_id: str) -> Image:
        return reading.image(self._server.ask("DELETE", f"/images/{part(image_id)}"))

    def restore(self, image_id: str) -> Image:
        return reading.image(self._server.post(f"/images/{part(image_id)}/restore"))

    def picture_file(self, image_id: str) -> str:
        """Where the picture can be fetched."""
        return f"{self._server.url}/images/{part(image_id)}.png"

    def picture_data(self, image_id: str) -> bytes:
        image = self._server.get(f"/images/{part(image_id)}")
        return self._server.file(f"/images/{image['url'].rpartition('/')[2]}")

    def models(self) -> list[Model]:
        return self.library.models()

    def _order(self, verb: str, job_ids: Sequence[str] = (), batch_id: str | None = None, **more: Any) -> Any:
        body = ({"job_ids": list(job_ids)} if job_ids else {}) | ({"batch_id": batch_id} if batch_id else {})
        return self._server.post(f"/jobs/{verb}", body | more)

    def _read_jobs(self, **query: Any) -> list[Job]:
        return [self._remembered(each) for each in self._server.get("/jobs", **query)["jobs"]]

    def _remembered(self, told: dict[str, Any]) -> Job:
        job = reading.job(told)
        self._places[job.id] = (told["position"], told["eta"])
        if told["image"]:
            self._images[job.id] = reading.image(told["image"], job.params)
        return job


class RemoteLists:
    """``studio.lists`` of a studio on another machine."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def check(self, source: str | bytes | Path | BinaryIO, /, format: str = "", **options: Any) -> ListCheck:
        return read(ListCheck, self._sent("/lists/check", source, format, options))

    def submit(
        self,
        source: str | bytes | Path | BinaryIO,
        /,
        format: str = "",
        *,
        idempotency_key: str | None = None,
        **options: Any,
    ) -> ListReceipt:
        return read(ListReceipt, self._sent("/lists", source, format, options, headers=keyed(idempotency_key)))

    def export(self, batch_id: str | None, format: str = "csv") -> Iterator[str]:
        path = f"/batches/{part(batch_id)}/export" if batch_id else "/queue/export"
        return self._server.lines(path, format=format)

    def _sent(self, path: str, source: str | bytes | Path | BinaryIO, form: str, options: Any, **request: Any) -> Any:
        if isinstance(source, Path):
            form = form or format_of(source.name)
            options = options | ({"name": options["name"] or source.stem} if "name" in options else {})
        query = {name: value for name, value in (options | {"format": form}).items() if value not in (None, "")}
        return self._server.ask("POST", path, params=query, content=data_of(source), **request)


class RemoteSources:
    """``studio.sources`` of a studio on another machine."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def add(self, data: bytes, field: str = "source") -> Source:
        return read(Source, self._server.ask("POST", "/sources", content=data, params={"field": field}))


def data_of(source: str | bytes | Path | BinaryIO) -> bytes:
    if isinstance(source, str):
        return source.encode()
    return source if isinstance(source, bytes) else read_bounded(source, MOST_MB)


def keyed(idempotency_key: str | None) -> dict[str, str]:
    return {"Idempotency-Key": idempotency_key} if idempotency_key else {}
