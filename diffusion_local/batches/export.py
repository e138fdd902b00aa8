"""A batch's contact sheet and ZIP file."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import PurePath

from diffusion_local import image_decoding
from diffusion_local.domain import Batch, Job, shortened
from diffusion_local.gallery import service
from diffusion_local.gallery.blobs import StoredFile
from diffusion_local.gallery.contact_sheet import MAX_CELLS, MAX_PIXELS, Cell, contact_sheet
from diffusion_local.gallery.files import ImageFiles
from diffusion_local.gallery.service import Member
from diffusion_local.lists.entries import export_lines
from diffusion_local.lists.grid import Grid

LABEL_CHARS = 80
SHEET_BYTES = 2 * 3 * MAX_PIXELS  # while it is drawn, and the encoder's copy
QUALITY = 85


def open_sheet(batch: Batch, results: Iterator[tuple[Job, str | None]], files: ImageFiles, mark: str) -> StoredFile:
    """The contact sheet, drawn if missing; of a batch too large for one, its first pictures.

    Raises InvalidParams if the batch has no pictures, Overloaded and StorageProblem.
    """
    sheet = files.sheet(batch.id, mark)
    if not sheet.exists():
        with image_decoding.budget.taken(SHEET_BYTES):
            if not sheet.exists():  # another thread may have drawn it meanwhile
                draw_sheet(batch, results, files, mark)
    return sheet


def draw_sheet(batch: Batch, results: Iterator[tuple[Job, str | None]], files: ImageFiles, mark: str) -> None:
    few = islice(results, MAX_CELLS)
    title = batch.name if batch.count <= MAX_CELLS else f"{batch.name} (the first {MAX_CELLS:,} of {batch.count:,})"
    if batch.grid:
        grid = Grid.from_json(batch.grid)
        cells = [Cell(None, note="deleted") for _ in range(min(grid.count, MAX_CELLS))]
        for job, key in (each for each in few if each[0].index < len(cells)):
            cells[job.index] = cell(job, key, files, label="")
        picture = contact_sheet(cells, column_heads=grid.column_heads, row_heads=grid.row_heads, title=title)
    else:
        label = "{0.prompt} · {0.seed}"
        cells = [cell(job, key, files, label.format(job.params)) for job, key in few]
        picture = contact_sheet(cells, title=title)
    files.save_sheet(batch.id, mark, picture, QUALITY)


def cell(job: Job, key: str | None, files: ImageFiles, label: str) -> Cell:
    if key and files.picture(key).exists():
        return Cell(files.thumbnail(key).open, shortened(label, LABEL_CHARS))
    return Cell(None, shortened(label, LABEL_CHARS), job.failure.message if job.failure else str(job.state))


SLUG_CHARS = 40


def stream_zip(results: Iterator[tuple[Job, str | None]], files: ImageFiles) -> Iterator[bytes]:
    """The ZIP file in chunks. Pictures are stored, as they do not compress; results.csv comes last.

    A picture whose file is missing is left out, and has no file in the list.
    """
    exported: list[tuple[Job, PurePath | None]] = []

    def members() -> Iterator[Member]:
        for job, key in results:
            name = None
            if key and (file := files.picture(key)).exists():
                name = file_name(job, key)
                finished = datetime.fromisoformat(job.finished_at) if job.finished_at else datetime.now(UTC)
                yield name, finished, file.chunks()
            exported.append((job, PurePath(name) if name else None))
        lines = (line.encode() for line in export_lines(exported, "csv"))
        yield "results.csv", datetime.now(UTC), lines

    return service.stream_members(members())


def file_name(job: Job, key: str) -> str:
    """A file name that sorts in batch order and describes the picture."""
    slug = re.sub(r"[^\w-]+", "-", job.params.prompt)[:SLUG_CHARS].strip("-") or "picture"
    return f"{job.index + 1:05}-{slug}-{job.params.seed}{PurePath(key).suffix or '.png'}"
