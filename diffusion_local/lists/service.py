"""Prompt-list use cases: check what a list would make, submit it, and export lists."""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path, PurePath
from typing import IO, Any, BinaryIO

from diffusion_local import actor
from diffusion_local.authority import guarded
from diffusion_local.domain import PRIORITIES, Batch, Job, Lane, new_id, new_job, shortened, utc_now
from diffusion_local.errors import InvalidParams
from diffusion_local.gallery.files import ImageFiles, bare_key, suffix_of
from diffusion_local.gallery.images import ImageStore
from diffusion_local.lists.drafts import parse_expansion
from diffusion_local.lists.encoding import read_bounded
from diffusion_local.lists.entries import LIST_OPTIONS, BadLine, export_lines, field_name, make_entry
from diffusion_local.lists.list_formats import format_of, parse
from diffusion_local.lists.plan import ListCheck, ListPlan
from diffusion_local.lists.wildcards import Expander
from diffusion_local.messages import Message, concatenate, message
from diffusion_local.models.catalog import Catalog
from diffusion_local.options.table import BATCH_OPTIONS, Params
from diffusion_local.options.values import check_integer, check_prompt, draw_seed
from diffusion_local.queue.batch_times import Timetable
from diffusion_local.queue.batches import BatchResults, BatchRows
from diffusion_local.queue.doorbell import JobQueue
from diffusion_local.queue.jobs import JobStore
from diffusion_local.queue.views import QueueView
from diffusion_local.settings import Settings

Source = str | bytes | Path | BinaryIO

SPOOL_BYTES = 4_000_000  # bytes of validated jobs kept in memory before spooling to disk
FIRST_IDS = 10
MAX_NAMED = 5  # bad lines named in a refusal


@dataclass(frozen=True, slots=True)
class ListReceipt:
    """The answer to a list: number of jobs, ids of the first ones, and skipped bad lines."""

    batch_id: str
    count: int
    job_ids: list[str]
    bad_lines: list[BadLine] = field(default_factory=list)
    bad_count: int = 0
    warnings: list[str] = field(default_factory=list)
    expansion_seed: int = 0


