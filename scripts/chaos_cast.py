"""Participants of ``chaos.py``: the processes under attack, the clients, and the killer, which also breaks the disk."""

import argparse
import json
import os
import random
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psutil
from chaos_audit import Ledger

from diffusion_local.compose import Services
from diffusion_local.dispatch import slots
from diffusion_local.domain import Lane
from diffusion_local.errors import Conflict, DatabaseProblem, QueueBlocked

#: The product waits up to 30 s before it restarts what dies again and again; here it is to die often.
SERVE = (
    "import diffusion_local.supervisor.supervisor as s; s.LAST_RESTART_DELAY = 1.0; s.JOBS_POLL_SECONDS = 1.0; "
    "from diffusion_local.cli import main; main()"
)
REPOSITORY = Path(__file__).resolve().parent.parent
STEP_TIMEOUT = 3  # seconds; of the fake engine's jobs, whose steps take milliseconds
TARGETS = {"worker": 66, "freeze": 10, "steal": 6, "term": 6, "web": 6, "supervisor": 6}
#: Faults of the storage that pass: gallery or database without write permission, the gallery moved away, a gallery
#: whose files take no sync (as a share whose server is away), and a disk without a free byte.
FAULTS = {"gallery": 12, "database": 12, "away": 12, "hang": 12, "full": 12}
STOP_SECONDS = 240  # a busy machine takes long to stop a server and its worker
FAULT_SECONDS = (0.5, 6.0)
#: Run by every Python under attack when it starts.
SITE = """
import os, time
from pathlib import Path
from scripts.unprivileged import obey_permissions
obey_permissions()
fsync, hang = os.fsync, Path({hang!r})
def slow(descriptor):
    while hang.exists() and {gallery!r} in os.readlink(f"/proc/self/fd/{{descriptor}}"):
        time.sleep(0.02)
    fsync(descriptor)
os.fsync = slow
"""
WORDS = ["a lighthouse", "two owls", "a red apple", "rain on glass", "a paper boat", "moss", "an old map"]


