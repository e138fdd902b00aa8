"""Delivery queues: one per receiver, in which deliveries are sent one after the other.

A receiver that hangs, or answers one byte per second, delays only its own queue. The number of active queues is bounded
per account and for all accounts together, so that one user's slow receivers do not delay others; receivers from the
settings and command hooks have their own bounds.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from diffusion_local.errors import DatabaseProblem
from diffusion_local.notify.deliveries import HOOK, DeliveryStore
from diffusion_local.notify.dispatcher import MAX_TRIES, webhooks
from diffusion_local.settings import Settings

log = logging.getLogger(__name__)

MAX_PER_ACCOUNT = 4
MAX_OF_ACCOUNTS = 32
MAX_OF_SETTINGS = 16
FIRST_DELAY, BACKOFF = 10.0, 4.0  # seconds before the second attempt, and the factor of each further delay
STOP_SECONDS = 5.0

#: Makes one attempt of a delivery: (id, seconds until the next attempt or None).
Deliver = Callable[[str, float | None], bool]


@dataclass(frozen=True, slots=True)
class DeliveryQueue:
    """A receiver: a command hook by name, or host and port with the account it belongs to ("": the settings)."""

    address: str
    account: str = ""

    @property
    def is_hook(self) -> bool:
        return self.address.startswith(HOOK)


class DeliveryQueues:
    """Sends due deliveries; one per home, in the supervisor. ``poll`` is cheap and called often."""

    def __init__(
        self, settings: Settings, deliveries: DeliveryStore, deliver: Deliver, delay: float = FIRST_DELAY
    ) -> None:
        self._of_settings = set(webhooks(settings))
        self._deliveries = deliveries
        self._deliver = deliver
        self._delay = delay
        self._working: dict[DeliveryQueue, threading.Thread] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()

    def poll(self) -> None:
        """Start a thread for every receiver with due deliveries, within the bounds. Raises DatabaseProblem."""
        for receiver, account in self._deliveries.due_receivers():
            slot = self.slot_of(receiver, account)
            with self._lock:
                if self._stop.is_set() or slot in self._working or not self._has_room(slot):
                    continue
                thread = threading.Thread(target=self._work, args=(slot,), name=f"slot {slot.address}", daemon=True)
                self._working[slot] = thread
                thread.start()

    def stop(self) -> None:
        """Start no more deliveries and give running ones STOP_SECONDS; interrupted ones are retried after a restart."""
        with self._lock:
            self._stop.set()
            working = list(self._working.values())
        deadline = time.monotonic() + STOP_SECONDS
        for thread in working:
            thread.join(max(0.0, deadline - time.monotonic()))

    def slot_of(self, receiver: str, account: str) -> DeliveryQueue:
        if receiver.startswith(HOOK):
            return DeliveryQueue(receiver)
        return DeliveryQueue(urlsplit(receiver).netloc.lower(), "" if receiver in self._of_settings else account)

    def _has_room(self, slot: DeliveryQueue) -> bool:
        if slot.is_hook:
            return True
        working = [each for each in self._working if not each.is_hook]
        of_account = sum(each.account == slot.account for each in working)
        if not slot.account:
            return of_account < MAX_OF_SETTINGS
        of_accounts = sum(each.account != "" for each in working)
        return of_account < MAX_PER_ACCOUNT and of_accounts < MAX_OF_ACCOUNTS

    def _work(self, slot: DeliveryQueue) -> None:
        """Send the due deliveries of a queue, one after the other."""
        try:
            while not self._stop.is_set() and self._deliver_next(slot):
                continue
        except DatabaseProblem as problem:
            log.error("%s", problem)
        except Exception:
            log.exception("a delivery to %s failed", slot.address)
        finally:
            with self._lock:
                del self._working[slot]

    def _deliver_next(self, slot: DeliveryQueue) -> bool:
        for receiver, account in self._deliveries.due_receivers():
            if self.slot_of(receiver, account) != slot:
                continue
            found = self._deliveries.next_due(receiver, account)
            if found is None:
                continue
            delivery_id, tries_left = found
            wait = self._delay * BACKOFF ** max(0, MAX_TRIES - tries_left)
            self._deliver(delivery_id, wait if tries_left > 1 else None)
            return True
        return False
