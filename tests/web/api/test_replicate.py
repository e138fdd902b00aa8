"""Replicate's Python client over the network, and the requests that its JavaScript client sends."""

import io
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from PIL import Image as PIL

from tests.support import eventually
from tests.web.conftest import Site

replicate = pytest.importorskip("replicate")

INPUT = {"prompt": "a red apple", "width": 128, "height": 128, "num_inference_steps": 4}
SLOW = INPUT | {"prompt": "predicted with patience [slow:0.4]"}


@pytest.fixture(params=["", "/replicate"])
def sdk(site: Site, request: pytest.FixtureRequest) -> Any:
    client = replicate.Client(api_token="none", base_url=site.url + request.param, timeout=httpx.Timeout(30))
    client.poll_interval = 0.05
    return client


@pytest.fixture
def plain(site: Site) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=site.url, timeout=30) as client:
        yield client


def fetched(output: Any) -> bytes:
    """The client makes file objects of https addresses only; over plain http it leaves them as text."""
    return httpx.get(output).content if isinstance(output, str) else output.read()


def test_run_by_name_and_by_version(sdk: Any) -> None:
    outputs = sdk.run("local/starter", input=INPUT | {"num_outputs": 2})
    assert [fetched(each)[:4] for each in outputs] == [b"\x89PNG"] * 2
    [output] = sdk.run(f"stability-ai/sdxl:{'0' * 64}", input=INPUT | {"scheduler": "K_EULER", "refine": "no_refiner"})
    assert fetched(output).startswith(b"\x89PNG")


def test_a_prediction_goes_its_way(sdk: Any) -> None:
    made = sdk.predictions.create(version="starter", input=INPUT)
    assert (made.status, made.output, made.model) == ("starting", None, "local/starter")
    made.wait()
    assert (made.status, made.progress.current, made.progress.total) == ("succeeded", 4, 4)
    assert sdk.predictions.get(made.id).output == made.output
    assert made.id in [each.id for each in sdk.predictions.list()]


def test_cancel(sdk: Any) -> None:
    made = sdk.predictions.create(version="starter", input=SLOW)
    made.cancel()
    eventually(lambda: sdk.predictions.get(made.id).status == "canceled")


def test_a_model_that_fails_raises_its_error(sdk: Any) -> None:
    with pytest.raises(replicate.exceptions.ModelError, match="fail"):
        sdk.run("local/starter", input=INPUT | {"prompt": "broken [fail]"})


def test_a_refusal_is_replicates(sdk: Any) -> None:
    with pytest.raises(replicate.exceptions.ReplicateError) as refused:
        sdk.run("local/starter", input=INPUT | {"guidance_scale": "much"})
    assert refused.value.status == 422
    assert refused.value.detail.startswith("guidance_scale: ")
    with pytest.raises(replicate.exceptions.ReplicateError) as missing:
        sdk.models.get("nobody/nothing")
    assert missing.value.status == 404


def test_the_output_is_streamed(sdk: Any) -> None:
    seen = list(sdk.stream("local/starter", input=INPUT))
    assert [each.event.value for each in seen][-2:] == ["output", "done"]
    assert seen[-2].data.startswith("http")


def test_a_file_is_uploaded_and_changed(sdk: Any, site: Site) -> None:
    file = io.BytesIO()
    PIL.new("RGB", (128, 128), "red").save(file, "PNG")
    file.seek(0)
    file.name = "red.png"  # type: ignore[attr-defined]
    [output] = sdk.run("local/starter", input=INPUT | {"image": file, "prompt_strength": 0.5})
    with PIL.open(io.BytesIO(fetched(output))) as picture:
        assert picture.size == (128, 128)
    file.seek(0)
    kept = sdk.files.create(file)
    assert sdk.files.get(kept.id).checksums == {"sha256": kept.id}


def test_uploaded_files_are_listed_and_deleted(sdk: Any) -> None:
    file = io.BytesIO()
    PIL.new("RGB", (64, 64), "teal").save(file, "PNG")
    file.seek(0)
    file.name = "teal.png"  # type: ignore[attr-defined]
    kept = sdk.files.create(file)
    assert kept.id in [each.id for each in sdk.files.list()]
    sdk.files.delete(kept.id)
    assert kept.id not in [each.id for each in sdk.files.list()]
    for gone in (sdk.files.get, sdk.files.delete):
        with pytest.raises(replicate.exceptions.ReplicateError) as missing:
            gone(kept.id)
        assert missing.value.status == 404


def test_what_else_its_clients_list(sdk: Any) -> None:
    assert [each.name for each in sdk.models.list()] == ["starter"]
    assert [each.name for each in sdk.models.search("START")] == ["starter"]
    assert sdk.models.search("nobody's").results == []
    assert [each.sku for each in sdk.hardware.list()] == ["local"]
    for empty in (sdk.collections, sdk.trainings, sdk.deployments):
        assert list(empty.list()) == []


def test_models_and_versions(site: Site) -> None:
    sdk = replicate.Client(api_token="none", base_url=f"{site.url}/replicate")
    assert [each.name for each in sdk.models.list()] == ["starter"]
    model = sdk.models.get("local/starter")
    assert model.latest_version.id == model.versions.get("any").id == model.versions.list()[0].id
    assert "count" in model.latest_version.openapi_schema["components"]["schemas"]["Input"]["properties"]
    assert sdk.webhooks.default.secret().key.startswith("whsec_")


def test_the_javascript_clients_requests(plain: httpx.Client) -> None:
    """`replicate.run("owner/name", {input})` with `baseUrl` ending in /v1, as its source sends them."""
    wait = {"Prefer": "wait=30", "Authorization": "Bearer none"}
    made = plain.post("/replicate/v1/models/local/starter/predictions", json={"input": INPUT}, headers=wait)
    assert (made.status_code, made.json()["status"]) == (201, "succeeded")
    assert plain.get(made.json()["output"][0]).status_code == 200
    body = {"input": INPUT, "version": "0" * 64, "stream": True}
    later = plain.post("/v1/predictions", json=body).json()
    assert (later["status"], later["logs"].splitlines()[0][:11]) == ("starting", "The version")
    with plain.stream("GET", later["urls"]["stream"], headers={"Accept": "text/event-stream"}) as stream:
        text = "".join(stream.iter_text())
    assert "event: output\n" in text
    assert text.rstrip().endswith("data: {}")
    assert plain.post(f"/replicate/v1/predictions/{later['id']}/cancel").json()["status"] == "succeeded"


def test_a_wait_that_was_too_short_says_starting(plain: httpx.Client) -> None:
    """The Python client takes the output of any other status for complete."""
    body = {"input": SLOW | {"num_outputs": 2}}
    answer = plain.post("/replicate/v1/predictions", json=body, headers={"Prefer": "wait=1"}).json()
    assert answer["status"] == "starting"
    plain.post(answer["urls"]["cancel"])


@pytest.mark.parametrize("path", ["/replicate/v1/nope", "/v1/predictions/none", "/replicate/v1/trainings/none"])
def test_what_is_not_there_is_told_in_replicates_shape(plain: httpx.Client, path: str) -> None:
    answer = plain.get(path)
    assert (answer.status_code, answer.json()["status"]) == (404, 404)
    assert answer.json()["detail"]
