"""A home on this machine and a server over it: what one is told the other must know."""

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from diffusion_local.actor import LOCAL, acting
from diffusion_local.cli import main
from diffusion_local.compose import Services, open_services
from diffusion_local.dispatch import matching
from diffusion_local.models.digests import Digests
from diffusion_local.settings import Settings
from diffusion_local.system.network import self_signed
from tests.remote.farm import Studio
from tests.support import eventually
from tests.web.conftest import free_port

Run = Callable[..., tuple[int, str, str]]


@contextmanager
def serving(services: Services) -> Iterator[str]:
    """Address of a server over the house, without a worker and without the page: commands use the API."""
    from diffusion_local.web import app

    port = free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app.page, "mount", lambda application, *_: application)
        application = app.create_app(services.studio, services.settings, services=services)
    running = uvicorn.Server(uvicorn.Config(application, port=port, log_level="warning"))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    try:
        eventually(lambda: running.started, 30)
        yield f"http://127.0.0.1:{port}"
    finally:
        running.should_exit = True
        thread.join(10)


@pytest.fixture
def server(services: Services) -> Iterator[str]:
    with serving(services) as url:
        yield url


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """(exit status, standard output, standard error) of a command in this process."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["diffusion-local", *map(str, arguments)])
        try:
            main()
            status = 0
        except SystemExit as left:
            status = int(left.code or 0)
        output, errors = capsys.readouterr()
        return status, output, errors

    return run


@pytest.fixture
def there(run: Run, server: str) -> Callable[..., Any]:
    """What a command prints as JSON when it is said to the server."""

    def ask(*arguments: object) -> Any:
        status, output, errors = run(*arguments, "--server", server, "--json")
        assert status == 0, errors
        return json.loads(output)

    return ask


@pytest.fixture
def here(run: Run, services: Services) -> Callable[..., Any]:
    """What the same command prints when it is said to the home."""

    def ask(*arguments: object) -> Any:
        status, output, errors = run(*arguments, "--home", services.settings.home, "--json")
        assert status == 0, errors
        return json.loads(output)

    return ask


@pytest.fixture
def studio(services: Services) -> Studio:
    return Studio(services)


@pytest.fixture
def files(services: Services) -> dict[str, dict[str, str]]:
    """Those of the studio, whose digests it knows."""
    with acting(LOCAL):
        Digests(services.catalog.index, services.catalog.default.folder).run()
        return matching.installed_files(services.catalog)


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Services, Path]]:
    """A studio with a self-signed certificate: (URL, services, certificate)."""
    from diffusion_local.web.app import create_app

    folder = tmp_path_factory.mktemp("secure")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    self_signed(certificate, key, [])
    port = free_port()
    more: dict[str, Any] = {"tls_cert": str(certificate), "tls_key": str(key), "password_memory_kb": 8}
    settings = Settings.load(environ={}, home=folder / "home", engine="fake", port=port, **more)
    services = open_services(settings)
    with acting(LOCAL):
        services.studio.accounts.add("ann", "correct horse")
    app = create_app(services.studio, settings, services=services)
    config = uvicorn.Config(app, port=port, log_level="warning", ssl_certfile=certificate, ssl_keyfile=key)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    eventually(lambda: server.started, 60)
    yield f"https://127.0.0.1:{port}", services, certificate
    server.should_exit = True
    thread.join(10)
