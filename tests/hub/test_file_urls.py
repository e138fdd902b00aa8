"""Files of any URL and of Civitai's versions are downloaded whole, checked, resumed, and from public addresses only."""

import hashlib
import json
import pickle
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import torch

from diffusion_local import serializers
from diffusion_local.cli.models import format_download
from diffusion_local.compose import Services
from diffusion_local.errors import Conflict, InvalidParams
from diffusion_local.hub import file_urls
from diffusion_local.hub.downloads import Download, DownloadState, civitai_source
from diffusion_local.hub.fetcher import Fetcher
from diffusion_local.models.parts import TEXT_ENCODER
from diffusion_local.models.probe import LORA, UPSCALER
from diffusion_local.settings import Settings
from diffusion_local.web.ui import tab_models
from tests.models import files
from tests.models.files import Trap, write_header
from tests.models.headers import write_gguf


@dataclass
class FileServer:
    """``files``: path -> content; ``redirects``: path -> address; ``private``: paths that need the token ``right``."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    headers: dict[str, str] = field(default_factory=lambda: {"ETag": '"one"'})
    break_after: list[int] = field(default_factory=list)
    ranges: bool = True
    chunked: bool = False
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def ranges_asked(self) -> list[str]:
        return [headers["range"] for _, headers in self.requests if "range" in headers]


def handler(server: FileServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            sent = {name.lower(): value for name, value in self.headers.items()}
            server.requests.append((path, sent))
            if path in server.private and sent.get("authorization") != "Bearer right":
                self.send_error(401)
                return
            if path in server.redirects:
                self.send_response(302)
                self.send_header("Location", server.redirects[path])
                self.end_headers()
                return
            if path not in server.files:
                self.send_error(404)
                return
            content, start = server.files[path], 0
            same = sent.get("if-range", server.headers.get("ETag")) == server.headers.get("ETag")
            if "range" in sent and server.ranges and same:
                start = int(sent["range"].removeprefix("bytes=").rstrip("-"))
                if start >= len(content):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(content)}")
                    self.end_headers()
                    return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            if not server.chunked:
                self.send_header("Content-Length", str(len(content) - start))
            for name, value in server.headers.items():
                self.send_header(name, value)
            self.end_headers()
            end = start + server.break_after.pop(0) if server.break_after else len(content)
            self.wfile.write(content[start:end])

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


@pytest.fixture
def server() -> Iterator[FileServer]:
    fake = FileServer()
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler(fake))
    thread = threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    fake.url = f"http://127.0.0.1:{http.server_address[1]}"
    yield fake
    http.shutdown()
    http.server_close()
    thread.join(5)


@pytest.fixture
def settings(home: Path) -> Settings:
    return Settings.load(engine="fake", port=0, download_allow_private="127.0.0.1")


@pytest.fixture
def lora(tmp_path: Path) -> bytes:
    return write_header(tmp_path / "x", files.LORA).read_bytes()


def with_settings(services: Services, **changes: Any) -> Services:
    settings = replace(services.settings, **changes)
    services.studio.library._settings = settings
    return replace(services, settings=settings)


def fetch(services: Services, download: Download) -> Download:
    Fetcher(services.settings, services.downloads, pause=0.01).run()
    return services.downloads.get(download.id)


def loaded(services: Services, repo: str, into: str = "loras", **more: str) -> Download:
    return fetch(services, services.studio.library.download(repo, into=into, **more))


# -- URLs -----------------------------------------------------------------------------------------------------------


def test_a_file_is_downloaded_and_its_digest_shown(services: Services, server: FileServer, lora: bytes) -> None:
    server.files["/a/style.safetensors"] = lora
    found = loaded(services, f"{server.url}/a/style.safetensors?key=secret")
    digest = hashlib.sha256(lora).hexdigest()
    assert (found.state, found.error_message, found.digest) == (DownloadState.DONE, "", digest)
    assert found.bytes_done == found.bytes_total == len(lora)
    assert (services.settings.loras / "style.safetensors").read_bytes() == lora
    assert list(services.settings.loras.glob(".*")) == []
    assert [each.name for each in services.catalog.loras() if each.ready] == ["style"]
    for shown in (
        format_download(found),
        json.dumps(serializers.download(found)),
        tab_models.draw(services.studio, services.studio.snapshot(), tab_models.view.utc()),
    ):
        assert digest in shown
        assert "style.safetensors" in shown
        assert "secret" not in shown


def test_an_interrupted_file_resumes_where_it_broke_off(services: Services, server: FileServer, lora: bytes) -> None:
    server.files["/style.safetensors"] = lora
    server.break_after = [1000, 500]
    assert loaded(services, f"{server.url}/style.safetensors").state is DownloadState.DONE
    assert server.ranges_asked() == ["bytes=1000-", "bytes=1500-"]
    assert all(headers["if-range"] == '"one"' for _, headers in server.requests if "range" in headers)
    assert (services.settings.loras / "style.safetensors").read_bytes() == lora


def test_a_file_that_changed_meanwhile_starts_again(
    services: Services, server: FileServer, lora: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_urls, "MAX_REQUEST_TRIES", 1)
    server.files["/style.safetensors"] = b"\0" * len(lora)
    server.break_after = [1000]
    assert loaded(services, f"{server.url}/style.safetensors").error_kind == "no_network"
    server.files["/style.safetensors"], server.headers = lora, {"ETag": '"two"'}
    assert loaded(services, f"{server.url}/style.safetensors").state is DownloadState.DONE
    assert (services.settings.loras / "style.safetensors").read_bytes() == lora


def test_without_a_validator_or_digest_nothing_is_resumed(services: Services, server: FileServer, lora: bytes) -> None:
    server.files["/style.safetensors"], server.headers = lora, {}
    server.break_after = [1000]
    assert loaded(services, f"{server.url}/style.safetensors").state is DownloadState.DONE
    assert server.ranges_asked() == []
    server.break_after = [1000]
    digest = hashlib.sha256(lora).hexdigest().upper()
    again = loaded(services, f"{server.url}/style.safetensors", file="again.safetensors", digest=f"sha256:{digest}")
    assert again.state is DownloadState.DONE
    assert server.ranges_asked() == ["bytes=1000-"]


def test_a_part_that_was_complete_is_not_loaded_again(services: Services, server: FileServer, lora: bytes) -> None:
    server.files["/style.safetensors"] = lora
    staging = services.settings.loras / ".style.safetensors.download"
    staging.mkdir(parents=True)
    (staging / "style.safetensors.part").write_bytes(lora)
    (staging / "style.safetensors.validator").write_text('"one"')
    assert loaded(services, f"{server.url}/style.safetensors").state is DownloadState.DONE
    assert (services.settings.loras / "style.safetensors").read_bytes() == lora
    assert len(server.requests) == 1


def test_another_digest_than_given_is_discarded(services: Services, server: FileServer, lora: bytes) -> None:
    server.files["/style.safetensors"] = lora
    failed = loaded(services, f"{server.url}/style.safetensors", digest="0" * 64)
    assert failed.error_kind == "checksum"
    assert hashlib.sha256(lora).hexdigest() in failed.error_message
    assert not (services.settings.loras / "style.safetensors").exists()
    assert list(services.settings.loras.rglob("*.part")) == []


@pytest.mark.parametrize("chunked", [False, True])
def test_a_file_beyond_the_limit_is_refused(
    services: Services, server: FileServer, lora: bytes, chunked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_urls, "GB", 10)
    server.files["/style.safetensors"], server.chunked = lora, chunked
    failed = loaded(services, f"{server.url}/style.safetensors")
    assert failed.error_kind == "too_large"
    assert "max_download_gb" in failed.error_message
    assert list(services.settings.loras.rglob("*.part")) == []


@pytest.mark.parametrize(
    ("headers", "content", "words"),
    [
        ({"Content-Type": "text/html; charset=utf-8"}, b"<html>sign in</html>", "is a web page"),
        ({}, b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
    ],
)
def test_what_is_no_model_file_is_refused(
    services: Services, server: FileServer, headers: dict[str, str], content: bytes, words: str
) -> None:
    server.files["/style.safetensors"], server.headers = content, headers
    failed = loaded(services, f"{server.url}/style.safetensors")
    assert failed.error_kind == "not_a_model"
    assert words in failed.error_message
    assert not (services.settings.loras / "style.safetensors").exists()


@pytest.mark.parametrize("suffix", [".SFT", ".gguf", ".pth"])
def test_weights_in_other_formats_are_downloaded_and_listed(
    services: Services, server: FileServer, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"part{suffix}"
    if suffix == ".gguf":
        write_gguf(path, {"token_embd.weight": ("F16", (8, 2560))}, "qwen3")
    elif suffix == ".pth":
        torch.save(
            {"params_ema": {"conv_first.weight": torch.ones(1, 3, 3, 3), "conv_last.weight": torch.ones(1)}}, path
        )
    else:
        write_header(path, files.LORA)
    server.files[f"/part{suffix}"] = path.read_bytes()
    into = {".gguf": "text_encoders", ".pth": "upscalers", ".SFT": "loras"}[suffix]
    found = loaded(services, f"{server.url}/part{suffix}", into=into)
    assert (found.state, found.error_message) == (DownloadState.DONE, "")
    assert (services.settings.home / into / f"part{suffix}").read_bytes() == path.read_bytes()
    kind = {"text_encoders": TEXT_ENCODER, "upscalers": UPSCALER, "loras": LORA}[into]
    assert [each.name for each in services.catalog.index.adapters(kind)] == ["part"]


def test_a_downloaded_pickle_that_would_run_code_is_not_kept(
    services: Services, server: FileServer, tmp_path: Path
) -> None:
    server.files["/trap.pth"] = pickle.dumps({"params": Trap(tmp_path / "sprung")})
    failed = loaded(services, f"{server.url}/trap.pth", into="upscalers")
    assert failed.error_kind == "not_a_model"
    assert "would run code when opened" in failed.error_message
    assert list(services.settings.upscalers.glob("*.pth")) == []
    assert not (tmp_path / "sprung").exists()


def test_a_missing_file_is_named(services: Services, server: FileServer) -> None:
    failed = loaded(services, f"{server.url}/none.safetensors?key=secret")
    assert failed.error_kind == "unknown_file"
    assert "none.safetensors does not exist" in failed.error_message


# -- which addresses ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target", ["http://127.0.0.1:{port}/x", "http://169.254.169.254/x", "http://[::1]:{port}/x", "http://10.0.0.1/x"]
)
def test_a_redirect_into_a_private_network_is_not_followed(
    services: Services, server: FileServer, lora: bytes, target: str
) -> None:
    """Civitai's server is exempt, where it leads is not."""
    services = with_settings(
        services, download_allow_private="", civitai_endpoint=server.url.replace("127.0.0.1", "localhost")
    )
    port = server.url.rpartition(":")[2]
    server.files |= {"/x": lora, "/api/v1/model-versions/7": version(lora, server, "/go")}
    server.redirects["/go"] = target.format(port=port)
    server.files["/api/v1/model-versions/7"] = server.files["/api/v1/model-versions/7"].replace(
        b"127.0.0.1", b"localhost"
    )
    failed = loaded(services, "civitai:7")
    assert failed.error_kind == "refused"
    assert "download_allow_private" in failed.error_message
    assert "/x" not in [path for path, _ in server.requests]


