"""When a client should first ask about what it has submitted."""

import pytest
from fastapi.testclient import TestClient

from diffusion_local.queue.views import QueueView

JOBS = "/api/v1/jobs"


def submitted(client: TestClient, **settings: object) -> str:
    """The value of ``Retry-After`` for a stored job."""
    answer = client.post(JOBS, json={"prompt": "a red apple", "seed": 7} | settings)
    assert answer.status_code == 202
    [job_id] = answer.json()["job_ids"]
    assert client.get(f"{JOBS}/{job_id}").json()["state"] == "queued"
    return answer.headers["Retry-After"]


@pytest.mark.parametrize(("seconds", "header"), [(10.4, "10"), (1000.0, "60"), (0.2, "1"), (None, "1")])
def test_a_client_is_told_when_to_ask(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, seconds: float | None, header: str
) -> None:
    monkeypatch.setattr(QueueView, "recent_estimate", lambda view, job: seconds)
    assert submitted(client) == header


def test_a_failing_estimate_is_no_failed_submit(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job is stored by then: after an error the caller would submit it again."""

    def fails(*_: object) -> None:
        raise OSError("the disk failed")

    monkeypatch.setattr(QueueView, "recent_estimate", fails)
    assert submitted(client) == "1"
