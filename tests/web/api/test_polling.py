"""When a client should first ask about what it has submitted."""

import pytest
from fastapi.testclient import TestClient

from diffusion_local.domain import Job
from diffusion_local.web.api.http import polling

JOBS = "/api/v1/jobs"


def submitted(client: TestClient, **settings: object) -> str:
    """The value of ``Retry-After`` for a stored job."""
    answer = client.post(JOBS, json={"prompt": "a red apple", "seed": 7} | settings)
    assert answer.status_code == 202
    [job_id] = answer.json()["job_ids"]
    assert client.get(f"{JOBS}/{job_id}").json()["state"] == "queued"
    return answer.headers["Retry-After"]


def test_many_submits_share_one_estimate_per_lane(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    estimates = iter((10.0, 20.0, 30.0))
    real = polling.first_pause_of

    class Estimating:
        """The studio, with other estimates."""

        def place(self, job: Job) -> tuple[int, float]:
            return 1, next(estimates)

    studio = Estimating()
    monkeypatch.setattr(polling, "first_pause_of", lambda _, job: real(studio, job))  # type: ignore[arg-type]
    assert [submitted(client), submitted(client)] == ["10", "10"]
    assert submitted(client, lane="batch") == "20"
    monkeypatch.setattr(polling, "KEPT_SECONDS", 0.0)
    assert submitted(client) == "30"


def test_a_failing_estimate_is_no_failed_submit(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job is stored by then: after an error the caller would submit it again."""

    def fails(*_: object) -> None:
        raise OSError("the disk failed")

    monkeypatch.setattr(polling, "first_pause_of", fails)
    assert submitted(client) == "1"
