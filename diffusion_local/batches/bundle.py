"""A batch's pictures as one ZIP file, made while it is sent."""

import re
import zlib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import PurePath

from stream_zip import ZIP_64, Method, stream_zip

from diffusion_local.domain import Job
from diffusion_local.lists.export import written
from diffusion_local.store.files import LocalFiles

MODE = 0o644
CHUNK = 256 * 1024
SLUG_CHARS = 40


def zipped(results: Iterator[tuple[Job, str | None]], files: LocalFiles) -> Iterator[bytes]:
    """The ZIP file in pieces. Pictures do not shrink any more: they are stored; the list comes last, as results.csv.

    A picture whose file is gone is left out, and has no file in the list.
    """
    told: list[tuple[Job, PurePath | None]] = []

    def members() -> Iterator[tuple[str, datetime, int, Method, Iterable[bytes]]]:
        for job, key in results:
            name = None
            if key and files.path(key).exists():
                name = name_of(job, key)
                finished = datetime.fromisoformat(job.finished_at) if job.finished_at else datetime.now(UTC)
                yield name, finished, MODE, ZIP_64, pieces(files, key)
            told.append((job, PurePath(name) if name else None))
        lines = (line.encode() for line in written(told, "csv"))
        yield "results.csv", datetime.now(UTC), MODE, ZIP_64, lines

    return iter(stream_zip(members(), chunk_size=CHUNK, get_compressobj=stored))


def stored() -> "zlib._Compress":
    return zlib.compressobj(level=0, wbits=-zlib.MAX_WBITS)


def pieces(files: LocalFiles, key: str) -> Iterator[bytes]:
    with files.path(key).open("rb") as file:
        while piece := file.read(CHUNK):
            yield piece


def name_of(job: Job, key: str) -> str:
    """Sorts as the batch does, and tells what it shows."""
    slug = re.sub(r"[^\w-]+", "-", job.params.prompt)[:SLUG_CHARS].strip("-") or "picture"
    return f"{job.index + 1:05}-{slug}-{job.params.seed}{PurePath(key).suffix or '.png'}"