@pytest.mark.parametrize(
    ("repo", "more", "message"),
    [
        ("https://127.0.0.1/x.safetensors", {}, "repo: 127.0.0.1 is an address of this machine"),
        ("http://example.com/x.safetensors", {}, "repo: must be an https:// address"),
        ("ftp://example.com/x.safetensors", {}, "repo: must begin with https://"),
        ("https://me:secret@example.com/x.safetensors", {}, "repo: must not contain a user name or password"),
        ("https://example.com:22/x.safetensors", {}, "repo: must have port"),
        ("https://example.com/download?id=4", {}, "file: must name the file of weights"),
        ("https://example.com/x.zip", {}, "file: must name the file of weights"),
        ("https://example.com/x", {"file": "x.zip"}, "file: must be a file of weights: .safetensors, .sft, .gguf"),
        ("https://example.com/x.safetensors", {"digest": "abc"}, "digest: must be a SHA-256"),
        ("https://example.com/x.safetensors", {"into": "trash"}, "into: must be one of"),
        ("a/b", {"digest": "0" * 64}, "digest: is only for URLs"),
        ("civitai:latest", {}, "repo: must be civitai: and the id"),
    ],
)
def test_a_wrong_address_is_refused_at_once(services: Services, repo: str, more: dict[str, str], message: str) -> None:
    services = with_settings(services, download_allow_private="")
    with pytest.raises(InvalidParams) as refused:
        services.studio.library.download(repo, **more)
    assert str(refused.value).startswith(message)
    assert "secret" not in str(refused.value)
    assert services.studio.library.downloads() == []


