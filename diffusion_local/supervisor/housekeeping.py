"""Housekeeping, as Huey periodic tasks in the supervisor's process. Each is safe at any time and to run twice."""

import logging
from collections.abc import Callable
from functools import partial

from diffusion_local.compose import Services
from diffusion_local.db import upkeep
from diffusion_local.errors import UserError
from diffusion_local.gallery import retention
from diffusion_local.gallery.sweep import sweep
from diffusion_local.queue.doorbell import ChoreQueue
from diffusion_local.queue.huey_backends import queue_file, queue_url
from diffusion_local.system import logs

MERGED_DAYS = 2  # before, as a chore of each night may have been missed
SECONDS_A_TIME = 10.0  # of each part of giving space back
KEEP_TOLD_DAYS = 30  # that the delivery log goes back

log = logging.getLogger(__name__)


def sweep_gallery(services: Services) -> None:
    """Move pictures without a row aside, and trash rows without a file."""
    swept = sweep(services.files, services.database)
    if swept.strays or swept.missing:
        log.warning("swept: %d strays, %d missing", len(swept.strays), len(swept.missing))


def let_go(services: Services) -> None:
    """Retention of ended jobs, of the trash, of source pictures and of left-over previews; none while the clock is
    in doubt."""
    if not retention.trusted(services.database):
        log.warning("the time of day has jumped, or nothing ran for days: nothing is deleted by its age for a while")
        return
    jobs = retention.forget_old_jobs(services.settings, services.database)
    images = retention.empty_trash(services.settings, services.database, services.files)
    retention.forget_deleted(services.database)
    services.notices.forget(retention.days_ago(KEEP_TOLD_DAYS))
    previews = retention.drop_old_previews(services.files)
    sources = retention.drop_old_sources(services.settings, services.database, services.files)
    if jobs or images or previews or sources:
        words = "let go: %d jobs, %d pictures of the trash, %d previews, %d source pictures"
        log.info(words, jobs, images, previews, sources)


def give_back_space(services: Services) -> None:
    """Shrink databases and logs after much was deleted from them; what is left over is for the next time."""
    gained = compact(services, SECONDS_A_TIME)
    if any(gained):
        log.info("gave back %d kB of app.db, %d kB of queue.db, %d kB of logs", *(each // 1000 for each in gained))


def compact(services: Services, seconds: float, anyhow: bool = False) -> tuple[int, int, int]:
    """Bytes given back by app.db, queue.db and the logs; ``anyhow`` as in ``upkeep.shrink``."""
    upkeep.merge_text_index(services.database, retention.days_ago(MERGED_DAYS), seconds)
    reserve = services.settings.disk_reserve_mb * 1_000_000
    gained = upkeep.shrink(services.database, reserve, seconds, anyhow)
    queue = queue_file(services.settings)
    return gained, upkeep.shrink_file(queue) if queue else 0, logs.trim(services.settings)


def optimize(services: Services) -> None:
    retention.optimize(services.database)


def attempt(chore: Callable[[Services], None], services: Services) -> None:
    """A fault of the storage puts a chore off until its next time."""
    try:
        chore(services)
    except (UserError, OSError) as problem:
        log.error("%s was put off: %s", chore.__name__, problem)


#: (name, chore, hours between). All of them also run once when the supervisor starts. Names are kept for ever: Huey
#: drops a message whose task it does not know.
CHORES: tuple[tuple[str, Callable[[Services], None], int], ...] = (
    ("sweep_gallery", sweep_gallery, 6),
    ("let_go", let_go, 1),
    ("optimize", optimize, 6),
    ("give_back_space", give_back_space, 24),
)


def start_chores(services: Services) -> ChoreQueue:
    chores = ChoreQueue(queue_url(services.settings))
    for name, chore, hours in CHORES:
        chores.add_periodic(name, partial(attempt, chore, services), hours)
    chores.start()
    return chores
