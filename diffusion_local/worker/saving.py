"""Saves finished pictures on a thread of its own, and keeps them while gallery or database cannot be written."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from PIL import Image as PIL

from diffusion_local import blemishes
from diffusion_local.compose import House
from diffusion_local.domain import Image, Job, Kind, Params, utc_now
from diffusion_local.engine import Picture
from diffusion_local.errors import DatabaseProblem, LostClaim, Stopped, StorageProblem, UserError
from diffusion_local.messages import message
from diffusion_local.models.digests import Digests
from diffusion_local.store import faults, recipe
from diffusion_local.store.files import key_for
from diffusion_local.store.paces import Measured
from diffusion_local.worker.storage import Storage

log = logging.getLogger(__name__)

KEEP_SECONDS = 1.0  # between two reports about pictures that wait to be saved
#: Runs the work, and settles the job by what it raises.
Settle = Callable[[Job, Callable[[], None]], bool]


class Saver:
    """Saves one picture at a time, so that memory stays flat: one is saved while the next is made.

    A picture that waits keeps its claim: reports go on, so that neither a share that hangs nor a queue that is held
    makes the worker count as hung.
    """

    def __init__(self, house: House, storage: Storage, stop: threading.Event, settle: Settle) -> None:
        self._jobs = house.jobs
        self._files = house.files
        self._sources = house.studio.sources
        self._storage = storage
        self._stop = stop
        self._settle = settle
        self._digests = Digests(house.catalog.shelf)
        self._hashes: dict[str, Future[str]] = {}
        self._hasher = ThreadPoolExecutor(1, thread_name_prefix="hasher")
        self._saver = ThreadPoolExecutor(1, thread_name_prefix="saver")
        self._saving: Future[None] | None = None
        self._ready_at = 0.0
        self._unsaved: dict[str, Job] = {}
        self._closed = threading.Event()
        threading.Thread(target=self._keep, name="keeper", daemon=True).start()

    def save(self, job: Job, picture: Picture, measured: Measured, then: Callable[[Job], None]) -> None:
        """Save it once the one before is saved; ``then`` is called when the job is settled."""
        self._unsaved[job.id] = job
        self.wait()
        self._saving = self._saver.submit(self._finish, job, picture, measured, then, time.monotonic())

    def wait(self) -> None:
        """Until the last picture is saved, or its job settled otherwise."""
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()

    @property
    def unsaved(self) -> set[str]:
        """Ids of jobs whose pictures are made and wait to be saved."""
        return set(self._unsaved)

    def hash(self, model: str, compute: Callable[[Digests], str]) -> None:
        """Compute a model's hash beside the work; its first picture waits for it."""
        self._hashes[model] = self._hasher.submit(compute, self._digests)

    def close(self) -> None:
        self._digests.stop()
        self.wait()
        self._closed.set()
        for pool in (self._saver, self._hasher):
            pool.shutdown()

    def _finish(
        self, job: Job, picture: Picture, measured: Measured, then: Callable[[Job], None], handed_at: float
    ) -> None:
        try:
            self._settle(job, lambda: self._keep_until_saved(job, picture, self._whole(measured, picture, handed_at)))
        except DatabaseProblem as problem:  # the job is given back before the next claim
            log.error("the database cannot be used: %s", problem)
        finally:
            self._unsaved.pop(job.id, None)
            then(job)

    def _whole(self, measured: Measured, picture: Picture, handed_at: float) -> Measured:
        """Wait for a picture that was handed over before its device had finished, and count that time.

        The device makes one picture after the other: what it still did for the one before is not this one's. Raises
        EngineError.
        """
        picture.image  # noqa: B018 - waits for it
        if picture.ready_at is None or picture.ready_at <= handed_at:
            return measured
        began = max(handed_at - measured.run, self._ready_at)
        self._ready_at = picture.ready_at
        return replace(measured, run=picture.ready_at - began)

    def _keep_until_saved(self, job: Job, picture: Picture, measured: Measured) -> None:
        """Hold on to the picture while gallery or database cannot be written: it need not be made twice.

        Raises StorageProblem or DatabaseProblem where they can be written, and this picture still failed twice.
        """
        needed = 3 * picture.image.width * picture.image.height
        failed = False
        while True:
            try:
                with faults.explained():
                    self._save(job, picture, measured)
                return
            except (StorageProblem, DatabaseProblem) as problem:
                log.warning("could not be saved: %s", problem, extra={"job": job.id})
                if not self._storage.sound(needed):
                    self._storage.outlast(lambda: self._stop_if_unwanted(job), needed)
                    failed = False
                elif failed:
                    raise
                else:
                    failed = True

    def _stop_if_unwanted(self, job: Job) -> None:
        """Raises Stopped and LostClaim."""
        if self._stop.is_set():
            raise Stopped("shutdown")
        with contextlib.suppress(DatabaseProblem):
            if self._jobs.flags(job.claim).cancel:
                raise Stopped("cancel")

    def _save(self, job: Job, picture: Picture, measured: Measured) -> None:
        """Bytes before rows: the picture's row and `done` are written once its file is safe."""
        seconds = measured.run + measured.load
        key = key_for(job.id, job.created_at)
        width, height = picture.image.size
        image = Image(job.id, job.id, key, job.params, width, height, 0, utc_now(), seconds)
        self._jobs.flags(job.claim)  # a claim lost meanwhile must not touch the file
        facts = picture.facts | self._model_hash(job.params) | self._flag(job.params, picture.image)
        with self._storage.waiting():
            saved = self._files.save(key, picture.image, recipe.texts(image, facts))
        kept = replace(image, key=saved.key, bytes=saved.bytes, facts=facts)
        self._jobs.finish(job.claim, kept, measured)
        log.info("done in %.2f s", seconds, extra={"job": job.id})

    def _flag(self, params: Params, picture: PIL.Image) -> dict[str, str]:
        """The flag of a picture that is probably not what was wanted."""
        flag = blemishes.flag_of(picture, params, lambda: self._source(params))
        return {"flag": flag} if flag else {}

    def _source(self, params: Params) -> PIL.Image | None:
        try:
            with self._sources.file(params.source).open() as file, PIL.open(file) as source:
                return source.convert("RGB")
        except (OSError, UserError):  # it was deleted meanwhile
            return None

    def _model_hash(self, params: Params) -> dict[str, str]:
        """As A1111 writes it, ten digits. Computed at a model's first use, which its first picture may wait for."""
        computed = self._hashes.get(params.model) if params.kind is not Kind.UPSCALE else None
        digest = computed.result()[:10] if computed else ""
        return {"model_hash": digest} if digest else {}

    def _keep(self) -> None:
        """On a thread of its own: report for the pictures that wait."""
        seen: set[str] = set()
        while not self._closed.wait(KEEP_SECONDS):
            with contextlib.suppress(DatabaseProblem):
                self._storage.slow()
            waiting = dict(self._unsaved)
            for job in (job for job in waiting.values() if job.id in seen):
                with contextlib.suppress(DatabaseProblem, LostClaim):  # both are met again when it is saved
                    self._jobs.report(job.claim, job.params.steps, message("phase_saving"))
            seen = set(waiting)
