"""A batch's pictures as one ZIP file, made while it is sent."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import PurePath

from diffusion_local import pictures
from diffusion_local.domain import Job
from diffusion_local.lists.export import written
from diffusion_local.pictures import Member
from diffusion_local.store.files import ImageFiles

SLUG_CHARS = 40


def zipped(results: Iterator[tuple[Job, str | None]], files: ImageFiles) -> Iterator[bytes]:
    """The ZIP file in pieces. Pictures do not shrink any more: they are stored; the list comes last, as results.csv.

    A picture whose file is gone is left out, and has no file in the list.
    """
    told: list[tuple[Job, PurePath | None]] = []

    def members() -> Iterator[Member]:
        for job, key in results:
            name = None
            if key and (file := files.picture(key)).exists():
                name = name_of(job, key)
                finished = datetime.fromisoformat(job.finished_at) if job.finished_at else datetime.now(UTC)
                yield name, finished, file.pieces()
            told.append((job, PurePath(name) if name else None))
        lines = (line.encode() for line in written(told, "csv"))
        yield "results.csv", datetime.now(UTC), lines

    return pictures.zipped(members())


def name_of(job: Job, key: str) -> str:
    """Sorts as the batch does, and tells what it shows."""
    slug = re.sub(r"[^\w-]+", "-", job.params.prompt)[:SLUG_CHARS].strip("-") or "picture"
    return f"{job.index + 1:05}-{slug}-{job.params.seed}{PurePath(key).suffix or '.png'}"
