"""What a person can do with a grid: look what it would make, and put it into the queue as a batch."""

from collections import Counter
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from diffusion_local import actor
from diffusion_local.authority import guarded
from diffusion_local.domain import PRIORITIES, Batch, Lane, Params, Receipt, new_id, shortened, utc_now
from diffusion_local.errors import InvalidParams
from diffusion_local.lists.drafts import Drafts, checked_expansion
from diffusion_local.lists.grid import Grid, parse_grid
from diffusion_local.lists.plan import CatalogOfNow
from diffusion_local.lists.wildcards import Expander
from diffusion_local.messages import message
from diffusion_local.models.catalog import Catalog
from diffusion_local.options.table import BATCH_OPTIONS
from diffusion_local.options.values import check_prompt, draw_seed, whole_number
from diffusion_local.queue.batch_times import Timetable
from diffusion_local.queue.batches import BatchRows
from diffusion_local.queue.doorbell import JobQueue
from diffusion_local.queue.estimates import Work
from diffusion_local.queue.jobs import JobStore, new_jobs
from diffusion_local.queue.views import QueueView
from diffusion_local.settings import Settings

MOST_WARNINGS = 20
MOST = 2000  # pictures of a grid: what one contact sheet holds


@dataclass(frozen=True, slots=True)
class GridCheck:
    """What a grid would make; ``seconds`` is None where this machine has made no such picture yet."""

    pictures: int
    columns: list[str]
    rows: list[str]
    models: dict[str, int]
    seconds: float | None
    warnings: list[str]


@guarded("grids")
class Grids:
    """Part of the Studio, as ``studio.grids``."""

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
        """What the grid would make; nothing is enqueued. Raises InvalidParams naming the axis or the field."""
        grid, each, warnings, _ = self._planned(prompt, x, y, z, settings | {"expand": expand})
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
        """Enqueue a picture for each cell, all of one seed unless an axis says otherwise.

        ``settings`` are as in ``Studio.submit``. Raises InvalidParams, QueueFull and Conflict, and then
        nothing is enqueued.
        """
        for what, text in (("name", name), ("owner", owner), ("idempotency_key", idempotency_key or "")):
            check_prompt(what, text)
        times = self._timetable.resolve(lane, {each: settings.pop(each, None) for each in BATCH_OPTIONS})
        grid, each, warnings, request = self._planned(prompt, x, y, z, settings | {"expand": expand})
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
        jobs = new_jobs(batch, each, whole_number("priority", priority, *PRIORITIES))
        key = idempotency_key or None
        batch_id, ids = self._jobs.insert_batch(batch, jobs, key, self._settings.max_queued, request if key else "")
        self._queue.ring(len(ids))
        return Receipt(batch_id, ids, warnings + (self._rows.lateness(batch_id) if times.finish_by else []))

    def _planned(
        self, prompt: str, x: str, y: str, z: str, settings: dict[str, Any]
    ) -> tuple[Grid, list[Params], list[str], str]:
        """The grid, its pictures cell by cell, warnings of their prompts, and a digest of the request. All draw by the
        same seed, so that cells of equal prompts have equal choices."""
        check_prompt("prompt", prompt)
        for axis, text in (("x", x), ("y", y), ("z", z)):
            check_prompt(axis, text)
        grid = parse_grid(x, y, z, min(MOST, self._settings.max_queued))
        given = {name: value for name, value in settings.items() if value is not None}
        asked = given.pop("expand", None)
        if asked == "all":
            raise InvalidParams("expand", message("expand_grid"))
        expand = checked_expansion(asked, self._settings)
        if given.get("seed", -1) == -1:
            given["seed"] = draw_seed()
        drafts = Drafts(CatalogOfNow(self._catalog), Expander(self._settings.wildcards))
        each: list[Params] = []
        request = sha256()
        warnings: list[str] = []
        for place, (words, options) in enumerate(grid.cells(prompt, given)):
            try:
                draft = drafts.draft(words, options, expand)
                [params], found = draft.pictures(1, "random", 1)
            except InvalidParams as error:
                raise InvalidParams(error.field, message("in_grid", problem=error.problem, cell=place + 1)) from None
            each.append(params)
            request.update((draft.request(1, expand) or params.without_seeds().to_json()).encode())
            warnings += found if len(warnings) < MOST_WARNINGS else []
        return grid, each, list(dict.fromkeys(warnings)), request.hexdigest()
