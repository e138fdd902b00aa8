"""The OpenAPI document is what the server does: requests made from it are never answered with a server's fault."""

import os
from typing import Any

import jsonschema
import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import response_schema_conformance

from diffusion_local.compose import Services, open_services
from diffusion_local.domain import Kind
from diffusion_local.options.table import OPTIONS
from diffusion_local.settings import Settings
from tests.web.api.conftest import JOBS, SMALL, draw_next, hands
from tests.web.conftest import drawn

#: Endless, or it would reach out into the network.
LEFT_OUT = r"/stream$|/downloads|/known-models|/webhooks/test"
MOST_PIXELS = 512 * 512  # of a picture that is drawn for an answer; larger ones are cancelled, which takes no time
QUIET = [
    HealthCheck.function_scoped_fixture,
    HealthCheck.too_slow,
    HealthCheck.filter_too_much,
    HealthCheck.data_too_large,
]


@schemathesis.serializer("application/jsonl")
def lines(_: Any, value: Any) -> bytes:
    """The body of ``/queue/import``: bytes, as the document says."""
    return bytes(getattr(value, "data", value))


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Services:
    home = tmp_path_factory.mktemp("schema") / "home"
    more: dict[str, Any] = {"writes_per_second": 0}  # or the limit on requests answers most of them
    return open_services(
        Settings.load(environ={}, home=home, engine="fake", allowed_hosts="testserver", auth="none", **more)
    )


@pytest.fixture(scope="module")
def schema(client: TestClient) -> Any:
    return schemathesis.openapi.from_asgi("/openapi.json", client.app)


@pytest.fixture
def quick(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends every job at once, so that the dialects wait for none. Of a batch the first picture is drawn."""

    def end(services: Services) -> None:
        job = services.jobs.claim_next("cpu0")
        if job is None:  # it may not begin yet, or an earlier request paused the queue
            services.studio.queue.cancel(waiting=True)
            return
        width, height = job.params.final_size
        if job.index == 0 and width * height <= MOST_PIXELS:
            drawn(services, job)
        else:
            services.jobs.stop(job.claim)

    hands(services, monkeypatch, end)


def requests_are_answered_well(schema: Any, examples: int) -> None:
    """Not by schemathesis' own parametrize, which leans on a private part of pytest that is gone."""
    tried = 0
    faults: list[str] = []
    for found in schema.exclude(path_regex=LEFT_OUT).get_all_operations():
        operation = found.ok()
        tried += 1

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            suppress_health_check=QUIET,
            phases=(Phase.explicit, Phase.generate),  # what fails is told as it is: a small example takes too long
        )
        @given(case=operation.as_strategy())
        def each(case: Any) -> None:
            answered_well(case)

        try:
            each()
        except (Exception, FailureGroup) as error:
            text = "; ".join(map(str, error.exceptions)) if isinstance(error, FailureGroup) else repr(error)
            faults.append(f"{operation.method} {operation.path}: {text}"[:3000])
    assert tried > 100
    assert not faults, "\n".join(faults)


@pytest.mark.slow
def test_no_request_of_the_document_is_a_servers_fault(schema: Any, quick: None) -> None:
    requests_are_answered_well(schema, 2)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_nor_are_many_of_them(schema: Any, quick: None) -> None:
    requests_are_answered_well(schema, int(os.environ.get("SCHEMA_EXAMPLES", "40")))


def answered_well(case: Any) -> None:
    (case.headers or {}).pop("Prefer", None)  # to wait for a worker that there is not
    answer = case.call(timeout=60)  # the machine may be busy
    status, is_json = answer.status_code, answer.headers.get("Content-Type", [""])[0].startswith("application/json")
    body = answer.text[:500] if is_json else ""
    text = f"{case.method} {case.path}: {status} {body}"
    assert status < 500 or status == 503, text
    assert case.method == "TRACE" or str(status) in case.operation.definition.raw["responses"], text
    if status >= 400 and case.method != "HEAD" and case.path.startswith("/api/v1"):
        assert answer.json()["error"]["message"]
    if case.method not in ("TRACE", "HEAD"):
        case.validate_response(answer, checks=[response_schema_conformance])


