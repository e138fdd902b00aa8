"""Endpoints about reports and deliveries."""

from diffusion_local import shapes
from diffusion_local.studio import Studio

NAMES = ("report", "report_again", "deliveries", "resend")


class Reports:
    def __init__(self, studio: Studio) -> None:
        self._studio = studio

    def report(self, batch_id: str = "", since: str = "", until: str = "") -> dict:
        """What a batch came to; without one, what ended between two times (by default in the last 12 hours)."""
        reports = self._studio.reports
        found = reports.batch(batch_id) if batch_id else reports.night(since or None, until or None)
        return found.to_dict()

    def report_again(self, reason: str, batch_id: str = "", since: str = "", until: str = "") -> dict:
        """New jobs for those that failed for one `reason` (its id in a report): {"batch_id", "job_ids", "warnings"}."""
        made = self._studio.reports.again(self._studio.again, reason, batch_id or None, since or None, until or None)
        return shapes.receipt(made)

    def deliveries(self, limit: int = 50, before: str = "", state: str = "") -> dict:
        """Who was told of what, newest first: {"deliveries", "next"}; `state`: waiting, sending, delivered, failed."""
        found = self._studio.webhooks.deliveries(limit, before or None, state or None)
        return {
            "deliveries": [shapes.delivery(each) for each in found],
            "next": found[-1].id if len(found) == limit else None,
        }

    def resend(self, delivery_id: str) -> dict:
        """Send a webhook's message again, with the id it had; the delivery."""
        return shapes.delivery(self._studio.webhooks.resend(delivery_id))