def test_redirects_have_an_end(services: Services, server: FileServer) -> None:
    server.redirects["/style.safetensors"] = "/style.safetensors"
    assert "redirects more than 5 times" in loaded(services, f"{server.url}/style.safetensors").error_message
    assert len(server.requests) == 6


def test_plain_http_to_a_public_address_is_refused_after_a_redirect(services: Services, server: FileServer) -> None:
    server.redirects["/style.safetensors"] = "http://1.1.1.1/style.safetensors"
    failed = loaded(services, f"{server.url}/style.safetensors")
    assert (failed.error_kind, "https://" in failed.error_message) == ("refused", True)


def test_a_file_that_is_there_is_not_overwritten(services: Services, server: FileServer, lora: bytes) -> None:
    server.files["/style.safetensors"] = lora
    loaded(services, f"{server.url}/style.safetensors")
    with pytest.raises(Conflict, match="already exists"):
        services.studio.library.download(f"{server.url}/style.safetensors", into="loras")


# -- Civitai --------------------------------------------------------------------------------------------------------


def version(content: bytes, server: FileServer, path: str = "/api/download/models/7", **changes: Any) -> bytes:
    """An answer of the API about a version with a preview, a pickle and the file itself."""
    file = {
        "name": "style_v1.safetensors", "type": "Model", "sizeKB": len(content) / 1024, "primary": True,
        "hashes": {"SHA256": hashlib.sha256(content).hexdigest().upper()}, "downloadUrl": server.url + path,
    }  # fmt: skip
    old = {"name": "style.pt", "type": "Model", "downloadUrl": f"{server.url}/pickle"}
    result = {"id": 7, "model": {"name": "Style", "type": "LORA"}, "files": [old, file | changes]}
    return json.dumps(result).encode()


