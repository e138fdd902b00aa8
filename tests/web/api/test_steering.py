"""Many jobs at once over HTTP; what was deleted, and a queue that holds itself back."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from diffusion_local.compose import Services
from tests.support import claimed
from tests.web.api.conftest import JOBS, draw_next, fail_next
from tests.web.conftest import made


def submit(services: Services, count: int = 1) -> list[str]:
    return services.studio.submit("x", count=count, width=128, height=128, steps=4).job_ids


def post(client: TestClient, verb: str, **body: Any) -> Any:
    answer = client.post(f"{JOBS}/{verb}", json=body)
    assert answer.status_code in (200, 202), answer.text
    return answer.json()


def test_cancel_by_ids_by_batch_and_all_that_wait(client: TestClient, services: Services) -> None:
    first, second, third = submit(services, 3)
    other = submit(services)
    assert post(client, "cancel", job_ids=[first]) == {"job_ids": [first]}
    batch_id = services.studio.job(first).batch_id
    assert sorted(post(client, "cancel", batch_id=batch_id)["job_ids"]) == sorted([second, third])
    assert post(client, "cancel", waiting=True) == {"job_ids": other}


def test_order(client: TestClient, services: Services) -> None:
    first, second, third = submit(services, 3)
    assert post(client, "move", to="top", job_ids=[third]) == {"job_ids": [third]}
    assert post(client, "move", to="up", job_ids=[second]) == {"job_ids": [second]}
    assert post(client, "priority", value=5, job_ids=[first]) == {"job_ids": [first]}
    waiting = client.get("/api/v1/queue").json()["waiting"]
    assert [job["id"] for job in waiting] == [first, third, second]


def test_again_answers_as_a_submit_does(client: TestClient, services: Services) -> None:
    submit(services)
    fail_next(services)
    answer = client.post(f"{JOBS}/again", json={"failed": True})
    assert answer.status_code == 202
    [new] = answer.json()["job_ids"]
    assert client.get(f"{JOBS}/{new}").json()["state"] == "queued"
    assert client.get(answer.headers["Location"]).json()["counts"]["queued"] == 1
    assert client.post(f"{JOBS}/again", json={"failed": True}).status_code == 409


def test_what_was_deleted_is_410_ever_after(client: TestClient, services: Services) -> None:
    image = made(services)
    batch_id = services.studio.job(image.job_id).batch_id
    assert client.delete(f"{JOBS}/{image.job_id}").json() == {"job_ids": [image.job_id]}
    for method, path in (
        ("GET", f"/jobs/{image.job_id}"),
        ("DELETE", f"/jobs/{image.job_id}"),
        ("GET", f"/jobs/{image.job_id}/stream"),
        ("POST", f"/jobs/{image.job_id}/cancel"),
        ("GET", f"/batches/{batch_id}"),
    ):
        answer = client.request(method, f"/api/v1{path}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (410, "gone"), path
    assert client.get(f"/api/v1/images/{image.id}").status_code == 200


def test_only_what_has_ended_can_be_forgotten(client: TestClient, services: Services) -> None:
    [job_id] = submit(services)
    assert client.delete(f"{JOBS}/{job_id}").status_code == 409
    draw_next(services)
    assert job_id in post(client, "forget", ended=True)["job_ids"]


@pytest.mark.parametrize(
    ("verb", "body", "field"),
    [
        ("cancel", {}, "job_ids"),
        ("cancel", {"job_ids": ["x"], "waiting": True}, "waiting"),
        ("cancel", {"job_ids": "x"}, "job_ids"),
        ("cancel", {"everything": True}, "everything"),
        ("again", {}, "job_ids"),
        ("move", {"job_ids": ["x"]}, "to"),
        ("move", {"to": "left", "job_ids": ["x"]}, "to"),
        ("priority", {"value": 500, "job_ids": []}, "value"),
        ("forget", {}, "job_ids"),
    ],
)
def test_an_order_must_say_whom_it_means(client: TestClient, verb: str, body: dict[str, Any], field: str) -> None:
    answer = client.post(f"{JOBS}/{verb}", json=body)
    assert answer.status_code == 422
    assert answer.json()["error"]["field"] in (field, "priority")


def test_a_queue_that_holds_itself_back_takes_nothing_on(client: TestClient, services: Services) -> None:
    [waiting] = submit(services)
    services.control.block("less than 500 MB are free")
    try:
        for path, body in (
            (JOBS, {"prompt": "x"}),
            (f"{JOBS}/{waiting}/again", None),
            ("/v1/images/generations", {"prompt": "x"}),
            ("/sdapi/v1/txt2img", {"prompt": "x"}),
            ("/predictions", {"input": {"prompt": "x"}}),
        ):
            answer = client.post(path, json=body)
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "60"), path
            assert "500 MB" in answer.text
        assert client.post("/api/v1/lists", content=b"x").status_code == 503
        assert [job.id for job in services.studio.jobs("queued")] == [waiting]
    finally:
        services.control.block("")
    claimed(services.jobs)
