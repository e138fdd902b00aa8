"""The downloads table, which is the source of truth, and the sources of downloads: repositories of the hub, URLs of
files, and model versions on Civitai.
"""

import re
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from diffusion_local.db.database import Database
from diffusion_local.domain import new_id, utc_now
from diffusion_local.errors import Conflict, NotFound, echo
from diffusion_local.messages import from_json, message, to_json
from diffusion_local.models.file_formats import WEIGHT_SUFFIXES

DEFAULT_SUFFIX = ".safetensors"
MAX_NAME = 100  # characters of a file name
CIVITAI = re.compile(r"civitai:(?:models/(?P<model>[0-9]{1,12})|(?P<version>[0-9]{1,12}))")
CIVITAI_HOSTS = ("civitai.com", "www.civitai.com")
#: Path of a page or a download on Civitai, for a model (its version may be in the query) or for a version.
CIVITAI_PATH = re.compile(
    r"/models/(?P<model>[0-9]{1,12})(?:/[^/]*)?/?|/(?:api/download/models|model-versions)/(?P<version>[0-9]{1,12})/?"
)
KEPT_DOWNLOADS = 50  # ended downloads kept


def is_link(source: str) -> bool:
    """Whether a download's source is a URL or a Civitai version, not a repository of the hub."""
    return "://" in source or source.startswith("civitai:")


def shown_source(source: str) -> str:
    """A source for display and logs: without the query, which may contain credentials."""
    return source.partition("?")[0] if "://" in source else source


def civitai_source(text: str) -> str:
    """``civitai:VERSION`` or ``civitai:models/MODEL`` (the newest version) from text in that form or a Civitai URL; ""
    for anything else.
    """
    if CIVITAI.fullmatch(text):
        return text
    try:
        parts = urlsplit(text)
    except ValueError:
        return ""
    match = CIVITAI_PATH.fullmatch(parts.path)
    if parts.scheme not in ("http", "https") or parts.hostname not in CIVITAI_HOSTS or not match:
        return ""
    version = match["version"] or next(iter(parse_qs(parts.query).get("modelVersionId", ())), "")
    source = f"civitai:{version}" if version else f"civitai:models/{match['model']}"
    return source if CIVITAI.fullmatch(source) else ""


def provisional_name(source: str) -> str:
    """File name of a Civitai download until the API has returned the real one."""
    return source.replace(":", "-").replace("/", "-") + DEFAULT_SUFFIX


def is_weights(name: str) -> bool:
    """Whether a file name has the suffix of a weights file."""
    return PurePosixPath(name).suffix.lower() in WEIGHT_SUFFIXES


def name_in(url: str) -> str:
    """The file name at the end of a URL's path."""
    return PurePosixPath(unquote(urlsplit(url).path)).name


