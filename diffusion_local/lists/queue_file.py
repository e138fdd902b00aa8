"""What a person can do with the waiting queue as a file: write it out, and read it on another machine."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from diffusion_local import actor, faults
from diffusion_local.authority import guarded
from diffusion_local.catalog import Catalog
from diffusion_local.errors import InvalidParams
from diffusion_local.lists.encoding import read_bounded
from diffusion_local.lists.fields import BadLine
from diffusion_local.lists.transfer import Parcel, packed, unpacked
from diffusion_local.messages import joined, message
from diffusion_local.queue import JobQueue
from diffusion_local.settings import Settings
from diffusion_local.store.batches import Results
from diffusion_local.store.jobs import JobStore
from diffusion_local.store.local_blobs import check_room

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

    def __init__(self, settings: Settings, jobs: JobStore, results: Results, queue: JobQueue, catalog: Catalog) -> None:
        self._settings = settings
        self._jobs = jobs
        self._results = results
        self._queue = queue
        self._catalog = catalog

    def export(self) -> Iterator[str]:
        """All that waits, line by line, batch by batch."""
        return packed(self._results.waiting_by_batch())

    def take(self, source: str | bytes | Path | BinaryIO, skip_bad_lines: bool = False) -> QueueReceipt:
        """Enqueue what such a file holds; a second time nothing new is made, and the first one's batches come back.

        A bad line (a model that is not here, say) refuses it all, unless ``skip_bad_lines``. Raises InvalidParams,
        QueueFull, Conflict and DiskFull, and then nothing is enqueued.
        """
        with faults.explained():
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


def digest(parcel: Parcel) -> str:
    """What tells whether it is the same batch that comes again."""
    told = sha256(json.dumps(parcel.batch, sort_keys=True).encode())
    for params, priority in parcel.jobs:
        told.update(f"{params.to_json()} {priority}\n".encode())
    return told.hexdigest()
