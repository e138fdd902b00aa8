"""Batch use cases: view, rename, edit, duplicate and export whole batches, with contact sheet and ZIP file."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from itertools import islice
from pathlib import PurePath
from typing import Any

from diffusion_local import actor, image_decoding
from diffusion_local.authority import guarded
from diffusion_local.domain import FINAL, Batch, Image, Job, Receipt, new_id, shortened, utc_now
from diffusion_local.errors import Conflict, InvalidParams
from diffusion_local.gallery import service
from diffusion_local.gallery.blobs import StoredFile
from diffusion_local.gallery.contact_sheet import MAX_CELLS, MAX_PIXELS, Cell, contact_sheet
from diffusion_local.gallery.files import ImageFiles
from diffusion_local.gallery.service import Member
from diffusion_local.lists.drafts import Drafts
from diffusion_local.lists.entries import export_lines, field_name, parse_size
from diffusion_local.lists.grid import Grid
from diffusion_local.lists.plan import CatalogSnapshot
from diffusion_local.lists.wildcards import Expander
from diffusion_local.messages import message
from diffusion_local.models.catalog import Catalog
from diffusion_local.models.prompt_limits import prompt_warnings
from diffusion_local.options.table import BATCH_OPTIONS, SETTINGS, Params
from diffusion_local.options.values import check_cursor, check_integer, check_prompt
from diffusion_local.queue.batch_times import Timetable, parse_utc
from diffusion_local.queue.batches import BatchProgress, BatchResults, BatchRows
from diffusion_local.queue.doorbell import JobQueue
from diffusion_local.queue.jobs import JobStore, new_jobs
from diffusion_local.queue.schedule import format_local
from diffusion_local.queue.views import QueueView
from diffusion_local.settings import Settings

LABEL_CHARS = 80
SHEET_BYTES = 2 * 3 * MAX_PIXELS  # the sheet while it is drawn, and the encoder's copy
QUALITY = 85
SLUG_CHARS = 40
MAX_WARNINGS = 10


def open_sheet(batch: Batch, results: Iterator[tuple[Job, str | None]], files: ImageFiles, mark: str) -> StoredFile:
    """The contact sheet, drawn if missing. If the batch is too large for one sheet, it shows the first pictures.

    Raises InvalidParams if the batch has no pictures, Overloaded and StorageProblem.
    """
    sheet = files.sheet(batch.id, mark)
    if not sheet.exists():
        with image_decoding.budget.reserve(SHEET_BYTES):
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


def stream_zip(results: Iterator[tuple[Job, str | None]], files: ImageFiles) -> Iterator[bytes]:
    """The ZIP file in chunks. Pictures are stored uncompressed, as they do not shrink; results.csv comes last.

    A picture whose file is missing is left out; its row in results.csv has no file name.
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


@dataclass(frozen=True, slots=True)
class BatchEdit:
    """Number of changed queued jobs. ``warnings``: prompts too long for a model, and deadlines."""

    count: int
    warnings: list[str] = field(default_factory=list)


