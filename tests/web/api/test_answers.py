"""What every answer of the native API has: addresses, ids of requests, all faults at once, and the wait for an end."""

import json
import logging
import threading
import time
from typing import Any

import pytest
from fastapi.testclient import TestClient

from diffusion_local.compose import Services
from diffusion_local.system.logs import JsonLines
from diffusion_local.web.rate_limit import RateLimit
from tests.web.api.conftest import JOBS, SMALL, draw_next
from tests.web.conftest import Site

URLS = {"status_url", "stream_url", "result_url", "cancel_url", "jobs_url", "sheet_url"}


@pytest.mark.parametrize("count", [1, 3])
def test_a_submit_answers_in_one_shape_whatever_the_count(client: TestClient, count: int) -> None:
    answer = client.post(JOBS, json={"prompt": "x", "count": count} | SMALL)
    content = answer.json()
    assert set(content) >= URLS
    batch = f"/api/v1/batches/{content['batch_id']}"
    assert answer.headers["Location"] == content["status_url"] == batch
    for name in ("status_url", "result_url", "jobs_url"):
        assert client.get(content[name]).status_code == 200
    assert len(client.post(content["cancel_url"]).json()["job_ids"]) == count


def test_lists_grids_and_repetitions_answer_so_too(client: TestClient, services: Services) -> None:
    client.post(JOBS, json={"prompt": "x"} | SMALL)
    job = services.studio.jobs("queued")[0]
    draw_next(services)
    for result in (
        client.post("/api/v1/lists", content="a tree\na hill", headers={"Content-Type": "text/plain"}),
        client.post("/api/v1/grids", json={"prompt": "x", "x": "steps: 4,6"}),
        client.post(f"/api/v1/jobs/{job.id}/again"),
        client.post(f"/api/v1/batches/{job.batch_id}/duplicate"),
    ):
        assert result.status_code == 202, result.text
        assert set(result.json()) >= URLS


@pytest.mark.parametrize("noun", ["jobs", "batches"])
def test_who_prefers_to_wait_for_a_job_or_batch_gets_it_ended(
    client: TestClient, services: Services, noun: str
) -> None:
    content = client.post(JOBS, json={"prompt": "x"} | SMALL).json()
    path = f"/api/v1/{noun}/{content['job_ids'][0] if noun == 'jobs' else content['batch_id']}"
    timer = threading.Timer(0.3, draw_next, [services])
    timer.start()
    answer = client.get(path, headers={"Prefer": "wait=30"})
    timer.join()
    assert answer.headers["Preference-Applied"] == "wait=30"
    assert answer.json()["state" if noun == "jobs" else "finished"] in ("done", True)


def test_a_wait_that_was_too_short_answers_what_is_there(client: TestClient) -> None:
    content = client.post(JOBS, json={"prompt": "x"} | SMALL).json()
    answer = client.get(f"{JOBS}/{content['job_ids'][0]}", headers={"Prefer": "wait=1"})
    assert (answer.status_code, answer.json()["state"]) == (200, "queued")
    assert client.get(f"{JOBS}/none", headers={"Prefer": "wait=5"}).status_code == 404


def faults(answer: Any) -> list[str]:
    return [each["field"] for each in answer.json()["error"]["errors"]]


def test_every_fault_of_a_request_is_told_at_once(client: TestClient) -> None:
    body = {"prompt": "x", "width": 77, "steps": 0, "guidance": -1, "sampler": "magic", "seed": -5, "vae": "../x"}
    answer = client.post(JOBS, json=body)
    assert answer.status_code == 422
    assert set(faults(answer)) == {"width", "steps", "guidance", "sampler", "seed", "vae"}
    assert answer.json()["error"]["field"] == faults(answer)[0]
    assert all(each["message"].startswith(f"{each['field']}: ") for each in answer.json()["error"]["errors"])


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("negative_prompt", "negative"),
        ("cfg_scale", "guidance"),
        ("num_inference_steps", "steps"),
        ("sampler_name", "sampler"),
        ("promt", "prompt"),
        ("n", "count"),
        ("something_else", ""),
    ],
)
def test_a_field_that_there_is_not_is_answered_with_the_one_that_was_meant(
    client: TestClient, name: str, meant: str
) -> None:
    answer = client.post(JOBS, json={"prompt": "x", name: "1", "width": "wide"})
    assert set(faults(answer)) == {name, "width"}
    [result] = [each["message"] for each in answer.json()["error"]["errors"] if each["field"] == name]
    assert result == f"{name}: is not a known field." + (f" Did you mean {meant}?" if meant else "")


