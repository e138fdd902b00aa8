"""Creates deliveries for notifications and makes delivery attempts. Runs in the supervisor."""

import json
import logging
import re
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from diffusion_local.domain import Batch, Image, Job, Lane, shortened, utc_text
from diffusion_local.errors import DiskFull, InvalidParams, NotFound, UserError, echo
from diffusion_local.gallery.files import ImageFiles
from diffusion_local.gallery.images import ImageStore
from diffusion_local.messages import message
from diffusion_local.notify import hooks, predictions, webhook
from diffusion_local.notify.deliveries import EVENTS, HOOK, DeliveryStore, Notice, NoticeStore
from diffusion_local.notify.outbound_hosts import AllowedTargets, parse_url
from diffusion_local.notify.signed_urls import Links, root_of
from diffusion_local.notify.webhook import webhook_secret
from diffusion_local.queue.jobs import JobStore
from diffusion_local.queue.views import QueueView
from diffusion_local.reports.report import Report
from diffusion_local.reports.service import Reports
from diffusion_local.settings import Settings

MAX_TRIES = 8  # delays of 10 s, then 4 times longer each: the last attempt about 15 hours after the first
#: Events sent to a batch's own webhook.
BATCH_EVENTS = ("batch.done", "job.failed")
IDLE = timedelta(seconds=20)  # idle time before it is announced: the user may just be thinking
MOST_PICTURES = 100  # pictures per message
STALE = timedelta(hours=1)  # age at which idle and paused notifications are obsolete


def webhooks(settings: Settings) -> list[str]:
    return list(dict.fromkeys(re.findall(r"[^\s,]+", settings.webhooks)))


def events(settings: Settings) -> set[str]:
    return set(re.findall(r"[^\s,]+", settings.webhook_events))


def check_settings(settings: Settings) -> None:
    """Raise InvalidParams if a notification setting is unusable; host names are not resolved."""
    for url in webhooks(settings):
        parse_url(url, "webhooks")
    unknown = events(settings) - set(EVENTS)
    if unknown:
        raise InvalidParams(
            "webhook_events", message("hook_events", known=list(EVENTS), got=echo(", ".join(sorted(unknown))))
        )
    AllowedTargets.parse(settings.webhook_allow_private)
    report_time(settings)


def report_time(settings: Settings) -> time | None:
    """Local time of the daily report, or None. Raises InvalidParams."""
    text = settings.report_at.strip()
    if not text:
        return None
    if not re.fullmatch(r"([01]?\d|2[0-3]):[0-5]\d", text):
        raise InvalidParams("report_at", message("report_clock", got=echo(text)))
    hours, minutes = text.split(":")
    return time(int(hours), int(minutes))


def receivers(settings: Settings, event: str, webhook: str) -> dict[str, int]:
    """Number of attempts by receiver. ``webhook``: the batch's own, or ""."""
    found = [*webhooks(settings)] if event in events(settings) else []
    if webhook and event in BATCH_EVENTS:
        found.append(webhook)
    tries = dict.fromkeys(found, MAX_TRIES)
    hook = hooks.hook_receiver(settings, event)
    return tries | ({hook: 1} if hook else {})


log = logging.getLogger(__name__)


