"""What a person can do with the waiting queue as a file: write it out, and read it on another machine."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

from diffusion_local import actor, disk
from diffusion_local.authority import guarded
from diffusion_local.domain import PRIORITIES, Batch, Job, Lane, Params, new_id, new_job, utc_now
from diffusion_local.errors import InvalidParams, QueueFull
from diffusion_local.gallery.local_blobs import check_room
from diffusion_local.lists.encoding import lines, read_bounded
from diffusion_local.lists.entries import BadLine
from diffusion_local.lists.formats import MAX_ROW_CHARS, bad
from diffusion_local.lists.grid import Grid
from diffusion_local.lists.plan import MOST_BAD, CatalogOfNow
from diffusion_local.messages import joined, message
from diffusion_local.models.catalog import Catalog
from diffusion_local.options.table import BATCH_OPTIONS
from diffusion_local.options.values import check_prompt, whole_number
from diffusion_local.queue.batch_times import check_url
from diffusion_local.queue.batches import BatchResults
from diffusion_local.queue.doorbell import JobQueue
from diffusion_local.queue.jobs import JobStore
from diffusion_local.queue.schedule import parse_window
from diffusion_local.settings import Settings

VERSION = 1
#: Fields of a batch that its line carries where they are set.
KEPT = (*BATCH_OPTIONS, "grid")


@dataclass(slots=True)
class ImportedBatch:
    """A batch as it came, with its jobs still to be given an id: (Params, priority)."""

    key: str
    batch: dict[str, Any]
    jobs: list[tuple[Params, int]] = field(default_factory=list)

    def made(self, owner: str) -> tuple[Batch, Iterator[Job]]:
        batch = Batch(new_id(), created_at=utc_now(), count=len(self.jobs), owner=owner, **self.batch)
        each = (new_job(batch, index, params, priority) for index, (params, priority) in enumerate(self.jobs))
        return batch, each


def packed(waiting: Iterable[tuple[Batch, Job]]) -> Iterator[str]:
    """The file's lines, from jobs that come batch by batch."""
    last = ""
    for batch, job in waiting:
        if batch.id != last:
            last = batch.id
            told = {"batch": batch.id, "version": VERSION, "name": batch.name, "lane": str(batch.lane)}
            yield json.dumps(told | {name: getattr(batch, name) for name in KEPT if getattr(batch, name)}) + "\n"
        yield json.dumps({"job": job.params.to_dict(), "priority": job.priority}, ensure_ascii=False) + "\n"


def unpacked(data: bytes, catalog: Catalog, most: int) -> tuple[list[ImportedBatch], list[BadLine], int]:
    """(batches, the first bad lines, how many there are). Raises QueueFull for more than ``most`` jobs."""
    now = CatalogOfNow(catalog)
    parcels: list[ImportedBatch] = []
    wrong: list[BadLine] = []
    count = wrongs = 0
    for number, line, problem in lines(data, MAX_ROW_CHARS):
        if not line.strip() and not problem:
            continue
        try:
            if problem:
                raise InvalidParams("line", problem)
            found = read_object(line)
            if "batch" in found:
                parcels.append(parcel(found))
            elif parcels:
                parcels[-1].jobs.append(read_job(found, now))
                count += 1
            else:
                raise InvalidParams("line", message("queue_order"))
        except InvalidParams as error:
            wrongs += 1
            if len(wrong) < MOST_BAD:
                wrong.append(bad(number, error.message, line))
        if count > most:
            raise QueueFull(message("queue_many", most=most))
    return [each for each in parcels if each.jobs], wrong, wrongs


