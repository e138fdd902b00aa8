"""Behind a real nginx, below a path: the page, gradio's client, event streams and signing in."""

import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import uvicorn

from diffusion_local.compose import Services, open_services
from diffusion_local.settings import Settings
from tests.support import REPOSITORY, claimed, eventually
from tests.web.conftest import drawn, free_port

PASSWORD = "correct horse"
nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
pytestmark = pytest.mark.skipif(not nginx, reason="nginx is not installed")


@dataclass(frozen=True)
class Proxied:
    url: str
    services: Services
    token: str


def configuration(folder: Path, port: int, behind: int) -> str:
    """The manual's own example, in the least of a configuration."""
    page = (REPOSITORY / "assets" / "docs" / "accounts.md").read_text(encoding="utf-8")
    [location] = re.findall(r"```nginx\n(.*?)```", page, re.DOTALL)
    temp = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return (
        f"daemon off; pid {folder}/pid; error_log {folder}/error.log; events {{}}\n"
        f"http {{ access_log off; {temp}\nserver {{ listen 127.0.0.1:{port};\n"
        f"{location.replace('127.0.0.1:7860', f'127.0.0.1:{behind}')} }} }}\n"
    )


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    from diffusion_local.web.app import create_app

    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    settings = Settings.load(
        environ={},
        home=folder / "home",
        engine="fake",
        port=free_port(),
        password_memory_kb=8,
        root_path="/studio",
        trusted_proxies="127.0.0.1",
    )
    services = open_services(settings)
    services.studio.accounts.add("root", PASSWORD)
    token = services.studio.accounts.add_token("root", "test", ["submit", "control"])[1]
    config = uvicorn.Config(
        create_app(services.studio, settings), port=settings.port, log_level="warning", proxy_headers=False
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    (folder / "nginx.conf").write_text(configuration(folder, port, settings.port))
    assert nginx
    with subprocess.Popen([nginx, "-p", str(folder), "-c", str(folder / "nginx.conf")]) as child:
        try:
            eventually(lambda: server.started and listens(port), 30)
            yield Proxied(f"http://127.0.0.1:{port}/studio", services, token)
        finally:
            child.terminate()
            server.should_exit = True
            thread.join(10)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_browser_signs_in_and_stays_below_the_path(proxied: Proxied) -> None:
    with httpx.Client(follow_redirects=True, headers={"Accept": "text/html"}) as browser:
        page = browser.get(proxied.url + "/")
        assert page.url.path == "/studio/login"
        assert 'action="/studio/login"' in page.text
        inside = browser.post(proxied.url + "/login", data={"username": "root", "password": PASSWORD, "next": "/"})
        assert inside.url.path == "/studio/"
        config = browser.get(proxied.url + "/config").json()
        assert config["root"] == proxied.url
        assert browser.get(proxied.url + "/assets/icons/mark.svg").status_code == 200


def test_programs_work_through_it(proxied: Proxied) -> None:
    from gradio_client import Client

    headers = {"Authorization": f"Bearer {proxied.token}"}
    client = Client(proxied.url + "/", headers=headers, verbose=False, httpx_kwargs={"timeout": 60})
    receipt = client.predict("a red apple", api_name="/submit")
    picture = drawn(proxied.services, claimed(proxied.services.jobs))
    job = client.predict(receipt["job_ids"][0], 10, api_name="/wait")
    assert job["state"] == "done"
    assert job["owner"] == "root"
    assert httpx.get(f"{proxied.url}/images/{picture.id}.png", headers=headers).headers["content-type"] == "image/png"


def test_events_come_at_once(proxied: Proxied) -> None:
    headers = {"Authorization": f"Bearer {proxied.token}"}
    wish = {"prompt": "a tree", "width": 128, "height": 128, "steps": 4}
    job_id = httpx.post(proxied.url + "/api/v1/jobs", json=wish, headers=headers).json()["job_ids"][0]
    with httpx.stream("GET", f"{proxied.url}/api/v1/jobs/{job_id}/stream", headers=headers, timeout=20) as stream:
        lines = stream.iter_lines()
        assert any("queued" in line for line in lines)
        drawn(proxied.services, claimed(proxied.services.jobs))
        assert any(line == "event: end" for line in lines)
