"""Saves finished pictures on background threads, and holds them while gallery or database is not writable."""

import contextlib
import io
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from PIL import Image as PIL

from diffusion_local import disk, image_decoding
from diffusion_local.dispatch import Dispatch, Finished, OutputTerms, ProgressReport
from diffusion_local.domain import Image, Job, utc_text
from diffusion_local.engine import Picture
from diffusion_local.errors import DatabaseProblem, LostClaim, Stopped, StorageProblem, UserError
from diffusion_local.gallery import quality, recipes
from diffusion_local.gallery.image_formats import encode
from diffusion_local.messages import message
from diffusion_local.models.digests import Digests
from diffusion_local.options.table import Params
from diffusion_local.options.types import Kind
from diffusion_local.queue.estimates import JobTimings

log = logging.getLogger(__name__)

SAVERS = 2  # threads
TRY_SECONDS = 1.0  # between two checks whether a waiting picture can be saved
KEEP_SECONDS = 1.0  # between two reports about pictures waiting to be saved
#: Runs the work and settles the job by the exception it raises.
Settle = Callable[[Job, Callable[[], None]], bool]


class SharedDuration:
    """(Seconds per picture of a pass, whether the pass warmed up), computed once by the first thread that asks."""

    def __init__(self, compute: Callable[[], tuple[float, bool]]) -> None:
        self._compute = compute
        self._lock = threading.Lock()
        self._duration: tuple[float, bool] | None = None

    def __call__(self) -> tuple[float, bool]:
        with self._lock:
            if self._duration is None:
                self._duration = self._compute()
            return self._duration


