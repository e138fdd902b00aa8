"""Turns events into notifications and sends them, on a queue of its own."""

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

POLL_SECONDS = 1.0
LOST_SECONDS = 5.0  # after which a ring without effect must have been lost
MINUTE = 60.0


class NotificationChore:
    """One per home, in the supervisor. ``poll`` is cheap and called often."""

    def __init__(self, services: Services, delay: float = FIRST_DELAY) -> None:
        """``delay``: seconds before a second attempt. Raises InvalidParams for an unusable setting."""
        check_settings(services.settings)
        self._services = services
        self._queue = ChoreQueue(queue_url(services.settings), "telling")
        self._slots = DeliveryQueues(services.settings, services.deliveries, services.notifications.deliver, delay)
        self._rung_at: float | None = None
        self._polled_at = 0.0
        self._minute_at = 0.0
        self._ring_daily = self._queue.add_on_demand("morning", self._write_daily_report)
        self._ring = self._queue.add_on_demand("tell", self._create_deliveries)

    def start(self) -> None:
        """Start, recovering deliveries of an earlier process."""
        self._services.deliveries.recover()
        self._queue.start()
        self._slots.poll()

    def poll(self) -> None:
        """Ring for new notifications, and deliver what is due."""
        now = time.monotonic()
        if now - self._polled_at < POLL_SECONDS:
            return
        self._polled_at = now
        if now - self._minute_at > MINUTE:
            self._minute_at = now
            self._ring_daily()
        try:
            self._slots.poll()
            rung = self._rung_at is not None and now - self._rung_at < LOST_SECONDS
            if not rung and self._services.notices.any_unhandled():
                self._rung_at = now
                self._ring()
        except DatabaseProblem as problem:
            log.error("%s", problem)

    def stop(self) -> None:
        self._slots.stop()
        self._queue.stop()

    def _write_daily_report(self) -> None:
        self._services.notifications.write_daily_report(datetime.now(local_zone(self._services.settings.timezone)))

    def _create_deliveries(self) -> None:
        try:
            if self._services.notifications.create_deliveries():
                self._slots.poll()
        finally:
            self._rung_at = None
