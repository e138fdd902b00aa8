"""Bodies and names that no client sends: every dialect refuses them in its own shape, and none is a server's fault."""

import json
import threading
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient

from diffusion_local.compose import Services
from diffusion_local.domain import State
from tests.support import every
from tests.web.api.conftest import SMALL, Hands, draw_next
from tests.web.conftest import services_of


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Services:
    """Without the limit on requests, which would answer most of them."""
    return services_of(tmp_path_factory, writes_per_second=0)


#: (method, path) of each call that takes a body, and where its sentence is in a refusal.
BODIES = {
    ("POST", "/v1/images/generations"): ("error", "message"),
    ("POST", "/v1/images/edits"): ("error", "message"),
    ("POST", "/openai/v1/images/generations"): ("error", "message"),
    ("POST", "/sdapi/v1/txt2img"): ("detail",),
    ("POST", "/sdapi/v1/img2img"): ("detail",),
    ("POST", "/sdapi/v1/options"): ("detail",),
    ("POST", "/sdapi/v1/extra-single-image"): ("detail",),
    ("POST", "/sdapi/v1/extra-batch-images"): ("detail",),
    ("POST", "/sdapi/v1/png-info"): ("detail",),
    ("POST", "/a1111/sdapi/v1/txt2img"): ("detail",),
    ("POST", "/controlnet/detect"): ("detail",),
    ("POST", "/a1111/controlnet/detect"): ("detail",),
    ("POST", "/predictions"): ("detail",),
    ("PUT", "/predictions/mine"): ("detail",),
    ("POST", "/v1/predictions"): ("detail",),
    ("POST", "/replicate/v1/models/local/starter/predictions"): ("detail",),
    ("POST", "/v1/files"): ("detail",),
    ("POST", "/prompt"): ("error", "message"),
    ("POST", "/comfyui/api/prompt"): ("error", "message"),
    ("POST", "/upload/image"): ("error", "message"),
    ("POST", "/upload/mask"): ("error", "message"),
    ("POST", "/api/v1/jobs"): ("error", "message"),
    ("POST", "/api/v1/sources"): ("error", "message"),
    ("POST", "/api/v1/batches/none/edit"): ("error", "message"),
}
JSON = "application/json"
BAD = {
    "deep": (JSON, b'{"prompt":' + b"[" * 50_000),
    "deep and closed": (JSON, b'{"prompt":"x","a":' + b"[" * 5000 + b"]" * 5000 + b"}"),
    "no JSON": (JSON, b"{prompt: x}"),
    "not UTF-8": (JSON, b'{"prompt": "\xff\xfe"}'),
    "empty": (JSON, b""),
    "a number": (JSON, b"7"),
    "a list": (JSON, b'[{"prompt": "x"}]'),
    "null": (JSON, b"null"),
    "a long number": (JSON, b'{"prompt": "x", "seed": ' + b"9" * 5000 + b"}"),
    "a form without a boundary": ("multipart/form-data", b"--x\r\n"),
    "an unfinished form": ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="prompt"'),
    "XML": ("application/xml", b"<prompt>x</prompt>"),
    "a media type that is none": ("\u00e9;;", b"\x00"),
}


@pytest.mark.parametrize(("method", "path"), every(3, BODIES))
def test_a_body_that_is_none_is_refused_in_the_dialects_shape(
    client: TestClient, drawing: Hands, method: str, path: str
) -> None:
    harmless = path in ("/sdapi/v1/options", "/api/v1/sources")
    for what, (kind, body) in BAD.items():
        answer = client.request(method, path, content=body, headers={"Content-Type": kind.encode("latin-1")})
        assert 400 <= answer.status_code < 500 or (harmless and answer.status_code == 200), (what, answer.text)
        if answer.status_code != 200:
            content: Any = answer.json()
            for name in BODIES[method, path]:
                content = content[name]
            assert content, what
            assert isinstance(content, str), what
    assert drawing.submitted == 0


TRAVERSALS = (
    *("../../../etc/passwd", "..%2f..%2fapp.db", "%2e%2e/app.db", "..\\..\\app.db", "/etc/passwd", "app.db\x00.png"),
    *("....//app.db", "C:\\app.db", "file:///etc/passwd", "\u202e\u2028", "a" * 5000),
)


