"""Prompt lists over HTTP: as bytes, as a form, read out again and sent again."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from diffusion_local.compose import Services

LISTS = "/api/v1/lists"
SIZE = "width=128&height=128&steps=2"


@pytest.mark.parametrize(
    ("media", "data", "prompts"),
    [
        ("text/plain", b"a cat\na dog --seed 7\n", ["a cat", "a dog"]),
        ("application/x-www-form-urlencoded", b"a cat\n", ["a cat"]),  # what curl --data-binary says
        ("text/csv; charset=utf-8", b"prompt,seed\na cat,1\n", ["a cat"]),
        ("application/jsonl", b'{"prompt": "a cat"}\n"a dog"\n', ["a cat", "a dog"]),
        ("application/x-ndjson", b'"a dog"\n', ["a dog"]),
    ],
)
def test_the_media_type_tells_the_format(
    client: TestClient, services: Services, media: str, data: bytes, prompts: list[str]
) -> None:
    answer = client.post(f"{LISTS}?{SIZE}", content=data, headers={"Content-Type": media})
    content = answer.json()
    assert (answer.status_code, content["count"]) == (202, len(prompts))
    assert answer.headers["Location"] == content["status_url"] == f"/api/v1/batches/{content['batch_id']}"
    assert [job.params.prompt for job in services.studio.jobs(batch_id=content["batch_id"])] == prompts
    assert client.get(content["status_url"]).json()["lane"] == "batch"


def test_a_form_names_the_list_by_its_file(client: TestClient) -> None:
    file = ("night.csv", b"prompt\na cat\n", "application/octet-stream")
    answer = client.post(LISTS, files={"file": file}).json()
    assert client.get(answer["status_url"]).json()["name"] == "night"
    answer = client.post(f"{LISTS}?name=other", files={"file": file}).json()
    assert client.get(answer["status_url"]).json()["name"] == "other"


def test_check_enqueues_nothing(client: TestClient, services: Services) -> None:
    before = len(services.studio.jobs(limit=1000))
    answer = client.post(f"{LISTS}/check?expand=all&{SIZE}", content=b"{a|b} car\nx --mood 3").json()
    assert (answer["pictures"], answer["bad_lines"][0]["line"]) == (2, 2)
    assert len(services.studio.jobs(limit=1000)) == before


def test_a_key_makes_one_batch_and_a_bad_line_none(client: TestClient) -> None:
    key = {"Idempotency-Key": "night"}
    first, again = (client.post(LISTS, content=b"a cat", headers=key).json() for _ in range(2))
    assert first["batch_id"] == again["batch_id"]
    assert client.post(LISTS, content=b"another", headers=key).status_code == 409
    refused = client.post(LISTS, content=b"a cat\n--seed 1")
    assert (refused.status_code, refused.json()["error"]["field"]) == (422, "list")
    assert client.post(f"{LISTS}?skip_bad_lines=true", content=b"a cat\n--seed 1").json()["bad_count"] == 1


@pytest.mark.parametrize("query", ["colour=red", "steps=0", "format=xml", "expand=some", "seed=x"])
def test_bad_options_are_named(client: TestClient, query: str) -> None:
    answer = client.post(f"{LISTS}?{query}", content=b"a cat")
    assert answer.status_code == 422
    assert query.partition("=")[0] in answer.json()["error"]["message"]


@pytest.mark.parametrize("parts", [{"nothing": ("x.txt", b"")}, {"file": (None, "text")}, {"other": ("x.txt", b"x")}])
def test_a_form_without_a_file_is_refused(client: TestClient, parts: dict[str, Any]) -> None:
    answer = client.post(LISTS, files=parts)
    assert answer.status_code in (400, 422)
    assert answer.json()["error"]["message"]


def test_a_list_may_be_longer_than_other_bodies_but_not_endless(client: TestClient, services: Services) -> None:
    line = b"# " + b"x" * 900 + b"\n"
    assert client.post(f"{LISTS}/check", content=line * 2000 + b"a cat").json()["pictures"] == 1
    too_long = client.post(LISTS, content=b"x" * (services.settings.max_list_mb * 1_000_000 + 2_000_000))
    assert (too_long.status_code, too_long.json()["error"]["code"]) == (413, "content_too_large")


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_what_is_exported_can_be_sent_again(client: TestClient, services: Services, form: str) -> None:
    content = client.post(f"{LISTS}?{SIZE}", content=b"a cat --seed 7\na dog --seed 8").json()
    answer = client.get(f"/api/v1/batches/{content['batch_id']}/export?format={form}")
    assert answer.headers["Content-Disposition"].endswith(f'.{form}"')
    assert answer.headers["Content-Type"].partition(";")[0] in ("text/csv", "application/jsonl")
    again = client.post(LISTS, content=answer.content, headers={"Content-Type": answer.headers["Content-Type"]}).json()
    params = [[job.params for job in services.studio.jobs(batch_id=each["batch_id"])] for each in (content, again)]
    assert params[0] == params[1]
    assert len(client.get(f"/api/v1/queue/export?format={form}").text.splitlines()) >= 4


def test_an_export_that_cannot_be_is_refused(client: TestClient) -> None:
    assert client.get("/api/v1/queue/export?format=xml").status_code == 422
    assert client.get("/api/v1/batches/nope/export").status_code == 404
