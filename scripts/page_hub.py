"""A hub of models for screenshots of downloads."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

INDEX = json.dumps({"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}).encode()


@contextmanager
def slow_hub() -> Iterator[str]:
    """A hub with one model, whose weights come to a third and no further."""
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if "a-slow-model" not in self.path:
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.end_headers()
            elif "/api/" in self.path:
                names = {"model_index.json": len(INDEX), "unet/diffusion_pytorch_model.safetensors": 3_400_000_000}
                names["unet/config.json"] = 2
                facts = {"sha": "abc123", "cardData": {"license": "mit"}}
                siblings: list[dict[str, Any]] = [
                    {"rfilename": name, "size": size, "blobId": blob_id(name)} for name, size in names.items()
                ]
                siblings[1]["lfs"] = {"sha256": "0" * 64, "size": siblings[1]["size"], "pointerSize": 134}
                self.say(json.dumps(facts | {"siblings": siblings}).encode())
            elif self.path.endswith(".safetensors"):
                self.send_response(200)
                self.send_header("Content-Length", "3400000000")
                self.end_headers()
                self.wfile.write(bytes(20_000_000))
                over.wait()
            else:
                self.say(INDEX if self.path.endswith("index.json") else b"{}")

        def say(self, content: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *words: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        over.set()
        server.shutdown()


def blob_id(name: str) -> str:
    """As git names a file's content."""
    content = INDEX if name == "model_index.json" else b"{}"
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