class Saver:
    """Saves the pictures of one pass while the next runs; at most one pass waits, so memory use stays constant.

    A picture that waits to be saved keeps its claim: reports continue, so that a hanging network share or a blocked
    queue does not make the worker look hung.
    """

    def __init__(
        self,
        dispatch: Dispatch,
        terms: OutputTerms,
        digests: Digests,
        stop: threading.Event,
        settle: Settle,
        learn: Callable[[Params, int, float], bool] = lambda params, together, seconds: False,
        finish: Callable[[Callable[[str | None], list[Job]]], object] = lambda finish: finish(None),
    ) -> None:
        """``learn(params, pictures in the pass, seconds per picture)`` records how long a pass took, and returns
        whether it was the first of its kind and size. ``finish``: see ``Claiming.finish``.
        """
        self._finish_with = finish
        self._dispatch = dispatch
        self._terms = terms
        self._stop = stop
        self._settle = settle
        self._digests = digests
        self._hashes: dict[str, Future[str]] = {}
        self._hasher = ThreadPoolExecutor(1, thread_name_prefix="hasher")
        self._learn = learn
        # Small pictures that share a pass take as long to save as to make.
        self._saver = ThreadPoolExecutor(SAVERS, thread_name_prefix="saver")
        self._saving: list[Future[None]] = []
        self._ready_at = 0.0
        self._unsaved: dict[str, Job] = {}
        self._closed = threading.Event()
        threading.Thread(target=self._keep, name="keeper", daemon=True).start()

    def save(self, made: Sequence[tuple[Job, Picture, JobTimings]]) -> None:
        """Save the pictures of a pass, after those of the previous pass. ``JobTimings.run``: time of the whole pass."""
        if not made:
            return
        self._unsaved |= {job.id: job for job, _, _ in made}
        self.wait()
        pictures, measured, handed_at = [picture for _, picture, _ in made], made[0][2], time.monotonic()
        for job, picture, _ in made:
            picture.check = partial(self._check, job)

        def compute() -> tuple[float, bool]:
            seconds = self._seconds(pictures, measured.run, handed_at) / len(made)
            learned = measured.together and self._learn(made[0][0].params, measured.together, seconds)
            return seconds, bool(learned)

        share = SharedDuration(compute)
        self._saving = [self._saver.submit(self._finish, job, picture, each, share) for job, picture, each in made]

    def wait(self) -> None:
        """Wait until the last pictures are saved or their jobs settled."""
        saving, self._saving = self._saving, []
        for each in saving:
            each.result()

    @property
    def unsaved(self) -> set[str]:
        """Ids of jobs whose pictures are made but not saved yet."""
        return set(self._unsaved)

    def hash(self, model: str, compute: Callable[[Digests], str]) -> None:
        """Compute a model's hash in the background; its first picture waits for it."""
        self._hashes[model] = self._hasher.submit(compute, self._digests)

    def close(self) -> None:
        self._digests.stop()
        self.wait()
        self._closed.set()
        for pool in (self._saver, self._hasher):
            pool.shutdown()

    def _finish(self, job: Job, picture: Picture, measured: JobTimings, share: SharedDuration) -> None:
        def work() -> None:
            seconds, warm_up = share()
            picture.image  # noqa: B018 - raises the error of this picture
            self._save_with_retries(job, picture, replace(measured, run=seconds, warm_up=warm_up))

        try:
            self._settle(job, work)
        except DatabaseProblem as problem:  # the job is requeued before the next claim
            log.error("the database cannot be used: %s", problem)
        finally:
            self._unsaved.pop(job.id, None)

    def _seconds(self, pictures: Sequence[Picture], run: float, handed_at: float) -> float:
        """Wait for pictures that were returned before their device had finished; returns the seconds of the pass.

        Devices run one pass after another, so time spent on the previous pass does not count.
        """
        for picture in pictures:
            with contextlib.suppress(Exception):  # reported when the picture's own job is settled
                picture.image  # noqa: B018 - waits for the device
        ready = max((picture.ready_at or handed_at for picture in pictures), default=handed_at)
        if ready <= handed_at:
            return run
        began = max(handed_at - run, self._ready_at)
        self._ready_at = ready
        return ready - began

    def _save_with_retries(self, job: Job, picture: Picture, measured: JobTimings) -> None:
        """Save a picture; hold it while the studio cannot store it, so that it need not be made twice.

        Raises StorageProblem or DatabaseProblem if saving failed twice although the storage is writable.
        """
        needed = 3 * picture.image.width * picture.image.height
        failed = False
        finished = self._encode(job, picture, measured)
        while True:
            try:
                with disk.storage_errors():
                    self._save(job, finished)
                return
            except (StorageProblem, DatabaseProblem) as problem:
                log.warning("could not be saved: %s", problem, extra={"job": job.id})
                if not self._dispatch.check_storage(needed):
                    self._wait_for_storage(job, needed)
                    failed = False
                elif failed:
                    raise
                else:
                    failed = True

    def _check(self, job: Job) -> None:
        """Raise Stopped if the job was cancelled, LostClaim if its claim is lost."""
        with contextlib.suppress(DatabaseProblem):
            [flags] = self._dispatch.flags([job.claim])
            if flags is None:
                raise LostClaim
            if flags.cancel:
                raise Stopped("cancel")

    def _wait_for_storage(self, job: Job, needed: int) -> None:
        """Wait until the studio can store pictures. Raises Stopped if the job or worker is stopped, and LostClaim."""
        while True:
            self._stop.wait(TRY_SECONDS)
            if self._stop.is_set():
                raise Stopped("shutdown")
            self._check(job)
            if self._dispatch.check_storage(needed):
                return

    def _encode(self, job: Job, picture: Picture, measured: JobTimings) -> Finished:
        width, height = picture.image.size
        facts = picture.facts | self._model_hash(job.params) | self._flag(job, picture.image, picture.facts)
        now = utc_text(datetime.now(UTC) + timedelta(seconds=self._terms.clock_offset))
        image = Image(job.id, job.id, "", job.params, width, height, 0, now, measured.run + measured.load)
        texts = recipes.to_texts(image, facts)
        encoded = encode(picture.image, texts, self._terms.image_format, self._terms.sidecar)
        return Finished(encoded, width, height, image.created_at, measured, facts)

    def _save(self, job: Job, finished: Finished) -> None:
        self._finish_with(partial(self._dispatch.finish, job.claim, finished))
        log.info("done in %.2f s", finished.measured.run + finished.measured.load, extra={"job": job.id})

    def _flag(self, job: Job, picture: PIL.Image, facts: dict[str, Any]) -> dict[str, str]:
        """The flag of an incomplete or probably unwanted picture, as a fact of its recipe."""
        if "incomplete" in facts:
            return {"flag": quality.INCOMPLETE}
        flag = quality.flag_of(picture, job.params, lambda: self._source(job))
        return {"flag": flag} if flag else {}

    def _source(self, job: Job) -> PIL.Image | None:
        try:
            file = io.BytesIO(self._dispatch.source(job.claim, job.params.source))
            with PIL.open(file) as source, image_decoding.share(source):
                return source.convert("RGB")
        except (OSError, UserError):  # deleted meanwhile
            return None

    def _model_hash(self, params: Params) -> dict[str, str]:
        """A1111's model hash (ten hex digits), as a fact. A model's first picture waits until it is computed."""
        computed = self._hashes.get(params.model) if params.kind is not Kind.UPSCALE else None
        digest = computed.result()[:10] if computed else ""
        return {"model_hash": digest} if digest else {}

    def _keep(self) -> None:
        """Report the pictures that wait to be saved; runs on a background thread."""
        seen: set[str] = set()
        while not self._closed.wait(KEEP_SECONDS):
            waiting = dict(self._unsaved)
            reports = [
                ProgressReport(job.claim, job.params.total_steps, message("phase_saving"))
                for job in waiting.values()
                if job.id in seen
            ]
            if reports:
                with contextlib.suppress(DatabaseProblem):
                    self._dispatch.report(reports)
            seen = set(waiting)
