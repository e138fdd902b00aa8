"""Grid use cases: check what a grid would make, and submit it as a batch."""

from collections import Counter
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from diffusion_local import actor
from diffusion_local.authority import guarded
from diffusion_local.domain import PRIORITIES, Batch, Lane, Receipt, new_id, shortened, utc_now
from diffusion_local.errors import InvalidParams
from diffusion_local.lists.drafts import Drafts, parse_expansion
from diffusion_local.lists.grid import Grid, parse_grid
from diffusion_local.lists.plan import CatalogSnapshot
from diffusion_local.lists.wildcards import Expander
from diffusion_local.messages import message
from diffusion_local.models.catalog import Catalog
from diffusion_local.options.table import BATCH_OPTIONS, Params
from diffusion_local.options.values import check_integer, check_prompt, draw_seed
from diffusion_local.queue.batch_times import Timetable
from diffusion_local.queue.batches import BatchRows
from diffusion_local.queue.doorbell import JobQueue
from diffusion_local.queue.estimates import Work
from diffusion_local.queue.jobs import JobStore, new_jobs
from diffusion_local.queue.views import QueueView
from diffusion_local.settings import Settings

MAX_WARNINGS = 20
MAX_PICTURES = 2000  # pictures per grid: the capacity of a contact sheet


@dataclass(frozen=True, slots=True)
class GridCheck:
    """What a grid would make. ``seconds``: None if unknown."""

    pictures: int
    columns: list[str]
    rows: list[str]
    models: dict[str, int]
    seconds: float | None
    warnings: list[str]


@guarded("grids")
class Grids:
    """Grid use cases, available as ``studio.grids``."""

    def __init__(
        self,
        settings: Settings,
        jobs: JobStore,
        view: QueueView,
        batches: BatchRows,
        queue: JobQueue,
        catalog: Catalog,
        timetable: Timetable,
    ) -> None:
        self._settings = settings
        self._jobs = jobs
        self._view = view
        self._rows = batches
        self._queue = queue
        self._catalog = catalog
        self._timetable = timetable

    def check(
        self, prompt: str, *, x: str, y: str = "", z: str = "", expand: str | None = None, **settings: Any
    ) -> GridCheck:
        """What the grid would make; nothing is enqueued. Raises InvalidParams for the axis or field at fault."""
        grid, each, warnings, _ = self._plan(prompt, x, y, z, settings | {"expand": expand})
        work = Counter(Work.of_params(params) for params in each)
        return GridCheck(
            grid.count,
            grid.column_heads,
            grid.row_heads,
            dict(Counter(params.model for params in each)),
            self._view.seconds(work),
            warnings,
        )

    def submit(
        self,
        prompt: str,
        *,
        x: str,
        y: str = "",
        z: str = "",
        name: str = "",
        owner: str = "",
        lane: Lane = Lane.BATCH,
        priority: int = 0,
        idempotency_key: str | None = None,
        expand: str | None = None,
        **settings: Any,
    ) -> Receipt:
        """Enqueue a picture per cell, all with one seed unless an axis varies it.

        ``settings`` as in ``Studio.submit``. Raises InvalidParams, QueueFull and Conflict, and then nothing is
        enqueued.
        """
        for field, text in (("name", name), ("owner", owner), ("idempotency_key", idempotency_key or "")):
            check_prompt(field, text)
        times = self._timetable.resolve(lane, {each: settings.pop(each, None) for each in BATCH_OPTIONS})
        grid, each, warnings, request = self._plan(prompt, x, y, z, settings | {"expand": expand})
        batch = Batch(
            new_id(),
            name or shortened(prompt),
            actor.current().owner(owner),
            lane,
            grid.count,
            utc_now(),
            grid=grid.to_json(),
            **times.fields(),
        )
        jobs = new_jobs(batch, each, check_integer("priority", priority, *PRIORITIES))
        key = idempotency_key or None
        batch_id, ids = self._jobs.insert_batch(batch, jobs, key, self._settings.max_queued, request if key else "")
        self._queue.ring(len(ids))
        return Receipt(batch_id, ids, warnings + (self._rows.lateness(batch_id) if times.finish_by else []))

    def _plan(
        self, prompt: str, x: str, y: str, z: str, settings: dict[str, Any]
    ) -> tuple[Grid, list[Params], list[str], str]:
        """(grid, Params by cell, warnings, digest of the request).

        All cells draw with the same seed, so that equal prompts make equal choices.
        """
        check_prompt("prompt", prompt)
        for axis, text in (("x", x), ("y", y), ("z", z)):
            check_prompt(axis, text)
        grid = parse_grid(x, y, z, min(MAX_PICTURES, self._settings.max_queued))
        options_given = {name: value for name, value in settings.items() if value is not None}
        expansion = options_given.pop("expand", None)
        if expansion == "all":
            raise InvalidParams("expand", message("expand_grid"))
        expand = parse_expansion(expansion, self._settings)
        if options_given.get("seed", -1) == -1:
            options_given["seed"] = draw_seed()
        drafts = Drafts(CatalogSnapshot(self._catalog), Expander(self._settings.wildcards))
        each: list[Params] = []
        request = sha256()
        warnings: list[str] = []
        for place, (words, options) in enumerate(grid.cells(prompt, options_given)):
            try:
                draft = drafts.draft(words, options, expand)
                [params], picture_warnings = draft.pictures(1, "random", 1)
            except InvalidParams as error:
                raise InvalidParams(error.field, message("in_grid", problem=error.problem, cell=place + 1)) from None
            each.append(params)
            request.update((draft.submit_digest(1, expand) or params.without_seeds().to_json()).encode())
            warnings += picture_warnings if len(warnings) < MAX_WARNINGS else []
        return grid, each, list(dict.fromkeys(warnings)), request.hexdigest()
