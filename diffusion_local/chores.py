"""Housekeeping, as Huey periodic tasks in the supervisor's process. Each is safe at any time and to run twice."""

import logging
from collections.abc import Callable
from functools import partial

from diffusion_local import logs
from diffusion_local.compose import House
from diffusion_local.db import upkeep
from diffusion_local.doorbell import file_of, url_of
from diffusion_local.errors import UserError
from diffusion_local.queue import ChoreQueue
from diffusion_local.store import clock, retention
from diffusion_local.store.sweep import sweep

MERGED_DAYS = 2  # before, as a chore of each night may have been missed
SECONDS_A_TIME = 10.0  # of each part of giving space back
KEEP_TOLD_DAYS = 30  # that the delivery log goes back

log = logging.getLogger(__name__)


def sweep_gallery(house: House) -> None:
    """Move pictures without a row aside, and trash rows without a file."""
    swept = sweep(house.files, house.database)
    if swept.strays or swept.missing:
        log.warning("swept: %d strays, %d missing", len(swept.strays), len(swept.missing))


def let_go(house: House) -> None:
    """Retention of ended jobs, of the trash, of source pictures and of left-over previews; none while the clock is
    in doubt."""
    if not clock.trusted(house.database):
        log.warning("the time of day has jumped, or nothing ran for days: nothing is deleted by its age for a while")
        return
    jobs = retention.forget_old_jobs(house.settings, house.database)
    images = retention.empty_trash(house.settings, house.database, house.files)
    retention.forget_deleted(house.database)
    house.notices.forget(retention.days_ago(KEEP_TOLD_DAYS))
    previews = retention.drop_old_previews(house.files)
    sources = retention.drop_old_sources(house.settings, house.database, house.files)
    if jobs or images or previews or sources:
        words = "let go: %d jobs, %d pictures of the trash, %d previews, %d source pictures"
        log.info(words, jobs, images, previews, sources)


def give_back_space(house: House) -> None:
    """Shrink databases and logs after much was deleted from them; what is left over is for the next time."""
    gained = compact(house, SECONDS_A_TIME)
    if any(gained):
        log.info("gave back %d kB of app.db, %d kB of queue.db, %d kB of logs", *(each // 1000 for each in gained))


def compact(house: House, seconds: float, anyhow: bool = False) -> tuple[int, int, int]:
    """Bytes given back by app.db, queue.db and the logs; ``anyhow`` as in ``upkeep.shrink``."""
    upkeep.merge_text(house.database, retention.days_ago(MERGED_DAYS), seconds)
    reserve = house.settings.disk_reserve_mb * 1_000_000
    gained = upkeep.shrink(house.database, reserve, seconds, anyhow)
    queue = file_of(house.settings)
    return gained, upkeep.shrink_file(queue) if queue else 0, logs.trim(house.settings)


def optimize(house: House) -> None:
    retention.optimize(house.database)


def attempt(chore: Callable[[House], None], house: House) -> None:
    """A fault of the storage puts a chore off until its next time."""
    try:
        chore(house)
    except (UserError, OSError) as problem:
        log.error("%s was put off: %s", chore.__name__, problem)


#: (name, chore, hours between). All of them also run once when the supervisor starts. Names are kept for ever: Huey
#: drops a message whose task it does not know.
CHORES: tuple[tuple[str, Callable[[House], None], int], ...] = (
    ("sweep_gallery", sweep_gallery, 6),
    ("let_go", let_go, 1),
    ("optimize", optimize, 6),
    ("give_back_space", give_back_space, 24),
)


def start_chores(house: House) -> ChoreQueue:
    chores = ChoreQueue(url_of(house.settings))
    for name, chore, hours in CHORES:
        chores.add(name, partial(attempt, chore, house), hours)
    chores.start()
    return chores
