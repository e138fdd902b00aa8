"""Two supervisors with homes of their own share a PostgreSQL server and a bucket, as real processes."""

import http.client
import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest

from diffusion_local.compose import Services, open_services
from diffusion_local.domain import State
from diffusion_local.engine.fake import FakeEngine
from diffusion_local.settings import Settings
from diffusion_local.worker.stopping import Stop
from tests.conftest import kill_tree
from tests.postgresql import Cluster, running_cluster
from tests.support import eventually, sql
from tests.workers import open_runner

pytestmark = pytest.mark.slow

WORDS = {"width": 128, "height": 128, "steps": 2}


@dataclass
class Machine:
    """A supervisor in a home of its own. ``port``: of its page."""

    process: "subprocess.Popen[str]"
    port: int

    def get(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


@pytest.fixture
def own_cluster() -> Iterator[Cluster]:
    with running_cluster() as found:
        yield found


@pytest.fixture
def studio_settings(own_cluster: Cluster, s3_server: str, home: Path) -> Settings:
    boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1").create_bucket(Bucket="cluster")
    return Settings.load(
        engine="fake",
        port=0,
        fake_step_seconds=0.01,
        database=own_cluster.create("studio"),
        gallery=f"s3://cluster/{home.parent.name}?endpoint={s3_server}&region=us-east-1",
        lease_seconds=5,
    )


@pytest.fixture
def machines(studio_settings: Settings, tmp_path: Path) -> Iterator[list[Machine]]:
    """The first one makes pictures, the second one has a page only."""
    started: list[Machine] = []
    for name, words in (("one", []), ("two", ["--no-worker"])):
        environ = studio_settings.child_environ() | {"DIFFUSION_LOCAL_HOME": str(tmp_path / name)}
        process = subprocess.Popen(
            [sys.executable, "-m", "diffusion_local", "serve", *words],
            env=environ,
            stdout=subprocess.PIPE,
            stderr=(tmp_path / f"{name}.log").open("w"),
            text=True,
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"127\.0\.0\.1:(\d+)", line)
        assert found, line + (tmp_path / f"{name}.log").read_text()
        started.append(Machine(process, int(found[1])))
    yield started
    for each in started:
        kill_tree(each.process)


@pytest.fixture
def opened(studio_settings: Settings) -> Iterator[Services]:
    found = open_services(studio_settings)
    yield found
    found.database.close()


def test_a_bucket_that_refuses_holds_the_queue_and_loses_no_picture(s3_server: str, home: Path) -> None:
    bucket = f"late-{home.parent.name.replace('_', '-')[-40:]}"
    gallery = f"s3://{bucket}/studio?endpoint={s3_server}&region=us-east-1"
    services = open_services(Settings.load(engine="fake", fake_step_seconds=0.01, gallery=gallery))
    ids = services.studio.submit("a red apple", count=3, **WORDS).job_ids
    stop = Stop()
    runner = open_runner(services, "cpu0", FakeEngine(0), stop)
    worker = threading.Thread(target=runner.serve)
    worker.start()
    try:
        reason = eventually(lambda: services.studio.snapshot().reason, 60)
        assert bucket in reason
        boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1").create_bucket(Bucket=bucket)
        eventually(lambda: all(finished(services, each) for each in ids), 60)
    finally:
        stop.request()
        worker.join(30)
        runner.close()
    jobs = [services.jobs.get(each) for each in ids]
    assert {(job.tries, job.faults, job.crashes) for job in jobs} == {(0, 0, 0)}
    assert len(list(services.files.pictures())) == 3
    assert services.studio.snapshot().reason == ""


def finished(services: Services, job_id: str) -> bool:
    return services.jobs.get(job_id).state is State.DONE


def test_a_picture_made_on_one_machine_is_seen_on_the_other(machines: list[Machine], opened: Services) -> None:
    [job_id] = opened.studio.submit("a red apple", **WORDS).job_ids
    eventually(lambda: finished(opened, job_id), 60)
    [image] = opened.studio.gallery(search="appl")
    status, body = machines[1].get("/api/v1/images")
    assert status == 200
    assert image.id in json.dumps(json.loads(body))
    assert len(opened.files.picture(image.key).read_bytes()) == image.bytes
    assert [worker.slot.endswith(".cpu0") for worker in opened.workers.list_all()] == [True]


def test_a_machine_that_dies_loses_no_job_and_no_chore(
    machines: list[Machine], opened: Services, own_cluster: Cluster, tmp_path: Path, studio_settings: Settings
) -> None:
    def leaders() -> list[Any]:
        with sql(opened.database) as db:
            return db.execute(
                "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1"
            ).fetchall()

    assert len(leaders()) == 2  # the leader's and the slot's
    jobs = opened.studio.submit("a red apple", count=30, **WORDS).job_ids
    eventually(lambda: any(finished(opened, each) for each in jobs), 60)
    own_cluster.stop("immediate")
    own_cluster.start()
    kill_tree(machines[0].process)
    eventually(lambda: len(leaders()) == 1, 60)  # the other one leads
    environ = studio_settings.child_environ() | {"DIFFUSION_LOCAL_HOME": str(tmp_path / "three")}
    worker = [sys.executable, "-m", "diffusion_local.worker", "--slot", "cpu0", "--machine", "third"]
    third = subprocess.Popen(worker, env=environ, stdin=subprocess.PIPE)
    try:
        eventually(lambda: all(finished(opened, each) for each in jobs), 120)
        with sql(opened.database) as db:
            assert db.execute("SELECT count(*) FROM images").fetchone()[0] == 30
        assert len(list(opened.files.pictures())) == 30
        third.send_signal(signal.SIGTERM)
        assert third.wait(30) == 0
    finally:
        kill_tree(third)
