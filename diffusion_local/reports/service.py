"""Report use cases: reports on a batch or a period, as data, text or files, and the failed jobs of one reason."""

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import IO, Any

from diffusion_local.authority import guarded
from diffusion_local.domain import State, utc_text
from diffusion_local.errors import Conflict, InvalidParams, NotFound, echo
from diffusion_local.gallery.blobs import StoredFile
from diffusion_local.gallery.files import ImageFiles
from diffusion_local.messages import message
from diffusion_local.queue.control import QueueControl
from diffusion_local.queue.jobs import Selection
from diffusion_local.queue.schedule import parse_past
from diffusion_local.queue.views import QueueView
from diffusion_local.reports import html as page
from diffusion_local.reports import wording
from diffusion_local.reports.report import Report, build, evenly_spaced, forecast_of, reason_of
from diffusion_local.reports.store import ReportStore
from diffusion_local.settings import Settings

REPORT_FORMATS = ("md", "html", "json")
NIGHT = timedelta(hours=12)


@guarded("reports")
class Reports:
    """Report use cases, available as ``studio.reports``."""

    def __init__(
        self, settings: Settings, store: ReportStore, view: QueueView, control: QueueControl, files: ImageFiles
    ) -> None:
        self._settings = settings
        self._store = store
        self._view = view
        self._control = control
        self._files = files

    def batch(self, batch_id: str) -> Report:
        """The report of a batch, finished or not. Raises NotFound."""
        batch, _ = self._view.batch(batch_id)
        with self._store.batch_rows(batch_id) as rows:
            outcome = build(rows)
        report = outcome.report(batch.name or batch.id, batch_id)
        forecast = self._store.forecast(batch_id)
        if forecast and not report.open:
            report.forecast = forecast_of(*forecast, report.until)
        return self._completed(report, outcome.done)

    def night(self, since: str | None = None, until: str | None = None) -> Report:
        """The report of a period (see ``parse_past``), by default the last 12 hours.

        Raises InvalidParams.
        """
        now, zone = datetime.now(UTC), self._settings.zone
        end = parse_past("until", until, now, zone) if until else now
        start = parse_past("since", since, end, zone) if since else end - NIGHT
        if start >= end:
            raise InvalidParams("since", message("report_span"))
        with self._store.period_rows(utc_text(start), utc_text(end)) as rows:
            found = build(rows)
        title = message("report_title", start=format_local(start), end=format_local(end))
        return self._completed(found.report(title, None, utc_text(start), utc_text(end)), found.done)

    def failed(
        self, reason: str, batch_id: str | None = None, since: str | None = None, until: str | None = None
    ) -> list[str]:
        """Ids of the jobs that failed for one reason (its id in the report), of a batch or a period.

        Jobs that were resubmitted are left out. Raises NotFound, and Conflict if none remain.
        """
        if batch_id:
            self._view.batch(batch_id)
            source: AbstractContextManager = self._store.batch_rows(batch_id)
        else:
            report = self.night(since or None, until or None)
            source = self._store.period_rows(report.since or "", report.until or "")
        with source as rows:
            failed = [
                row["id"]
                for row in rows
                if row["state"] == State.FAILED
                and reason_of(row["error_kind"] or "", row["error_message"] or "").id == reason
            ]
        if not failed:
            raise NotFound(message("report_reason", reason=echo(reason)))
        left = self._control.not_resubmitted(Selection(tuple(failed)), State.FAILED)
        if not left:
            raise Conflict(message("report_again"))
        return left

    def written(
        self, form: str, batch_id: str | None = None, since: str | None = None, until: str | None = None
    ) -> str:
        """The report of a batch or a period as text. Raises like ``batch``, ``night`` and ``text``."""
        return self.text(self.batch(batch_id) if batch_id else self.night(since, until), form)

    def text(self, report: Report, form: str) -> str:
        """A report as ``md``, ``html`` or ``json``. Raises InvalidParams."""
        if form == "md":
            return wording.render(report)
        if form == "html":
            return page.render(report, self._files)
        if form == "json":
            return to_json(report.to_dict())
        raise InvalidParams("format", message("one_of", known=list(REPORT_FORMATS), got=echo(form)))

    def page(self, report: Report, root: str = "", translate: page.Translate = str, tag: str = "en") -> str:
        """A report as an HTML page of the app, whose path prefix is ``root``, with links into the app."""
        return page.render(report, self._files, root, translate, tag)

    def keep(self, report: Report, stem: str) -> StoredFile:
        """Store a report as Markdown and HTML next to the gallery; returns the HTML file.

        Raises StorageProblem.
        """
        for form in ("md", "html"):
            data = self.text(report, form).encode()
            self._files.write_reserving(self._files.report(f"{stem}.{form}"), partial(write_bytes, data))
        return self._files.report(f"{stem}.html")

    def _completed(self, report: Report, done: Sequence[str]) -> Report:
        """Add batch names, and pictures for the contact sheet."""
        names = self._store.names([each.id for each in report.batches])
        for line in report.batches:
            line.name, line.lane = names.get(line.id, ("", ""))
        chosen = evenly_spaced(done)
        images = self._store.images(chosen)
        return replace(report, pictures=[images[job_id] for job_id in chosen if job_id in images])


def to_json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def format_local(when: datetime) -> str:
    return when.astimezone().strftime("%Y-%m-%d %H:%M")


def write_bytes(data: bytes, file: IO[bytes]) -> None:
    file.write(data)
