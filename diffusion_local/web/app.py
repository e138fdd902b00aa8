"""The web application: routes for pictures, the APIs for programs, and gradio's page mounted below them."""

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from diffusion_local import __version__
from diffusion_local.actor import LOCAL, acting
from diffusion_local.compose import Services
from diffusion_local.preferences import restart_file
from diffusion_local.settings import Settings
from diffusion_local.studio import Studio
from diffusion_local.web import docs, error_responses, files, health, lan, manual, openapi, page_delta
from diffusion_local.web.account import routes as account
from diffusion_local.web.api import dialects, http
from diffusion_local.web.api.dialects.prefixes import Paths
from diffusion_local.web.api.http import workers
from diffusion_local.web.api.mcp import serving as mcp
from diffusion_local.web.api.provisional_sources import ProvisionalSources
from diffusion_local.web.api.request_limits import BodyLimit
from diffusion_local.web.api.watch import Watch
from diffusion_local.web.authentication import Access, Cookies
from diffusion_local.web.host_check import HostCheck, allowed_origins
from diffusion_local.web.known_workers import KnownWorkers
from diffusion_local.web.long_lived import HEARTBEAT_SECONDS, RECHECK_SECONDS, LongLived
from diffusion_local.web.page_html import PageHtml
from diffusion_local.web.proxies import Proxies, checked_root
from diffusion_local.web.rate_limit import RateLimit
from diffusion_local.web.requests import RequestMetrics, Requests
from diffusion_local.web.ui import page

#: Response headers that scripts of allowed other origins may read.
EXPOSED = (
    "Content-Disposition", "ETag", "Link", "Location", "Preference-Applied", "RateLimit", "RateLimit-Policy",
    "Retry-After", "Warning", "X-Request-Id",
)  # fmt: skip


def create_app(
    studio: Studio,
    settings: Settings,
    heartbeat: float = HEARTBEAT_SECONDS,
    recheck: float = RECHECK_SECONDS,
    services: Services | None = None,
) -> FastAPI:
    """Build the application. ``heartbeat`` and ``recheck``: seconds, see ``long_lived``.

    Without ``services`` there are no routes for workers on other machines. Middleware added last runs first.
    """
    app = FastAPI(title="diffusion-local", version=__version__, docs_url=None, redoc_url=None)
    app.add_middleware(ProvisionalSources, sources=studio.sources)
    app.add_middleware(PageHtml, url=lan.address(settings))
    app.add_middleware(BodyLimit, settings=settings)
    app.add_middleware(LongLived, heartbeat=heartbeat, recheck=recheck)
    app.add_middleware(Access, accounts=studio.accounts, settings=settings)
    # Its presence disables gradio's own CORS handling, which allows any origin.
    app.add_middleware(
        CORSMiddleware,
        allow_origins=sorted(allowed_origins(settings)),
        allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=["*"],  # clients of other APIs add headers, such as x-stainless-lang
        expose_headers=EXPOSED,
    )
    app.add_middleware(RateLimit, settings=settings)
    app.add_middleware(HostCheck, settings=settings)
    app.add_middleware(Paths)
    app.add_middleware(Proxies, settings=settings)
    app.add_middleware(Cookies)
    metrics = RequestMetrics()
    app.add_middleware(Requests, metrics=metrics)
    error_responses.add(app, settings)
    app.state.watch = watch = Watch(studio)
    account.add(app, studio.accounts, settings)
    files.add(app, studio)
    page_delta.add(app, studio, restart_file(settings))
    health.add(app, studio, settings, metrics.registry)
    openapi.add(app)
    docs.add(app)
    manual.add(app)
    workers_router = None
    if services:
        calls, accounts = workers.Calls(services, watch), services.accounts
        workers_router = workers.router(services, calls)
        app.add_middleware(KnownWorkers, calls=calls, metrics=metrics, changes=lambda: accounts.changes)
    app.include_router(http.router(studio, watch, workers_router))
    app.include_router(http.reports.page_router(studio))
    app.include_router(dialects.router(studio, watch, settings))
    mcp.add(app, studio, watch, settings)
    with acting(LOCAL):  # there is no request yet, but the layout reads the installed models
        return page.mount(app, studio, watch, settings, checked_root(settings.root_path))
