"""A hub of our own on this machine, that can be slow, break off, lie and refuse."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import pytest

from diffusion_local.settings import Settings


@dataclass
class FakeHub:
    """``repos``: repository -> path -> content. ``break_after``: bytes of an answer after which the line drops, once
    an entry. ``gate``: repositories that want the token ``right``; ``wrong``: paths whose content is not as listed."""

    url: str = ""
    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    break_after: list[int] = field(default_factory=list)
    gated: set[str] = field(default_factory=set)
    wrong: set[str] = field(default_factory=set)
    ranges: bool = True
    busy: int = 0  # answers of 503 before the first good one
    asked: list[tuple[str, str, str]] = field(default_factory=list)  # (path, Range, Authorization)
    hold: threading.Event | None = None  # answers of files wait for it, after their first half

    def paths(self) -> list[str]:
        return [path.rpartition("/resolve/abc123/")[2] for path, _, _ in self.asked if "/resolve/" in path]

    def sent_ranges(self) -> list[str]:
        return [sent for path, sent, _ in self.asked if sent]


def handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            token = self.headers.get("Authorization", "")
            hub.asked.append((path, self.headers.get("Range", ""), token))
            found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(\w+)|/([^/]+/[^/]+)/resolve/abc123/(.+)", path)
            if hub.busy:
                hub.busy -= 1
                return self.answer(503, b"")
            repo = found and (found[1] or found[3])
            if repo not in hub.repos:
                return self.answer(401, b"", {"X-Error-Code": "RepoNotFound"})
            if found and found[2] not in (None, "main"):
                return self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
            if repo in hub.gated and token != "Bearer right":
                return self.answer(403 if token else 401, b"", {"X-Error-Code": "GatedRepo"})
            files = hub.repos[str(repo)]
            if found and found[1]:
                result = {
                    "sha": "abc123",
                    "cardData": {"license": "mit"},
                    "siblings": [listed(*each) for each in files.items()],
                }
                return self.answer(200, json.dumps(result).encode())
            return self.file(found[4] if found else "", files)

        def file(self, path: str, files: dict[str, bytes]) -> None:
            content = files[path]
            if path in hub.wrong:
                content = bytes(byte ^ 1 for byte in content)
            start = (
                int(self.headers["Range"].split("=")[1].rstrip("-")) if self.headers.get("Range") and hub.ranges else 0
            )
            rest = content[start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(rest)))
            self.end_headers()
            cut = hub.break_after.pop(0) if hub.break_after and len(rest) > hub.break_after[0] else None
            if cut is not None:
                self.wfile.write(rest[:cut])
                self.wfile.flush()
                self.close_connection = True
                self.connection.close()
                return
            half = len(rest) // 2
            self.wfile.write(rest[:half])
            self.wfile.flush()
            if hub.hold is not None and half > 50_000:
                hub.hold.wait(30)
            self.wfile.write(rest[half:])

        def answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except (ConnectionError, ValueError, OSError):
                self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


def listed(path: str, content: bytes) -> dict[str, Any]:
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    result: dict[str, Any] = {"rfilename": path, "size": len(content), "blobId": blob}
    if path.endswith((".safetensors", ".bin")):
        result["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return result


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    fake = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(fake))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield fake
    if fake.hold is not None:
        fake.hold.set()
    server.shutdown()
    server.server_close()
    thread.join(5)


@pytest.fixture
def settings(home: Any, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_HOME", str(home / "hf"))
    return Settings.load(engine="fake", port=0, fake_step_seconds=0.01, hub_endpoint=hub.url)
