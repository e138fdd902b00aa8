"""The chores about telling others, on a queue of their own: a slow receiver keeps no other chore waiting."""

import logging
import time
from datetime import datetime

from diffusion_local.compose import House
from diffusion_local.errors import DatabaseProblem
from diffusion_local.queue import ChoreQueue
from diffusion_local.settings import local_zone
from diffusion_local.store.deliveries import LOST_SECONDS
from diffusion_local.telling.receivers import MOST_TRIES, check_settings

log = logging.getLogger(__name__)

THREADS = 3
LOOK_SECONDS = 1.0
MINUTE = 60.0
FIRST_DELAY, BACKOFF = 10.0, 4.0  # seconds before the second try, and how much longer each further one


class Post:
    """One per home, in the supervisor's process. ``look`` is cheap and called often; the work is Huey's."""

    def __init__(self, house: House, delay: float = FIRST_DELAY) -> None:
        """Raises InvalidParams for a setting that cannot be used."""
        check_settings(house.settings)
        self._house = house
        self._queue = ChoreQueue(house.settings.queue_database, "telling", THREADS)
        self._rung_at: float | None = None
        self._looked_at = 0.0
        self._minute_at = 0.0
        self._ring_for = self._queue.add_tried("deliver", house.teller.deliver, MOST_TRIES, delay, BACKOFF)
        self._ring_morning = self._queue.add_tried("morning", self._morning, 1, 0, 0)
        self._ring = self._queue.add_tried("tell", self._tell, 1, 0, 0)

    def start(self) -> None:
        self._house.deliveries.recover()
        self._queue.start()
        for delivery_id in self._house.deliveries.due(0):
            self._ring_for(delivery_id)

    def look(self) -> None:
        """Ring for what happened, and for deliveries that nobody rang for."""
        now = time.monotonic()
        if now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        if self._rung_at is not None and now - self._rung_at < LOST_SECONDS:
            return
        if now - self._minute_at > MINUTE:
            self._minute_at = now
            self._ring_morning("")
        try:
            wanted = self._house.notices.any_untold() or self._house.deliveries.due()
        except DatabaseProblem as problem:
            log.error("%s", problem)
            return
        if wanted:
            self._rung_at = now
            self._ring("")

    def stop(self) -> None:
        self._queue.stop()

    def _morning(self, _: str, __: float | None) -> bool:
        self._house.teller.morning(datetime.now(local_zone(self._house.settings.timezone)))
        return True

    def _tell(self, _: str, __: float | None) -> bool:
        try:
            self._house.teller.tell(self._ring_for)
        finally:
            self._rung_at = None
        return True
