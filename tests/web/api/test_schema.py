"""The OpenAPI document is what the server does: requests made from it are never answered with a server's fault."""

from typing import Any

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings

from diffusion_local.compose import Services, open_services
from diffusion_local.settings import Settings

#: Endless, or it would reach out into the network; and the dialects wait for a worker: ``test_fuzz`` has those.
LEFT_OUT = r"/stream$|/downloads|/known-models|/webhooks/test|^/v1/|^/sdapi/|^/predictions|^/page|^/login|^/logout"
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
    return open_services(Settings.load(environ={}, home=home, engine="fake", allowed_hosts="testserver", auth="none"))


@pytest.fixture(scope="module")
def schema(client: TestClient) -> Any:
    return schemathesis.openapi.from_asgi("/openapi.json", client.app)


def requests_are_answered_well(schema: Any, examples: int) -> None:
    """Not by schemathesis' own parametrize, which leans on a private part of pytest that is gone."""
    tried = 0
    for found in schema.exclude(path_regex=LEFT_OUT).get_all_operations():
        operation = found.ok()
        tried += 1

        @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=QUIET)
        @given(case=operation.as_strategy())
        def each(case: Any) -> None:
            answered_well(case)

        each()
    assert tried > 50


def test_no_request_of_the_document_is_a_servers_fault(schema: Any) -> None:
    requests_are_answered_well(schema, 3)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_nor_are_many_of_them(schema: Any) -> None:
    requests_are_answered_well(schema, 50)


def answered_well(case: Any) -> None:
    (case.headers or {}).pop("Prefer", None)  # to wait for a worker that there is not
    answer = case.call()
    assert answer.status_code < 500 or answer.status_code == 503, answer.text
    documented = case.operation.definition.raw["responses"]
    told = f"{case.method} {case.path}: {answer.status_code} {answer.text[:200]}"
    assert case.method == "TRACE" or str(answer.status_code) in documented, told
    if answer.status_code >= 400 and case.method != "HEAD" and case.path.startswith("/api/v1"):
        assert answer.json()["error"]["message"]


def test_every_refusal_is_in_the_document(client: TestClient) -> None:
    told = client.get("/openapi.json").json()
    for path, methods in told["paths"].items():
        for method, operation in methods.items():
            if path.startswith("/api/v1"):
                assert {"404", "409", "410", "422", "429", "503"} <= set(operation["responses"]), (method, path)
                assert operation.get("description") or operation.get("summary")


def test_examples_are_good_requests(client: TestClient, services: Services) -> None:
    body = client.get("/openapi.json").json()["paths"]["/api/v1/jobs"]["post"]["requestBody"]
    fields = body["content"]["application/json"]["schema"]["properties"]
    example = {name: each["examples"][0] for name, each in fields.items() if each.get("examples")}
    assert {"prompt", "width", "seed"} <= set(example)
    assert client.post("/api/v1/jobs", json=example).status_code == 202
