"""Batches on the clock: what a person asks of time, checked against the queue's own window."""

from collections.abc import Callable, Mapping
from datetime import datetime, tzinfo

from diffusion_local.db.database import Database
from diffusion_local.domain import Batch, Lane, utc_now, utc_text
from diffusion_local.store.line import Rules
from diffusion_local.timing import Timing, late_warning, timing


class Timetable:
    def __init__(self, database: Database, rules: Rules, check_webhook: Callable[[str], None]) -> None:
        self._database = database
        self._check_webhook = check_webhook
        self._rules = rules

    @property
    def zone(self) -> tzinfo:
        return self._rules.zone

    def timing(self, lane: Lane, given: Mapping[str, str | None]) -> Timing:
        """Raises InvalidParams."""
        if not any(given.values()):
            return Timing()
        found = timing(datetime.fromisoformat(utc_now()), self.zone, self._queue_window(lane), **given)
        if found.webhook:
            self._check_webhook(found.webhook)
        return found

    def changed(self, batch: Batch, given: Mapping[str, str]) -> dict[str, str | None]:
        """The batch's times with some of them changed (an empty one is taken away). Raises InvalidParams.

        Times that stay are not checked again: they may be in the past by now.
        """
        new = self.timing(batch.lane, {"window": batch.window, **given})
        return {name: value for name, value in new.fields().items() if name in given}

    def foreseen(self, seconds: float | None, given: Mapping[str, str | None]) -> tuple[str | None, str]:
        """(when so much work of the batch lane would be done, in UTC; a sentence if that is too late).

        Raises InvalidParams.
        """
        times = self.timing(Lane.BATCH, given)
        if seconds is None:
            return None, ""
        now = datetime.fromisoformat(utc_now())
        done = times.done_at(now, seconds, self.zone, self._queue_window(Lane.BATCH))
        return utc_text(done), late_warning(times.finish_by, done, self.zone)

    def _queue_window(self, lane: Lane) -> str:
        with self._database.read() as db:
            return db.scalar("SELECT window FROM queue") if lane is Lane.BATCH else ""