def test_every_refusal_is_in_the_document(client: TestClient) -> None:
    answer = client.get("/openapi.json").json()
    for path, methods in answer["paths"].items():
        for method, operation in methods.items():
            if path.startswith("/api/v1"):
                assert {"404", "409", "410", "422", "429", "503"} <= set(operation["responses"]), (method, path)
                assert operation.get("description") or operation.get("summary")


def fields_of_a_submit(client: TestClient) -> dict[str, Any]:
    body = client.get("/openapi.json").json()["paths"]["/api/v1/jobs"]["post"]["requestBody"]
    found: dict[str, Any] = body["content"]["application/json"]["schema"]["properties"]
    return found


def test_examples_are_good_requests(client: TestClient, services: Services) -> None:
    fields = fields_of_a_submit(client)
    example = {name: each["examples"][0] for name, each in fields.items() if each.get("examples")}
    assert {"prompt", "width", "seed"} <= set(example)
    for name in ("background", "details"):  # they need models of other files, which tests have not
        example.pop(name, None)
    answer = client.post("/api/v1/jobs", json=example)
    assert answer.status_code == 202, answer.text


def schemas_of(client: TestClient) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/openapi.json").json()["components"]["schemas"]
    return found


def problems(client: TestClient, name: str, value: Any) -> list[str]:
    """What a schema of the document finds wrong with a value."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": {"schemas": schemas_of(client)}}
    return [f"{each.json_path}: {each.message}" for each in jsonschema.Draft202012Validator(schema).iter_errors(value)]


@pytest.mark.parametrize("name", ["Job", "Image", "Batch", "Model"])
def test_the_example_of_a_noun_is_one(client: TestClient, name: str) -> None:
    [example] = schemas_of(client)[name]["examples"]
    assert problems(client, name, example) == []
    assert problems(client, name, example | {"id": 7}) != []


def test_options_of_a_picture_have_the_limits_and_choices_of_their_table(client: TestClient) -> None:
    answered, asked = schemas_of(client)["Params"]["properties"], fields_of_a_submit(client)
    assert set(answered) == set(OPTIONS)
    assert (answered["guidance"]["minimum"], answered["guidance"]["maximum"]) == (0, 100)
    assert (answered["scale"]["minimum"], asked["scale"]["minimum"]) == (0, 1)  # 0 where nothing is upscaled
    assert set(answered["sampler"]["enum"]) == {*OPTIONS["sampler"].choices, ""}
    assert (asked["steps"]["minimum"], asked["steps"]["maximum"]) == (1, 1000)
    assert asked["seed"]["minimum"] == -1
    for name, option in OPTIONS.items():
        assert answered[name]["description"] == option.meaning
        limits = answered[name].get("anyOf", [answered[name]])[0]
        assert limits.get("maximum") == (option.high if name != "steps" else None), name
        assert asked[name].get("maximum") == option.high, name


def test_jobs_of_every_kind_are_as_the_document_says(client: TestClient, services: Services) -> None:
    client.post(JOBS, json={"prompt": "x"} | SMALL)
    image = draw_next(services)
    source = services.studio.sources.from_image(image.id).id
    for each in (
        {"prompt": "x", "hires_scale": 2, "hires_steps": 150, "hires_tile": 128} | SMALL,
        {"prompt": "x", "source": source, "guidance": 0},
        {"prompt": "x", "source": source, "outpaint": "left:64", "kind": "inpaint"},
        {"source": source, "kind": "upscale", "prompt": ""},
    ):
        answer = client.post(JOBS, json=each)
        assert answer.status_code == 202, answer.text
    jobs = client.get(f"{JOBS}?limit=10").json()["jobs"]
    assert {each["params"]["kind"] for each in jobs} == set(Kind)
    queue = client.get("/api/v1/queue").json()
    assert problems(client, "Queue", queue) == []
    assert [problems(client, "Job", each) for each in jobs] == [[]] * len(jobs)
    found = client.get(f"/api/v1/images/{image.id}").json()
    assert problems(client, "Image", found) == []
    batch = client.get(f"/api/v1/batches/{jobs[0]['batch_id']}").json()
    assert problems(client, "Batch", batch) == []
    for model in client.get("/api/v1/models").json()["models"]:
        assert problems(client, "Model", {"memory_plan": []} | model) == []
