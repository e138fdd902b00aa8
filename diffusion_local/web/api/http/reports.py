"""Reports as JSON, Markdown or HTML, and who was told: the delivery log of webhooks and hooks."""

from typing import Any
from urllib.parse import parse_qs

import anyio.to_thread
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response

from diffusion_local import shapes
from diffusion_local.domain import Receipt
from diffusion_local.reports.report import Report
from diffusion_local.studio import Studio
from diffusion_local.web.api.answers import tagged
from diffusion_local.web.api.fields import ReportAgain, Trial
from diffusion_local.web.ui.words import TAGS, language, translated

FORMATS = {".json": "json", ".md": "md", ".html": "html"}
TYPES = {"application/json": "json", "text/markdown": "md", "text/html": "html"}
NEVER = {"Cache-Control": "no-store"}


def router(studio: Studio) -> APIRouter:
    api = APIRouter()

    @api.get("/reports/batch/{batch_id}", tags=["reports"])
    def batch_report(batch_id: str, request: Request) -> Response:
        """What a batch came to: counts, time, pictures per hour, failures by reason, model loads, pictures.

        As JSON, or by `Accept` or an ending (`.json`, `.md`, `.html`) as Markdown or one HTML file.
        """
        name, form = form_of(batch_id, request)
        return answer(studio, request, studio.reports.batch(name), form)

    @api.get("/reports/night", tags=["reports"])
    @api.get("/reports/night.{_}", include_in_schema=False)
    def night_report(request: Request, since: str = "", until: str = "") -> Response:
        """What ended between two times (ISO 8601), by default in the last 12 hours; forms as for a batch."""
        _, form = form_of(request.url.path, request)
        return answer(studio, request, studio.reports.night(since or None, until or None), form)

    @api.post("/reports/again", tags=["reports"], status_code=202)
    def again(body: ReportAgain) -> dict[str, Any]:
        """New jobs for those that failed for one reason of a report. Asking twice makes nothing twice."""
        batch_id, since, until = body.batch_id or None, body.since or None, body.until or None
        return shapes.receipt(studio.reports.again(studio.again, body.reason, batch_id, since, until))

    @api.get("/webhooks/deliveries", tags=["webhooks"])
    def deliveries(request: Request, limit: int = 50, before: str = "", state: str = "") -> Response:
        """The delivery log, newest first: give `next` as `before` to read on."""
        found = studio.webhooks.deliveries(limit, before or None, state or None)
        following = found[-1].id if len(found) == limit else None
        return tagged(request, {"deliveries": [shapes.delivery(each) for each in found], "next": following})

    @api.get("/webhooks/deliveries/{delivery_id}", tags=["webhooks"])
    def one_delivery(delivery_id: str, request: Request) -> Response:
        """One delivery with the message that was, or is to be, sent."""
        found = studio.webhooks.delivery(delivery_id)
        return tagged(request, shapes.delivery(found) | {"payload": found.payload})

    @api.post("/webhooks/deliveries/{delivery_id}/resend", tags=["webhooks"], status_code=202)
    def resend(delivery_id: str) -> dict[str, Any]:
        """Send one again, with the id it had."""
        return shapes.delivery(studio.webhooks.resend(delivery_id))

    @api.post("/webhooks/test", tags=["webhooks"], status_code=202)
    def trial(body: Trial) -> dict[str, Any]:
        """Send a trial message to an address; the delivery that tells what came of it."""
        return shapes.delivery(studio.webhooks.test(body.url))

    return api


def page_router(studio: Studio) -> APIRouter:
    """The same reports as pages, with links into the app."""
    pages = APIRouter(prefix="/reports", include_in_schema=False, default_response_class=HTMLResponse)

    def shown(report: Report) -> HTMLResponse:
        written = studio.reports.page(report, shapes.root(), translated, TAGS[language()])
        return HTMLResponse(written, headers=NEVER)

    @pages.get("/batch/{batch_id}.html")
    def batch_page(batch_id: str) -> HTMLResponse:
        return shown(studio.reports.batch(batch_id))

    @pages.get("/night.html")
    def night_page(since: str = "", until: str = "") -> HTMLResponse:
        return shown(studio.reports.night(since or None, until or None))

    @pages.post("/again")
    async def again(request: Request) -> RedirectResponse:
        """The button of a page: makes the jobs, and shows their report. Foreign pages are refused by the guard."""
        body = parse_qs((await request.body()).decode("utf-8", "replace"))
        said = {name: body.get(name, [""])[0] for name in ("reason", "batch_id", "since", "until")}

        def make() -> Receipt:
            of = {name: said[name] or None for name in ("batch_id", "since", "until")}
            return studio.reports.again(studio.again, said["reason"], **of)

        receipt = await anyio.to_thread.run_sync(make)
        return RedirectResponse(shapes.report_url(receipt.batch_id), 303, headers=NEVER)

    return pages


def form_of(name: str, request: Request) -> tuple[str, str]:
    """(name without its ending, format): the ending decides, then ``Accept``, then it is JSON."""
    for ending, form in FORMATS.items():
        if name.endswith(ending):
            return name.removesuffix(ending), form
    for wanted in request.headers.get("Accept", "").split(","):
        if wanted.partition(";")[0].strip() in TYPES:
            return name, TYPES[wanted.partition(";")[0].strip()]
    return name, "json"


def answer(studio: Studio, request: Request, report: Report, form: str) -> Response:
    if form == "json":
        return tagged(request, report.to_dict())
    kind = {"md": PlainTextResponse, "html": HTMLResponse}[form]
    media = {"md": "text/markdown; charset=utf-8", "html": "text/html; charset=utf-8"}[form]
    return kind(studio.reports.text(report, form), media_type=media, headers=NEVER | {"Vary": "Accept"})