def read_object(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidParams("line", message("not_json", error=str(error)[:100])) from None
    if not isinstance(found, dict):
        raise InvalidParams("line", message("queue_line"))
    return found


def parcel(found: dict[str, Any]) -> ImportedBatch:
    if found.get("version") != VERSION:
        raise InvalidParams("version", message("queue_format", format=VERSION))
    for name in ("batch", "name", *KEPT):
        check_prompt(name, found.get(name) or "")
    if not found["batch"] or found.get("lane") not in tuple(Lane):
        raise InvalidParams("lane", message("queue_kind", known=list(Lane)))
    check_times(found)
    kept = {name: found[name] for name in KEPT if found.get(name)}
    return ImportedBatch(found["batch"], {"name": found.get("name") or "", "lane": Lane(found["lane"])} | kept)


def check_times(found: dict[str, Any]) -> None:
    """They are moments by now, and may be past: what should have begun then begins at once."""
    if found.get("window"):
        parse_window(found["window"])
    check_url(found.get("webhook"))
    try:
        for name in ("start_at", "finish_by"):
            if found.get(name) and datetime.fromisoformat(found[name]).tzinfo is None:
                raise ValueError(f"{name} without an offset")
        if found.get("grid"):
            Grid.from_json(found["grid"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidParams("batch", message("queue_times", error=error)) from None


def read_job(found: dict[str, Any], catalog: Catalog) -> tuple[Params, int]:
    values = found.get("job")
    if not isinstance(values, dict) or not isinstance(values.get("prompt"), str) or "seed" not in values:
        raise InvalidParams("job", message("queue_params"))
    params = catalog.complete(values["prompt"], {name: value for name, value in values.items() if name != "prompt"})
    model = catalog.get(params.model)
    if not model.ready:
        raise InvalidParams("model", message("not_ready", model=model.id, problem=model.problem))
    return params, whole_number("priority", found.get("priority", 0), *PRIORITIES)


NAMED_BAD = 5
KEY = "queue-file "


@dataclass(frozen=True, slots=True)
class QueueReceipt:
    """The answer to a queue file: ids and names of its batches here, and the bad lines that were left out."""

    batches: dict[str, str]
    count: int
    bad_lines: list[BadLine] = field(default_factory=list)
    bad_count: int = 0


@guarded("queue_file")
class QueueFile:
    """Part of the Studio, as ``studio.queue_file``."""

    def __init__(
        self, settings: Settings, jobs: JobStore, results: BatchResults, queue: JobQueue, catalog: Catalog
    ) -> None:
        self._settings = settings
        self._jobs = jobs
        self._results = results
        self._queue = queue
        self._catalog = catalog

    def export(self) -> Iterator[str]:
        """All that waits, line by line, batch by batch."""
        return packed(self._results.queued_by_batch())

    def take(self, source: str | bytes | Path | BinaryIO, skip_bad_lines: bool = False) -> QueueReceipt:
        """Enqueue what such a file holds; a second time nothing new is made, and the first one's batches come back.

        A bad line (a model that is not here, say) refuses it all, unless ``skip_bad_lines``. Raises InvalidParams,
        QueueFull, Conflict and DiskFull, and then nothing is enqueued.
        """
        with disk.explained():
            check_room(self._settings.home, self._settings.disk_reserve_mb * 10**6)
        data = source.encode(errors="replace") if isinstance(source, str) else source
        if isinstance(data, bytes):
            if len(data) > self._settings.max_list_mb * 1_000_000:
                raise InvalidParams("file", message("list_bytes", most=self._settings.max_list_mb))
        else:
            data = read_bounded(data, self._settings.max_list_mb)
        parcels, wrong, wrongs = unpacked(data, self._catalog, self._settings.max_queued)
        if wrongs and not skip_bad_lines:
            named = joined(message("bad_line", line=each.line, reason=each.reason) for each in wrong[:NAMED_BAD])
            raise InvalidParams("file", message("bad_lines", count=wrongs, first=named))
        if not parcels:
            raise InvalidParams("file", message("no_job_in"))
        owner = actor.current().owner("")
        lots = [(*parcel.made(owner), KEY + parcel.key, digest(parcel)) for parcel in parcels]
        found = self._jobs.insert_batches(lots, self._settings.max_queued)
        self._queue.ring(sum(len(ids) for _, ids in found))
        names = {batch_id: lot[0].name for (batch_id, _), lot in zip(found, lots, strict=True)}
        return QueueReceipt(names, sum(len(ids) for _, ids in found), wrong, wrongs)


def digest(parcel: ImportedBatch) -> str:
    """What tells whether it is the same batch that comes again."""
    told = sha256(json.dumps(parcel.batch, sort_keys=True).encode())
    for params, priority in parcel.jobs:
        told.update(f"{params.to_json()} {priority}\n".encode())
    return told.hexdigest()
