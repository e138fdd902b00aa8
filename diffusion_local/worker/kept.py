"""Stores unfinished passes while the worker is stopped: one file per pass, named by its first job and attempt."""

import json
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from diffusion_local import disk
from diffusion_local.domain import Job
from diffusion_local.engine import Engine, Part, Pass

log = logging.getLogger(__name__)

PASS_SUFFIX = ".pass"
#: Seconds after which an unused file is deleted.
KEPT_SECONDS = 7 * 86_400.0


class HeldPassStore:
    """``folder`` is on this machine, because a pass can continue only on its own device; None stores nothing."""

    def __init__(self, engine: Engine, folder: Path | None) -> None:
        self._engine = engine
        self._folder = folder
        for path in folder.glob("*") if folder and folder.is_dir() else ():
            with suppress(OSError):
                if path.stat().st_mtime < time.time() - KEPT_SECONDS:
                    path.unlink()

    def save(self, crew: Pass, jobs: Sequence[Job], model: str) -> None:
        """Store a held pass. ``jobs``: jobs of its live parts, in order; ``model``: version of the model's files.

        Disk errors are ignored: only the finished steps are lost.
        """
        if self._folder is None or crew.held is None or not jobs:
            return
        head = {
            "jobs": [[job.id, job.attempt, part.place] for job, part in zip(jobs, crew.live, strict=True)],
            "model": model,
            "size": crew.size,
            "rung": crew.rung,
        }
        with suppress(OSError):
            self._folder.mkdir(disk.FOLDER, parents=True, exist_ok=True)
            data = json.dumps(head).encode() + b"\n" + self._engine.serialize_held(crew.held)
            disk.replace_file(self._folder / f"{jobs[0].id}-{jobs[0].attempt}{PASS_SUFFIX}", data)
            log.info("stored after step %d for the next start", crew.held.steps, extra={"job": jobs[0].id})

    def restore(self, crew: Pass, jobs: Sequence[Job], model: str) -> None:
        """Let a new pass continue where a stored pass of the same jobs ended. ``jobs``: jobs of its parts, in order.

        The file is used only once: if the worker dies now, the jobs start from the beginning.
        """
        if self._folder is None or not jobs or jobs[0].attempt < 2:
            return
        path = self._folder / f"{jobs[0].id}-{jobs[0].attempt - 1}{PASS_SUFFIX}"
        try:
            head, _, data = path.read_bytes().partition(b"\n")
            path.unlink()
            record = json.loads(head)
            here = {(job.id, job.attempt - 1): part for job, part in zip(jobs, crew.parts, strict=True)}
            seats = [(here[job, attempt], place) for job, attempt, place in record["jobs"] if (job, attempt) in here]
            size, rung, held = int(record["size"]), str(record["rung"]), self._engine.restore_held(data)
        except (OSError, ValueError, TypeError, KeyError):
            return
        if held is None or record.get("model") != model or not seats or seats[0][0] is not crew.parts[0]:
            return
        assign_seats(crew, seats)
        crew.held, crew.size, crew.rung = held, size, rung
        log.info("continues after step %d", held.steps, extra={"job": jobs[0].id})


def assign_seats(crew: Pass, seats: Sequence[tuple[Part, int]]) -> None:
    """Set the places of the given parts; the others move to ``crew.left``."""
    for part, place in seats:
        part.place = place
    seated = [part for part, _ in seats]
    crew.left = [part for part in crew.parts if part not in seated] + crew.left
    crew.parts = seated
