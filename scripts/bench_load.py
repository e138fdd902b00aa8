"""Load test: many clients submit over HTTP, poll until their picture is ready, and repeat.

    python scripts/bench_load.py [--clients 200] [--seconds 60] [--max-queued 150] [--record FILE.json]

Runs a real server with one worker (test cards without pauses) in its own home. Reports responses by status, the latency
of submits and polls, and finally, from the database, whether every acknowledged job is there once and has ended. A
client that receives 429 waits for ``Retry-After``, but at most two seconds, so that the limit is hit repeatedly.
"""

import argparse
import asyncio
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from bench_record import conditions, publish
from bench_studio import serving_url, start

from diffusion_local.actor import LOCAL, run_as
from diffusion_local.compose import Services, open_services
from diffusion_local.domain import State
from diffusion_local.settings import Settings

JOB = {"prompt": "a red apple", "width": 128, "height": 128, "steps": 1}
POLL_SECONDS = 1.0
INTENDED = {202, 200, 429}


@dataclass
class Seen:
    """Observations of all clients together."""

    statuses: Counter[str] = field(default_factory=Counter)
    submits: list[float] = field(default_factory=list)
    polls: list[float] = field(default_factory=list)
    acknowledged: list[str] = field(default_factory=list)
    finished: int = 0
    faults: list[str] = field(default_factory=list)


def main() -> int:
    run_as(LOCAL)
    options = parse()
    with tempfile.TemporaryDirectory() as home:
        settings = Settings.load(home=home, port=0, engine="fake", fake_step_seconds=0, max_queued=options.max_queued)
        serving = start(settings)
        try:
            url = serving_url(settings)
            record = conditions("fastapi", "uvicorn", "gradio", "huey", "httpx")
            record["device"] += "; clients, server and worker on the same cores"
            seen = asyncio.run(crowd(url, options.clients, options.seconds))
            services = open_services(settings)
            record |= told(seen, options.seconds) | audit(services, seen)
        finally:
            serving.send_signal(signal.SIGTERM)
            serving.wait(20)
    publish(record, options.record)
    return int(bool(record["faults"] or record["lost"] or record["doubled"] or record["not_ended"]))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--max-queued", type=int, default=150)
    parser.add_argument("--record", type=Path)
    return parser.parse_args()


async def crowd(url: str, clients: int, seconds: float) -> Seen:
    """Run all clients, each with its own connection, like separate programs."""
    seen = Seen()
    until = time.monotonic() + seconds
    await asyncio.gather(*(one_client(url, number, until, seen) for number in range(clients)))
    return seen


async def one_client(url: str, number: int, until: float, seen: Seen) -> None:
    dice = random.Random(number)
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        await asyncio.sleep(dice.random() * 2)  # real programs do not start simultaneously
        while time.monotonic() < until:
            answer = await asked(client, seen.submits, seen, "POST", "/api/v1/jobs", json=JOB | {"seed": number})
            if answer is None or answer.status_code != 202:
                await asyncio.sleep(1 + dice.random())
                continue
            seen.acknowledged += answer.json()["job_ids"]
            await follow(client, answer.json()["status_url"], until, dice, seen)


async def follow(client: httpx.AsyncClient, path: str, until: float, dice: random.Random, seen: Seen) -> None:
    while time.monotonic() < until:
        await asyncio.sleep(POLL_SECONDS * (0.5 + dice.random()))
        answer = await asked(client, seen.polls, seen, "GET", path)
        if answer is not None and answer.json()["finished_at"]:
            seen.finished += 1
            return


async def asked(
    client: httpx.AsyncClient, times: list[float], seen: Seen, method: str, path: str, **more: Any
) -> httpx.Response | None:
    began = time.perf_counter()
    try:
        answer = await client.request(method, path, **more)
    except httpx.HTTPError as error:
        seen.statuses["no answer"] += 1
        seen.faults.append(f"{method}: {error!r}")
        return None
    times.append(time.perf_counter() - began)
    seen.statuses[str(answer.status_code)] += 1
    if answer.status_code not in INTENDED or (answer.status_code == 429 and not answer.headers.get("Retry-After")):
        seen.faults.append(f"{method} {answer.status_code}: {answer.text[:200]}")
    return answer


def audit(services: Services, seen: Seen) -> dict[str, Any]:
    """Check that each acknowledged job is in the table once, and that all end with one picture each."""
    deadline = time.monotonic() + 300
    while services.studio.unfinished(seen.acknowledged) and time.monotonic() < deadline:
        time.sleep(0.5)
    jobs: list[Any] = []
    while page := services.studio.jobs(limit=1000, before=jobs[-1].id if jobs else None):
        jobs += page
    known = Counter(job.id for job in jobs)
    return {
        "acknowledged": len(seen.acknowledged),
        "in_the_table": len(jobs),
        "lost": sum(job_id not in known for job_id in seen.acknowledged),
        "doubled": len(seen.acknowledged) - len(set(seen.acknowledged)) + len(jobs) - len(known),
        "unasked": len(set(known) - set(seen.acknowledged)),
        "not_ended": sum(not job.final for job in jobs),
        "ended": dict(Counter(str(job.state) for job in jobs)),
        "pictures": services.studio.gallery_count(),
        "done_without_picture": sum(job.state is State.DONE for job in jobs) - services.studio.gallery_count(),
    }


def told(seen: Seen, seconds: float) -> dict[str, Any]:
    return {
        "answers": dict(sorted(seen.statuses.items())),
        "answers_a_second": round(sum(seen.statuses.values()) / seconds, 1),
        "submit_ms": percentiles(seen.submits),
        "poll_ms": percentiles(seen.polls),
        "finished_while_watched": seen.finished,
        "faults": seen.faults[:20],
    }


def percentiles(seconds: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(seconds, n=100)
    rounded = {f"p{rank}": round(cuts[rank - 1] * 1000, 1) for rank in (50, 95, 99)}
    return rounded | {"max": round(max(seconds) * 1000, 1), "n": len(seconds)}


if __name__ == "__main__":
    sys.exit(main())
