"""Predictions, as cog's and Replicate's clients ask for them."""

import base64
import io
import json
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image as PIL

from diffusion_local.compose import Services
from diffusion_local.notify.predictions import Subscription
from tests.support import claimed
from tests.web.api.conftest import Hands, draw_next, fail_next
from tests.web.conftest import client_of, services_of

INPUT = {"prompt": "a red apple", "width": 128, "height": 128, "num_inference_steps": 4}
LATER = {"Prefer": "respond-async"}


def test_a_prediction_waits_for_its_end(client: TestClient, drawing: Hands) -> None:
    answer = client.post("/predictions", json={"input": INPUT | {"num_outputs": 2, "negative_prompt": "blur"}})
    content = answer.json()
    assert (answer.status_code, content["status"], content["error"]) == (200, "succeeded", None)
    assert (content["input"]["steps"], content["input"]["negative"], content["input"]["count"]) == (4, "blur", 2)
    assert content["completed_at"] >= content["started_at"] >= content["created_at"]
    assert [client.get(url).content[:4] for url in content["output"]] == [b"\x89PNG"] * 2
    assert client.get(content["urls"]["get"]).json() == content


def test_an_asynchronous_one_goes_through_its_states(client: TestClient, services: Services) -> None:
    answer = client.post("/predictions", json={"input": INPUT}, headers=LATER)
    content = answer.json()
    assert (answer.status_code, content["status"], content["output"]) == (202, "starting", None)
    assert answer.headers["Preference-Applied"] == "respond-async"
    url = answer.headers["Location"]
    job = claimed(services.jobs)
    assert client.get(url).json()["status"] == "processing"
    services.jobs.requeue(job.claim, "test")
    draw_next(services)
    assert client.get(url).json()["status"] == "succeeded"


def test_a_bounded_wait_gives_it_back_unfinished(client: TestClient) -> None:
    answer = client.post("/predictions", json={"input": INPUT}, headers={"Prefer": "wait=1"})
    assert (answer.status_code, answer.json()["status"]) == (202, "starting")


def test_an_id_of_the_clients_own_is_one_prediction(client: TestClient, services: Services) -> None:
    before = len(services.studio.jobs(limit=1000))
    for send in (client.put, client.put):
        answer = send("/predictions/my%20own-ü", json={"input": INPUT}, headers=LATER)
        assert (answer.status_code, answer.json()["id"]) == (202, "my own-ü")
    assert client.post("/predictions", json={"input": INPUT, "id": "my own-ü"}, headers=LATER).status_code == 202
    assert len(services.studio.jobs(limit=1000)) == before + 1
    assert client.get(answer.headers["Location"]).json()["status"] == "starting"
    other = client.put("/predictions/my%20own-ü", json={"input": INPUT | {"prompt": "y"}}, headers=LATER)
    assert other.status_code == 409


def test_cancel(client: TestClient) -> None:
    answer = client.post("/predictions", json={"input": INPUT}, headers=LATER).json()
    assert client.post(answer["urls"]["cancel"]).json()["status"] == "canceled"
    assert client.post(answer["urls"]["cancel"]).json()["status"] == "canceled"


