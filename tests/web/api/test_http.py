"""The HTTP API: what it answers, in which status, and what it refuses."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from diffusion_local.compose import Services
from diffusion_local.errors import DatabaseProblem, QueueFull
from diffusion_local.messages import verbatim
from diffusion_local.options.table import BATCH_OPTIONS, SETTINGS
from diffusion_local.web.api.http_headers import MOST_SECONDS, read_prefer
from diffusion_local.web.api.schemas import NewJobs
from tests.support import claimed
from tests.web.api.conftest import JOBS, SMALL, Hands, draw_next, fail_next
from tests.web.conftest import made


def submitted(client: TestClient, **changes: Any) -> dict[str, Any]:
    answer = client.post(JOBS, json={"prompt": "a red apple"} | SMALL | changes)
    assert answer.status_code == 202, answer.text
    return answer.json()


def job_url(told: dict[str, Any]) -> str:
    """The address of the first job of a submit."""
    return f"{JOBS}/{told['job_ids'][0]}"


def test_a_body_has_one_field_for_each_setting() -> None:
    assert {*SETTINGS, *BATCH_OPTIONS, "prompt", "count", "name", "priority", "lane", "expand"} == set(
        NewJobs.model_fields
    )


def test_a_submit_is_accepted_at_once_and_says_where_to_look(client: TestClient) -> None:
    answer = client.post(JOBS, json={"prompt": "a red apple", "seed": 7})
    content = answer.json()
    assert answer.status_code == 202
    assert answer.headers["Location"] == content["status_url"] == f"/api/v1/batches/{content['batch_id']}"
    assert int(answer.headers["Retry-After"]) >= 1
    assert "Preference-Applied" not in answer.headers
    assert (content["finished"], content["warnings"]) == (False, [])
    [job] = client.get(content["jobs_url"]).json()["jobs"]
    assert (job["state"], job["params"]["seed"], job["params"]["width"]) == ("queued", 7, 256)


def test_several_pictures_are_a_batch(client: TestClient, services: Services) -> None:
    answer = submitted(client, count=3, name="apples", lane="batch")
    assert answer["status_url"] == f"/api/v1/batches/{answer['batch_id']}"
    draw_next(services)
    batch = client.get(answer["status_url"]).json()
    assert (batch["name"], batch["lane"], batch["finished"]) == ("apples", "batch", False)
    assert (batch["counts"]["done"], batch["counts"]["queued"]) == (1, 2)
    jobs = client.get(batch["jobs_url"]).json()["jobs"]
    assert [job["id"] for job in jobs] == answer["job_ids"]


def test_a_batch_has_times_and_a_webhook(client: TestClient, services: Services) -> None:
    content = submitted(
        client, window="23:00-07:00", start_at="2030-01-01T00:00:00Z", webhook="https://1.1.1.1/", lane="batch"
    )
    batch = services.studio.batch(content["batch_id"])[0]
    assert (batch.window, batch.start_at[:4], batch.webhook) == ("23:00-07:00", "2030", "https://1.1.1.1/")
    for name, value in (("window", "never"), ("start_at", "soon"), ("webhook", "http://127.0.0.1/")):
        answer = client.post(JOBS, json={"prompt": "x", "lane": "batch", name: value})
        assert (answer.status_code, answer.json()["error"]["field"]) == (422, name)


def test_who_prefers_to_wait_gets_the_ended_jobs(client: TestClient, drawing: Hands) -> None:
    answer = client.post(JOBS, json={"prompt": "x", "count": 2} | SMALL, headers={"Prefer": "wait=5"})
    assert (answer.status_code, answer.headers["Preference-Applied"]) == (200, "wait=5")
    content = answer.json()
    assert content["finished"] is True
    assert [job["state"] for job in content["jobs"]] == ["done", "done"]
    assert client.get(content["jobs"][0]["image"]["url"]).content.startswith(b"\x89PNG")


def test_a_failed_job_ends_the_wait_too(client: TestClient, failing: Hands) -> None:
    answer = client.post(JOBS, json={"prompt": "x"} | SMALL, headers={"Prefer": "wait=5"})
    job = answer.json()["jobs"][0]
    assert (answer.status_code, job["state"], job["error"]["kind"]) == (200, "failed", "engine_error")


def test_a_wait_that_was_too_short_is_accepted_and_goes_on(client: TestClient, services: Services) -> None:
    answer = client.post(JOBS, json={"prompt": "x"} | SMALL, headers={"Prefer": "wait=1"})
    assert (answer.status_code, answer.headers["Preference-Applied"]) == (202, "wait=1")
    assert services.studio.job(answer.json()["job_ids"][0]).state == "queued"


@pytest.mark.parametrize(
    ("header", "seconds", "applied"),
    [
        (None, None, None),
        ("wait=10", 10, "wait=10"),
        ('WAIT="10"', 10, "wait=10"),
        ("wait=10, respond-async", 0, "respond-async"),
        ("respond-async; foo=bar", 0, "respond-async"),
        ("return=minimal, wait = 3", 3, "wait=3"),
        ("wait=3, wait=9", 3, "wait=3"),
        ("wait=99999999", MOST_SECONDS, "wait=600"),
        ("wait=-1", None, None),
        ("wait=1.5", None, None),
        ("wait=²", None, None),
        ("wait", None, None),
        (",;=,", None, None),
    ],
)
def test_preferences(header: str | None, seconds: float | None, applied: str | None) -> None:
    preference = read_prefer(header)
    assert (preference.seconds, preference.applied) == (seconds, applied)


def test_the_same_key_makes_one_batch_and_another_request_under_it_is_refused(client: TestClient) -> None:
    key = {"Idempotency-Key": "morning"}
    first = client.post(JOBS, json={"prompt": "x"}, headers=key)
    again = client.post(JOBS, json={"prompt": "x"}, headers=key)
    assert first.json()["job_ids"] == again.json()["job_ids"]
    other = client.post(JOBS, json={"prompt": "y"}, headers=key)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "conflict")


def test_jobs_are_read_page_by_page(client: TestClient) -> None:
    ids = [submitted(client)["job_ids"][0] for _ in range(5)]
    found, url = [], f"{JOBS}?state=queued&limit=2"
    while url:
        answer = client.get(url)
        found += [job["id"] for job in answer.json()["jobs"]]
        url = answer.headers.get("Link", "").partition(">")[0].removeprefix("<")
        assert url.endswith(f"before={answer.json()['next']}") or not url
    assert found == sorted(ids, reverse=True)


def test_a_batch_is_read_page_by_page_in_its_own_order(client: TestClient) -> None:
    content = submitted(client, count=5)
    found: list[str] = []
    before: str | None = ""
    while before is not None:
        answer = client.get(f"{JOBS}?batch_id={content['batch_id']}&limit=2&before={before}").json()
        found += [job["id"] for job in answer["jobs"]]
        before = answer["next"]
    assert found == content["job_ids"]


def test_an_answer_that_has_not_changed_is_not_sent_again(client: TestClient, services: Services) -> None:
    url = job_url(submitted(client))
    tag = client.get(url).headers["ETag"]
    assert client.get(url, headers={"If-None-Match": f'"other", W/{tag}'}).status_code == 304
    draw_next(services)
    assert client.get(url, headers={"If-None-Match": tag}).status_code == 200


def test_cancel_again_and_history(client: TestClient) -> None:
    url = job_url(submitted(client, seed=3))
    assert client.post(f"{url}/cancel").json()["state"] == "cancelled"
    refused = client.post(f"{url}/cancel")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
    new = client.post(f"{url}/again")
    assert new.status_code == 202
    job = client.get(job_url(new.json())).json()
    assert (job["from_job"], job["params"]["seed"]) == (url.rpartition("/")[2], 3)
    assert [each["state"] for each in client.get(f"{url}/events").json()["events"]] == ["queued", "cancelled"]


def test_a_running_job_is_flagged_to_stop(client: TestClient, services: Services) -> None:
    url = job_url(submitted(client))
    claimed(services.jobs)
    job = client.post(f"{url}/cancel").json()
    assert (job["state"], job["cancel_requested"]) == ("running", True)


def test_batches_pause_resume_and_cancel(client: TestClient) -> None:
    answer = submitted(client, count=2)
    url = answer["status_url"]
    assert client.post(f"{url}/pause", json={"give_back": True}).json()["paused"] is True
    assert client.post(f"{url}/resume").json()["paused"] is False
    assert sorted(client.post(f"{url}/cancel").json()["job_ids"]) == sorted(answer["job_ids"])
    assert client.get(url).json()["finished"] is True


def test_the_queue_pauses_and_resumes(client: TestClient) -> None:
    assert client.post("/api/v1/queue/pause").json() == {"paused": True}
    assert client.get("/api/v1/queue").json()["paused"] is True
    assert client.post("/api/v1/queue/resume").json() == {"paused": False}


def test_images_are_starred_trashed_and_restored(client: TestClient, services: Services) -> None:
    image = made(services, "a green pear")
    url = f"/api/v1/images/{image.id}"
    assert client.get(url).json()["params"]["prompt"] == "a green pear"
    assert client.patch(url, json={"starred": True}).json()["starred"] is True
    assert [each["id"] for each in client.get("/api/v1/images?starred=true").json()["images"]] == [image.id]
    assert client.delete(url).json()["trashed_at"]
    assert client.get("/api/v1/images?search=pear").json() == {"images": [], "next": None}
    assert client.post(f"{url}/restore").json()["trashed_at"] is None
    assert client.get("/api/v1/images?search=pear").json()["images"][0]["id"] == image.id


def test_models_tell_no_path(client: TestClient, services: Services) -> None:
    answer = client.get("/api/v1/models")
    assert answer.json()["models"][0]["id"] == "starter"
    assert str(services.settings.starter) not in answer.text


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/jobs/nope"),
        ("GET", "/jobs/nope/events"),
        ("GET", "/jobs/nope/stream"),
        ("POST", "/jobs/nope/cancel"),
        ("POST", "/jobs/nope/again"),
        ("GET", "/batches/nope"),
        ("GET", "/batches/nope/stream"),
        ("POST", "/batches/nope/cancel"),
        ("POST", "/batches/nope/pause"),
        ("POST", "/batches/nope/resume"),
        ("GET", "/images/nope"),
        ("PATCH", "/images/nope"),
        ("DELETE", "/images/nope"),
        ("POST", "/images/nope/restore"),
        ("GET", "/images/%00"),
        ("GET", "/jobs/..%2f..%2fapp.db"),
        ("GET", "/no/such/route"),
        ("DELETE", "/"),
    ],
)
def test_what_is_not_there_is_404(client: TestClient, method: str, path: str) -> None:
    answer = client.request(method, f"/api/v1{path}", json={"starred": True} if method == "PATCH" else None)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [("DELETE", "/jobs", "GET, POST"), ("PUT", "/queue", "GET"), ("GET", "/queue/pause", "POST")],
)
def test_another_verb_is_405(client: TestClient, method: str, path: str, allow: str) -> None:
    answer = client.request(method, f"/api/v1{path}")
    assert (answer.status_code, answer.headers["Allow"]) == (405, allow)
    assert answer.json()["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"prompt": " "}, "prompt"),
        ({}, "prompt"),
        ({"prompt": 7}, "prompt"),
        ({"prompt": "x", "width": 100}, "width"),
        ({"prompt": "x", "width": "wide"}, "width"),
        ({"prompt": "x", "steps": 1.5}, "steps"),
        ({"prompt": "x", "steps": True}, "steps"),
        ({"prompt": "x", "count": 101}, "count"),
        ({"prompt": "x", "sampler": "magic"}, "sampler"),
        ({"prompt": "x", "model": "magic"}, "model"),
        ({"prompt": "x", "lane": "fast"}, "lane"),
        ({"prompt": "x", "colour": "red"}, "colour"),
        ([], "body"),
        ("x", "body"),
    ],
)
def test_bad_input_names_the_field_and_enqueues_nothing(
    client: TestClient, services: Services, body: Any, field: str
) -> None:
    answer = client.post(JOBS, json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["field"]) == (422, "invalid_params", field)
    assert error["message"].startswith(f"{field}: ")
    assert services.studio.jobs("queued") == []


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b'{"prompt": "\\ud800"}', b'{"\\ud800": 1, "prompt": "x"}'])
def test_what_is_no_json_is_422(client: TestClient, body: bytes) -> None:
    answer = client.post(JOBS, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "limit=1001", "state=nope", "limit=99999999999999999999"])
def test_bad_queries_are_422(client: TestClient, query: str) -> None:
    answer = client.get(f"{JOBS}?{query}")
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, query.partition("=")[0])


@pytest.mark.parametrize(
    ("error", "status", "pause"),
    [(QueueFull(verbatim("Full.")), 429, "30"), (DatabaseProblem(verbatim("Locked.")), 503, "5")],
)
def test_what_may_work_later_says_when(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, pause: str
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("diffusion_local.studio.Studio.submit", fails)
    answer = client.post(JOBS, json={"prompt": "x"})
    assert (answer.status_code, answer.headers["Retry-After"]) == (status, pause)


@pytest.mark.parametrize(
    "path", [JOBS, f"{JOBS}/cancel", "/v1/images/generations", "/v1/images/edits", "/sdapi/v1/img2img", "/predictions"]
)
def test_a_body_must_not_be_huge_or_endless(client: TestClient, path: str) -> None:
    answer = client.post(path, content=b"x", headers={"Content-Length": "200000000"})
    assert (answer.status_code, "content_too_large" in answer.text) == (413, True)
    answer = client.post(path, content=iter([b"x"]))
    assert (answer.status_code, "length_required" in answer.text) == (411, True)


@pytest.mark.parametrize("path", [f"{JOBS}/cancel", "/api/v1/queue/pause"])
def test_where_no_picture_is_sent_a_megabyte_is_enough(client: TestClient, path: str) -> None:
    assert client.post(path, json={"prompt": "x" * 1_100_000}).status_code == 413


def test_pages_of_other_sites_cannot_submit(client: TestClient, services: Services) -> None:
    answer = client.post(JOBS, json={"prompt": "x"}, headers={"Origin": "https://evil.example"})
    assert answer.status_code == 403
    assert services.studio.jobs("queued") == []


def test_an_error_of_the_worker_is_told_without_its_traceback(client: TestClient, services: Services) -> None:
    url = job_url(submitted(client))
    fail_next(services, "no such file")
    assert client.get(url).json()["error"] == {
        "kind": "engine_error",
        "message": "no such file",
        "id": "verbatim",
        "params": {"text": "no such file"},
    }
