"""Whatever is sent, no door answers with a server's fault."""

import json
import os
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffusion_local.web.api.dialects import a1111, cog, openai
from diffusion_local.web.api.dialects.openai.reading import HARMLESS
from diffusion_local.web.api.schemas import NewJobs
from tests.web.api.conftest import JOBS, Hands

pytestmark = pytest.mark.fuzz
EXAMPLES = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "20")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
ODD = ["\x00", "\ud800", "x" * 10_001, "-1", "NaN", "é" * 50, "128x128", "' OR 1=1 --", "<script>", "\u202e"]
TEXTS = st.one_of(st.text(max_size=20), st.sampled_from(ODD))
NUMBERS = st.one_of(st.integers(), st.sampled_from([10**400, 2**63, 2**32, -1, 0]), st.floats(), st.booleans())
SCALARS = st.one_of(st.none(), NUMBERS, TEXTS)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3))
JSON = {"Content-Type": "application/json"}


def bodies(*names: str) -> st.SearchStrategy[Any]:
    """Known fields with odd values beside a good prompt, and anything at all."""
    fields = st.dictionaries(st.one_of(st.sampled_from(names), TEXTS), VALUES, max_size=4)
    return st.one_of(fields.map(lambda found: {"prompt": "x", "steps": 4} | found), VALUES)


def sent(client: TestClient, method: str, path: str, body: Any, **headers: str) -> None:
    """The client raises what the server does not answer; that would be the fault."""
    answer = client.request(method, path, content=json.dumps(body).encode(), headers=JSON | headers)
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        json.loads(answer.text)


@EXAMPLES
@given(body=bodies(*NewJobs.model_fields))
def test_submit(client: TestClient, failing: Hands, body: Any) -> None:
    sent(client, "POST", JOBS, body, Prefer="wait=1")


@EXAMPLES
@given(body=bodies(*openai.Generation.model_fields, *HARMLESS, "quality"))
def test_openai(client: TestClient, drawing: Hands, body: Any) -> None:
    sent(client, "POST", "/v1/images/generations", body)


@EXAMPLES
@given(body=bodies(*a1111.Wanted.model_fields, *a1111.NEUTRAL))
def test_a1111(client: TestClient, drawing: Hands, body: Any) -> None:
    sent(client, "POST", "/sdapi/v1/txt2img", body)
    sent(client, "POST", "/sdapi/v1/options", body)


@EXAMPLES
@given(inner=bodies(*cog.Input.model_fields), name=TEXTS, outer=VALUES)
def test_predictions(client: TestClient, failing: Hands, inner: Any, name: str, outer: Any) -> None:
    sent(client, "POST", "/predictions", {"input": inner, "id": name}, Prefer="wait=1")
    sent(client, "POST", "/predictions", outer, Prefer="respond-async")


@EXAMPLES
@given(path=TEXTS, value=TEXTS, name=st.sampled_from(["limit", "before", "state", "batch_id", "search", "starred"]))
@pytest.mark.parametrize("noun", ["jobs", "batches", "images", "queue", "models"])
def test_reading(client: TestClient, noun: str, path: str, name: str, value: str) -> None:
    query = f"{name}={quote(value, errors='replace')}"
    for url in (f"/api/v1/{noun}?{query}", f"/api/v1/{noun}/{quote(path, safe='', errors='replace')}?{query}"):
        answer = client.get(url)
        assert answer.status_code < 500, url


@EXAMPLES
@given(key=st.binary(max_size=30), prefer=st.binary(max_size=30))
def test_headers(client: TestClient, failing: Hands, key: bytes, prefer: bytes) -> None:
    printable = {"Idempotency-Key": bytes(b for b in key if b >= 32), "Prefer": bytes(b for b in prefer if b >= 32)}
    answer = client.post(JOBS, json={"prompt": "x"}, headers={k.encode(): v for k, v in printable.items()})
    assert answer.status_code in (200, 202, 409, 422)