class DownloadState(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


#: verb: (from, to). ``recover`` applies after the downloader died.
TRANSITIONS: dict[str, tuple[DownloadState, DownloadState]] = {
    "claim": (DownloadState.WAITING, DownloadState.RUNNING),
    "finish": (DownloadState.RUNNING, DownloadState.DONE),
    "fail": (DownloadState.RUNNING, DownloadState.FAILED),
    "stop": (DownloadState.RUNNING, DownloadState.CANCELLED),
    "recover": (DownloadState.RUNNING, DownloadState.WAITING),
    "cancel": (DownloadState.WAITING, DownloadState.CANCELLED),
}
FINAL = frozenset(DownloadState) - {start for start, _ in TRANSITIONS.values()}


@dataclass(frozen=True, slots=True)
class Download:
    """A download; sizes in bytes. ``bytes_total`` is 0 until the server has reported it.

    ``repo``: a repository of the hub, a URL, or a version on Civitai (see ``civitai_source``). ``digest``: the SHA-256
    that the file of a URL must have, or has once it is downloaded.
    """

    id: str
    repo: str
    revision: str
    file: str
    folder: str
    name: str
    owner: str
    state: DownloadState
    created_at: str
    cancel_requested: bool = False
    bytes_done: int = 0
    bytes_total: int = 0
    error_kind: str = ""
    error_message: str = ""
    started_at: str | None = None
    finished_at: str | None = None
    digest: str = ""

    @property
    def source(self) -> str:
        """``repo`` for display and logs."""
        return shown_source(self.repo)

    @property
    def final(self) -> bool:
        return self.state in FINAL


class DownloadStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self, repo: str, revision: str, file: str, folder: str, name: str, owner: str, digest: str = ""
    ) -> tuple[Download, bool]:
        """Add a download unless the file has an unfinished one; returns (the download, whether it is new)."""
        with self._database.write() as db:
            there = db.execute(
                "SELECT id FROM downloads WHERE repo = ? AND revision = ? AND file = ? AND folder = ? "
                "AND state IN ('waiting', 'running') AND cancel_requested = 0",
                [repo, revision, file, folder],
            ).fetchone()
            if there:
                return self._get(db, there[0]), False
            if db.execute(
                "SELECT 1 FROM downloads WHERE folder = ? AND name = ? AND state IN ('waiting', 'running')",
                [folder, name],
            ).fetchone():
                raise Conflict(message("download_busy", path=f"{folder}/{name}"))
            download_id = new_id()
            db.insert("downloads", {
                    "id": download_id, "repo": repo, "revision": revision, "file": file, "folder": folder,
                    "name": name, "owner": owner, "digest": digest,
                    "state": DownloadState.WAITING, "created_at": utc_now(),
                }
            )  # fmt: skip
            db.execute(
                "DELETE FROM downloads WHERE finished_at IS NOT NULL AND id NOT IN "
                "(SELECT id FROM downloads WHERE finished_at IS NOT NULL ORDER BY id DESC LIMIT ?)",
                [KEPT_DOWNLOADS],
            )
            return self._get(db, download_id), True

    def get(self, download_id: str) -> Download:
        with self._database.read() as db:
            return self._get(db, download_id)

    def list_all(self) -> list[Download]:
        """Unfinished downloads in order, then ended ones, newest first."""
        with self._database.read() as db:
            rows = list(db.query("SELECT * FROM downloads ORDER BY id"))
        found = [to_download(row) for row in rows]
        return [each for each in found if not each.final] + [each for each in reversed(found) if each.final]

    def any_waiting(self) -> bool:
        with self._database.read() as db:
            return db.execute("SELECT 1 FROM downloads WHERE state = 'waiting'").fetchone() is not None

    def claim(self) -> Download | None:
        """Claim the oldest waiting download, or None."""
        with self._database.write() as db:
            row = db.execute("SELECT id FROM downloads WHERE state = 'waiting' ORDER BY id").fetchone()
            return self._move(db, "claim", row[0], started_at=utc_now()) if row else None

    def report(self, download_id: str, done: int, total: int) -> bool:
        """Record progress; returns whether to stop because it was cancelled."""
        with self._database.write() as db:
            db.execute(
                "UPDATE downloads SET bytes_done = ?, bytes_total = ? WHERE id = ? AND state = 'running'",
                [done, total, download_id],
            )
            row = db.execute("SELECT state, cancel_requested FROM downloads WHERE id = ?", [download_id]).fetchone()
            return row is None or row[0] != DownloadState.RUNNING or bool(row[1])

    def finish(self, download_id: str, size: int, **changes: str) -> Download:
        """Mark a download as finished. ``changes``: folder, name and digest, if the download revealed them."""
        return self._end("finish", download_id, bytes_done=size, bytes_total=size, **changes)

    def fail(self, download_id: str, kind: str, problem: str) -> Download:
        return self._end("fail", download_id, error_kind=kind, error_message=problem, error_json=to_json(problem))

    def stop(self, download_id: str) -> Download:
        return self._end("stop", download_id)

    def cancel(self, download_id: str) -> Download:
        """Cancel a waiting download at once, a running one at its next chunk. Raises NotFound, Conflict."""
        with self._database.write() as db:
            found = self._get(db, download_id)
            if found.final:
                raise Conflict(message("download_over", state=message(f"state_{found.state}")))
            if found.state is DownloadState.WAITING:
                return self._move(db, "cancel", download_id, finished_at=utc_now())
            db.execute("UPDATE downloads SET cancel_requested = 1 WHERE id = ?", [download_id])
            return self._get(db, download_id)

    def recover(self) -> int:
        """Reset the running downloads of a dead downloader; returns their number. Only its successor may call this."""
        with self._database.write() as db:
            rows = db.execute("SELECT id, cancel_requested FROM downloads WHERE state = 'running'").fetchall()
            for download_id, cancelled in rows:
                if cancelled:
                    self._move(db, "stop", download_id, finished_at=utc_now())
                else:
                    self._move(db, "recover", download_id)
            return len(rows)

    def _end(self, verb: str, download_id: str, **values: Any) -> Download:
        with self._database.write() as db:
            return self._move(db, verb, download_id, finished_at=utc_now(), **values)

    def _move(self, db: Any, verb: str, download_id: str, **values: Any) -> Download:
        """Change a download's state; nothing else does. Raises Conflict if it is not in the verb's start state."""
        start, end = TRANSITIONS[verb]
        columns = {"state": end} | values
        changed = db.execute(
            f"UPDATE downloads SET {', '.join(f'{name} = ?' for name in columns)} WHERE id = ? AND state = ?",
            [*columns.values(), download_id, start],
        ).rowcount
        if not changed:
            raise Conflict(message("download_state", download=download_id, state=message(f"state_{start}")))
        return self._get(db, download_id)

    @staticmethod
    def _get(db: Any, download_id: str) -> Download:
        row = next(iter(db.query("SELECT * FROM downloads WHERE id = ?", [download_id])), None)
        if row is None:
            raise NotFound(message("no_download", download=echo(download_id)))
        return to_download(row)


def to_download(row: dict[str, Any]) -> Download:
    values = {each.name: row[each.name] for each in fields(Download)}
    values["error_message"] = from_json(row["error_message"], row["error_json"])
    values |= {"state": DownloadState(row["state"]), "cancel_requested": bool(row["cancel_requested"])}
    return Download(**values)
