"""Reports as JSON, Markdown or HTML, and the delivery log of webhooks and hooks."""

from urllib.parse import parse_qs

import anyio.to_thread
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response

from diffusion_local import serializers
from diffusion_local.domain import Receipt
from diffusion_local.reports.report import Report
from diffusion_local.studio import Studio
from diffusion_local.web.api.http_headers import tagged
from diffusion_local.web.error_responses import NOT_CACHED
from diffusion_local.web.ui.words import LANGUAGE_TAGS, language, translated

FORMAT_BY_SUFFIX = {".json": "json", ".md": "md", ".html": "html"}
FORMAT_BY_TYPE = {"application/json": "json", "text/markdown": "md", "text/html": "html"}


def router(studio: Studio) -> APIRouter:
    api = APIRouter()

    @api.get("/reports/batch/{batch_id}", tags=["reports"])
    def batch_report(batch_id: str, request: Request) -> Response:
        """Report on a batch: counts, time, pictures per hour, failures by reason, model loads, pictures.

        `Accept` or a suffix (`.json`, `.md`, `.html`) selects JSON (the default), Markdown, or a single HTML file.
        """
        name, form = form_of(batch_id, request)
        return answer(studio, request, studio.reports.batch(name), form)

    @api.get("/reports/night", tags=["reports"])
    @api.get("/reports/night.{_}", include_in_schema=False)
    def night_report(request: Request, since: str = "", until: str = "") -> Response:
        """Report on jobs that ended between two times (ISO 8601; the last 12 hours by default), in the same formats."""
        _, form = form_of(request.url.path, request)
        return answer(studio, request, studio.reports.night(since or None, until or None), form)

    @api.get("/webhooks/deliveries/{delivery_id}", tags=["webhooks"])
    def one_delivery(delivery_id: str, request: Request) -> Response:
        """One delivery with its message, sent or still to be sent."""
        found = studio.webhooks.delivery(delivery_id)
        return tagged(request, serializers.delivery(found) | {"payload": found.payload})

    return api


def page_router(studio: Studio) -> APIRouter:
    """The same reports as pages, with links into the app."""
    pages = APIRouter(prefix="/reports", include_in_schema=False, default_response_class=HTMLResponse)

    def page_of(report: Report) -> HTMLResponse:
        written = studio.reports.page(report, serializers.root(), translated, LANGUAGE_TAGS[language()])
        return HTMLResponse(written, headers=NOT_CACHED)

    @pages.get("/batch/{batch_id}.html")
    def batch_page(batch_id: str) -> HTMLResponse:
        return page_of(studio.reports.batch(batch_id))

    @pages.get("/night.html")
    def night_page(since: str = "", until: str = "") -> HTMLResponse:
        return page_of(studio.reports.night(since or None, until or None))

    @pages.post("/again")
    async def again(request: Request) -> RedirectResponse:
        """Button of a report page: submit failed jobs again and show their report. The guard refuses other sites."""
        body = parse_qs((await request.body()).decode("utf-8", "replace"))
        form = {name: body.get(name, [""])[0] for name in ("reason", "batch_id", "since", "until")}

        def make() -> Receipt:
            of = {name: form[name] or None for name in ("batch_id", "since", "until")}
            return studio.queue.again_of_reason(form["reason"], **of)

        receipt = await anyio.to_thread.run_sync(make)
        return RedirectResponse(serializers.report_url(receipt.batch_id), 303, headers=NOT_CACHED)

    return pages


def form_of(name: str, request: Request) -> tuple[str, str]:
    """(name without its suffix, format). The suffix decides, then ``Accept``; the default is JSON."""
    for ending, form in FORMAT_BY_SUFFIX.items():
        if name.endswith(ending):
            return name.removesuffix(ending), form
    for accepted in request.headers.get("Accept", "").split(","):
        if accepted.partition(";")[0].strip() in FORMAT_BY_TYPE:
            return name, FORMAT_BY_TYPE[accepted.partition(";")[0].strip()]
    return name, "json"


def answer(studio: Studio, request: Request, report: Report, form: str) -> Response:
    if form == "json":
        return tagged(request, report.to_dict())
    kind = {"md": PlainTextResponse, "html": HTMLResponse}[form]
    media = {"md": "text/markdown; charset=utf-8", "html": "text/html; charset=utf-8"}[form]
    return kind(studio.reports.text(report, form), media_type=media, headers=NOT_CACHED | {"Vary": "Accept"})
