"""Blobs in a bucket of an object store (S3 or compatible), through obstore.

A write is one request or one multipart upload, which becomes visible only when it is complete. A read fetches small
blobs whole, and large ones by ranges of one version.
"""

import contextlib
import io
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import parse_qs, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import MemoryStore, S3Store

from diffusion_local.errors import InvalidParams, StorageProblem, echo
from diffusion_local.gallery.blobs import Area, Stat, Write, check_key, no_such_key
from diffusion_local.messages import message

#: Blobs larger than this are read by ranges.
WHOLE_BYTES = 8 * 2**20
RANGE_BYTES = 1 * 2**20
#: Content up to this size is buffered in memory while it is written, larger content in a temporary file.
SPOOL_BYTES = 32 * 2**20
#: A touch rewrites the blob, so it is skipped for blobs newer than this.
TOUCH_SECONDS = 6 * 3600.0
LIST_CHUNK = 1000
CLIENT: Any = {"connect_timeout": timedelta(seconds=5), "timeout": timedelta(seconds=60)}
RETRIES: Any = {"max_retries": 3, "retry_timeout": timedelta(seconds=10)}
URL_PARAMETERS = ("endpoint", "region")


class ObjectBlobs:
    """See ``Blobs``. Raises StorageProblem for a lost connection or a refused request."""

    def __init__(self, store: S3Store | MemoryStore, name: str = "bucket") -> None:
        self._store = store
        self._name = name

    def write(self, key: str, write: Write, durable: bool = False, reserve: int = 0) -> int:
        check_key(key)
        with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES) as file:
            write(file)
            file.seek(0, io.SEEK_END)
            size = file.tell()
            file.seek(0)
            with self._problems(missing=True):
                obstore.put(self._store, key, file.read() if size <= SPOOL_BYTES else file)
        return size

    def open(self, key: str) -> BinaryIO:
        with self._problems(key):
            answer = obstore.get(self._store, check_key(key))
            size = answer.meta["size"]
            if size <= WHOLE_BYTES:
                return io.BytesIO(answer.bytes().to_bytes())
            return io.BufferedReader(Ranges(self, key, size, answer.meta["e_tag"]), RANGE_BYTES)

    def read_range(self, key: str, start: int, end: int, version: str | None) -> bytes:
        """Read bytes of one version of a blob. Raises StorageProblem if it was replaced."""
        options: Any = {"range": (start, end)} | ({"if_match": version} if version else {})
        with self._problems(key):
            return obstore.get(self._store, key, options=options).bytes().to_bytes()

    def stat(self, key: str) -> Stat | None:
        try:
            with self._problems(key):
                return stat_of(obstore.head(self._store, check_key(key)))
        except FileNotFoundError:
            return None

    def list(self, prefix: str) -> Iterator[Stat]:
        folder = prefix.rpartition("/")[0]
        with self._problems(missing=True):
            stream = obstore.list(self._store, folder, chunk_size=LIST_CHUNK)
            if isinstance(self._store, MemoryStore):
                stream = [sorted(stream.collect(), key=lambda each: each["path"])]  # type: ignore[assignment]
            for chunk in stream:
                for each in chunk:
                    hidden = any(part.startswith(".") for part in each["path"].split("/"))
                    if each["path"].startswith(prefix) and not hidden:
                        yield stat_of(each)

    def touch(self, key: str) -> None:
        """Rewrite the blob, because a store may refuse to copy a blob onto itself."""
        found = self.stat(key)
        if found is not None and time.time() - found.modified > TOUCH_SECONDS:
            with contextlib.suppress(FileNotFoundError), self._problems(key):
                obstore.put(self._store, key, obstore.get(self._store, key).bytes().to_bytes())

    def move(self, key: str, target: str) -> None:
        check_key(target)
        with self._problems(key):
            obstore.head(self._store, check_key(key))
            obstore.copy(self._store, key, target)
            obstore.delete(self._store, key)

    def delete(self, key: str) -> None:
        with contextlib.suppress(FileNotFoundError), self._problems(key):
            obstore.delete(self._store, check_key(key))

    def drop_unfinished(self, area: Area, seconds: float) -> None:
        """No-op: incomplete uploads are never visible. A lifecycle rule of the bucket should delete their parts."""

    def free_bytes(self) -> int:
        return 2**62

    def probe(self, prefix: str, size: int) -> None:
        key = f"{check_key(prefix)}/.probe"
        with self._problems(missing=True):
            obstore.put(self._store, key, bytes(size))
            obstore.delete(self._store, key)

    def local_path(self, key: str) -> Path | None:
        check_key(key)
        return None

    @contextlib.contextmanager
    def _problems(self, key: str = "", missing: bool = False) -> Iterator[None]:
        """Raise FileNotFoundError for a missing key, StorageProblem for any other fault.

        ``missing``: the operation has no key, so "not found" means that the bucket is missing.
        """
        try:
            yield
        except FileNotFoundError as error:
            if missing or "NoSuchBucket" in str(error):
                raise StorageProblem(message("bucket_missing", bucket=self._name)) from error
            raise no_such_key(key) from None
        except PermissionError as error:
            raise StorageProblem(message("bucket_refuses", bucket=self._name, error=one_line(error))) from error
        except BaseError as error:
            text = one_line(error)
            if "NoSuchBucket" in text:
                raise StorageProblem(message("bucket_missing", bucket=self._name)) from error
            if type(error).__name__ in ("PermissionDeniedError", "UnauthenticatedError"):
                raise StorageProblem(message("bucket_refuses", bucket=self._name, error=text)) from error
            raise StorageProblem(message("bucket_fails", bucket=self._name, error=text)) from error


class Ranges(io.RawIOBase):
    """A large blob as a file, read by ranges of the version that was opened."""

    def __init__(self, blobs: ObjectBlobs, key: str, size: int, version: str | None) -> None:
        self._blobs, self._key, self._size, self._version = blobs, key, size, version
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence])
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        end = min(self._at + len(buffer), self._size)
        if end <= self._at:
            return 0
        found = self._blobs.read_range(self._key, self._at, end, self._version)
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)


def open_bucket(url: str) -> ObjectBlobs:
    """Open ``s3://bucket/prefix?endpoint=https://host&region=name``, without connecting yet.

    Credentials come from AWS's environment variables, web identity or instance metadata. Raises InvalidParams for the
    setting ``gallery``.
    """
    split = urlsplit(url)
    options = {name: values[-1] for name, values in parse_qs(split.query).items()}
    if split.scheme != "s3" or not split.hostname or split.username or set(options) - set(URL_PARAMETERS):
        raise InvalidParams("gallery", message("gallery_url", got=echo(url.rpartition("@")[2])))
    try:
        store = S3Store(
            split.netloc,
            prefix=split.path.strip("/") or None,
            client_options=CLIENT | {"allow_http": options.get("endpoint", "").startswith("http://")},
            retry_config=RETRIES,
            **options,  # type: ignore[arg-type]
        )
    except (BaseError, ValueError):
        raise InvalidParams("gallery", message("gallery_url", got=echo(url))) from None
    return ObjectBlobs(store, f"s3://{split.netloc}{split.path}")


def stat_of(meta: Any) -> Stat:
    return Stat(meta["path"], meta["size"], meta["last_modified"].timestamp())


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
