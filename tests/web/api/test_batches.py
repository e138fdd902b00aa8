"""Batches, grids, the window and the queue as a file, over plain HTTP."""

import io
import json
import zipfile

import pytest
from fastapi.testclient import TestClient
from PIL import Image as PIL

from diffusion_local.compose import Services
from diffusion_local.domain import State
from tests.web.api.conftest import SMALL, draw_next
from tests.web.conftest import client_of, services_of

V1 = "/api/v1"


def submit(client: TestClient, text: str = "a cat\na dog", **query: object) -> str:
    answer = client.post(f"{V1}/lists", content=text, params=SMALL | query)  # type: ignore[arg-type]
    assert answer.status_code == 202, answer.text
    return answer.json()["batch_id"]


def test_batches_are_listed_by_pages_with_links(client: TestClient) -> None:
    ids = [submit(client, name=f"n{number}") for number in range(3)]
    page = client.get(f"{V1}/batches", params={"limit": 2})
    assert [each["id"] for each in page.json()["batches"]] == ids[:0:-1]
    following = client.get(page.headers["Link"].split(";")[0].strip("<>")).json()["batches"]
    assert following[0]["id"] == ids[0]
    assert (following[0]["counts"]["queued"], following[0]["finished"], following[0]["done_at"]) == (2, False, None)


def test_a_batch_is_renamed_and_edited_in_one_request(client: TestClient, services: Services) -> None:
    batch_id = submit(client)
    answer = client.patch(f"{V1}/batches/{batch_id}", json={"name": "owls", "steps": 9, "window": "23:00-07:00"}).json()
    assert (answer["name"], answer["changed"], answer["window"]) == ("owls", 2, "23:00-07:00")
    assert {job.params.steps for job in services.studio.jobs(batch_id=batch_id)} == {9}
    for body in ({"steps": 0}, {}, {"window": "at night"}, {"mood": 3}, {"steps": "nine"}):
        assert client.patch(f"{V1}/batches/{batch_id}", json=body).status_code == 422
    assert client.patch(f"{V1}/batches/nope", json={"name": "x"}).status_code == 404
    assert client.patch(f"{V1}/batches/{batch_id}", json={"window": ""}).json()["window"] == ""


def test_a_batch_is_copied(client: TestClient) -> None:
    batch_id = submit(client, name="owls")
    answer = client.post(f"{V1}/batches/{batch_id}/duplicate", json={"start_at": "23:00"})
    assert (answer.status_code, len(answer.json()["job_ids"])) == (202, 2)
    copy = client.get(answer.headers["Location"]).json()
    assert copy["name"] == "owls (copy)"
    assert copy["start_at"]
    assert client.post(f"{V1}/batches/{batch_id}/duplicate").status_code == 202


def test_a_batchs_pictures_and_files_are_sent(client: TestClient, services: Services) -> None:
    batch_id = submit(client)
    for _ in range(2):
        draw_next(services)
    answer = client.get(f"{V1}/batches/{batch_id}").json()
    images = client.get(answer["images_url"]).json()["images"]
    assert [image["params"]["prompt"] for image in images] == ["a cat", "a dog"]
    archive = client.get(answer["zip_url"])
    assert archive.headers["Content-Type"] == "application/zip"
    assert len(zipfile.ZipFile(io.BytesIO(archive.content)).namelist()) == 3
    sheet = client.get(answer["sheet_url"])
    assert PIL.open(io.BytesIO(sheet.content)).format == "WEBP"
    for rest in ("images", "zip", "sheet.webp"):
        assert client.get(f"{V1}/batches/nope/{rest}").status_code == 404


def test_a_grid_is_checked_and_submitted(client: TestClient) -> None:
    body = {"prompt": "a cat", "x": "steps: 2,3", "y": "prompt: cat,dog", "width": 128, "height": 128}
    check = client.post(f"{V1}/grids/check", json=body).json()
    assert (check["pictures"], check["columns"]) == (4, ["steps 2", "steps 3"])
    answer = client.post(f"{V1}/grids", json=body | {"name": "pets"}, headers={"Idempotency-Key": "grid"})
    assert answer.status_code == 202
    content = client.get(answer.json()["status_url"]).json()
    assert (content["count"], content["grid"]["y"]["values"]) == (4, ["cat", "dog"])
    again = client.post(f"{V1}/grids", json=body | {"name": "pets"}, headers={"Idempotency-Key": "grid"})
    assert again.json()["batch_id"] == answer.json()["batch_id"]
    bad = client.post(f"{V1}/grids", json=body | {"x": "mood: 1,2"})
    assert (bad.status_code, bad.json()["error"]["message"][:2]) == (422, "x:")


def test_a_queue_goes_to_another_machine(
    client: TestClient, services: Services, tmp_path_factory: pytest.TempPathFactory
) -> None:
    submit(client, name="night", window="23:00-07:00", priority=3)
    other_house = services_of(tmp_path_factory)
    other = client_of(other_house, page=False)
    file = client.get(f"{V1}/queue/file").text
    answer = other.post(f"{V1}/queue/import", content=file)
    assert (answer.status_code, answer.json()["count"]) == (202, 2)
    assert other.post(f"{V1}/queue/import", content=file).json() == answer.json()
    [job, _] = other_house.studio.jobs("queued")
    assert (job.priority, other_house.studio.batch(job.batch_id)[0].window) == (3, "23:00-07:00")
    refused = other.post(f"{V1}/queue/import", content=json.dumps({"job": 1}))
    assert refused.status_code == 422
    assert len(other_house.studio.jobs("queued")) == 2


def test_the_window_of_the_queue_is_set_and_shown(client: TestClient, services: Services) -> None:
    assert client.put(f"{V1}/queue/window", json={"window": " 23:00-07:00 "}).json() == {"window": "23:00-07:00"}
    assert client.get(f"{V1}/queue").json()["window"] == "23:00-07:00"
    assert client.put(f"{V1}/queue/window", json={"window": "never"}).status_code == 422
    assert client.put(f"{V1}/queue/window", json={"window": ""}).json() == {"window": ""}


def test_times_are_taken_with_a_single_prompt_too(client: TestClient, services: Services) -> None:
    answer = client.post(f"{V1}/jobs", json={"prompt": "a cat", "window": "23:00-07:00"} | SMALL)
    assert services.studio.batch(answer.json()["batch_id"])[0].window == "23:00-07:00"
    refused = client.post(f"{V1}/jobs", json={"prompt": "a cat", "start_at": "soon"})
    assert refused.json()["error"]["message"].startswith("start_at: must be a time")
    assert len(services.studio.jobs(str(State.QUEUED))) == 1
