"""Queue-file use cases: export the queued jobs, and import them on another machine."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

from diffusion_local import actor, disk
from diffusion_local.authority import guarded
from diffusion_local.domain import PRIORITIES, Batch, Job, Lane, new_id, new_job, utc_now
from diffusion_local.errors import InvalidParams, QueueFull
from diffusion_local.gallery.local_blobs import check_room
from diffusion_local.lists.encoding import decoded_lines, read_bounded
from diffusion_local.lists.entries import BadLine
from diffusion_local.lists.grid import Grid
from diffusion_local.lists.list_formats import MAX_ROW_CHARS, bad_line
from diffusion_local.lists.plan import MAX_BAD_LINES, CatalogSnapshot
from diffusion_local.messages import concatenate, message
from diffusion_local.models.catalog import Catalog
from diffusion_local.options.table import BATCH_OPTIONS, Params
from diffusion_local.options.values import check_integer, check_prompt
from diffusion_local.queue.batch_times import check_url
from diffusion_local.queue.batches import BatchResults
from diffusion_local.queue.doorbell import JobQueue
from diffusion_local.queue.jobs import JobStore
from diffusion_local.queue.schedule import parse_window
from diffusion_local.settings import Settings

FILE_VERSION = 1
#: Optional fields of a batch line.
OPTIONAL_FIELDS = (*BATCH_OPTIONS, "grid")
MAX_NAMED = 5
KEY_PREFIX = "queue-file "


@dataclass(slots=True)
class ImportedBatch:
    """An imported batch, with (Params, priority) per job."""

    key: str
    batch: dict[str, Any]
    jobs: list[tuple[Params, int]] = field(default_factory=list)

    def build(self, owner: str) -> tuple[Batch, Iterator[Job]]:
        batch = Batch(new_id(), created_at=utc_now(), count=len(self.jobs), owner=owner, **self.batch)
        each = (new_job(batch, index, params, priority) for index, (params, priority) in enumerate(self.jobs))
        return batch, each


def queue_lines(waiting: Iterable[tuple[Batch, Job]]) -> Iterator[str]:
    """The file's lines, from jobs grouped by batch."""
    last = ""
    for batch, job in waiting:
        if batch.id != last:
            last = batch.id
            header = {"batch": batch.id, "version": FILE_VERSION, "name": batch.name, "lane": str(batch.lane)}
            yield (
                json.dumps(header | {name: getattr(batch, name) for name in OPTIONAL_FIELDS if getattr(batch, name)})
                + "\n"
            )
        yield json.dumps({"job": job.params.to_dict(), "priority": job.priority}, ensure_ascii=False) + "\n"


def parse_file(data: bytes, catalog: Catalog, most: int) -> tuple[list[ImportedBatch], list[BadLine], int]:
    """(batches, first bad lines, number of bad lines). Raises QueueFull for more than ``most`` jobs."""
    now = CatalogSnapshot(catalog)
    batches: list[ImportedBatch] = []
    bad_lines: list[BadLine] = []
    count = bad_count = 0
    for number, line, problem in decoded_lines(data, MAX_ROW_CHARS):
        if not line.strip() and not problem:
            continue
        try:
            if problem:
                raise InvalidParams("line", problem)
            record = parse_line(line)
            if "batch" in record:
                batches.append(parse_batch(record))
            elif batches:
                batches[-1].jobs.append(parse_job(record, now))
                count += 1
            else:
                raise InvalidParams("line", message("queue_order"))
        except InvalidParams as error:
            bad_count += 1
            if len(bad_lines) < MAX_BAD_LINES:
                bad_lines.append(bad_line(number, error.message, line))
        if count > most:
            raise QueueFull(message("queue_many", most=most))
    return [each for each in batches if each.jobs], bad_lines, bad_count


