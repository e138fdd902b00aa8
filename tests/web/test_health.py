"""Health, readiness and the numbers for Prometheus; and the page that lists the routes."""

import re
import sqlite3
import threading
import time

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from diffusion_local.compose import Services, open_files
from diffusion_local.domain import Lane
from diffusion_local.errors import DatabaseProblem
from diffusion_local.health import storage_checks
from diffusion_local.health.doctor import examine
from diffusion_local.messages import verbatim
from diffusion_local.queue.order import OrderRules
from diffusion_local.queue.views import RECENT_JOBS, count_queue
from tests.support import claimed, eventually, soon
from tests.web.conftest import client_of, drawn, failed


@pytest.fixture
def client(services: Services) -> TestClient:
    return client_of(services, page=False)


def numbers(client: TestClient) -> dict[tuple[str, ...], float]:
    """(name, label values...) -> value."""
    answer = client.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name.removeprefix("diffusion_local_"), *(sample.labels[name] for name in sorted(sample.labels))): (
            sample.value
        )
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_ready_once_a_worker_is_there(client: TestClient, services: Services) -> None:
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["ready"]) == (503, False)
    assert "none was ever started" in answer.json()["reason"]
    services.workers.register("cpu0", 1, "CPU")
    assert "cpu0 starting" in client.get("/readyz").json()["reason"]
    services.workers.update("cpu0", "idle")
    assert client.get("/readyz").json() == {"ready": True}
    services.studio.queue.pause()
    assert client.get("/readyz").status_code == 200
    services.control.block("The disk is nearly full.")
    assert "disk is nearly full" in client.get("/readyz").json()["reason"]
    services.control.block("")
    services.workers.update("cpu0", "stopped")
    assert "cpu0 stopped" in client.get("/readyz").json()["reason"]