@pytest.mark.parametrize(
    "path",
    [
        "/view?filename={0}",
        "/view?filename=x.png&subfolder={0}",
        "/view?filename=x.png&type={0}",
        "/history/{0}",
        "/models/{0}",
        "/object_info/{0}",
        "/v1/files/{0}",
        "/v1/models/{0}",
        "/v1/predictions/{0}",
        "/v1/predictions?cursor={0}",
        "/v1/files?cursor={0}",
        "/replicate/v1/models/{0}/{0}",
        "/sdapi/v1/{0}",
        "/images/{0}.png",
        "/thumbnails/{0}.webp",
        "/sources/{0}.png",
        "/previews/{0}.webp",
        "/model-previews/{0}/{0}",
        "/assets/icons/{0}",
        "/assets/fonts/{0}",
    ],
)
def test_a_name_leads_to_no_other_file(client: TestClient, path: str) -> None:
    for name in TRAVERSALS:
        answer = client.get(path.format(quote(name, safe="%")))
        assert answer.status_code < 500, answer.text
        assert b"SQLite format" not in answer.content
        assert b"root:" not in answer.content


@pytest.mark.parametrize(
    "ranges",
    [
        *("bytes=0-0", "bytes=-1", "bytes=99999999-", "bytes=5-2", "bytes=a-b", "octets=0-1", "bytes=,", "="),
        *("bytes=0-" + "9" * 5000, "bytes=0-1,3-4,6-7", "bytes=" + "0-0," * 500),
    ],
)
def test_ranges_of_a_picture(client: TestClient, services: Services, ranges: str) -> None:
    services.studio.submit("x", **SMALL)
    image = draw_next(services)
    whole = client.get(f"/images/{image.id}.png")
    answer = client.get(f"/images/{image.id}.png", headers={"Range": ranges})
    assert answer.status_code in (200, 206, 400, 416), answer.text
    assert len(answer.content) <= 2 * len(whole.content)


@pytest.mark.parametrize(
    "cancel",
    ["/v1/predictions/{0}/cancel", "/api/v1/batches/{0}/cancel", "/sdapi/v1/interrupt", "/interrupt", "/queue"],
)
def test_many_cancel_at_once_while_it_ends(client: TestClient, services: Services, cancel: str) -> None:
    """Each answer is one of the documented, and the batch has one end."""
    batch_id = services.studio.submit("x", count=6, **SMALL).batch_id
    statuses: list[int] = []
    start = threading.Barrier(5)

    def stop() -> None:
        start.wait()
        for _ in range(3):
            body = {"delete": [batch_id]} if cancel == "/queue" else {}
            statuses.append(client.post(cancel.format(batch_id), json=body).status_code)

    def work() -> None:
        start.wait()
        while (job := services.jobs.claim_next("cpu0")) is not None:
            services.jobs.stop(job.claim)

    threads = [*(threading.Thread(target=stop) for _ in range(4)), threading.Thread(target=work)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert set(statuses) <= {200, 202, 409, 429}, statuses
    services.studio.queue.cancel(batch_id=batch_id)
    assert {each.state for each in services.studio.jobs(batch_id=batch_id)} <= {State.CANCELLED, State.DONE}


def test_long_texts_and_odd_letters_come_back_as_they_were(client: TestClient, drawing: Hands) -> None:
    prompt = "e\u0301 \u4e2d\u6587 \U0001f34e \u202eabc \u200d" + "x" * 500
    for path, body in (
        ("/v1/images/generations", {"prompt": prompt, "size": "128x128"}),
        ("/sdapi/v1/txt2img", {"prompt": prompt} | SMALL),
        ("/predictions", {"input": {"prompt": prompt} | SMALL}),
    ):
        answer = client.post(path, json=body)
        assert answer.is_success, answer.text
    info = json.loads(client.post("/sdapi/v1/txt2img", json={"prompt": prompt} | SMALL).json()["info"])
    assert info["prompt"] == prompt
