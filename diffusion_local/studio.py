"""The Studio: every operation that users can request. All interfaces call its methods."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from diffusion_local import actor
from diffusion_local.accounts.service import Accounts
from diffusion_local.authority import guarded
from diffusion_local.batches.service import Batches
from diffusion_local.domain import (
    PRIORITIES,
    Batch,
    Event,
    Image,
    Job,
    Lane,
    Receipt,
    Snapshot,
    State,
    Worker,
    new_id,
    shortened,
    utc_now,
)
from diffusion_local.errors import InvalidParams, NotFound, echo
from diffusion_local.gallery.blobs import StoredFile
from diffusion_local.gallery.files import ImageFiles
from diffusion_local.gallery.service import Pictures
from diffusion_local.gallery.sources import Sources, provisional
from diffusion_local.gallery.vision_answers import VisionAnswers
from diffusion_local.health.service import Health
from diffusion_local.health.storage_checks import StorageProbe
from diffusion_local.lists.drafts import Drafts, Prompts, parse_expansion
from diffusion_local.lists.grid_service import Grids
from diffusion_local.lists.queue_file import QueueFile
from diffusion_local.lists.service import PromptLists
from diffusion_local.lists.wildcards import Expander
from diffusion_local.machines import Machines
from diffusion_local.messages import message
from diffusion_local.models.adapters import Adapter
from diffusion_local.models.catalog import Catalog, Model
from diffusion_local.models.plans import MemoryPlans
from diffusion_local.models.service import Library
from diffusion_local.notify.service import Webhooks
from diffusion_local.options.table import BATCH_OPTIONS
from diffusion_local.options.validate import ignored_warnings
from diffusion_local.options.values import (
    check_cursor,
    check_integer,
    check_moment,
    check_number,
    check_prompt,
    draw_seed,
)
from diffusion_local.preferences import Preferences
from diffusion_local.queue.batch_times import Timetable
from diffusion_local.queue.doorbell import JobQueue
from diffusion_local.queue.jobs import new_jobs
from diffusion_local.queue.service import QueueService, parse_state
from diffusion_local.queue.views import QueueCounts
from diffusion_local.queue.workers import is_silent
from diffusion_local.reports.service import Reports
from diffusion_local.settings import Settings
from diffusion_local.stores import Stores
from diffusion_local.styles import Styles

MAX_WAIT = 3600.0
MAX_JOBS_BY_ID = 100  # jobs per call by id
POLL_SECONDS = 0.1  # polling interval of `wait`


@guarded("")
class Studio:
    """All use cases, built by ``compose.open_studio``. Each method is one use case; invalid input raises a UserError.

    Further operations by noun: ``lists`` and ``prompts`` (prompt lists, previews of draws), ``sources``, ``styles``,
    ``batches``, ``grids``, ``groups`` (the queue by batch), ``queue_file``, ``reports``, ``webhooks``, ``library``
    (models), ``accounts``, ``pictures`` and ``boards``, ``preferences`` (settings), ``health``, ``storage`` and
    ``machines`` (workers on other machines).
    """

    def __init__(
        self,
        settings: Settings,
        stores: Stores,
        files: ImageFiles,
        queue: JobQueue,
        sources: Sources,
        catalog: Catalog,
        library: Library,
        plans: MemoryPlans,
        reports: Reports,
        webhooks: Webhooks,
        timetable: Timetable,
        storage: StorageProbe,
        machines: Machines,
    ) -> None:
        self._settings = settings
        jobs, view, images = stores.jobs, stores.view, stores.images
        self._jobs = jobs
        self._view = view
        self._images = images
        self._workers = stores.workers
        self._tally = stores.tally
        self._files = files
        self._queue = queue
        self._catalog = catalog
        self.sources = sources
        self.styles = Styles(settings.home)
        self._timetable = timetable
        self.library = library
        self._plans = plans
        self.lists = PromptLists(
            settings, jobs, view, images, stores.batches, stores.results, files, queue, catalog, timetable
        )
        self.reports = reports
        self.webhooks = webhooks
        self.queue = QueueService(settings, jobs, stores.control, view, images, queue, reports)
        self.batches = Batches(settings, jobs, view, stores.batches, stores.results, files, queue, catalog, timetable)
        self.prompts = Prompts(settings, catalog, plans)
        self.grids = Grids(settings, jobs, view, stores.batches, queue, catalog, timetable)
        self.groups = stores.groups
        self.graphs = stores.graphs
        self.queue_file = QueueFile(settings, jobs, stores.results, queue, catalog)
        self.accounts = Accounts(settings, stores.accounts)
        self.pictures = Pictures(images, files, VisionAnswers(stores.vision_answers, settings.preprocessors))
        self.boards = stores.boards
        self.preferences = Preferences(settings)
        self.health = Health(settings, images, files)
        self.storage = storage
        self.machines = machines

    # -- submit and wait -------------------------------------------------------------------------------------------

    def submit(
        self,
        prompt: str,
        *,
        count: int = 1,
        seed: int | None = None,
        name: str = "",
        owner: str = "",
        lane: Lane = Lane.INTERACTIVE,
        priority: int = 0,
        idempotency_key: str | None = None,
        prediction: str = "",
        graph: str = "",
        expand: str | None = None,
        **settings: Any,
    ) -> Receipt:
        """Enqueue ``count`` pictures of a prompt. They are stored durably when this returns.

        Seeds are consecutive; with a variation seed, that one counts up instead. ``settings`` are fields of Params:
        absent ones and None take the model's default, and without a seed (or with -1) it is random. They may include
        the batch's ``start_at``, ``window``, ``finish_by`` and ``webhook`` (see ``queue.batch_times``).
        ``prediction``: see ``Batch``. ``expand``: how wildcards and choices in both prompts are expanded (see
        ``lists``): each picture draws its own, seeded by the first seed, or ``all`` makes ``count`` pictures of
        each combination; None uses the setting. Raises InvalidParams, QueueFull and Conflict; then nothing is enqueued.
        """
        with provisional(self.sources):  # control pictures are made while the options are checked
            count = check_integer("count", count, 1, self._settings.max_count)
            for field, text in (("name", name), ("owner", owner), ("idempotency_key", idempotency_key or "")):
                check_prompt(field, text)
            times = self._timetable.resolve(lane, {each: settings.pop(each, None) for each in BATCH_OPTIONS})
            first = draw_seed() if seed is None or seed == -1 else seed
            expand = parse_expansion(expand, self._settings)
            drafts = Drafts(self._catalog, Expander(self._settings.wildcards))
            draft = drafts.draft(prompt, settings | {"seed": first}, expand)
            each, warnings = draft.pictures(count, expand, self._settings.max_count)
            account = actor.current().owner(owner)
            title = name or shortened(each[0].prompt if draft.fixed else draft.params.prompt)
            details: dict[str, Any] = {"prediction": prediction, "graph": graph}
            batch = Batch(new_id(), title, account, lane, len(each), utc_now(), **details, **times.fields())
            jobs = new_jobs(batch, each, check_integer("priority", priority, *PRIORITIES))
            memory = self._plans.of_picture(each[0]) if each[0].additions else []
            key, request = idempotency_key or None, draft.submit_digest(count, expand) if idempotency_key else ""
            batch_id, job_ids = self._jobs.insert_batch(batch, jobs, key, self._settings.max_queued, request)
            self._queue.ring(len(job_ids))
            late = self.batches.warning(batch_id) if times.finish_by else []
            return Receipt(batch_id, job_ids, warnings + ignored_warnings(draft.params, settings) + late, memory)

    def wait(self, job_ids: Sequence[str], timeout: float) -> list[Job]:
        """The jobs, once all have ended or ``timeout`` seconds have passed. A timeout does not affect the jobs."""
        deadline = time.monotonic() + check_number("timeout", timeout, 0, MAX_WAIT)
        while True:
            jobs = [self._jobs.get(job_id) for job_id in job_ids]
            if all(job.final for job in jobs) or time.monotonic() >= deadline:
                return jobs
            time.sleep(min(POLL_SECONDS, max(0.0, deadline - time.monotonic())))

    # -- the queue -------------------------------------------------------------------------------------------------

    def job(self, job_id: str) -> Job:
        return self._jobs.get(job_id)

    def place(self, job: Job) -> tuple[int | None, float | None]:
        """(1-based queue position, seconds until done), each None if it does not apply or is unknown."""
        return self._view.place(job)

    def places(self, jobs: Sequence[Job]) -> dict[str, tuple[int | None, float | None]]:
        """``place`` for many jobs, by id."""
        return self._view.places(jobs)

    def recent_estimate(self, job: Job) -> float | None:
        """Seconds until a job that was just submitted is done, None if unknown.

        The jobs of one lane and priority share an estimate for some seconds.
        """
        return self._view.recent_estimate(job)

    def jobs(
        self,
        state: str | None = None,
        batch_id: str | None = None,
        limit: int = 50,
        before: str | None = None,
        ids: Sequence[str] = (),
        since: str | None = None,
        until: str | None = None,
    ) -> list[Job]:
        """Jobs, newest first. ``before``: last id of the previous page. ``ids``: only these jobs, at most 100.

        ``state``: one or several, comma-separated. ``since``, ``until`` (exclusive): bounds of the submit time.
        Raises InvalidParams.
        """
        if len(ids) > MAX_JOBS_BY_ID:
            raise InvalidParams("job_ids", message("job_ids_most", most=MAX_JOBS_BY_ID, got=len(ids)))
        if ids:
            return [self._jobs.get(job_id) for job_id in ids]
        states = [parse_state(each.strip()) for each in (state or "").split(",") if each.strip()]
        times = [check_moment(name, text) for name, text in (("since", since), ("until", until))]
        most, cursor = check_integer("limit", limit, 1, 1000), check_cursor("before", before)
        return self._view.jobs(states, batch_id or None, most, cursor, *times)

    def jobs_of_batches(self, batch_ids: Sequence[str], most: int = 1000) -> list[Job]:
        """The first ``most`` jobs of each batch, newest batch first; unknown ids are left out."""
        return self._view.first_jobs(list(batch_ids), most)

    def counts_of_batches(self, batch_ids: Sequence[str]) -> dict[str, dict[State, int]]:
        """Job counts by batch and state; unknown ids are left out."""
        return self._view.counts(list(batch_ids))

    def events(self, job_id: str) -> list[Event]:
        """The events of a job, oldest first."""
        self._jobs.get(job_id)
        return self._view.events(job_id)

    def snapshot(self, waiting: int = 50, ended: int = 20) -> Snapshot:
        """The queue at one moment."""
        moment = self._view.snapshot(waiting, ended)
        if not moment.reason and any(map(is_silent, moment.workers)):
            # a read-only database cannot store the reason
            moment = replace(moment, reason=self.storage.fault())
        elif not moment.reason:
            moment = replace(moment, reason=self.storage.fault(wait=False))
        return replace(moment, warnings=self.batches.late())

    def revision(self) -> int:
        """A number that increases with every visible change; while it is equal, there is nothing new to draw."""
        return self._view.revision()

    def workers(self) -> list[Worker]:
        """All workers. Their loaded models are disclosed only to actors that may read everyone's jobs."""
        found = self._workers.list_all()
        return found if actor.current().sees_all else [replace(each, model="") for each in found]

    # -- pictures and models ---------------------------------------------------------------------------------------

    def image(self, image_id: str) -> Image:
        return self._images.get(image_id)

    def images_of(self, jobs: Sequence[Job]) -> dict[str, Image]:
        """The jobs' pictures, by job id."""
        return self._images.of_jobs([job.id for job in jobs])

    def gallery(
        self,
        limit: int = 48,
        before: str | None = None,
        search: str = "",
        starred: bool = False,
        trashed: bool = False,
        flagged: bool = False,
    ) -> list[Image]:
        """Pictures, newest first. ``before``: last id of the previous page."""
        filters = {"starred": starred, "trashed": trashed, "flagged": flagged}
        return self.pictures.page(limit, before, search=search.strip(), **filters)

    def gallery_count(self) -> int:
        return self._images.count()

    def star(self, image_id: str, starred: bool = True) -> Image:
        return self.pictures.star([image_id], starred)[0]

    def trash(self, image_id: str) -> Image:
        """Move a picture to the trash; ``restore`` brings it back."""
        return self.pictures.trash([image_id])[0]

    def restore(self, image_id: str) -> Image:
        return self.pictures.restore([image_id])[0]

    def models(self) -> list[Model]:
        return self._catalog.all()

    # -- files, for the web routes -----------------------------------------------------------------------------------

    def picture_file(self, image_id: str) -> StoredFile:
        """A picture's file, with its recipe. Raises NotFound."""
        return require_existing(self._files.picture(self._images.get(image_id).key), image_id)

    def picture_data(self, image_id: str) -> bytes:
        """The bytes of a picture's file, with its recipe."""
        return self.picture_file(image_id).read_bytes()

    def thumbnail_file(self, image_id: str) -> StoredFile:
        """A picture's WebP thumbnail, at most 320 pixels on each side. Raises NotFound."""
        key = self._images.get(image_id).key
        require_existing(self._files.picture(key), image_id)
        return self._files.thumbnail(key)

    def preview_file(self, job_id: str) -> StoredFile:
        """A running job's newest preview (WebP). Raises NotFound."""
        return require_existing(self._files.preview(self._jobs.get(job_id).id), job_id)

    # -- monitoring and streams ----------------------------------------------------------------------------------------

    def moment(self) -> tuple[int, int]:
        """(revision, number of the newest event). Progress within a picture changes only the first."""
        return self._view.position()

    def events_after(
        self, number: int, job_id: str | None = None, batch_id: str | None = None, limit: int = 500
    ) -> list[tuple[int, Event]]:
        """Events with their numbers, oldest first: of a job, of a batch's jobs, or all."""
        return self._view.events_after(number, job_id, batch_id, limit)

    def batch(self, batch_id: str) -> tuple[Batch, dict[State, int]]:
        """A batch, and its job counts by state."""
        return self._view.batch(batch_id)

    def submitted_under(self, idempotency_key: str) -> str:
        """The id of the batch submitted with this idempotency key. Raises NotFound."""
        batch_id = self._view.batch_of_key(idempotency_key)
        if batch_id is None:
            raise NotFound(message("no_key"))
        return batch_id

    def adapters(self, kind: str) -> list[Adapter]:
        """The usable files of a kind: lora, vae, upscaler or embedding."""
        return [each for each in self._catalog.index.adapters(kind) if each.ready]

    def unfinished(self, job_ids: Sequence[str]) -> list[str]:
        """Those of the jobs that have not ended; a deleted job counts as ended."""
        return self._view.unfinished(list(job_ids))

    def tally(self) -> QueueCounts:
        """All counters for monitoring, read in one transaction."""
        return self._tally()


def require_existing(file: StoredFile, noun_id: str) -> StoredFile:
    if not file.exists():
        raise NotFound(message("file_gone", what=echo(noun_id)))
    return file
