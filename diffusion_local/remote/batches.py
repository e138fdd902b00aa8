"""``studio.batches``, ``studio.grids`` and ``studio.queue_file`` of a studio on another machine."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from diffusion_local.batches.batches import Edited
from diffusion_local.batches.grids import GridCheck
from diffusion_local.domain import Batch, Receipt, State
from diffusion_local.lists.encoding import read_bounded
from diffusion_local.lists.queue_file import QueueReceipt
from diffusion_local.remote.reading import read
from diffusion_local.remote.server import Server, part
from diffusion_local.store.batch_rows import Progress

MOST_MB = 1000  # of a queue file; the server has a limit of its own


class RemoteBatches:
    def __init__(self, server: Server) -> None:
        self._server = server

    def page(self, limit: int = 20, before: str | None = None) -> list[Progress]:
        told = self._server.get("/batches", limit=limit, before=before)
        return [progress(each) for each in told["batches"]]

    def get(self, batch_id: str) -> Progress:
        return progress(self._server.get(of(batch_id)))

    def rename(self, batch_id: str, name: str) -> Progress:
        return progress(self._server.ask("PATCH", of(batch_id), json={"name": name}))

    def edit(self, batch_id: str, **changes: Any) -> Edited:
        body = {name: value for name, value in changes.items() if value is not None}
        told = self._server.ask("PATCH", of(batch_id), json=body)
        return Edited(told["changed"], told["warnings"])

    def duplicate(self, batch_id: str, name: str = "", **times: str | None) -> Receipt:
        body = {field: value for field, value in times.items() if value is not None}
        return read(Receipt, self._server.post(of(batch_id, "/duplicate"), body | {"name": name}))

    def zip(self, batch_id: str) -> Iterator[bytes]:
        return self._server.pieces(of(batch_id, "/zip"))

    def contact_sheet(self, batch_id: str) -> Path:
        """In a file of its own, as the server's is out of reach."""
        with tempfile.NamedTemporaryFile(suffix=".webp", delete=False) as file:
            file.writelines(self._server.pieces(of(batch_id, "/sheet.webp")))
        return Path(file.name)


class RemoteGrids:
    def __init__(self, server: Server) -> None:
        self._server = server

    def check(self, prompt: str, **options: Any) -> GridCheck:
        return read(GridCheck, self._server.post("/grids/check", said(prompt, options)))

    def submit(self, prompt: str, *, idempotency_key: str | None = None, **options: Any) -> Receipt:
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        return read(Receipt, self._server.post("/grids", said(prompt, options), headers=headers))


class RemoteQueueFile:
    def __init__(self, server: Server) -> None:
        self._server = server

    def export(self) -> Iterator[str]:
        return self._server.lines("/queue/file")

    def take(self, source: str | bytes | Path | BinaryIO, skip_bad_lines: bool = False) -> QueueReceipt:
        data = source.encode() if isinstance(source, str) else source
        data = data if isinstance(data, bytes) else read_bounded(data, MOST_MB)
        query = {"skip_bad_lines": str(skip_bad_lines).lower()}
        return read(QueueReceipt, self._server.ask("POST", "/queue/import", params=query, content=data))


def of(batch_id: str, rest: str = "") -> str:
    return f"/batches/{part(batch_id)}{rest}"


def said(prompt: str, options: dict[str, Any]) -> dict[str, Any]:
    return {"prompt": prompt} | {name: value for name, value in options.items() if value is not None}


def progress(told: dict[str, Any]) -> Progress:
    batch = read(Batch, {name: value for name, value in told.items() if name != "grid"})
    counts = {State(state): count for state, count in told["counts"].items()}
    return Progress(batch, counts, told.get("done_at"), told.get("warning", ""))
