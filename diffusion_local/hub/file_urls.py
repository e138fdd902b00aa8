"""Downloads of single files from any web server, and of the files of model versions on Civitai.

Users choose these addresses, so every host, including those of redirects, is checked before a connection is made (see
``notify.outbound_hosts``), and the connection goes to the checked address. Only the configured Civitai server is
exempt, because the administrator chose it; it alone receives the access token.

https://developer.civitai.com/docs/api/public-rest
"""

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx

from diffusion_local import __version__
from diffusion_local.errors import HubProblem, InvalidParams, ModelUnavailable, echo
from diffusion_local.hub.client import MAX_REQUEST_TRIES, TIMEOUT, digest_existing, reason
from diffusion_local.hub.downloads import CIVITAI, DEFAULT_SUFFIX, MAX_NAME, is_weights, shown_source
from diffusion_local.messages import Message, message
from diffusion_local.models.file_formats import open_header
from diffusion_local.models.pickled import calls_problem
from diffusion_local.notify.outbound_hosts import AllowedTargets, check_target, is_public
from diffusion_local.settings import Settings, civitai_endpoint

MAX_REDIRECTS = 5
MAX_ANSWER = 4 << 20  # bytes of an API response
T = TypeVar("T")

GB = 1_000_000_000
#: Civitai's model type -> folder of the home.
CIVITAI_FOLDERS = {
    "Checkpoint": "models", "LORA": "loras", "LoCon": "loras", "DoRA": "loras", "TextualInversion": "embeddings",
    "VAE": "vae", "Controlnet": "controlnet", "Upscaler": "upscalers",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Link:
    """A file to download. ``digest``: the SHA-256 that it must have, in lower-case hexadecimal, "" if unknown;
    ``folder``: the folder of the home for files of its kind, "" if unknown."""

    url: str
    name: str
    digest: str = ""
    folder: str = ""


class Links:
    """HTTP client for addresses that users choose. ``pause``: seconds before the second attempt, doubled each time;
    ``stop`` interrupts it.
    """

    def __init__(self, settings: Settings, pause: float, stop: threading.Event) -> None:
        self._allowed = AllowedTargets.parse(settings.download_allow_private, "download_allow_private")
        self._most = settings.max_download_gb
        self._api = httpx.URL(civitai_endpoint(settings))
        self._token = settings.civitai_token.strip()
        self._client = httpx.Client(trust_env=False, follow_redirects=False, timeout=TIMEOUT)
        self._pause = pause
        self._stop = stop

    def close(self) -> None:
        self._client.close()

    def resolve(self, source: str, file: str, name: str, digest: str) -> Link:
        """Find the file of a source, using Civitai's API for its versions. Raises HubProblem.

        ``file``: one of the version's files, "" for its primary one.
        """
        if not (match := CIVITAI.fullmatch(source)):
            return Link(source, name, digest)
        path = f"/api/v1/models/{match['model']}" if match["model"] else f"/api/v1/model-versions/{match['version']}"
        content = self._with_retries(lambda: self._read(self._api.join(path), source))
        try:
            answer = json.loads(content)
            version = answer["modelVersions"][0] if match["model"] else answer
            kind = answer["type"] if match["model"] else answer["model"]["type"]
            return civitai_link(version["files"], file, source, digest, CIVITAI_FOLDERS.get(str(kind), ""))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
            raise HubProblem(message("civitai_unreadable", source=source)) from None

    def fetch(
        self, link: Link, target: Path, on_bytes: Callable[[int, int], None], check_room: Callable[[int], None]
    ) -> str:
        """Download a file, resuming from ``target`` + ``.part``, and return its SHA-256 in hexadecimal.

        ``on_bytes`` is called with the bytes present and the total (0 if unknown), ``check_room`` with the bytes to
        come; their exceptions propagate. Raises HubProblem, also if the file has no weights or would run code.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".part")
        digest = self._with_retries(lambda: self._append(link, part, on_bytes, check_room))
        if link.digest and digest != link.digest:
            part.unlink()
            raise HubProblem(message("link_checksum", path=link.name, wanted=link.digest, got=digest), kind="checksum")
        if problem := weights_problem(part, link.name):
            part.unlink()
            raise HubProblem(problem, kind="not_a_model")
        part.replace(target)
        return digest

    def _append(
        self, link: Link, part: Path, on_bytes: Callable[[int, int], None], check_room: Callable[[int], None]
    ) -> str:
        """Make one attempt; returns the SHA-256. A partial file is continued only if the server confirms that the file
        is unchanged, or if its digest is known.
        """
        mark = part.with_suffix(".validator")
        validator = mark.read_text(encoding="utf-8") if mark.exists() else ""
        if not (validator or link.digest):
            part.unlink(missing_ok=True)
        sha = hashlib.sha256()
        have = digest_existing(part, self._most * GB, sha.update)
        headers = {"range": f"bytes={have}-"} | ({"if-range": validator} if validator else {}) if have else {}
        with self._open(httpx.URL(link.url), headers) as answer:
            if answer.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE and have:
                if answer.headers.get("content-range", "") == f"bytes */{have}":
                    return sha.hexdigest()  # already complete
                part.unlink()
                raise httpx.RemoteProtocolError("the file has changed")
            self._check(answer, link.url)
            if answer.status_code == httpx.codes.PARTIAL_CONTENT:
                if not answer.headers.get("content-range", "").startswith(f"bytes {have}-"):
                    part.unlink(missing_ok=True)
                    raise httpx.RemoteProtocolError("another range than asked for")
            else:
                part.unlink(missing_ok=True)
                have, sha = 0, hashlib.sha256()
            total = have + coming if (coming := content_length(answer)) else 0
            self._check_size(total, part, link)
            check_room(max(0, total - have))
            mark.write_text(validator_of(answer), encoding="utf-8")
            on_bytes(have, total)
            with part.open("ab") as out:
                for piece in answer.iter_raw():
                    out.write(piece)
                    sha.update(piece)
                    have += len(piece)
                    self._check_size(have, part, link)
                    on_bytes(have, total)
        return sha.hexdigest()

    def _check_size(self, size: int, part: Path, link: Link) -> None:
        if size > self._most * GB:
            part.unlink(missing_ok=True)
            raise HubProblem(message("link_size", path=link.name, most=self._most), kind="too_large")

    def _read(self, url: httpx.URL, source: str) -> bytes:
        with self._open(url, {}) as answer:
            self._check(answer, source)
            content = b""
            for piece in answer.iter_raw():
                content += piece
                if len(content) > MAX_ANSWER:
                    raise HubProblem(message("civitai_unreadable", source=source))
        return content

    def _with_retries(self, attempt: Callable[[], T]) -> T:
        for number in range(MAX_REQUEST_TRIES):
            try:
                return attempt()
            except httpx.TransportError as error:
                if number + 1 == MAX_REQUEST_TRIES or self._stop.wait(self._pause * 2**number):
                    raise HubProblem(message("link_away", reason=reason(error)), kind="no_network") from None
        raise AssertionError("the last attempt returns or raises")

    @contextmanager
    def _open(self, url: httpx.URL, headers: dict[str, str]) -> Iterator[httpx.Response]:
        """Follow redirects; yields the response with its body unread."""
        for _ in range(MAX_REDIRECTS + 1):
            response = self._send(url, headers)
            try:
                if not response.has_redirect_location:
                    yield response
                    return
            finally:
                response.close()
            try:
                url = url.join(response.headers["location"])
            except (httpx.InvalidURL, ValueError):
                break
        raise HubProblem(message("link_redirects", most=MAX_REDIRECTS))

    def _send(self, url: httpx.URL, headers: dict[str, str]) -> httpx.Response:
        headers = {"accept-encoding": "identity", "user-agent": f"diffusion-local/{__version__}"} | headers
        if origin(url) == origin(self._api):
            token = {"authorization": f"Bearer {self._token}"} if self._token else {}
            return self._client.send(self._client.build_request("GET", url, headers=headers | token), stream=True)
        try:
            target = check_target(str(url), self._allowed, "repo")
        except InvalidParams as refused:
            if refused.problem.id in ("hook_found", "hook_found_why"):  # the same error as without a network, so retry
                raise httpx.ConnectError(refused.problem) from None
            raise HubProblem(refused.problem, kind="refused") from None
        if url.scheme != "https" and any(is_public(address) for address in target.addresses):
            raise HubProblem(message("link_https", got=echo(shown_source(str(url)))), kind="refused")
        for place, address in enumerate(target.addresses):
            request = self._client.build_request(
                "GET",
                target.url.copy_with(host=str(address)),
                headers=headers | {"host": target.url.netloc.decode()},
                extensions={"sni_hostname": target.host},
            )
            try:
                return self._client.send(request, stream=True)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                if place == len(target.addresses) - 1:
                    raise
        raise AssertionError("a checked target has an address")

    def _check(self, answer: httpx.Response, source: str) -> None:
        code, source_text = answer.status_code, shown_source(source)
        if code >= 500 or code == httpx.codes.TOO_MANY_REQUESTS:
            raise httpx.RemoteProtocolError(message("it_answered", status=code))
        if code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            own = source.startswith("civitai:") or origin(httpx.URL(source)) == origin(self._api)
            raise HubProblem(message("civitai_token" if own else "link_forbidden", source=source_text), kind="gated")
        if code in (httpx.codes.NOT_FOUND, httpx.codes.GONE):
            raise HubProblem(message("link_unknown", source=source_text), kind="unknown_file")
        if not answer.is_success:
            raise HubProblem(message("link_status", source=source_text, status=code))
        if answer.headers.get("content-type", "").startswith("text/html"):
            raise HubProblem(message("link_page", source=source_text), kind="not_a_model")


def civitai_link(files: list[dict[str, Any]], name: str, source: str, digest: str, folder: str) -> Link:
    """Choose one of a version's files: the wanted one, or the primary or first one, in safetensors format if available.
    Raises HubProblem, and KeyError, TypeError or ValueError for a malformed response.
    """
    usable = [each for each in files if is_weights(str(each["name"]))]
    if name:
        usable = [each for each in usable if each["name"] == name]
    usable = [each for each in usable if str(each["name"]).lower().endswith(DEFAULT_SUFFIX)] or usable
    if not usable:
        known = [str(each["name"]) for each in files][:8]
        raise HubProblem(message("civitai_files", source=source, known=known), kind="unknown_file")
    chosen = next((each for each in usable if each.get("primary")), usable[0])
    announced = str((chosen.get("hashes") or {}).get("SHA256") or "").lower()
    return Link(str(chosen["downloadUrl"]), safe_name(str(chosen["name"])), digest or announced, folder)


def safe_name(name: str) -> str:
    """Make a server's file name safe for a folder: no separators, control characters or leading dots."""
    stem, dot, suffix = name.rpartition(".")
    stem = re.sub(r"[^\w .()+\[\]-]", "_", stem).lstrip(". ")[: MAX_NAME - len(DEFAULT_SUFFIX)]
    return (stem or "model") + dot + suffix


def weights_problem(path: Path, name: str) -> Message | None:
    """Why a file cannot be used as weights, None if it can."""
    try:
        opened = open_header(path, name)
    except ModelUnavailable as problem:
        return problem.message
    return calls_problem(name, opened.calls)


def origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def content_length(answer: httpx.Response) -> int:
    """Bytes of the body; 0 if the server does not send a valid length."""
    header = answer.headers.get("content-length", "")
    return int(header) if re.fullmatch(r"[0-9]{1,15}", header) else 0


def validator_of(answer: httpx.Response) -> str:
    """A strong validator for ``If-Range`` (RFC 9110, 13.1.5); "" if the server sends none."""
    tag = answer.headers.get("etag", "")
    return tag if re.fullmatch(r'"[^"\x00-\x1f\x7f]*"', tag) else answer.headers.get("last-modified", "")