def parse_line(line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidParams("line", message("not_json", error=str(error)[:100])) from None
    if not isinstance(record, dict):
        raise InvalidParams("line", message("queue_line"))
    return record


def parse_batch(record: dict[str, Any]) -> ImportedBatch:
    if record.get("version") != FILE_VERSION:
        raise InvalidParams("version", message("queue_format", format=FILE_VERSION))
    for name in ("batch", "name", *OPTIONAL_FIELDS):
        check_prompt(name, record.get(name) or "")
    if not record["batch"] or record.get("lane") not in tuple(Lane):
        raise InvalidParams("lane", message("queue_kind", known=list(Lane)))
    check_times(record)
    optional = {name: record[name] for name in OPTIONAL_FIELDS if record.get(name)}
    return ImportedBatch(record["batch"], {"name": record.get("name") or "", "lane": Lane(record["lane"])} | optional)


def check_times(record: dict[str, Any]) -> None:
    """Validate a batch's times. They are absolute, and may be past: an overdue batch starts at once."""
    if record.get("window"):
        parse_window(record["window"])
    check_url(record.get("webhook"))
    try:
        for name in ("start_at", "finish_by"):
            if record.get(name) and datetime.fromisoformat(record[name]).tzinfo is None:
                raise ValueError(f"{name} without an offset")
        if record.get("grid"):
            Grid.from_json(record["grid"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidParams("batch", message("queue_times", error=error)) from None


def parse_job(record: dict[str, Any], catalog: Catalog) -> tuple[Params, int]:
    values = record.get("job")
    if not isinstance(values, dict) or not isinstance(values.get("prompt"), str) or "seed" not in values:
        raise InvalidParams("job", message("queue_params"))
    params = catalog.complete(values["prompt"], {name: value for name, value in values.items() if name != "prompt"})
    model = catalog.get(params.model)
    if not model.ready:
        raise InvalidParams("model", message("not_ready", model=model.id, problem=model.problem))
    return params, check_integer("priority", record.get("priority", 0), *PRIORITIES)


@dataclass(frozen=True, slots=True)
class QueueReceipt:
    """The result of an import: names of the batches by id, and skipped bad lines."""

    batches: dict[str, str]
    count: int
    bad_lines: list[BadLine] = field(default_factory=list)
    bad_count: int = 0


@guarded("queue_file")
class QueueFile:
    """Queue-file use cases, available as ``studio.queue_file``."""

    def __init__(
        self, settings: Settings, jobs: JobStore, results: BatchResults, queue: JobQueue, catalog: Catalog
    ) -> None:
        self._settings = settings
        self._jobs = jobs
        self._results = results
        self._queue = queue
        self._catalog = catalog

    def export(self) -> Iterator[str]:
        """All queued jobs, line by line, batch by batch."""
        return queue_lines(self._results.queued_by_batch())

    def take(self, source: str | bytes | Path | BinaryIO, skip_bad_lines: bool = False) -> QueueReceipt:
        """Enqueue a queue file; importing it again adds nothing and returns the first import's batches.

        A bad line (such as a missing model) refuses the whole file unless ``skip_bad_lines``. Raises InvalidParams,
        QueueFull, Conflict and DiskFull, and then nothing is enqueued.
        """
        with disk.storage_errors():
            check_room(self._settings.home, self._settings.disk_reserve_mb * 10**6)
        data = source.encode(errors="replace") if isinstance(source, str) else source
        if isinstance(data, bytes):
            if len(data) > self._settings.max_list_mb * 1_000_000:
                raise InvalidParams("file", message("list_bytes", most=self._settings.max_list_mb))
        else:
            data = read_bounded(data, self._settings.max_list_mb)
        imported, bad_lines, bad_count = parse_file(data, self._catalog, self._settings.max_queued)
        if bad_count and not skip_bad_lines:
            named = concatenate(
                message("bad_line", line=each.line, reason=each.reason) for each in bad_lines[:MAX_NAMED]
            )
            raise InvalidParams("file", message("bad_lines", count=bad_count, first=named))
        if not imported:
            raise InvalidParams("file", message("no_job_in"))
        owner = actor.current().owner("")
        new_batches = [(*parcel.build(owner), KEY_PREFIX + parcel.key, batch_digest(parcel)) for parcel in imported]
        found = self._jobs.insert_batches(new_batches, self._settings.max_queued)
        self._queue.ring(sum(len(ids) for _, ids in found))
        names = {batch_id: lot[0].name for (batch_id, _), lot in zip(found, new_batches, strict=True)}
        return QueueReceipt(names, sum(len(ids) for _, ids in found), bad_lines, bad_count)


def batch_digest(imported: ImportedBatch) -> str:
    """A digest by which a repeated import of a batch is recognised."""
    hashed = sha256(json.dumps(imported.batch, sort_keys=True).encode())
    for params, priority in imported.jobs:
        hashed.update(f"{params.to_json()} {priority}\n".encode())
    return hashed.hexdigest()