def test_a_version_is_downloaded_into_the_folder_of_its_kind_with_the_token(
    services: Services, server: FileServer, lora: bytes
) -> None:
    services = with_settings(services, civitai_endpoint=server.url, civitai_token="right")
    cdn = server.url.replace("127.0.0.1", "localhost")
    services = with_settings(services, download_allow_private="localhost")
    server.files |= {"/api/v1/model-versions/7": version(lora, server), "/cdn/file": lora}
    server.redirects["/api/download/models/7"] = f"{cdn}/cdn/file"
    server.private = {"/api/download/models/7"}
    found = loaded(services, "https://civitai.com/models/3/style?modelVersionId=7", into="models")
    assert (found.state, found.error_message) == (DownloadState.DONE, "")
    assert (found.repo, found.folder, found.name) == ("civitai:7", "loras", "style_v1.safetensors")
    assert found.digest == hashlib.sha256(lora).hexdigest()
    assert (services.settings.loras / "style_v1.safetensors").read_bytes() == lora
    sent = {path: headers.get("authorization") for path, headers in server.requests}
    assert sent["/api/download/models/7"] == "Bearer right"
    assert sent["/cdn/file"] is None


def test_the_newest_version_of_a_model(services: Services, server: FileServer, lora: bytes) -> None:
    services = with_settings(services, civitai_endpoint=server.url)
    newest = json.loads(version(lora, server, "/f"))
    server.files |= {
        "/api/v1/models/3": json.dumps({"type": "LORA", "modelVersions": [newest, {}]}).encode(),
        "/f": lora,
    }
    assert loaded(services, "https://civitai.com/models/3/style", into="models").folder == "loras"


