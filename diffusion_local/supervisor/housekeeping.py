"""Periodic housekeeping in the supervisor, on Huey. Every chore is idempotent and may run at any time."""

import logging
from collections.abc import Callable
from functools import partial

from diffusion_local.compose import Services
from diffusion_local.db import upkeep
from diffusion_local.errors import UserError
from diffusion_local.gallery import retention
from diffusion_local.gallery.sweep import sweep
from diffusion_local.queue import machines
from diffusion_local.queue.doorbell import ChoreQueue
from diffusion_local.queue.huey_backends import queue_file, queue_url
from diffusion_local.system import logs

MERGED_DAYS = 2  # look-back in days, because a nightly chore may have been missed
SECONDS_A_TIME = 10.0  # per part of a compaction
KEEP_TOLD_DAYS = 30  # retention of the delivery log

log = logging.getLogger(__name__)


def sweep_gallery(services: Services) -> None:
    """Move pictures without a row aside, and trash rows without a file."""
    swept = sweep(services.files, services.database)
    if swept.strays or swept.missing:
        log.warning("swept: %d strays, %d missing", len(swept.strays), len(swept.missing))


def delete_expired(services: Services) -> None:
    """Delete expired jobs, trash, source pictures, previews and counts; nothing while the clock cannot be trusted."""
    if not retention.clock_trusted(services.database):
        log.warning("the clock jumped, or nothing ran for days: for a while nothing is deleted by age")
        return
    jobs = retention.delete_old_jobs(services.settings, services.database)
    images = retention.empty_trash(services.settings, services.database, services.files)
    retention.delete_tombstones(services.database)
    machines.delete_old_counts(services.database)
    services.notices.delete_old(retention.days_ago(KEEP_TOLD_DAYS))
    previews = retention.delete_old_previews(services.files)
    sources = retention.delete_old_sources(services.settings, services.database, services.files)
    if jobs or images or previews or sources:
        words = "let go: %d jobs, %d pictures of the trash, %d previews, %d source pictures"
        log.info(words, jobs, images, previews, sources)


def give_back_space(services: Services) -> None:
    """Compact databases and logs within a time limit; the next run continues."""
    gained = compact(services, SECONDS_A_TIME)
    if any(gained):
        log.info("gave back %d kB of app.db, %d kB of queue.db, %d kB of logs", *(each // 1000 for each in gained))


def compact(services: Services, seconds: float, force: bool = False) -> tuple[int, int, int]:
    """Compact app.db, queue.db and the logs; returns the bytes released by each. ``force``: see ``upkeep.shrink``."""
    upkeep.merge_text_index(services.database, retention.days_ago(MERGED_DAYS), seconds)
    reserve = services.settings.disk_reserve_mb * 1_000_000
    gained = upkeep.shrink(services.database, reserve, seconds, force)
    queue = queue_file(services.settings)
    return gained, upkeep.shrink_file(queue) if queue else 0, logs.trim(services.settings)


def optimize(services: Services) -> None:
    retention.optimize(services.database)


def run_or_postpone(chore: Callable[[Services], None], services: Services) -> None:
    """Run a chore; a storage fault postpones it to its next run."""
    try:
        chore(services)
    except (UserError, OSError) as problem:
        log.error("%s was postponed: %s", chore.__name__, problem)


#: (name, chore, interval in hours). All also run once at startup. Names must never change, because Huey drops messages
#: of unknown tasks.
CHORES: tuple[tuple[str, Callable[[Services], None], int], ...] = (
    ("sweep_gallery", sweep_gallery, 6),
    ("let_go", delete_expired, 1),
    ("optimize", optimize, 6),
    ("give_back_space", give_back_space, 24),
)


def start_chores(services: Services) -> ChoreQueue:
    chores = ChoreQueue(queue_url(services.settings))
    for name, chore, hours in CHORES:
        chores.add_periodic(name, partial(run_or_postpone, chore, services), hours)
    chores.start()
    return chores
