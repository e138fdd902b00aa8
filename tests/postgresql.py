"""A PostgreSQL cluster for tests, in a temporary folder of its own, and its databases."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import psycopg
import pytest

from diffusion_local.db.postgresql import MIGRATED, PostgresDatabase

NOBODY = 65534
MISSING = "PostgreSQL is not installed here (Debian: apt-get install postgresql)"
#: Rows that the migrations insert, restored in a database that is emptied for the next test.
SEEDS = """
    INSERT INTO queue (id) VALUES (1);
    INSERT INTO turns VALUES (0, 0, 0, 0), (1, 0, 0, 0);
    INSERT INTO clock (id, at) VALUES (1, '');
"""


def programs() -> Path | None:
    """The folder of ``initdb`` and ``pg_ctl``; Debian keeps them out of the path."""
    found = shutil.which("initdb")
    if found:
        return Path(found).parent
    return max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)


class Cluster:
    """A server that listens on a socket in its folder only. Unless it is ``durable``, fsync is off: its files are not
    kept.
    """

    def __init__(self, folder: Path, bin_folder: Path, durable: bool = False) -> None:
        self._folder, self._bin, self._fsync = folder, bin_folder, "on" if durable else "off"
        self._run("initdb", "-D", "data", "-U", "test", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")

    def start(self) -> None:
        sent = {
            "fsync": self._fsync,
            "listen_addresses": "",
            "unix_socket_directories": self._folder,
            "max_connections": 500,
        }
        options = " ".join(f"-c {name}={value}" for name, value in sent.items())
        self._run("pg_ctl", "-D", "data", "-w", "-s", "-l", "log", "-o", options, "start")

    def stop(self, how: str = "fast") -> None:
        """``immediate`` is a crash: the server recovers from its log at the next start."""
        self._run("pg_ctl", "-D", "data", "-w", "-s", "-m", how, "stop")

    @property
    def pid(self) -> int:
        """The process whose children serve the connections."""
        return int((self._folder / "data" / "postmaster.pid").read_text().split()[0])

    def url(self, name: str) -> str:
        return f"postgresql://test@/{name}?host={self._folder}"

    def create(self, name: str) -> str:
        """A new, empty database; returns its URL."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def _run(self, program: str, *arguments: str) -> None:
        root = hasattr(os, "geteuid") and os.geteuid() == 0  # whom PostgreSQL refuses
        subprocess.run(
            [self._bin / program, *arguments],
            cwd=self._folder,
            check=True,
            stdout=subprocess.DEVNULL,
            **({"user": NOBODY, "group": NOBODY, "extra_groups": []} if root else {}),
        )


@contextlib.contextmanager
def running_cluster(durable: bool = False) -> Iterator[Cluster]:
    """Skips the test where PostgreSQL is missing; in CI that fails it. ``durable``: on disk, for measurements."""
    found = programs()
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir=memory if os.access(memory, os.W_OK) and not durable else None))
    try:
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            os.chown(folder, NOBODY, NOBODY)
        cluster = Cluster(folder, found, durable)
        cluster.start()
        try:
            yield cluster
        finally:
            with contextlib.suppress(subprocess.CalledProcessError):  # a test stopped it already
                cluster.stop("immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@lru_cache(maxsize=8)
def migrated(url: str) -> tuple[str, ...]:
    """Migrate a database once; returns its tables."""
    PostgresDatabase.open(url).close()
    with psycopg.connect(url) as connection:
        found = connection.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace"
        )
        return tuple(
            sorted(name for (name,) in found.fetchall() if not name.startswith((MIGRATED, "last_writes", "huey_")))
        )


def emptied(url: str) -> str:
    """The database at ``url``, migrated and as a new one."""
    tables = migrated(url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"TRUNCATE {', '.join(tables)} RESTART IDENTITY CASCADE; {SEEDS}")
        queues = connection.execute("SELECT relname FROM pg_class WHERE relkind = 'r' AND relname LIKE 'huey_%'")
        for (name,) in queues.fetchall():  # created by the first message
            connection.execute(f"TRUNCATE {name}")
    return url