@pytest.mark.parametrize(
    ("given", "kept"), [("my-request.1", True), ("two words", False), ("x" * 65, False), ("", False)]
)
def test_a_request_has_an_id(client: TestClient, given: str, kept: bool) -> None:
    for path in ("/api/v1/queue", "/v1/models", "/nope", "/api/v1/jobs/none"):
        answer = client.get(path, headers={"X-Request-Id": given}).headers["X-Request-Id"]
        assert (answer == given) is kept
        assert len(answer) >= 12


def test_the_id_of_a_request_is_in_what_is_logged_meanwhile(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[Any] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(json.loads(self.format(record)))

    handler = Kept()
    handler.setFormatter(JsonLines("web"))
    logger = logging.getLogger("diffusion_local.web.error_responses")
    logger.addHandler(handler)
    try:
        monkeypatch.setattr(
            "diffusion_local.studio.Studio.workers", lambda studio: (_ for _ in ()).throw(OSError(5, "no disk"))
        )
        client.get("/api/v1/workers", headers={"X-Request-Id": "look-here"})
    finally:
        logger.removeHandler(handler)
    assert [line.get("request") for line in lines] == ["look-here"] * len(lines)


def test_headers_of_the_rate(services: Services) -> None:
    limit = RateLimit(None, services.settings, time.monotonic)  # type: ignore[arg-type]
    wait, left = limit._take("10.0.0.1", False)
    result = limit._headers(left)
    assert (wait, result["RateLimit-Policy"]) == (0.0, '"writes";q=200;w=10')
    assert result["RateLimit"] == '"writes";r=199;t=1'


def test_positional_calls_of_gradios_javascript_client_send_null_for_the_rest(site: Site) -> None:
    import gradio_client

    client = gradio_client.Client(site.url, verbose=False)
    answer = client.predict("a red apple", *[None] * 4, api_name="/submit")
    assert len(answer["job_ids"]) == 1
    waited = client.predict(answer["job_ids"][0], None, api_name="/wait")
    assert waited["state"] == "done"


def ids(client: TestClient, query: str) -> set[str]:
    return {job["id"] for job in client.get(f"{JOBS}?limit=1000&{query}").json()["jobs"]}


def test_jobs_by_several_states(client: TestClient, services: Services) -> None:
    cancelled = client.post(JOBS, json={"prompt": "x"} | SMALL).json()["job_ids"][0]
    services.studio.queue.cancel(job_ids=[cancelled])
    waiting = client.post(JOBS, json={"prompt": "x"} | SMALL).json()["job_ids"][0]
    for query in ("state=queued,cancelled", "state=queued&state=cancelled", "state=cancelled&state=queued,running"):
        assert {cancelled, waiting} <= ids(client, query), query
    assert waiting not in ids(client, "state=done&state=cancelled")
    refused = client.get(f"{JOBS}?state=queued,lost")
    assert (refused.status_code, refused.json()["error"]["field"]) == (422, "state")


def test_jobs_by_the_time_of_their_submit(client: TestClient, services: Services) -> None:
    job_id = client.post(JOBS, json={"prompt": "x"} | SMALL).json()["job_ids"][0]
    at = services.studio.job(job_id).created_at
    assert job_id in ids(client, f"since={at}")
    assert job_id not in ids(client, f"until={at}")
    assert job_id in ids(client, "since=2020-01-01&until=2100-01-01T00:00:00Z")
    assert client.get(f"{JOBS}?since=soon").json()["error"]["field"] == "since"


@pytest.mark.parametrize("path", ["jobs", "batches", "images", "webhooks/deliveries"])
def test_an_unknown_cursor_is_refused(client: TestClient, path: str) -> None:
    answer = client.get(f"/api/v1/{path}", params={"before": "nope"})
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "before")


@pytest.mark.parametrize(
    ("path", "body", "names"),
    [
        (
            "/v1/images/generations",
            {"prompt": "x", "num_inference_steps": 0, "guidance_scale": -1, "seed": -5},
            ["num_inference_steps", "guidance_scale", "seed"],
        ),
        (
            "/sdapi/v1/txt2img",
            {"prompt": "x", "steps": 0, "cfg_scale": -1, "seed": -5},
            ["steps", "cfg_scale", "seed"],
        ),
        (
            "/predictions",
            {"input": {"prompt": "x", "num_inference_steps": 0, "guidance_scale": -1, "seed": -5}},
            ["num_inference_steps", "guidance_scale", "seed"],
        ),
    ],
)
def test_dialects_tell_every_fault_by_the_names_of_the_caller(
    client: TestClient, path: str, body: dict[str, Any], names: list[str]
) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code in (400, 422)
    content = answer.json()
    text = content["error"]["message"] if path.startswith("/v1") else content["detail"]
    assert sorted(name for name in names if f"{name}: " in text) == sorted(names)
    if path == "/predictions":
        assert sorted(each["field"] for each in content["invalid_fields"]) == sorted(names)
