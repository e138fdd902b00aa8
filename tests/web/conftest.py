"""A web application over a home of its own; for some tests a real server with a real worker (fake engine)."""

import random
import socket
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from diffusion_local.compose import Services, open_services
from diffusion_local.domain import Image, Job
from diffusion_local.engine.fake import draw_card
from diffusion_local.options import a1111
from diffusion_local.queue.jobs import JobStore
from diffusion_local.settings import Settings, go_offline
from tests.forking import fork, main_of
from tests.support import claimed, eventually, image_of

go_offline(Path(tempfile.mkdtemp(prefix="gradio-")))  # before any test module imports gradio

STEP_SECONDS = 0.01


@dataclass(frozen=True)
class Site:
    """A running server and what it serves."""

    url: str
    services: Services


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One server with one worker for all tests that talk over the network."""
    import uvicorn

    from diffusion_local.web.app import create_app

    settings = Settings.load(
        environ={},
        home=tmp_path_factory.mktemp("site") / "home",
        engine="fake",
        port=free_port(),
        fake_step_seconds=STEP_SECONDS,
    )
    services = open_services(settings)
    app = create_app(services.studio, settings, services=services)
    server = uvicorn.Server(uvicorn.Config(app, port=settings.port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    code, log = main_of("diffusion_local.worker"), settings.home / "worker.out"
    worker = fork("worker", code, "--slot", "cpu0", "--supervised", env=settings.child_environ(), log=log)
    try:
        eventually(lambda: server.started, 30)
        eventually(lambda: any(each.status == "idle" for each in services.workers.list_all()), 60)
        httpx.get(f"http://127.0.0.1:{settings.port}/", timeout=120)  # the first page is the slowest
        yield Site(f"http://127.0.0.1:{settings.port}", services)
    finally:
        worker.kill()
        server.should_exit = True
        thread.join(10)


def free_port() -> int:
    """A port that nobody listens on, below those that the system gives to outgoing connections of other tests."""
    while True:
        port = random.SystemRandom().randrange(12_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


@pytest.fixture
def client(services: Services) -> TestClient:
    """The application without network and worker."""
    return client_of(services)


def client_of(services: Services, page: bool = True) -> TestClient:
    """Without ``page`` the application has no page and no Gradio endpoints, and is built in half the time."""
    from diffusion_local.web import app

    with pytest.MonkeyPatch.context() as patch:
        if not page:
            patch.setattr(app.page, "mount", lambda application, *_: application)
        application = app.create_app(services.studio, services.settings, services=services)
    return TestClient(application, base_url="http://127.0.0.1:7860")


def services_of(tmp_path_factory: pytest.TempPathFactory, **changes: Any) -> Services:
    """For a module whose tests do not mind each other's jobs: an application takes a third of a second to build."""
    home = tmp_path_factory.mktemp("shared") / "home"
    return open_services(Settings.load(environ={}, home=home, engine="fake", password_memory_kb=8, **changes))


def made(services: Services, prompt: str = "a red apple", seed: int = 7) -> Image:
    """A picture in the gallery, drawn by the test card."""
    services.studio.submit(prompt, seed=seed, width=128, height=128, steps=4)
    return drawn(services, claimed(services.jobs))


def drawn(services: Services, job: Job) -> Image:
    image = image_of(job, width=job.params.width, height=job.params.height)
    saved = services.files.save(image.key, draw_card(job.params), {"parameters": a1111.format_recipe(job.params)})
    image = replace(image, key=saved.key)
    services.jobs.finish(job.claim, image)
    return image


def failed(store: JobStore, services: Services, message: str) -> Job:
    from diffusion_local.domain import Failure

    job = claimed(store)
    store.fail(job.claim, Failure("engine_error", message))
    return store.get(job.id)
