"""Three workers, two of them on other machines as far as the studio can tell, and a proxy between that delays, cuts and
holds connections, while workers and web process are killed and frozen; then every job is audited.

    python scripts/chaos_wire.py --jobs 1000 --faults 100 --record scripts/results/chaos-wire.json
    python scripts/chaos_wire.py --jobs 1000 --faults 100 --cluster --record scripts/results/chaos-cluster.json

With --cluster, the tables are on a PostgreSQL server and the doorbell is Redis; both are killed and restarted as well.
Bounded by --seconds; --seed repeats the choices, though not the machine's timing. Exit status 1 if any promise was
broken: a job lost, made twice, without its file, or running without an owner for longer than the lease and 10 seconds.
"""

import argparse
import contextlib
import json
import os
import platform
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import psutil
from chaos_audit import audit

from diffusion_local import __version__
from diffusion_local.actor import LOCAL, run_as
from diffusion_local.compose import Services, open_services
from diffusion_local.domain import State
from diffusion_local.models.digests import Digests
from diffusion_local.settings import ENVIRONMENT_PREFIX, Settings

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.postgresql import Cluster, running_cluster
from tests.servers import RedisServer, redis_server

LEASE_SECONDS = 6
OWN_STEP_SECONDS = 0.5  # of the studio's own worker, so that the others make most pictures
SMALL = {"width": 128, "height": 128, "steps": 4}
SERVE = (
    "import sys, diffusion_local.supervisor.supervisor as s; s.LAST_RESTART_DELAY = 1.0; s.JOBS_POLL_SECONDS = 1.0; "
    "from diffusion_local.cli import main; sys.argv = ['diffusion-local', 'serve']; main()"
)
JOIN = "import sys; from diffusion_local.cli import main; sys.argv = ['diffusion-local', *{arguments!r}]; main()"