@guarded("batches")
class Batches:
    """Batch use cases, available as ``studio.batches``."""

    def __init__(
        self,
        settings: Settings,
        jobs: JobStore,
        view: QueueView,
        batches: BatchRows,
        results: BatchResults,
        files: ImageFiles,
        queue: JobQueue,
        catalog: Catalog,
        timetable: Timetable,
    ) -> None:
        self._settings = settings
        self._jobs = jobs
        self._view = view
        self._rows = batches
        self._results = results
        self._files = files
        self._queue = queue
        self._catalog = catalog
        self._timetable = timetable

    def page(self, limit: int = 20, before: str | None = None, large: bool = False) -> list[BatchProgress]:
        """Batches with progress, newest first. ``before``: last id of the previous page.

        ``large`` leaves out single interactive pictures.
        """
        return self._rows.page(check_integer("limit", limit, 1, 200), check_cursor("before", before), large)

    def get(self, batch_id: str) -> BatchProgress:
        """Raises NotFound."""
        return self._rows.get(batch_id)

    def late(self) -> list[str]:
        """A warning for each batch that is expected to miss its deadline."""
        return [
            message("batch_warning", name=each.batch.name, warning=each.warning)
            for each in self._rows.with_finish_by()
            if each.warning
        ]

    def warning(self, batch_id: str) -> list[str]:
        """Deadline warning for one batch, as a list of 0 or 1 sentences."""
        return self._rows.lateness(batch_id)

    def foreseen(self, seconds: float | None, **times: str | None) -> tuple[str | None, str]:
        """(UTC completion time of ``seconds`` of work if enqueued now, or None; warning if it would miss the deadline).

        ``times``: ``start_at``, ``window``, ``finish_by`` and ``webhook``. Raises InvalidParams.
        """
        before = self._view.snapshot(0, 0).total_eta
        left = None if seconds is None or before is None else before + seconds
        return self._timetable.forecast(left, times)

    def times(self, batch: Batch) -> dict[str, str]:
        """The batch's times as local text, for a form."""
        zone = self._timetable.zone
        moments = {"start_at": parse_utc(batch.start_at), "finish_by": parse_utc(batch.finish_by)}
        times = {name: getattr(batch, name) or "" for name in BATCH_OPTIONS}
        return times | {name: format_local(at, zone) if at else "" for name, at in moments.items()}

    # -- changes ---------------------------------------------------------------------------------------------------

    def rename(self, batch_id: str, name: str) -> BatchProgress:
        """Raises NotFound, Forbidden and InvalidParams."""
        self._require_own(batch_id)
        check_prompt("name", name, required=True)
        self._rows.rename(batch_id, name.strip())
        return self._rows.get(batch_id)

    def edit(self, batch_id: str, name: str | None = None, prompt: str | None = None, **changes: Any) -> BatchEdit:
        """Rename a batch and change its queued jobs: fields of Params, and ``start_at``, ``window``, ``finish_by``,
        ``webhook``.

        Absent fields and None leave a value unchanged; an empty time removes it. Each job is validated against its
        model, and if one is invalid nothing is changed. Running and ended jobs are left alone. Raises InvalidParams
        naming the picture, and Conflict if nothing is queued.
        """
        progress = self._require_own(batch_id)
        changed_fields = {
            field_name(field): value for field, value in (changes | {"prompt": prompt}).items() if value is not None
        }
        if name and not changed_fields:
            self.rename(batch_id, name)
            return BatchEdit(0)
        if "size" in changed_fields:
            changed_fields["width"], changed_fields["height"] = parse_size(changed_fields.pop("size"))
        times = {name: changed_fields.pop(name) for name in BATCH_OPTIONS if name in changed_fields}
        if unknown := [name for name in changed_fields if name not in (*SETTINGS, "prompt")]:
            raise InvalidParams(unknown[0], message("edit_fields", known=[*SETTINGS, *BATCH_OPTIONS]))
        if not changed_fields and not times:
            raise InvalidParams("changes", message("one_field"))
        waiting = self._rows.queued(batch_id)
        if not waiting:
            raise Conflict(message("none_waits_any_more", batch=batch_id))
        changed = [] if not changed_fields else self._changed_params(waiting, changed_fields)
        new_times = self._timetable.resolve_changes(progress.batch, times) if times else {}
        warnings = self._warnings(changed)
        count = self._rows.change(batch_id, changed, new_times)
        self._queue.ring()
        if name:
            self.rename(batch_id, name)
        return BatchEdit(count if changed_fields else len(waiting), warnings + self.warning(batch_id))

    def _changed_params(
        self, waiting: Sequence[tuple[str, int, Params]], changed_fields: dict[str, Any]
    ) -> list[tuple[str, Params]]:
        drafts = Drafts(CatalogSnapshot(self._catalog), Expander(self._settings.wildcards))
        changed = []
        for job_id, index, params in waiting:
            values = params.to_dict() | changed_fields
            try:
                new = self._edited_params(drafts, params, values, changed_fields)
            except InvalidParams as error:
                raise InvalidParams(error.field, message("in_batch", problem=error.problem, index=index + 1)) from None
            changed.append((job_id, new))
        return changed

    def _edited_params(
        self, drafts: Drafts, params: Params, values: dict[str, Any], changed_fields: dict[str, Any]
    ) -> Params:
        """A picture's new Params. Choices are drawn only in a newly given prompt; those in the old one have been drawn
        already.
        """
        texts = {name: changed_fields.get(name, getattr(params, name)) for name in ("prompt", "negative")}
        expand = {name: self._settings.expand_prompts if name in changed_fields else "no" for name in texts}
        drawn = {
            name: drafts.draw_text(name, text, values["seed"], expand[name]) if isinstance(text, str) else text
            for name, text in texts.items()
        }
        settings = {name: value for name, value in values.items() if name != "prompt"} | {"negative": drawn["negative"]}
        [new], _ = drafts.draft(drawn["prompt"], settings, "no").pictures(1, "no", 1)
        return new

    def _warnings(self, changed: Sequence[tuple[str, Params]]) -> list[str]:
        longest = sorted((params for _, params in changed), key=lambda each: -len(each.prompt))[:MAX_WARNINGS]
        found = [text for params in longest for text in prompt_warnings(self._catalog.get(params.model), params)]
        return list(dict.fromkeys(found))

    def duplicate(self, batch_id: str, name: str = "", **times: str | None) -> Receipt:
        """Submit all its pictures again with the same seeds, as a new batch with its own times.

        Raises NotFound, InvalidParams and QueueFull.
        """
        old = self._rows.get(batch_id).batch
        check_prompt("name", name)
        timing = self._timetable.resolve(old.lane, times)
        recipes = self._rows.recipes(batch_id)
        if not recipes:
            raise Conflict(message("batch_empty", batch=batch_id))
        for model_id in {params.model for params in recipes}:
            self._catalog.complete("model", {"model": model_id, "seed": 0})  # check that the model still exists
        title = name.strip() or f"{old.name} (copy)"
        owner = actor.current().owner(old.owner)
        batch = Batch(new_id(), title, owner, old.lane, len(recipes), utc_now(), grid=old.grid, **timing.fields())
        new, ids = self._jobs.insert_batch(batch, new_jobs(batch, recipes), None, self._settings.max_queued)
        self._queue.ring(len(ids))
        return Receipt(new, ids, self.warning(new))

    def _require_own(self, batch_id: str) -> BatchProgress:
        """Raises NotFound, and Forbidden for another owner's batch."""
        progress = self._rows.get(batch_id)
        actor.current().require_own(progress.batch.owner, message("the_batch", id=batch_id))
        return progress

    # -- pictures and files ----------------------------------------------------------------------------------------

    def images(self, batch_id: str, limit: int = 48, after: str | None = None) -> list[Image]:
        """The batch's pictures in batch order. ``after``: last id of the previous page."""
        self._rows.get(batch_id)
        return self._rows.images(batch_id, check_integer("limit", limit, 1, 500), after or None)

    def zip(self, batch_id: str) -> Iterator[bytes]:
        """Its pictures and result list as a ZIP file, in chunks; one picture is in memory at a time."""
        self._rows.get(batch_id)
        return stream_zip(self._results.of_batch(batch_id), self._files)

    def contact_sheet(self, batch_id: str) -> StoredFile:
        """Its pictures on one labelled WebP, with axes if it is a grid. Cached until more pictures are done."""
        progress = self._rows.get(batch_id)
        ended = {str(state): progress.counts[state] for state in sorted(FINAL)}
        mark = sha256(json.dumps([progress.batch.name, ended]).encode()).hexdigest()[:12]
        return open_sheet(progress.batch, self._results.of_batch(batch_id), self._files, mark)
