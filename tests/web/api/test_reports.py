"""Reports and deliveries over HTTP: forms by ending and by Accept, again for a reason, the log, pages."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from diffusion_local.compose import Services
from tests.web.api.conftest import SMALL, draw_next, fail_next

API = "/api/v1"


@pytest.fixture
def batch_id(services: Services) -> str:
    found = services.studio.submit("a <b>bold</b> apple", count=2, name="Apples", **SMALL).batch_id
    draw_next(services)
    fail_next(services, "it broke")
    return found


@pytest.mark.parametrize(
    ("ending", "accept", "kind", "words"),
    [
        ("", "", "application/json", '"title":"Apples"'),
        ("", "text/html,application/xhtml+xml,*/*;q=0.8", "text/html; charset=utf-8", "<h1>Apples</h1>"),
        ("", "text/markdown", "text/markdown; charset=utf-8", "# Apples"),
        (".html", "application/json", "text/html; charset=utf-8", "<h1>Apples</h1>"),
        (".md", "", "text/markdown; charset=utf-8", "# Apples"),
        (".json", "text/html", "application/json", '"title":"Apples"'),
    ],
)
def test_a_report_comes_in_three_forms(
    client: TestClient, batch_id: str, ending: str, accept: str, kind: str, words: str
) -> None:
    answer = client.get(f"{API}/reports/batch/{batch_id}{ending}", headers={"Accept": accept})
    assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
    assert words in answer.text
    assert "<b>bold" not in answer.text or kind == "application/json"


def test_a_night_and_what_is_wrong_with_one(client: TestClient, batch_id: str) -> None:
    found = client.get(f"{API}/reports/night").json()
    assert batch_id in [each["id"] for each in found["batches"]]
    assert client.get(f"{API}/reports/night.md").text.startswith("# From ")
    refused = client.get(f"{API}/reports/night", params={"since": "soon"})
    assert (refused.status_code, refused.json()["error"]["field"]) == (422, "since")
    assert client.get(f"{API}/reports/batch/nothing").status_code == 404


def test_again_for_a_reason(client: TestClient, services: Services, batch_id: str) -> None:
    [reason] = client.get(f"{API}/reports/batch/{batch_id}").json()["reasons"]
    body = {"reason": reason["id"], "batch_id": batch_id}
    made = client.post(f"{API}/reports/again", json=body)
    assert (made.status_code, len(made.json()["job_ids"])) == (202, 1)
    assert services.studio.job(made.json()["job_ids"][0]).from_job == reason["job_ids"][0]
    assert client.post(f"{API}/reports/again", json=body).status_code == 409
    assert client.post(f"{API}/reports/again", json=body | {"reason": "x"}).status_code == 404
    assert client.post(f"{API}/reports/again", json={}).status_code == 422


def test_the_pages_lead_into_the_app(client: TestClient, batch_id: str) -> None:
    page = client.get(f"/reports/batch/{batch_id}.html")
    assert (page.status_code, page.headers["cache-control"]) == (200, "no-store")
    assert "Retry these" in page.text
    assert 'href="/ui/lists"' in page.text
    assert f"/reports/batch/{batch_id}.html" in client.get("/reports/night.html").text
    assert client.get("/reports/batch/nothing.html").status_code == 404


def test_the_button_of_a_page_makes_what_failed_again(client: TestClient, services: Services, batch_id: str) -> None:
    [reason] = services.studio.reports.batch(batch_id).reasons
    form = {"reason": reason.id, "batch_id": batch_id}
    foreign = client.post("/reports/again", data=form, headers={"Origin": "https://evil.example"})
    assert foreign.status_code == 403
    made = client.post("/reports/again", data=form, follow_redirects=False)
    new = services.studio.jobs(limit=1)[0]
    assert (made.status_code, made.headers["location"]) == (303, f"/reports/batch/{new.batch_id}.html")
    assert new.from_job == reason.job_ids[0]
    assert client.post("/reports/again", data=form).status_code == 409
    assert client.post("/reports/again").status_code == 404


def test_the_delivery_log(client: TestClient, services: Services) -> None:
    forbidden = client.post(f"{API}/webhooks/test", json={"url": "http://169.254.169.254/latest"})
    assert (forbidden.status_code, forbidden.json()["error"]["field"]) == (422, "webhook")
    ids = [
        services.deliveries.add(services.notices.add_handled("test"), "{}", {"https://example.com/": 1})[0]
        for _ in range(3)
    ]

    def log(**params: Any) -> dict[str, Any]:
        return client.get(f"{API}/webhooks/deliveries", params=params).json()

    first = log(limit=2)
    assert [each["id"] for each in first["deliveries"]] == ids[:0:-1]
    assert [each["id"] for each in log(limit=2, before=first["next"])["deliveries"]] == ids[:1]
    one = client.get(f"{API}/webhooks/deliveries/{ids[0]}").json()
    assert (one["payload"], one["state"]) == ("{}", "waiting")
    assert services.deliveries.take(ids[0])
    assert client.post(f"{API}/webhooks/deliveries/{ids[0]}/resend").status_code == 409
    services.deliveries.settle(ids[0], False, 500, "", "it answered 500", None)
    assert [each["id"] for each in log(state="failed")["deliveries"]] == [ids[0]]
    again = client.post(f"{API}/webhooks/deliveries/{ids[0]}/resend")
    assert (again.status_code, again.json()["state"]) == (202, "waiting")
    assert client.get(f"{API}/webhooks/deliveries/nothing").status_code == 404
    assert client.get(f"{API}/webhooks/deliveries", params={"state": "lost"}).status_code == 422
