"""Kills workers, web process and supervisor, and spoils gallery and database for seconds, at random moments while
clients submit, cancel and poll; then audits.

    python scripts/chaos.py --jobs 1000 --kills 150 --workers 2 --small-disk --record scripts/results/chaos-fake.json
    python scripts/chaos.py --jobs 300 --kills 40 --only gallery,database,away,hang
    python scripts/chaos.py --engine diffusers --jobs 15 --kills 6 --steps 4

Bounded by --jobs, --kills and --seconds; --seed repeats the choices, though not the machine's timing. Exit status 1 if
any promise was broken. Needs the `test` extra (psutil).
"""

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from chaos_audit import Audit, audit, summary
from chaos_cast import STEP_TIMEOUT, Clients, Killer, Scene
from unprivileged import obey_permissions

from diffusion_local import __version__
from diffusion_local.actor import LOCAL, run_as
from diffusion_local.compose import open_services
from diffusion_local.domain import State
from diffusion_local.settings import Settings

SMALL_DISK = "256m"
CALM_SECONDS = 120.0  # within which all submits are answered once the last fault is over


def attack(scene: Scene, options: argparse.Namespace) -> tuple[Clients, Killer, bool]:
    """Until the kills and the jobs are used up, or the time is. Whether all submits were answered in time is last."""
    deadline = time.monotonic() + options.seconds
    killer = Killer(scene, options)
    clients = Clients(scene.services, options, killer)
    told = 0
    while killer.count < options.kills and time.monotonic() < deadline:
        killer.strike()
        if killer.count >= told + 10:
            told = killer.count
            print(f"{told} kills, {len(clients.ledger.promised)} jobs promised", flush=True)
    killer.rest()
    calm_until = min(deadline, time.monotonic() + CALM_SECONDS)
    while clients.submitting and time.monotonic() < calm_until:
        scene.start()
        time.sleep(0.1)
    answered = not clients.submitting or time.monotonic() >= deadline
    scene.start()
    clients.stop()
    return clients, killer, answered


def drain(scene: Scene, seconds: float) -> bool:
    """A clean stop, a clean start, and time until nothing waits."""
    deadline = time.monotonic() + seconds
    while not scene.answers() and time.monotonic() < deadline:
        scene.start()
        time.sleep(0.2)
    scene.stop()
    scene.start()
    while time.monotonic() < deadline:
        counts = scene.services.studio.snapshot(0, 0).counts
        if not counts[State.QUEUED] and not counts[State.RUNNING] and scene.answers():
            scene.stop()
            return True
        scene.start()
        time.sleep(0.2)
    scene.stop()
    return False


def run(options: argparse.Namespace, home: Path) -> tuple[Audit, dict[str, Any]]:
    started = time.monotonic()
    timeout = STEP_TIMEOUT if options.engine == "fake" else 60
    settings = Settings.load(
        {}, home=home, engine=options.engine, port=0, fake_step_seconds=options.step_seconds, step_timeout=timeout,
        batch_size=options.batch_size, device="cpu", threads=1, disk_reserve_mb=30, log_level="info",
    )  # fmt: skip
    scene = Scene(open_services(settings), options.workers > 1)
    try:
        scene.start()
        clients, killer, answered = attack(scene, options)
        attacked = time.monotonic() - started
        drained = drain(scene, 60 + options.jobs * 0.5)
        found = audit(settings, clients.ledger)
    finally:
        scene.end()
    found.check(answered, f"a submit was not answered within {CALM_SECONDS:.0f} s after the last fault")
    found.check(drained, "the queue did not drain")
    found.check(set(scene.serve_exits) == {0}, f"serve ended with {scene.serve_exits} after SIGTERM")
    strays = sum(path.is_file() for path in settings.strays.rglob("*")) if settings.strays.exists() else 0
    return found, {
        "seconds": round(time.monotonic() - started, 1),
        "seconds_under_attack": round(attacked, 1),
        "promised_jobs": len(clients.ledger.promised),
        "idempotency_keys": len(clients.ledger.by_key),
        "sent_again": clients.resends,
        "refused_while_locked": clients.refused,
        "cancels_asked": len(clients.ledger.cancelled),
        "kills": {"total": killer.count, **dict(sorted(killer.kills.items()))},
        **found.counts,
        "made_in_passes_of": passes(settings),
        "put_aside": put_aside(settings),
        "strays_in_all": strays,
        "violations": found.violations,
    }


def passes(settings: Settings) -> dict[str, int]:
    """How many pictures were made together with so many others, their own counted."""
    with contextlib.closing(sqlite3.connect(settings.database_file)) as db:
        found = db.execute("SELECT together, count(*) FROM jobs WHERE state = 'done' GROUP BY together").fetchall()
    return {str(size): count for size, count in found}


def put_aside(settings: Settings) -> int:
    """How often passes made room for a job that somebody waited for, by the workers' logs."""
    logs = settings.logs.glob("worker-*")
    return sum(path.read_text(encoding="utf-8", errors="replace").count("suspended after step") for path in logs)


def conditions(options: argparse.Namespace) -> dict[str, Any]:
    packages = ("huey", "gradio", "sqlite-utils", "pillow", "torch", "diffusers")
    command = [f"--{name} {value}" for name, value in vars(options).items() if name not in ("record", "keep") and value]
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "command": "python scripts/chaos.py " + " ".join(command).replace("_", "-"),
        "version": __version__,
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "packages": {name: metadata.version(name) for name in packages},
        "platform": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores",
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=["fake", "diffusers"], default="fake")
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=1800.0, help="the attack ends then, whatever is left")
    parser.add_argument("--workers", type=int, choices=[1, 2], default=1)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch-size", default="4", help="most pictures in one pass")
    parser.add_argument("--step-seconds", type=float, default=0.01, help="of the fake engine")
    parser.add_argument("--only", default="", help="which faults, such as worker,gallery; all of them if left out")
    parser.add_argument(
        "--small-disk", action="store_true", help="the home on a tmpfs of its own, filled to the last byte"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--record", type=Path, help="write the figures to this JSON file")
    parser.add_argument("--keep", action="store_true", help="keep the home, and say where it is")
    return parser.parse_args()


def main() -> int:
    run_as(LOCAL)
    options = parse()
    home = Path(tempfile.mkdtemp(prefix="chaos-"))
    if options.small_disk:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK}", "tmpfs", home], check=True)
    obey_permissions()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that `finally` runs
    try:
        found, figures = run(options, home)
    finally:
        if options.keep:
            print(f"the home is {home}")
        else:
            if options.small_disk:
                subprocess.run(["umount", "-l", home], check=False)
            shutil.rmtree(home, ignore_errors=True)
    print(json.dumps(figures, indent=2))
    print(summary(found.violations))
    if options.record:
        options.record.write_text(json.dumps(conditions(options) | figures, indent=2) + "\n", encoding="utf-8")
    return 1 if found.violations else 0


if __name__ == "__main__":
    sys.exit(main())