@pytest.mark.parametrize("fault", ["gallery", "database", "hangs"])
def test_what_cannot_be_written_is_not_ready(
    client: TestClient, services: Services, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    services.workers.register("cpu0", 1, "CPU")
    services.workers.update("cpu0", "idle")
    assert client.get("/readyz").json() == {"ready": True}
    monkeypatch.setattr(storage_checks, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr(storage_checks, "PATIENCE_SECONDS", 0.2)
    answers = threading.Event()
    if fault == "gallery":
        services.settings.gallery_folder.rename(services.settings.home / "away")
    elif fault == "database":
        monkeypatch.setattr(services.database, "probe", lambda: readonly(services))
    else:
        monkeypatch.setattr(services.files, "probe", answers.wait)
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["ready"]) == (503, False)
    words = {"gallery": "gallery cannot be used", "database": "app.db cannot be written", "hangs": "does not respond"}
    assert answer.json()["reason"].startswith(words[fault]) or fault == "hangs"
    assert words[fault] in answer.json()["reason"]
    result = (
        [each.text for each in examine(services.settings, open_files(services.settings)) if each.name == "storage"]
        if fault == "gallery"
        else []
    )
    assert all("gallery cannot be used" in each for each in result)
    answers.set()
    monkeypatch.undo()
    if fault == "gallery":
        (services.settings.home / "away").rename(services.settings.gallery_folder)
    monkeypatch.setattr(storage_checks, "FRESH_SECONDS", 0.0)
    assert eventually(lambda: client.get("/readyz").json() == {"ready": True})


def readonly(services: Services) -> None:
    with services.database.write():
        raise sqlite3.OperationalError("attempt to write a readonly database")


def test_readiness_is_asked_of_the_disk_now_and_then_only(
    client: TestClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    probed: list[int] = []
    monkeypatch.setattr(services.files, "probe", lambda: probed.append(1))
    for _ in range(20):
        client.get("/readyz")
    assert len(probed) == 1


def test_a_silent_worker_is_not_ready(client: TestClient, services: Services) -> None:
    services.workers.register("cpu0", 1, "CPU")
    services.workers.update("cpu0", "idle")
    with sqlite3.connect(services.settings.database_file) as db:
        db.execute("UPDATE workers SET seen_at = '2020-01-01T00:00:00.000Z'")
    assert "cpu0 silent" in client.get("/readyz").json()["reason"]
    assert numbers(client)["worker_up", "cpu0"] == 0


@pytest.mark.parametrize("path", ["/readyz", "/metrics"])
def test_a_database_that_cannot_be_used_is_503(client: TestClient, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    def fails(*_: object) -> None:
        raise DatabaseProblem(verbatim("Locked."))

    for name in ("snapshot", "tally"):
        monkeypatch.setattr(f"diffusion_local.studio.Studio.{name}", fails)
    answer = client.get(path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "database_problem")


def test_the_numbers_are_the_tables(client: TestClient, services: Services) -> None:
    services.workers.register("gpu0", 1, "GPU")
    small = {"width": 128, "height": 128, "steps": 4}
    services.studio.submit("x", count=5, **small)
    services.studio.submit("x", count=2, lane=Lane.BATCH, **small)
    drawn(services, claimed(services.jobs))
    failed(services.jobs, services, "it broke")
    services.jobs.stop(claimed(services.jobs).claim)
    claimed(services.jobs)
    found = numbers(client)
    assert found["queue_jobs", "interactive", "queued"] == 1
    assert found["queue_jobs", "interactive", "running"] == 1
    assert found["queue_jobs", "batch", "queued"] == 2
    assert [found["ended_jobs", state] for state in ("done", "failed", "cancelled")] == [1, 1, 1]
    assert found["failed_jobs", "engine_error"] == 1
    assert (found[("pictures",)], found["worker_up", "gpu0"], found[("queue_paused",)]) == (1, 1, 0)
    assert found["run_seconds_bucket", "+Inf"] == found[("run_seconds_gcount",)] == 3
    assert found["wait_seconds_bucket", "1"] <= found["wait_seconds_bucket", "+Inf"]
    assert found[("disk_free_bytes",)] > 0


def test_a_job_that_never_ran_has_no_times(client: TestClient, services: Services) -> None:
    services.studio.queue.cancel(services.studio.submit("x").job_ids)
    assert numbers(client)[("wait_seconds_gcount",)] == 0


def test_metrics_stay_cheap_in_a_long_table(services: Services) -> None:
    receipt = services.studio.submit("x", width=128, height=128, steps=4)
    with sqlite3.connect(services.settings.database_file) as db:
        for trigger in ("job_events_insert", "jobs_revision_insert"):
            db.execute(f"DROP TRIGGER {trigger}")
        db.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000) "
            "INSERT INTO jobs (id, batch_id, idx, state, params, model, cost, position, created_at, started_at, "
            "finished_at, error_kind) SELECT 'x' || i, batch_id, i, "
            "CASE WHEN i % 50 = 0 THEN 'failed' WHEN i % 3 = 0 THEN 'queued' ELSE 'done' END, "
            "params, model, cost, i, created_at, created_at, "
            "CASE WHEN i % 50 AND i % 3 = 0 THEN NULL ELSE created_at END, 'engine_error' FROM jobs, n"
        )
    count_queue(services.database, OrderRules())
    started = time.monotonic()
    tally = count_queue(services.database, OrderRules())
    assert time.monotonic() - started < soon(0.5)  # some 20 ms; tests run on busy machines
    assert sum(tally.ended.values()) + sum(tally.waiting.values()) == 30_001
    assert len(tally.run_seconds) == RECENT_JOBS
    assert receipt.job_ids


def test_the_docs_list_every_route_and_load_nothing(client: TestClient) -> None:
    page = client.get("/docs").text
    document = client.get("/openapi.json").json()
    for path in document["paths"]:
        assert path in page
    assert "idempotency-key" in page
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//|@import|<script\s|<link", page)
    assert len(re.findall("<script>", page)) == 1


def test_the_docs_have_types_required_marks_examples_and_a_form_to_try(client: TestClient) -> None:
    page = client.get("/docs").text
    submit = page[page.index("</b>/api/v1/jobs</code>", page.index("<b>POST")) :].partition("</section>")[0]
    assert '<code>prompt</code><span class="needed"' in submit
    assert re.search(r"<code>steps</code><td>body<td>integer 1 to 1000<td>denoising steps", submit)
    assert 'data-method="POST" data-path="/api/v1/jobs" data-type="application/json"' in submit
    assert "a red apple" in submit
    assert "status_url" in submit
    assert "Refusals: " in submit


def test_the_document_has_sign_in_webhooks_and_the_shapes_of_dialects(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert set(document["components"]["securitySchemes"]) == {"bearer", "apiKey", "basic"}
    assert {} in document["security"]
    assert document["servers"] == [{"url": "/"}]
    assert {"batch.done", "job.failed", "queue.idle", "queue.paused"} <= set(document["webhooks"])
    assert "HTTPValidationError" not in str(document["paths"])
    answer = document["paths"]["/v1/images/generations"]["post"]["responses"]["400"]
    assert answer["content"]["application/json"]["schema"]["$ref"].endswith("/OpenAIError")
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert any(status.startswith(("2", "5")) for status in operation["responses"]), path


def test_every_operation_says_what_it_does_and_has_a_name_of_its_own(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    operations = [each for path in document["paths"].values() for each in path.values()]
    names = [each["operationId"] for each in operations]
    assert len(set(names)) == len(names)
    assert all(each.get("tags") for each in operations)


def test_what_a_worker_could_take_is_counted_by_model_and_lane(client: TestClient, services: Services) -> None:
    studio = services.studio
    studio.submit("x", count=3)
    studio.submit("x", lane=Lane.BATCH, count=2)
    studio.submit("x", lane=Lane.BATCH, start_at="tomorrow 23:59")
    held = studio.submit("x", lane=Lane.BATCH)
    studio.queue.pause_batch(held.batch_id)
    found = {key[1:]: value for key, value in numbers(client).items() if key[0] == "claimable_jobs"}
    assert found == {("interactive", "starter"): 3, ("batch", "starter"): 2}
    studio.queue.pause()
    assert not [key for key in numbers(client) if key[0] == "claimable_jobs"]


def test_requests_are_counted_with_the_time_that_they_took(client: TestClient) -> None:
    for path in ("/api/v1/queue", "/api/v1/jobs/none", "/v1/models", "/a1111/sdapi/v1/options", "/predictions"):
        client.get(path)
    found = numbers(client)
    counted = {key[1:]: value for key, value in found.items() if key[0] == "http_requests_total"}
    assert counted["http", "GET", "200"] == counted["http", "GET", "404"] == 1
    assert counted["openai", "GET", "200"] == counted["a1111", "GET", "200"] == counted["cog", "GET", "200"] == 1
    assert found["http_request_seconds_count", "http", "GET"] == 2
    assert found["http_request_seconds_bucket", "http", "60.0", "GET"] == 2
