"""HTTP client of the hub: repository listings and files, with resumable downloads and digest checks.

https://huggingface.co/docs/hub/api
"""

import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import httpx

from diffusion_local import __version__
from diffusion_local.errors import HubProblem, echo
from diffusion_local.messages import Message, message

TIMEOUT = httpx.Timeout(30.0)
HASH_CHUNK = 1 << 20
MAX_REQUEST_TRIES = 6
FIRST_PAUSE = 0.5  # seconds before the second attempt, doubled each time
MAX_LISTING = 20_000  # files


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository. ``digest``: SHA-256 of a large file, else git's blob SHA-1."""

    path: str
    size: int
    digest: str
    large: bool


@dataclass(frozen=True, slots=True)
class Listing:
    repo: str
    commit: str
    files: tuple[RemoteFile, ...]
    licence: str = ""

    def file(self, path: str) -> RemoteFile | None:
        return next((each for each in self.files if each.path == path), None)


class Hub:
    """Client of one hub. ``pause``: seconds before the second attempt, doubled each time; ``stop`` interrupts it."""

    def __init__(
        self, endpoint: str, token: str = "", pause: float = FIRST_PAUSE, stop: threading.Event | None = None
    ) -> None:
        headers = {"User-Agent": f"diffusion-local/{__version__}"}
        if token:
            headers["Authorization"] = f"Bearer {token}"  # httpx drops it when a redirect leaves this host
        self._has_token = bool(token)
        self._client = httpx.Client(base_url=endpoint, headers=headers, timeout=TIMEOUT, follow_redirects=True)
        self._pause = pause
        self._stop = stop or threading.Event()

    def close(self) -> None:
        self._client.close()

    def listing(self, repo: str, revision: str = "main") -> Listing:
        """The files of a repository at a revision. Raises HubProblem."""
        content = self._read(repo, f"/api/models/{repo}/revision/{quote(revision, safe='')}?blobs=true")
        try:
            found = json.loads(content)
            card = found.get("cardData") or {}
            files = tuple(remote_file(each) for each in found["siblings"][:MAX_LISTING])
            return Listing(repo, str(found["sha"]), files, str(card.get("license") or ""))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise HubProblem(kind="hub_error", message=message("hub_unreadable", repo=repo)) from None

    def read_json(self, listing: Listing, path: str) -> Any:
        """The content of a JSON file of a repository. Raises HubProblem."""
        try:
            return json.loads(self._read(listing.repo, self._address(listing, path)))
        except (ValueError, RecursionError):
            raise HubProblem(kind="hub_error", message=message("hub_json", path=path, repo=listing.repo)) from None

    def fetch(self, listing: Listing, file: RemoteFile, target: Path, on_bytes: Callable[[int], None]) -> None:
        """Download a file, resuming from ``target`` + ``.part``.

        ``on_bytes`` is called after each chunk with the bytes present; its exceptions propagate. Raises HubProblem if
        the content does not match the listing.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".part")
        for attempt in range(MAX_REQUEST_TRIES):
            digest = new_digest(file)
            have = digest_existing(part, file.size, digest.update)
            on_bytes(have)
            try:
                if have < file.size or not file.size:
                    self._append(listing, file, part, have, digest.update, on_bytes)
                break
            except httpx.TransportError as error:
                if attempt + 1 == MAX_REQUEST_TRIES or self._stop.wait(self._pause * 2**attempt):
                    raise HubProblem(kind="no_network", message=message("hub_away", reason=reason(error))) from None
        if part.stat().st_size != file.size or digest.hexdigest() != file.digest:
            part.unlink()
            raise HubProblem(
                kind="checksum",
                message=message("hub_checksum", path=file.path),
            )
        part.replace(target)

    def _append(
        self,
        listing: Listing,
        file: RemoteFile,
        part: Path,
        have: int,
        feed_digest: Callable[[bytes], None],
        on_bytes: Callable[[int], None],
    ) -> None:
        headers = {"Range": f"bytes={have}-"} if have else {}
        with self._client.stream("GET", self._address(listing, file.path), headers=headers) as answer:
            if answer.status_code == httpx.codes.OK and have:  # the server does not support ranges
                part.unlink()
                raise httpx.RemoteProtocolError("no ranges")
            self._check(answer, listing.repo)
            with part.open("ab") as out:
                for piece in answer.iter_bytes():  # written as they arrive, so that they survive a lost connection
                    out.write(piece)
                    feed_digest(piece)
                    have += len(piece)
                    on_bytes(have)

    def _read(self, repo: str, address: str) -> bytes:
        for attempt in range(MAX_REQUEST_TRIES):
            try:
                answer = self._client.get(address)
                if answer.status_code < 500 and answer.status_code != httpx.codes.TOO_MANY_REQUESTS:
                    break
                problem: str = message("it_answered", status=answer.status_code)
            except httpx.TransportError as error:
                problem = reason(error)
            if attempt + 1 == MAX_REQUEST_TRIES or self._stop.wait(self._pause * 2**attempt):
                raise HubProblem(kind="no_network", message=message("hub_away", reason=problem))
        self._check(answer, repo)
        return answer.content

    def _address(self, listing: Listing, path: str) -> str:
        return f"/{listing.repo}/resolve/{listing.commit}/{quote(path)}"

    def _check(self, answer: httpx.Response, repo: str) -> None:
        """Raise HubProblem for a failed response, or RemoteProtocolError if a retry may help. The hub also answers 401
        for missing repositories, unless its error code says that the repository is gated.
        """
        if answer.is_success:
            return
        code = answer.headers.get("X-Error-Code", "")
        if code == "GatedRepo" or answer.status_code == httpx.codes.FORBIDDEN:
            raise HubProblem(
                kind="gated",
                message=message("hub_gated_token" if self._has_token else "hub_gated", repo=repo),
            )
        if answer.status_code == httpx.codes.UNAUTHORIZED and self._has_token and code != "RepoNotFound":
            raise HubProblem(kind="gated", message=message("hub_token", repo=repo))
        if code == "RevisionNotFound":
            raise HubProblem(kind="unknown_repo", message=message("hub_revision", repo=repo))
        if answer.status_code in (httpx.codes.NOT_FOUND, httpx.codes.UNAUTHORIZED):
            raise HubProblem(kind="unknown_repo", message=message("hub_unknown", repo=echo(repo)))
        if answer.status_code >= 500 or answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
            raise httpx.RemoteProtocolError(message("it_answered", status=answer.status_code))
        raise HubProblem(kind="hub_error", message=message("hub_status", status=answer.status_code, repo=repo))


def remote_file(entry: dict[str, Any]) -> RemoteFile:
    """Parse a file of the hub's JSON listing. Raises ValueError for a path that would leave the folder."""
    path = str(entry["rfilename"])
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or ":" in path or "\0" in path:
        raise ValueError(path)
    large = entry.get("lfs")
    digest = str(large["sha256"] if large else entry["blobId"])
    return RemoteFile(path, int(large["size"] if large else entry["size"]), digest, bool(large))


def new_digest(file: RemoteFile) -> Any:
    if file.large:
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)


def digest_existing(part: Path, size: int, update: Callable[[bytes], None]) -> int:
    """Digest a partial file; returns its number of bytes. A file longer than ``size`` is deleted and counts as 0."""
    try:
        have = part.stat().st_size
    except FileNotFoundError:
        return 0
    if have > size:
        part.unlink()
        return 0
    with part.open("rb") as file:
        while piece := file.read(HASH_CHUNK):
            update(piece)
    return have


def reason(error: Exception) -> str:
    argument = error.args[0] if error.args else ""
    return argument if isinstance(argument, Message) else str(error) or type(error).__name__
