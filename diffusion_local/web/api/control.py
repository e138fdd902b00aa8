"""The endpoints that steer the queue: cancel, again, pause, resume, order, forget, and a job's history."""

from typing import Any

from diffusion_local import shapes
from diffusion_local.errors import InvalidParams
from diffusion_local.messages import message
from diffusion_local.studio import Studio

MOST_NAMED = 1000  # ids in one call; a batch or "all" has no such limit
NAMES = ("cancel", "again", "pause", "resume", "move", "priority", "forget", "events")


class Control:
    """Each names its jobs in one way: ``job_id``, ``job_ids``, ``batch_id``, or all of a kind where it offers that."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio

    def cancel(
        self, job_id: str = "", batch_id: str = "", waiting: bool = False, job_ids: list[str] | None = None
    ) -> dict:
        """Cancel a job, several, a batch or all that wait: {"job_ids"} touched. Running ones stop at their next step.

        `waiting` leaves running pictures alone. A single job that has ended already is an error.
        """
        if job_id and batch_id:
            raise InvalidParams("batch_id", message("without_job_id"))
        chosen = named(job_id, job_ids)
        if waiting:
            alone("waiting", chosen, batch_id)
            return {"job_ids": self._studio.cancel_waiting()}
        return {"job_ids": self._studio.cancel(chosen, batch_id or None)}

    def again(
        self, job_id: str = "", job_ids: list[str] | None = None, batch_id: str = "", failed: bool = False
    ) -> dict:
        """Make new jobs from old ones' recipes, same seeds: {"batch_id", "job_ids", "warnings"}.

        Of the named jobs, of the failed jobs of a batch, or with `failed` of every failed job.
        """
        chosen = named(job_id, job_ids)
        if chosen and batch_id:
            raise InvalidParams("batch_id", message("no_batch_with_jobs"))
        if failed:
            alone("failed", chosen, "")  # beside a batch it says what is meant anyway
        elif not chosen and not batch_id:
            raise InvalidParams("job_ids", message("jobs_or_failed"))
        return shapes.receipt(self._studio.again(chosen, batch_id or None))

    def pause(self, batch_id: str = "", give_back: bool = False) -> dict:
        """Start no further picture, of the queue or of one batch, until /resume; kept over restarts.

        The running one is finished, or with `give_back` put back into its place at its next step.
        """
        if batch_id:
            self._studio.pause_batch(batch_id, give_back)
        else:
            self._studio.pause(give_back)
        return {"paused": True} | of_batch(batch_id)

    def resume(self, batch_id: str = "") -> dict:
        """Go on after /pause, of the queue or of one batch."""
        if batch_id:
            self._studio.resume_batch(batch_id)
        else:
            self._studio.resume()
        return {"paused": False} | of_batch(batch_id)

    def move(self, to: str, job_id: str = "", job_ids: list[str] | None = None, batch_id: str = "") -> dict:
        """Move waiting jobs to the `top`, or one job `up` or `down` by a place: {"job_ids"} that moved."""
        return {"job_ids": self._studio.move(to, named(job_id, job_ids), batch_id or None)}

    def priority(self, value: int, job_id: str = "", job_ids: list[str] | None = None, batch_id: str = "") -> dict:
        """Give waiting jobs another priority (-100 to 100, higher runs first): {"job_ids"} that it reached."""
        return {"job_ids": self._studio.set_priority(value, named(job_id, job_ids), batch_id or None)}

    def forget(self, job_ids: list[str] | None = None, batch_id: str = "", ended: bool = False) -> dict:
        """Delete ended jobs (`ended`: all of them) from the list, with their history: {"job_ids"} that are gone.

        Their pictures stay in the gallery.
        """
        chosen = named("", job_ids)
        if ended:
            alone("ended", chosen, batch_id)
        return {"job_ids": self._studio.forget(chosen, batch_id or None, ended)}

    def events(self, job_id: str) -> dict:
        """What happened to a job, oldest first: {"events"}, each with state, at, attempt, worker and note."""
        return {"events": [shapes.event(each) for each in self._studio.events(job_id)]}


def named(job_id: Any, job_ids: Any) -> list[str]:
    """The ids that a caller named, each once; refuses what is not a list of texts."""
    found = [job_id] if job_id else []
    if job_ids is not None:
        if not isinstance(job_ids, list):
            raise InvalidParams("job_ids", message("job_ids_list"))
        if found and job_ids:
            raise InvalidParams("job_ids", message("without_job_id"))
        found += job_ids
    if not all(isinstance(each, str) for each in found):
        raise InvalidParams("job_ids", message("job_ids_text"))
    if len(found) > MOST_NAMED:
        raise InvalidParams("job_ids", message("job_ids_most", most=MOST_NAMED, got=len(found)))
    return list(dict.fromkeys(found))


def alone(field: str, job_ids: list[str], batch_id: str) -> None:
    if job_ids or batch_id:
        raise InvalidParams(field, message("all_of_them"))


def of_batch(batch_id: str) -> dict[str, str]:
    return {"batch_id": batch_id} if batch_id else {}