class Scene:
    """The processes under attack: ``serve`` with its children, and a second worker of our own."""

    def __init__(self, services: Services, second: bool) -> None:
        self.services = services
        self._log = (services.settings.home / "output.log").open("ab")
        self._second = second
        self.serve: subprocess.Popen[bytes] | None = None
        self.other: subprocess.Popen[bytes] | None = None
        self.serve_exits: list[int] = []
        self.hang = services.settings.home / "hang"
        self._site = services.settings.home / "site"
        self._site.mkdir(exist_ok=True)
        site = SITE.format(hang=str(self.hang), gallery=f"{services.settings.gallery_folder}/")
        (self._site / "sitecustomize.py").write_text(site, encoding="utf-8")

    def start(self) -> None:
        """Start whatever of it is not running."""
        if self.serve is None or self.serve.poll() is not None:
            self.serve = self._spawn("-c", SERVE, "serve")
        if self._second and (self.other is None or self.other.poll() is not None):
            self.other = self._spawn("-m", "diffusion_local.worker", "--slot", "cpu1")

    def _spawn(self, *arguments: str) -> "subprocess.Popen[bytes]":
        path = os.pathsep.join([str(self._site), str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
        environ = self.services.settings.child_environ() | {"PYTHONPATH": path}
        return subprocess.Popen([sys.executable, *arguments], env=environ, stdout=self._log, stderr=self._log)

    def children(self, module: str) -> list[psutil.Process]:
        """Children of ``serve`` that run this module."""
        try:
            family = psutil.Process(self.serve.pid).children() if self.serve else []
            return [child for child in family if module in child.cmdline()]
        except psutil.Error:
            return []

    def workers(self) -> list[psutil.Process]:
        """Every worker's process that holds its slot."""
        held = {
            worker.pid for worker in self.services.workers.list_all() if worker.status in ("idle", "loading", "busy")
        }
        found = self.children("diffusion_local.worker")
        if self.other is not None and self.other.poll() is None:
            found.append(psutil.Process(self.other.pid))
        return [worker for worker in found if worker.pid in held]

    def answers(self) -> bool:
        """Whether the page is there."""
        try:
            address = json.loads((self.services.settings.locks / "serve.json").read_text(encoding="utf-8"))
            with urlopen(address["url"] + "/healthz", timeout=2) as answer:
                return self.serve is not None and address["pid"] == self.serve.pid and answer.status == 200
        except (OSError, ValueError):
            return False

    def stop(self) -> None:
        """The way a service manager does it."""
        for process in (self.serve, self.other):
            if process is not None and process.poll() is None:
                process.terminate()
        for process in (self.serve, self.other):
            if process is not None:
                process.wait(STOP_SECONDS)
        if self.serve is not None:
            self.serve_exits.append(self.serve.returncode)

    def end(self) -> None:
        """Leave nothing behind, however this went."""
        mine = [process for process in (self.serve, self.other) if process is not None and process.poll() is None]
        for process in mine:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
            process.wait()
        self._log.close()


class Clients:
    """Threads that submit, cancel, pause and look, some in this process as the command line does, one by the API."""

    def __init__(self, services: Services, options: argparse.Namespace, killed: "Killer") -> None:
        self.ledger = Ledger()
        self.resends = self.refused = self._asked = 0
        self._house, self._studio, self._options, self._killer = services, services.studio, options, killed
        self._lock = threading.Lock()
        self.over = threading.Event()
        names = ["program", *["person"] * (options.clients - 1)]
        self._threads = [
            threading.Thread(target=self._submit, args=(name, random.Random(f"{options.seed}-{n}")), daemon=True)
            for n, name in enumerate(names)
        ]
        self._submitters = list(self._threads)
        self._threads.append(threading.Thread(target=self._meddle, args=(random.Random(options.seed),), daemon=True))
        for thread in self._threads:
            thread.start()

    @property
    def submitting(self) -> bool:
        return any(thread.is_alive() for thread in self._submitters)

    def stop(self) -> None:
        self.over.set()
        for thread in self._threads:
            thread.join(120)

    def _submit(self, name: str, rng: random.Random) -> None:
        """Submit while there is room: jobs are spread over the kills, so that each kill finds work."""
        while not self.over.is_set() and self._asked < self._options.jobs:
            count = self._reserve(rng.randint(1, 4))
            if not count:
                self.over.wait(0.05)
                continue
            options = {"prompt": self._prompt(rng), "count": count, "steps": self._options.steps}
            options |= {"width": 128, "height": 128, "seed": rng.randrange(10**6)}
            if name != "program" and rng.random() < 0.8:  # which may share passes, and is put aside for the others
                options |= {"lane": Lane.BATCH}
            else:
                self.over.wait(rng.random() * 6)  # comes while what was submitted with others is being made
            key = f"{self._options.seed}-{rng.getrandbits(64)}" if name == "program" or rng.random() < 0.4 else None
            ids = self._by_api(options, key) if name == "program" else self._in_process(options, key)
            self._note(ids, str(options["prompt"]), key)
            if key and rng.random() < 0.5:  # a client that did not hear the answer asks again
                self.resends += 1
                self._note(self._in_process(options, key), str(options["prompt"]), key)
            self.over.wait(rng.random() * 0.2)

    def _reserve(self, requested: int) -> int:
        """How many of the wanted jobs may be submitted now."""
        with self._lock:
            share = (self._killer.count + 1) / max(1, self._options.kills)
            room = min(self._options.jobs, 10 + int(self._options.jobs * share)) - self._asked
            count = max(0, min(requested, room))
            self._asked += count
            return count

    def _prompt(self, rng: random.Random) -> str:
        prompt = f"{rng.choice(WORDS)} {rng.randrange(10**6)}"
        if self._options.engine == "fake" and rng.random() < 0.03:
            prompt += f" [{rng.choice(['crash', 'fail', 'flaky', 'slow:0.2'])}]"
        return prompt

    def _in_process(self, options: dict[str, Any], key: str | None) -> list[str]:
        while True:
            try:
                return self._studio.submit(**options, idempotency_key=key).job_ids
            except (DatabaseProblem, QueueBlocked):  # refused means that nothing was enqueued
                self.refused += 1
                self.over.wait(0.1)

    def _by_api(self, options: dict[str, Any], key: str | None) -> list[str]:
        """Through the web process, again and again until it answers: the key makes that safe."""
        from gradio_client import Client

        while not self.over.is_set():
            try:
                address = json.loads((self._house.settings.locks / "serve.json").read_text(encoding="utf-8"))["url"]
                client = Client(address, verbose=False)
                call = client.submit(api_name="/submit", **options, idempotency_key=key)
                return call.result(timeout=20)["job_ids"]
            except Exception:  # whatever a dead or half-started server makes of it
                self.resends += 1
                self.over.wait(0.3)
        return self._in_process(options, key)

    def _note(self, ids: list[str], prompt: str, key: str | None) -> None:
        with self._lock:
            self.ledger.promised |= dict.fromkeys(ids, prompt)
            if key:
                self.ledger.by_key.setdefault(key, set()).add(tuple(ids))

    def _meddle(self, rng: random.Random) -> None:
        """Cancel about one job in twelve, hold the queue now and then, and look at everything."""
        while not self.over.wait(rng.random()):
            with suppress(DatabaseProblem):
                self._studio.snapshot()
                waiting = self._studio.jobs(state="queued", limit=20) + self._studio.jobs(state="running")
                if waiting and len(self.ledger.cancelled) < len(self.ledger.promised) / 12:
                    self._cancel(rng.choice(waiting).id)
                if rng.random() < 0.05:
                    self._studio.queue.pause(give_back=rng.random() < 0.5)
                    self.over.wait(rng.random() * 1.5)
            with suppress(DatabaseProblem):
                self._studio.queue.resume()
        self._resume()

    def _resume(self) -> None:
        while True:
            with suppress(DatabaseProblem):
                return self._studio.queue.resume()
            time.sleep(0.1)

    def _cancel(self, job_id: str) -> None:
        self.ledger.cancelled.add(job_id)
        with suppress(Conflict):  # it ended in that moment
            self._studio.queue.cancel([job_id])


class Killer:
    """Chooses victims and moments by a seed."""

    def __init__(self, scene: Scene, options: argparse.Namespace) -> None:
        self.kills: Counter[str] = Counter()
        self._frozen: list[threading.Thread] = []
        self._fault: threading.Thread | None = None
        known = TARGETS | FAULTS
        self._targets = {name: known[name] for name in (options.only.split(",") if options.only else known)}
        if not options.small_disk:
            self._targets.pop("full", None)
        self._scene, self._options = scene, options
        self._rng = random.Random(options.seed)
        self._calm = (0.1, 1.9) if options.engine == "fake" else (0.1, 4.0)  # seconds between a worker's deaths

    @property
    def count(self) -> int:
        return self.kills.total()

    def strike(self) -> None:
        """Wait for a worker that is at work, then for a random moment, then hit one target."""
        busy = self._await_busy(5)
        if busy is None:  # all is done or cancelled, or held: then an idle one
            with suppress(DatabaseProblem):
                busy = next(iter(self._scene.workers()), None)
        time.sleep(self._rng.uniform(*self._calm))
        if busy is None:
            return
        target = self._rng.choices(list(self._targets), list(self._targets.values()))[0]
        if self.count == self._options.kills - 1 and not self.kills["supervisor"] and not self._options.only:
            target = "supervisor"  # a short run meets it, too
        if target == "steal" and self._options.workers < 2:
            target = "worker"
        if target in FAULTS:
            self._turn_bad(target)
            return
        try:
            if self._hit(target, busy):
                self.kills[target] += 1
        except psutil.NoSuchProcess:
            return

    def _hit(self, target: str, worker: psutil.Process) -> bool:
        match target:
            case "worker":
                worker.kill()
            case "term":
                worker.terminate()
            case "freeze":
                self._freeze(worker, steal=False)
            case "steal":
                self._freeze(worker, steal=True)
            case "web":
                for web in (found := self._scene.children("diffusion_local.web")):
                    web.kill()
                return bool(found)
            case "supervisor" if self._scene.serve is not None:
                self._scene.serve.kill()
                self._scene.serve.wait()
        return True

    def _turn_bad(self, fault: str) -> None:
        """Turn the storage bad, and good again after some seconds; one fault at a time, with kills in the middle."""
        if self._fault is not None:
            self._fault.join()
        undo = FAULT_MAKERS[fault](self._scene)
        seconds = self._rng.uniform(*FAULT_SECONDS)
        self._fault = threading.Timer(seconds, undo)
        self._fault.start()
        self.kills[fault] += 1

    def _freeze(self, worker: psutil.Process, steal: bool) -> None:
        """Stop a worker for a while. ``steal``: its jobs are recovered meanwhile; what it writes after is too late."""
        worker.suspend()
        seconds = self._rng.uniform(0.3, 3 * STEP_TIMEOUT)
        with suppress(DatabaseProblem):
            slot = next((w.slot for w in self._scene.services.workers.list_all() if w.pid == worker.pid), None)
            if steal and slot and may_write(self._scene.services.settings.database_file):
                slots.recover(self._scene.services, slot)
        thread = threading.Thread(target=self._wake, args=(worker, seconds), daemon=True)
        self._frozen.append(thread)  # others are killed while it is frozen
        thread.start()

    @staticmethod
    def _wake(worker: psutil.Process, seconds: float) -> None:
        with suppress(psutil.NoSuchProcess):
            try:
                worker.wait(seconds)
            except psutil.TimeoutExpired:
                worker.resume()

    def rest(self) -> None:
        """Until every frozen worker is awake or dead, and the storage is good."""
        for thread in (*self._frozen, *([self._fault] if self._fault else [])):
            thread.join()

    def _await_busy(self, timeout: float) -> psutil.Process | None:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            self._scene.start()
            with suppress(DatabaseProblem):
                running = {job.worker for job in self._scene.services.studio.jobs(state="running")}
                pids = {w.pid for w in self._scene.services.workers.list_all() if w.slot in running}
                busy = [worker for worker in self._scene.workers() if worker.pid in pids]
                if busy:
                    return self._rng.choice(busy)
            time.sleep(0.02)
        return None


def unwritable(*paths: Path) -> Callable[[], None]:
    """Without write permission; call what comes back to restore it."""
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in paths}
    for path, mode in modes.items():
        path.chmod(mode & 0o555)
    return lambda: [path.chmod(mode) for path, mode in modes.items()] and None


def gallery_unwritable(scene: Scene) -> Callable[[], None]:
    gallery = scene.services.settings.gallery_folder
    return unwritable(gallery, *(path for path in gallery.rglob("*") if path.is_dir()))


def database_unwritable(scene: Scene) -> Callable[[], None]:
    database = scene.services.settings.database_file
    return unwritable(*(path for path in database.parent.glob("app.db*") if path.suffix != ".lock"))


def gallery_away(scene: Scene) -> Callable[[], None]:
    gallery = scene.services.settings.gallery_folder
    away = gallery.with_name("away")
    gallery.rename(away)
    return lambda: away.rename(gallery) and None


def gallery_hangs(scene: Scene) -> Callable[[], None]:
    scene.hang.touch()
    return scene.hang.unlink


def disk_full(scene: Scene) -> Callable[[], None]:
    filler = scene.services.settings.home / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(2**16))
    return filler.unlink


FAULT_MAKERS: dict[str, Callable[[Scene], Callable[[], None]]] = {
    "gallery": gallery_unwritable,
    "database": database_unwritable,
    "away": gallery_away,
    "hang": gallery_hangs,
    "full": disk_full,
}


def may_write(database: Path) -> bool:
    """Whether the database's lock is free: a worker may have been frozen in the middle of a transaction."""
    try:
        with closing(sqlite3.connect(database, timeout=0.2, isolation_level=None)) as db:
            db.execute("BEGIN IMMEDIATE")
            db.execute("ROLLBACK")
            return True
    except sqlite3.OperationalError:
        return False