def test_a_failed_one_says_why(client: TestClient, services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = client.post("/predictions", json={"input": INPUT}, headers=LATER).json()
    fail_next(services)
    answer = client.get(answer["urls"]["get"]).json()
    assert (answer["status"], answer["error"], answer["output"]) == ("failed", "it broke", None)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"input": {"prompt": " "}}, "prompt: "),
        ({"input": {}}, "prompt: "),
        ({}, "input: "),
        ({"input": INPUT | {"colour": "red"}}, "colour: "),
        ({"input": INPUT | {"width": 100, "fit": "strict"}}, "width: "),
        ({"input": INPUT | {"scheduler": "PNDM", "fit": "strict"}}, "scheduler: "),
        ({"input": INPUT | {"fit": "loosely"}}, "fit: must be one of nearest, strict"),
        (
            {"input": INPUT | {"guidance_scael": 3}},
            "guidance_scael: is not a known field. Did you mean guidance_scale?",
        ),
        ({"input": {"prompt": "x", "aspect_ratio": "wide"}}, "aspect_ratio: "),
        ({"input": {"prompt": "x", "model": "nope"}}, "model: There is no model 'nope'"),
        ({"input": INPUT, "webhook": "http://169.254.169.254/"}, "webhook: "),
        (
            {"input": INPUT, "webhook": "https://example.com/", "webhook_events_filter": ["done"]},
            "webhook_events_filter",
        ),
        ({"input": INPUT | {"image": "https://example.com/a.png"}}, "image: must be the picture itself"),
        ({"input": INPUT | {"image": "http://127.0.0.1:7860/images/none.png"}}, "image: There is no"),
        ({"input": INPUT, "id": " "}, "id: must not be empty"),
    ],
)
def test_what_cannot_be_done_is_refused(
    client: TestClient, services: Services, body: dict[str, Any], words: str
) -> None:
    answer = client.post("/predictions", json=body)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(words)
    assert services.studio.jobs("queued") == []


def test_what_replicates_models_take_is_passed_over_with_a_line_in_the_log(
    client: TestClient, services: Services
) -> None:
    body = INPUT | {"width": 1024, "height": 512, "scheduler": "PNDM", "refine": "expert_ensemble_refiner"}
    body |= {"go_fast": True, "disable_safety_checker": False, "output_format": "webp", "apply_watermark": False}
    answer = client.post("/predictions", json={"input": body}, headers=LATER).json()
    assert (answer["input"]["width"], answer["input"]["height"], answer["input"]["sampler"]) == (512, 256, "DDIM")
    lines = answer["logs"].splitlines()
    named = ("refine", "go_fast", "disable_safety_checker", "output_format", "size", "scheduler")
    assert sorted(line.partition(":")[0] for line in lines[:-1]) == sorted(named)
    assert lines[-1].startswith("0%|")
    assert client.get(answer["urls"]["get"]).json()["logs"] == answer["logs"]


@pytest.mark.parametrize(
    ("given", "sampler", "schedule"),
    [
        ("K_EULER", "Euler", ""),
        ("K_EULER_ANCESTRAL", "Euler a", ""),
        ("DPMSolverMultistep", "DPM++ 2M", ""),
        ("KarrasDPM", "DPM++ 2M Karras", ""),
        ("HeunDiscrete", "Heun", ""),
        ("DDIM", "DDIM", ""),
        ("K_LMS", "Euler", ""),
        ("none of these", "DPM++ 2M", ""),
    ],
)
def test_schedulers_go_by_replicates_names(client: TestClient, given: str, sampler: str, schedule: str) -> None:
    answer = client.post("/predictions", json={"input": INPUT | {"scheduler": given}}, headers=LATER).json()
    assert (answer["input"]["sampler"], answer["input"]["schedule"]) == (sampler, schedule)


@pytest.mark.parametrize(
    ("ratio", "megapixels", "size"),
    [("1:1", None, (256, 256)), ("16:9", None, (344, 192)), ("2:3", "0.25", (344, 512)), ("custom", None, (256, 256))],
)
def test_an_aspect_ratio_gives_the_size(
    client: TestClient, ratio: str, megapixels: str | None, size: tuple[int, int]
) -> None:
    body = {"prompt": "x", "aspect_ratio": ratio, "megapixels": megapixels}
    answer = client.post("/predictions", json={"input": body}, headers=LATER).json()["input"]
    assert (answer["width"], answer["height"]) == size


def test_a_picture_of_this_server_is_named_by_its_address(
    client: TestClient, services: Services, drawing: Hands
) -> None:
    made = client.post("/predictions", json={"input": INPUT}).json()
    answer = client.post("/predictions", json={"input": INPUT | {"image": made["output"][0]}}).json()
    assert (answer["input"]["kind"], answer["status"]) == ("img2img", "succeeded")