def test_the_announced_digest_is_checked(services: Services, server: FileServer, lora: bytes) -> None:
    services = with_settings(services, civitai_endpoint=server.url)
    server.files |= {"/api/v1/model-versions/7": version(lora, server, hashes={"SHA256": "F" * 64})}
    server.files["/api/download/models/7"] = lora
    assert loaded(services, "civitai:7").error_kind == "checksum"


def test_a_file_for_signed_in_users_says_what_to_do(services: Services, server: FileServer, lora: bytes) -> None:
    services = with_settings(services, civitai_endpoint=server.url)
    server.files |= {"/api/v1/model-versions/7": version(lora, server), "/api/download/models/7": lora}
    server.private = {"/api/download/models/7"}
    failed = loaded(services, "civitai:7")
    assert failed.error_kind == "gated"
    assert "civitai_token" in failed.error_message


def test_a_name_cannot_leave_the_folder(services: Services, server: FileServer, lora: bytes) -> None:
    services = with_settings(services, civitai_endpoint=server.url)
    server.files |= {"/api/v1/model-versions/7": version(lora, server, name="../../.evil/x.safetensors")}
    server.files["/api/download/models/7"] = lora
    found = loaded(services, "civitai:7")
    assert found.state is DownloadState.DONE
    assert found.name == "_.._.evil_x.safetensors"
    assert (services.settings.loras / found.name).exists()


@pytest.mark.parametrize(
    ("answer", "file", "words"),
    [
        (b"[]", "", "cannot be read"),
        (b"{}", "", "cannot be read"),
        (None, "", "does not exist"),
        ("one", "other.safetensors", "It has: style.pt, style_v1.safetensors"),
    ],
)
def test_an_answer_that_does_not_help_is_told(
    services: Services, server: FileServer, lora: bytes, answer: Any, file: str, words: str
) -> None:
    services = with_settings(services, civitai_endpoint=server.url)
    if answer is not None:
        server.files["/api/v1/model-versions/7"] = version(lora, server) if answer == "one" else answer
    assert words in loaded(services, "civitai:7", file=file).error_message


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("civitai:128713", "civitai:128713"),
        ("civitai:models/4384", "civitai:models/4384"),
        ("https://civitai.com/models/4384/dreamshaper?modelVersionId=128713", "civitai:128713"),
        ("https://civitai.com/models/4384", "civitai:models/4384"),
        ("https://civitai.com/api/download/models/128713?type=Model&token=secret", "civitai:128713"),
        ("https://www.civitai.com/model-versions/128713", "civitai:128713"),
        ("https://civitai.com/models/4384?modelVersionId=x", ""),
        ("https://civitai.com.evil.org/models/4384", ""),
        ("https://civitai.com/user/4384", ""),
        ("https://[civitai.com/models/1", ""),
    ],
)
def test_addresses_on_civitai(text: str, source: str) -> None:
    assert civitai_source(text) == source
