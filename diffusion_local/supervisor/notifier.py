"""Telling others: what happened becomes deliveries, on a queue of its own, which go out by a slot for each receiver."""

import logging
import time
from datetime import datetime

from diffusion_local.compose import Services
from diffusion_local.errors import DatabaseProblem
from diffusion_local.notify.dispatcher import check_settings
from diffusion_local.notify.queues import FIRST_DELAY, DeliveryQueues
from diffusion_local.queue.doorbell import ChoreQueue
from diffusion_local.queue.huey_backends import queue_url
from diffusion_local.settings import local_zone

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
LOST_SECONDS = 5.0  # after which a ring that had no effect must have been lost
MINUTE = 60.0


class NotificationChore:
    """One per home, in the supervisor's process. ``look`` is cheap and called often."""

    def __init__(self, services: Services, delay: float = FIRST_DELAY) -> None:
        """``delay`` is the seconds before a second try. Raises InvalidParams for a setting that cannot be used."""
        check_settings(services.settings)
        self._house = services
        self._queue = ChoreQueue(queue_url(services.settings), "telling")
        self._slots = DeliveryQueues(services.settings, services.deliveries, services.teller.deliver, delay)
        self._rung_at: float | None = None
        self._looked_at = 0.0
        self._minute_at = 0.0
        self._ring_morning = self._queue.add_on_demand("morning", self._morning)
        self._ring = self._queue.add_on_demand("tell", self._tell)

    def start(self) -> None:
        """Begin with what an earlier process left."""
        self._house.deliveries.recover()
        self._queue.start()
        self._slots.look()

    def look(self) -> None:
        """Ring for what happened, and deliver what is due."""
        now = time.monotonic()
        if now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        if now - self._minute_at > MINUTE:
            self._minute_at = now
            self._ring_morning()
        try:
            self._slots.look()
            rung = self._rung_at is not None and now - self._rung_at < LOST_SECONDS
            if not rung and self._house.notices.any_untold():
                self._rung_at = now
                self._ring()
        except DatabaseProblem as problem:
            log.error("%s", problem)

    def stop(self) -> None:
        self._slots.stop()
        self._queue.stop()

    def _morning(self) -> None:
        self._house.teller.morning(datetime.now(local_zone(self._house.settings.timezone)))

    def _tell(self) -> None:
        try:
            if self._house.teller.tell():
                self._slots.look()
        finally:
            self._rung_at = None
