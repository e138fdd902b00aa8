"""Ends leases of workers on other machines that were lost or hang, and returns their jobs to the queue."""

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime

from diffusion_local.compose import Services
from diffusion_local.dispatch import slots

log = logging.getLogger(__name__)

JUMP_SECONDS = 10.0  # by which the clock may differ from the monotonic one between two polls
LONGEST_GAP = 15.0  # seconds between two polls; after a longer one silence means nothing

Report = tuple[str, str]  # job, time of its last report


class LeaseWatch:
    """``poll`` is called every few seconds by the supervisor."""

    def __init__(
        self,
        services: Services,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._services = services
        self._clock = clock
        self._wall = wall
        self._polled: tuple[float, datetime] | None = None
        self._heard: dict[str, dict[Report, float]] = {}

    def poll(self, healthy_seconds: float) -> None:
        """``healthy_seconds``: for how long workers have been able to reach the web process."""
        now, wall = self._clock(), self._wall()
        before, self._polled = self._polled, (now, wall)
        if before is not None:
            passed = now - before[0]
            if abs((wall - before[1]).total_seconds() - passed) > JUMP_SECONDS:
                log.warning("the time of day has jumped: every lease runs anew")
                self._services.leases.renew_all()
            if passed > LONGEST_GAP:
                self._heard.clear()
        if healthy_seconds <= self._services.settings.lease_seconds:
            self._heard.clear()  # nobody could report
            return
        slots.recover_expired(self._services)  # whoever lives has renewed its lease since the web process is there
        self._end_hung(now)

    def _end_hung(self, now: float) -> None:
        """A worker whose heartbeat goes on may hang all the same: its jobs then report no progress within their limit,
        by the rule that holds for workers of this machine.
        """
        view, timeout = self._services.view, self._services.settings.step_timeout
        found: dict[str, dict[Report, float]] = {}
        for lease in self._services.leases.all():
            known, found[lease.slot] = self._heard.get(lease.slot, {}), {}
            for job, at, limit in view.running_reports(lease.slot, timeout):
                since = found[lease.slot][(job.id, at)] = known.get((job.id, at), now)
                if now - since > limit:
                    log.error("%s made no progress for too long", lease.slot, extra={"job": job.id})
                    slots.recover_hung(self._services, lease.slot)
                    break
        self._heard = found