def test_a_picture_comes_as_a_data_url(client: TestClient, services: Services) -> None:
    file = io.BytesIO()
    PIL.new("RGB", (128, 128), "red").save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    body = {"input": INPUT | {"image": url, "mask": url, "prompt_strength": 0.7}}
    answer = client.post("/predictions", json=body, headers=LATER).json()
    assert (answer["input"]["kind"], answer["input"]["strength"]) == ("inpaint", 0.7)
    assert client.get(f"/sources/{answer['input']['source']}.png").status_code == 200


def test_a_webhook_is_the_batchs(client: TestClient, services: Services) -> None:
    hook = "https://1.1.1.1/told"
    body = {"input": INPUT, "webhook": hook, "webhook_events_filter": ["completed"]}
    answer = client.post("/predictions", json=body, headers=LATER).json()
    batch = services.studio.batch(answer["id"])[0]
    assert (batch.webhook, Subscription.of_batch(batch).id) == (hook, answer["id"])
    assert "prediction" not in client.get(f"/api/v1/batches/{batch.id}").json()


@pytest.mark.parametrize(
    ("chosen", "asked", "heard"),
    [
        (None, None, ["processing", "succeeded"]),
        ("mine", ["start"], ["processing"]),
        (None, ["completed"], ["succeeded"]),
        (None, ["output", "logs"], []),
    ],
)
def test_a_webhook_hears_the_prediction(
    tmp_path_factory: pytest.TempPathFactory, chosen: str | None, asked: list[str] | None, heard: list[str]
) -> None:
    services = services_of(tmp_path_factory)
    client, hook = client_of(services, page=False), "https://1.1.1.1/told"
    body = {"input": INPUT | {"num_outputs": 2}, "webhook": hook, "id": chosen}
    body |= {"webhook_events_filter": asked} if asked is not None else {}
    answer = client.post("/predictions", json=body, headers=LATER).json()
    draw_next(services)
    draw_next(services)
    services.notifications.create_deliveries()
    log = services.studio.webhooks.deliveries()
    payloads = [json.loads(each.payload) for each in reversed(log)]
    assert [each["status"] for each in payloads] == heard
    assert {each.receiver for each in log} <= {hook}
    for each in payloads:
        assert (each["id"], each["urls"], each["input"]) == (answer["id"], answer["urls"], answer["input"])
        if each["status"] == "succeeded":
            assert each == client.get(answer["urls"]["get"]).json()
        else:
            assert (each["output"], each["completed_at"]) == (None, None)
            assert each["started_at"]


def test_they_are_listed_newest_first_page_by_page(client: TestClient) -> None:
    made = [client.post("/predictions", json={"input": INPUT}, headers=LATER).json()["id"] for _ in range(22)]
    first = client.get("/predictions").json()
    assert [each["id"] for each in first["results"]] == made[:1:-1]
    assert [each["id"] for each in client.get(first["next"]).json()["results"]][:2] == made[1::-1]


def test_an_unknown_one_is_404(client: TestClient) -> None:
    for send, path in ((client.get, "nope"), (client.post, "nope/cancel"), (client.get, "%00")):
        assert send(f"/predictions/{path}").status_code == 404
    assert client.put("/predictions/a", json={"input": INPUT, "id": "b"}).status_code == 422


def test_health_check(client: TestClient, services: Services) -> None:
    assert client.get("/health-check").json() == {"status": "STARTING"}
    services.workers.register("cpu0", 1, "CPU")
    services.workers.update("cpu0", "idle")
    assert client.get("/health-check").json() == {"status": "READY"}
    services.studio.submit("x")
    claimed(services.jobs)
    assert client.get("/health-check").json() == {"status": "BUSY"}