class Proxy:
    """Passes connections on. ``delay``: seconds before each piece; ``held``: nothing passes; ``cut`` closes all."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.delay, self.held, self.refusing = 0.0, False, False
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        for each in list(self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            near, _ = self._listener.accept()
            try:
                if self.refusing:
                    raise OSError("refused")
                far = socket.create_connection(("127.0.0.1", self._target), timeout=5)
                far.settimeout(None)
            except OSError:
                near.close()
                continue
            self._open |= {near, far}
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=(one, other), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                time.sleep(self.delay)
                while self.held:
                    time.sleep(0.02)
                target.sendall(data)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            self._open.discard(each)


class Scene:
    """The studio with a worker of its own, and two workers that join by the proxy."""

    def __init__(
        self, services: Services, folder: Path, port: int, step_seconds: float, servers: "Servers | None" = None
    ) -> None:
        self.services, self.proxy, self.servers = services, Proxy(port), servers
        self._folder, self._step_seconds = folder, step_seconds
        self.children: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start what is not there."""
        plans: dict[str, Callable[[], subprocess.Popen[bytes]]] = {"studio": self._serve}
        plans |= {name: lambda name=name: self._join(name) for name in ("attic", "cellar")}  # type: ignore[misc]
        for name, begin in plans.items():
            child = self.children.get(name)
            if child is None or child.poll() is not None:
                self.children[name] = begin()

    def _serve(self) -> subprocess.Popen[bytes]:
        return self._python(SERVE, self.services.settings.child_environ(), "studio")

    def _join(self, name: str) -> subprocess.Popen[bytes]:
        url = f"http://127.0.0.1:{self.proxy.port}"
        arguments = ["worker", "--join", url, "--machine", name, "--slot", "cpu0", "--engine", "fake"]
        environ = {key: value for key, value in os.environ.items() if not key.startswith(ENVIRONMENT_PREFIX)} | {
            ENVIRONMENT_PREFIX + "HOME": str(self._folder / name),
            ENVIRONMENT_PREFIX + "FAKE_STEP_SECONDS": str(self._step_seconds),
        }
        return self._python(JOIN.format(arguments=arguments), environ, name)

    def _python(self, code: str, environ: dict[str, str], name: str) -> subprocess.Popen[bytes]:
        with (self._folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen([sys.executable, "-c", code], env=environ, stdout=log, stderr=log)

    def processes(self, name: str, part: str) -> list[psutil.Process]:
        """Processes below a child whose command line has this part."""
        child = self.children.get(name)
        found = []
        with contextlib.suppress(psutil.Error):
            for each in psutil.Process(child.pid).children(recursive=True) if child else ():
                with contextlib.suppress(psutil.Error):
                    found += [each] if any(part in word for word in each.cmdline()) else []
        return found

    def answers(self) -> bool:
        with socket.socket() as trying:
            return trying.connect_ex(("127.0.0.1", self.services.settings.port)) == 0

    def machines(self) -> set[str]:
        return {each.slot for each in self.services.studio.workers() if each.status != "stopped"}

    def stop(self) -> None:
        self.proxy.held, self.proxy.delay, self.proxy.refusing = False, 0.0, False
        for child in self.children.values():
            child.send_signal(signal.SIGTERM)
        for child in self.children.values():
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                for each in psutil.Process(child.pid).children(recursive=True):
                    each.kill()
                child.kill()
                child.wait(10)


class Killer:
    """One fault after the other, each over before the next begins."""

    def __init__(self, scene: Scene, seed: int) -> None:
        self._scene, self._random = scene, random.Random(seed)
        self.counts: Counter[str] = Counter()
        self._faults = {
            "delay": self._delay,
            "cut": self._cut,
            "hold": self._hold,
            "refuse": self._refuse,
            "kill worker": lambda: self._signal(self._machine(), "diffusion_local.worker", signal.SIGKILL),
            "kill machine": self._kill_machine,
            "freeze worker": self._freeze,
            "kill own worker": lambda: self._signal("studio", "diffusion_local.worker", signal.SIGKILL),
            "kill web": lambda: self._signal("studio", "diffusion_local.web", signal.SIGKILL),
            "stop machine": self._stop_machine,
        }
        if (servers := scene.servers) is not None:
            self._faults |= {
                "kill database": lambda: self._restart(
                    lambda: servers.database.stop("immediate"), servers.database.start
                ),
                "kill doorbell": lambda: self._restart(servers.doorbell.stop, servers.doorbell.start),
            }

    def strike(self) -> None:
        name = self._random.choice(list(self._faults))
        self._faults[name]()
        self.counts[name] += 1
        time.sleep(self._random.uniform(0.2, 1.0))
        self._scene.start()

    def _machine(self) -> str:
        return self._random.choice(["attic", "cellar"])

    def _pause(self, most: float) -> None:
        time.sleep(self._random.uniform(0.1, most))

    def _delay(self) -> None:
        self._scene.proxy.delay = self._random.uniform(0.02, 0.5)
        self._pause(3)
        self._scene.proxy.delay = 0.0

    def _cut(self) -> None:
        for _ in range(self._random.randint(1, 5)):
            self._scene.proxy.cut()
            self._pause(0.3)

    def _hold(self) -> None:
        self._scene.proxy.held = True
        self._pause(1.5 * LEASE_SECONDS)
        self._scene.proxy.held = False

    def _refuse(self) -> None:
        self._scene.proxy.refusing = True
        self._scene.proxy.cut()
        self._pause(1.5 * LEASE_SECONDS)
        self._scene.proxy.refusing = False

    def _restart(self, stop: Callable[[], None], start: Callable[[], None]) -> None:
        stop()
        self._pause(3)
        start()

    def _signal(self, name: str, part: str, which: signal.Signals) -> None:
        for each in self._scene.processes(name, part)[:1]:
            with contextlib.suppress(psutil.Error):
                each.send_signal(which)

    def _freeze(self) -> None:
        for each in self._scene.processes(self._machine(), "diffusion_local.worker")[:1]:
            with contextlib.suppress(psutil.Error):
                each.suspend()
                self._pause(1.5 * LEASE_SECONDS)
                each.resume()

    def _kill_machine(self) -> None:
        self._scene.children[self._machine()].kill()

    def _stop_machine(self) -> None:
        """While the studio cannot be reached: what was finished is handed in by the next start."""
        child = self._scene.children[self._machine()]
        self._scene.proxy.refusing = True
        self._scene.proxy.cut()
        time.sleep(0.5)
        child.terminate()
        self._pause(3)
        self._scene.proxy.refusing = False


class Orphans(threading.Thread):
    """Notes jobs that run under a slot which nobody holds, for longer than the lease and 10 seconds."""

    def __init__(self, services: Services) -> None:
        super().__init__(daemon=True)
        self._services = services
        self._since: dict[tuple[str, int], float] = {}
        self.found: set[str] = set()
        self.over = threading.Event()

    def run(self) -> None:
        run_as(LOCAL)
        while not self.over.wait(0.5):
            with contextlib.suppress(Exception):
                self._look()

    def _look(self) -> None:
        held = {lease.slot for lease in self._services.leases.all()}
        now, seen = time.monotonic(), {}
        for job in self._services.studio.jobs(State.RUNNING, limit=1000):
            if job.worker and "." in job.worker and job.worker not in held:
                key = (job.id, job.attempt)
                seen[key] = self._since.get(key, now)
                if now - seen[key] > LEASE_SECONDS + 10:
                    self.found.add(job.id)
        self._since = seen


@dataclass(frozen=True, slots=True)
class Servers:
    """Of the cluster variant."""

    database: Cluster
    doorbell: RedisServer

    def settings(self) -> dict[str, str]:
        return {"database": self.database.create("chaos"), "queue": self.doorbell.url}


@contextlib.contextmanager
def started_servers() -> Iterator[Servers]:
    with running_cluster() as database, redis_server() as doorbell:
        yield Servers(database, doorbell)


def run(
    jobs: int, faults: int, seconds: float, seed: int, step_seconds: float = 0.02, cluster: bool = False
) -> dict[str, Any]:
    """Returns the record; ``violations`` is empty if every promise was kept."""
    run_as(LOCAL)
    with (
        tempfile.TemporaryDirectory(prefix="chaos-wire-") as name,
        started_servers() if cluster else contextlib.nullcontext() as servers,
    ):
        folder = Path(name)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = int(probe.getsockname()[1])
        settings = Settings.load(
            {},
            home=folder / "home",
            engine="fake",
            port=port,
            lease_seconds=LEASE_SECONDS,
            fake_step_seconds=OWN_STEP_SECONDS,
            **servers.settings() if servers else {},
        )
        services = open_services(settings)
        Digests(services.catalog.index, services.catalog.default.folder).run()
        scene = Scene(services, folder, port, step_seconds, servers)
        killer, orphans, began = Killer(scene, seed), Orphans(services), time.monotonic()
        batches = [
            services.studio.submit(f"a lighthouse {at}", count=min(100, jobs - at), **SMALL).batch_id
            for at in range(0, jobs, 100)
        ]
        deadline = began + seconds
        try:
            scene.start()
            while len(scene.machines()) < 3 and time.monotonic() < deadline:
                scene.start()
                time.sleep(0.2)
            orphans.start()
            while sum(killer.counts.values()) < faults and time.monotonic() < deadline:
                killer.strike()
            while (left := unfinished(services, batches)) and time.monotonic() < deadline:
                scene.start()
                time.sleep(0.3)
        finally:
            orphans.over.set()
            scene.stop()
        found = audit(settings)
        counts = services.studio.counts_of_batches(batches)
        total: Counter[str] = Counter()
        for each in counts.values():
            total.update({str(state): count for state, count in each.items()})
        violations = [*map(str, found.violations)]
        violations += [f"{job} ran without an owner" for job in sorted(orphans.found)]
        violations += [f"{left} jobs were left"] * bool(left) + [f"{total}"] * (sum(total.values()) != jobs)
        return {
            "jobs": jobs,
            "faults": dict(killer.counts),
            "states": dict(total),
            "pictures": sum(1 for _ in settings.gallery_folder.rglob("*.png")),
            "pictures_of": {each.name: each.pictures_per_hour for each in services.studio.machines.all()},
            "audit": found.counts,
            "seconds": round(time.monotonic() - began, 1),
            "violations": violations,
            "logs": {} if not violations else {log.stem: log.read_text()[-2000:] for log in folder.glob("*.log")},
        }


def unfinished(services: Services, batches: list[str]) -> int:
    counts = services.studio.counts_of_batches(batches)
    return sum(each.get(State.QUEUED, 0) + each.get(State.RUNNING, 0) for each in counts.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cluster", action="store_true", help="over PostgreSQL and Redis, which are killed too")
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    command = f"scripts/chaos_wire.py --jobs {options.jobs} --faults {options.faults} --seed {options.seed}"
    record = {
        "date": date.today().isoformat(),
        "command": command + " --cluster" * options.cluster,
        "version": __version__,
        "device": f"CPU, {os.cpu_count()} cores, {platform.machine()}",
        "load_1_min": round(os.getloadavg()[0], 2),
    } | run(options.jobs, options.faults, options.seconds, options.seed, cluster=options.cluster)
    print(json.dumps(record, indent=2))
    if options.record:
        options.record.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return bool(record["violations"])


if __name__ == "__main__":
    sys.exit(main())