@guarded("lists")
class PromptLists:
    """Prompt-list use cases, available as ``studio.lists``."""

    def __init__(
        self,
        settings: Settings,
        jobs: JobStore,
        view: QueueView,
        images: ImageStore,
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
        self._images = images
        self._batches = batches
        self._results = results
        self._files = files
        self._queue = queue
        self._catalog = catalog
        self._timetable = timetable

    def check(
        self,
        content: Source,
        /,
        format: str = "",
        *,
        expand: str | None = None,
        expansion_seed: int | None = None,
        count: int | None = None,
        **defaults: Any,
    ) -> ListCheck:
        """What the list would make; nothing is enqueued.

        ``content``: text, bytes, a file or a stream; ``format``: text, csv, jsonl or json (default: by file name, else
        text). ``defaults`` apply to lines that do not set a field. ``expand``: wildcards and choices are drawn at
        ``random`` per picture, in ``all`` combinations, or not (``no``); None takes the setting. Equal values of
        ``expansion_seed`` give equal draws. Raises InvalidParams if it is not a list, QueueFull if it is too long.
        """
        expand = parse_expansion(expand, self._settings)
        plan = self._plan(defaults | {"count": count}, expand, expansion_seed)
        for _ in plan.pictures_of(parse(self._read(content), format or source_format(content))):
            pass
        size = self._images.bytes_per_pixel()
        return ListCheck(
            lines=plan.lines,
            pictures=plan.pictures,
            models=dict(plan.models),
            seconds=self._view.seconds(plan.work),
            bytes=None if size is None else round(size * plan.pixels),
            first=plan.first,
            last=plan.last(),
            bad_lines=plan.bad,
            bad_count=plan.bad_count,
            warnings=plan.warnings(),
            expansion_seed=plan.seed,
        )

    def submit(
        self,
        content: Source,
        /,
        format: str = "",
        *,
        skip_bad_lines: bool = False,
        name: str = "",
        owner: str = "",
        priority: int = 0,
        idempotency_key: str | None = None,
        expand: str | None = None,
        expansion_seed: int | None = None,
        count: int | None = None,
        **defaults: Any,
    ) -> ListReceipt:
        """Enqueue all pictures of the list as one batch, in the batch lane and in one transaction.

        The list is as in ``check``; ``start_at``, ``window``, ``finish_by`` and ``webhook`` may also be given. A bad
        line refuses the whole list unless ``skip_bad_lines``. Raises InvalidParams, QueueFull, Conflict and DiskFull,
        and then nothing is enqueued.
        """
        for text_field, text in (("name", name), ("owner", owner), ("idempotency_key", idempotency_key or "")):
            check_prompt(text_field, text)
        checked_priority = check_integer("priority", priority, *PRIORITIES)
        defaults = ({} if count is None else {"count": count}) | defaults
        times = self._timetable.resolve(Lane.BATCH, {each: defaults.pop(each, None) for each in BATCH_OPTIONS})
        self._files.check_room()
        data, form = self._read(content), format or source_format(content)
        expand = parse_expansion(expand, self._settings)
        plan = self._plan(defaults, expand, expansion_seed)
        # Validated jobs are spooled to disk, so that the write lock is taken only when all of them are known.
        with tempfile.SpooledTemporaryFile(SPOOL_BYTES, "w+", encoding="utf-8", newline="\n") as spool:
            for params in plan.pictures_of(parse(data, form)):
                spool.write(params.to_json() + "\n")
            if plan.bad_count and not skip_bad_lines:
                raise InvalidParams("list", refusal(plan))
            if not plan.pictures:
                raise InvalidParams("list", message("no_prompt"))
            spool.seek(0)
            warnings = plan.warnings()
            who = actor.current().owner(owner)
            title = name or source_name(content) or shortened(plan.first[0])
            batch = Batch(new_id(), title, who, Lane.BATCH, plan.pictures, utc_now(), **times.fields())
            batch_id, ids = self._jobs.insert_batch(
                batch,
                spooled_jobs(batch, spool, checked_priority),
                idempotency_key or None,
                self._settings.max_queued,
                list_digest(data, form, expand, expansion_seed, skip_bad_lines, defaults),
            )
        self._queue.ring(len(ids))
        if times.finish_by:
            warnings += self._batches.lateness(batch_id)
        return ListReceipt(
            batch_id, len(ids), ids[:FIRST_IDS], plan.bad, plan.bad_count, warnings, expansion_seed=plan.seed
        )

    def export(self, batch_id: str | None = None, format: str = "csv") -> Iterator[str]:
        """A batch, or without one all queued jobs, as a list with results; line by line.

        It can be submitted again, here or on another machine; results are then ignored. File names are relative to
        the gallery. Raises NotFound and InvalidParams.
        """
        found = self._results.of_batch(batch_id) if batch_id else self._results.queued()
        return export_lines(((job, self._file(key)) for job, key in found), format)

    def _file(self, key: str | None) -> PurePath | None:
        return PurePath(bare_key(key) + suffix_of(key)) if key else None

    def _read(self, source: Source) -> bytes:
        if isinstance(source, str):
            check_text(source)
            source = source.encode()
        if isinstance(source, bytes):
            if len(source) > self._settings.max_list_mb * 1_000_000:
                raise InvalidParams("list", message("list_bytes", most=self._settings.max_list_mb))
            return source
        return read_bounded(source, self._settings.max_list_mb)

    def _plan(self, defaults: Mapping[str, Any], expand: str, expansion_seed: int | None) -> ListPlan:
        defaults_given = {field_name(name): value for name, value in defaults.items() if value is not None}
        for what in defaults_given:
            if what not in LIST_OPTIONS or what == "prompt":
                raise InvalidParams(what, message("list_field", known=list(LIST_OPTIONS[1:])))
        seed = draw_seed() if expansion_seed is None else check_integer("expansion_seed", expansion_seed, 0, 2**32 - 1)
        return ListPlan(
            self._catalog,
            Expander(self._settings.wildcards),
            make_entry(0, defaults_given).values,
            expand,
            seed,
            self._settings.max_queued,
        )


def spooled_jobs(batch: Batch, spool: IO[str], priority: int) -> Iterator[Job]:
    for index, line in enumerate(spool):
        yield new_job(batch, index, Params.from_json(line), priority)


def refusal(plan: ListPlan) -> Message:
    named = concatenate(message("bad_line", line=each.line, reason=each.reason) for each in plan.bad[:MAX_NAMED])
    if plan.bad_count == 1:
        return message("bad_line_one", lines=named)
    return message("bad_line_several", count=plan.bad_count, lines=named)


def list_digest(data: bytes, *options: object) -> str:
    """Digest that identifies a list submit, independent of random draws."""
    return sha256(repr(options).encode() + b"\0" + data).hexdigest()


def source_format(source: Source) -> str:
    return format_of(source.name) if isinstance(source, Path) else "text"


def source_name(source: Source) -> str:
    return source.stem if isinstance(source, Path) else ""


def check_text(text: str) -> None:
    if any("\ud800" <= sign <= "\udfff" for sign in text):
        raise InvalidParams("list", message("half_character"))
