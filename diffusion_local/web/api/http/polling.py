"""When a client should first ask about what it has submitted: the value of ``Retry-After``."""

import logging
import math
import time
from weakref import WeakKeyDictionary

from diffusion_local.domain import Job, Lane
from diffusion_local.studio import Studio

log = logging.getLogger(__name__)

NO_LONGER = 60  # seconds; upper limit of Retry-After
KEPT_SECONDS = 5.0  # how long an estimate serves other submits of the same lane and priority

Known = dict[tuple[Lane, int], tuple[float, int]]
_known: WeakKeyDictionary[Studio, Known] = WeakKeyDictionary()


def first_pause(studio: Studio, job_id: str) -> int:
    """Seconds after which asking about a job that was just submitted makes sense.

    The estimate reads all that runs and waits, which takes longer than the submit, so it is not made anew for each of
    many. A failing one is logged: as an error it would look like a failed submit, and the caller would submit again.
    """
    try:
        return first_pause_of(studio, studio.job(job_id))
    except Exception:
        log.exception("The time until job %s is done could not be estimated.", job_id)
        return 1


def first_pause_of(studio: Studio, job: Job) -> int:
    known, kind = _known.setdefault(studio, {}), (job.lane, job.priority)
    made_at, pause = known.get(kind, (-math.inf, 1))
    if time.monotonic() - made_at >= KEPT_SECONDS:
        seconds = studio.place(job)[1]
        pause = max(1, min(NO_LONGER, round(seconds or 1)))
        known[kind] = time.monotonic(), pause
    return pause