class NotificationDispatcher:
    def __init__(
        self,
        settings: Settings,
        notices: NoticeStore,
        deliveries: DeliveryStore,
        jobs: JobStore,
        view: QueueView,
        reports: Reports,
        images: ImageStore,
        files: ImageFiles,
    ) -> None:
        self._settings = settings
        self._notices = notices
        self._deliveries = deliveries
        self._jobs = jobs
        self._view = view
        self._reports = reports
        self._images = images
        self._files = files
        self._links = Links(settings)
        self._reported: date | None = None

    def create_deliveries(self) -> list[str]:
        """Create deliveries for new notifications; returns their ids."""
        made = []
        for notice in self._notices.unhandled():
            wait = self._too_early(notice)
            if wait is None:
                self._notices.drop(notice)
            elif not wait:
                if notice.event == "batch.done":
                    self._keep_report(notice.batch_id)
                made += self._deliveries.add(notice, *self._message(notice))
        return made

    def deliver(self, delivery_id: str, seconds_to_next: float | None) -> bool:
        """Make one attempt if it is due; returns False if another is due after ``seconds_to_next``."""
        delivery = self._deliveries.take(delivery_id)
        if delivery is None:
            return True
        if delivery.receiver.startswith(HOOK):
            outcome = hooks.run(self._settings, delivery.receiver, delivery.payload)
        else:
            try:
                secret = webhook_secret(self._settings)
                allowed = self._settings.webhook_allow_private
                outcome = webhook.post(delivery.receiver, delivery.id, delivery.payload, secret, allowed)
            except (UserError, OSError) as problem:  # caused by our own settings or disk
                outcome = webhook.Outcome(False, error=str(problem))
        again_at = None
        if not outcome.delivered and not outcome.final and delivery.tries_left > 0 and seconds_to_next is not None:
            again_at = utc_text(datetime.now(UTC) + timedelta(seconds=seconds_to_next))
        self._deliveries.settle(delivery.id, outcome.delivered, outcome.status, outcome.answer, outcome.error, again_at)
        summary = f"{delivery.event} to {delivery.receiver}"
        if outcome.delivered:
            log.info("delivered %s", summary)
        else:
            log.warning("not delivered %s: %s%s", summary, outcome.error, f"; again at {again_at}" if again_at else "")
        return again_at is None

    def write_daily_report(self, now: datetime) -> None:
        """Write a report of the last 24 hours daily at ``report_at``, if jobs of a list ran. ``now``: local time."""
        at = report_time(self._settings)
        if at is None or now.time() < at or self._reported == now.date():
            return
        self._reported = now.date()
        stem = f"{now:%Y-%m-%d}-morning"
        if self._files.report(f"{stem}.html").exists():
            return
        until = datetime.combine(now.date(), at, now.tzinfo)
        report = self._reports.night((until - timedelta(days=1)).isoformat(), until.isoformat())
        if any(each.lane == Lane.BATCH for each in report.batches):
            log.info("the morning report is %s", self._reports.keep(report, stem))

    def _keep_report(self, batch_id: str) -> None:
        """Write a prompt list's report to files. A failure is logged and does not prevent the notification."""
        try:
            report = self._reports.batch(batch_id)
            if any(each.lane == Lane.BATCH for each in report.batches):
                day = datetime.fromisoformat(report.until).astimezone() if report.until else datetime.now()
                self._reports.keep(report, f"{day:%Y-%m-%d}-{batch_id}")
        except NotFound:
            return
        except (DiskFull, OSError) as problem:
            log.warning("the report of batch %s could not be written: %s", batch_id, problem)

    def _too_early(self, notice: Notice) -> bool | None:
        """Whether it is too early to deliver; None if the notification is obsolete."""
        age = datetime.now(UTC) - datetime.fromisoformat(notice.at)
        if notice.event in ("queue.idle", "queue.paused") and age > STALE:
            return None
        if notice.event != "queue.idle":
            return False
        if self._notices.busy() or self._notices.superseded(notice):
            return None
        return timedelta() <= age < IDLE  # negative: a time in the future, set while the clock was wrong

    def _message(self, notice: Notice) -> tuple[str, dict[str, int], dict[str, str]]:
        """(payload, attempts by receiver, payloads of receivers that get a different one). The report is left out if
        the batch was deleted meanwhile.
        """
        batch = self._batch(notice.batch_id)
        if batch is not None and batch.webhook and batch.prediction:
            everywhere, own = receivers(self._settings, notice.event, ""), self._prediction(notice.event, batch)
        else:
            everywhere, own = receivers(self._settings, notice.event, batch.webhook if batch else ""), {}
        payload = payload_of(notice.event, notice.at, self._data(notice) if everywhere else {})
        return payload, everywhere | dict.fromkeys(own, MAX_TRIES), own

    def _batch(self, batch_id: str) -> Batch | None:
        try:
            return self._view.batch(batch_id)[0] if batch_id else None
        except NotFound:
            return None

    def _prediction(self, event: str, batch: Batch) -> dict[str, str]:
        """The payload for the batch's own webhook, by receiver; empty if it did not subscribe to the event."""
        subscription = predictions.Subscription.of_batch(batch)
        if predictions.WEBHOOK_EVENTS.get(event) not in subscription.events:
            return {}
        jobs = self._view.jobs((), batch.id, predictions.MOST_JOBS, None)
        if event == "batch.started":
            content = predictions.started_prediction(subscription, batch, jobs)
        else:
            images = self._images.of_jobs([job.id for job in jobs])
            content = predictions.prediction(
                subscription, batch, jobs, images, lambda image: self._address(subscription.root, image, batch.owner)
            )
        return {batch.webhook: json.dumps(content, ensure_ascii=False)}

    def _addresses(self, batch_id: str) -> dict[str, Any]:
        """Absolute addresses of a batch, its report and its first MOST_PICTURES pictures. If accounts are in use, those
        of pictures are signed on behalf of the owner, so that a plain GET opens them.
        """
        root, batch = root_of(self._settings), self._view.batch(batch_id)[0]
        jobs = self._view.jobs((), batch_id, MOST_PICTURES)
        images = self._images.of_jobs([job.id for job in jobs])
        pictures = [
            {"id": image.id, "job_id": job.id, "url": self._address(root, image, batch.owner)}
            for job in jobs
            if (image := images.get(job.id))
        ]
        addresses = {
            "status_url": f"{root}/api/v1/batches/{batch_id}",
            "result_url": f"{root}/api/v1/batches/{batch_id}/images",
            "zip_url": f"{root}/api/v1/batches/{batch_id}/zip",
            "report_url": f"{root}/reports/batch/{batch_id}.html",
        }
        return addresses | {"images": pictures}

    def _address(self, root: str, image: Image, owner: str) -> str:
        """Absolute address of a picture, signed on behalf of its owner, if any."""
        path = f"/images/{image.id}{image.suffix}"
        return f"{root}{path}{self._links.query(path, owner) if owner else ''}"

    def _data(self, notice: Notice) -> dict[str, Any]:
        try:
            match notice.event:
                case "batch.done":
                    data = report_data(self._reports.batch(notice.batch_id))
                    return data | self._addresses(notice.batch_id)
                case "job.failed":
                    return job_data(self._jobs.get(notice.job_id))
                case "queue.idle":
                    # Times have millisecond precision, and a report excludes its end time.
                    until = datetime.now(UTC) + timedelta(milliseconds=1)
                    return report_data(self._reports.night(self._notices.previous_at(notice), utc_text(until)))
        except NotFound:
            return {"batch_id": notice.batch_id, "job_id": notice.job_id}
        return {"reason": notice.note or "paused by a person"}


def payload_of(event: str, at: str, data: dict[str, Any]) -> str:
    """Request body as defined by Standard Webhooks."""
    return json.dumps({"type": event, "timestamp": at, "data": data}, ensure_ascii=False)


def report_data(report: Report) -> dict[str, Any]:
    data = report.to_dict()
    facts = {
        "batch_id": report.batch_id,
        "name": shortened(report.title, 200),
        **{state: report.counts[state] for state in ("done", "failed", "cancelled")},
        "count": sum(report.counts.values()),
        "flagged": sum(report.flagged.values()),
        "seconds": round(report.seconds, 1),
        "report": f"/reports/batch/{report.batch_id}.html" if report.batch_id else "/reports/night.html",
    }
    return {name: value for name, value in facts.items() if value is not None} | {"summary": data}


def job_data(job: Job) -> dict[str, Any]:
    assert job.failure is not None
    return {
        "batch_id": job.batch_id,
        "job_id": job.id,
        "name": shortened(job.params.prompt),
        "reason": f"{job.failure.kind}: {job.failure.message}",
        "error": {"kind": job.failure.kind, "message": job.failure.message},
        "params": json.loads(job.params.to_json()),
    }
