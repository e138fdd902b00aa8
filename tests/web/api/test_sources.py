"""Source pictures over HTTP: sent beforehand, or along with a submit."""

import base64
import io
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient
from PIL import Image as PIL

from diffusion_local import families
from diffusion_local.compose import Services
from diffusion_local.errors import InvalidParams
from diffusion_local.options import values
from diffusion_local.web.api import uploads
from tests.web.api.conftest import JOBS, SMALL
from tests.web.conftest import made

SOURCES = "/api/v1/sources"


def png(colour: str = "red", size: tuple[int, int] = (128, 128), form: str = "PNG") -> bytes:
    file = io.BytesIO()
    PIL.new("RGB", size, colour).save(file, form)
    return file.getvalue()


def in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_a_picture_is_kept_once_and_can_be_fetched(client: TestClient) -> None:
    answer = client.post(SOURCES, content=png(form="JPEG"), headers={"Content-Type": "image/jpeg"})
    content = answer.json()
    assert (answer.status_code, content["width"], content["height"]) == (201, 128, 128)
    assert answer.headers["Location"] == content["url"] == f"/sources/{content['id']}.png"
    assert client.post(SOURCES, files={"file": ("x.jpg", png(form="JPEG"))}).json() == content
    file = client.get(content["url"])
    assert (file.headers["Content-Type"], PIL.open(io.BytesIO(file.content)).size) == ("image/png", (128, 128))
    assert client.get(content["url"], headers={"If-None-Match": file.headers["ETag"]}).status_code == 304


def test_a_picture_of_the_gallery_becomes_a_source(client: TestClient, services: Services) -> None:
    image = made(services)
    answer = client.post(f"/api/v1/images/{image.id}/source").json()
    job = client.post(JOBS, json={"prompt": "x", "source": answer["id"]} | SMALL).json()
    params = services.studio.job(job["job_ids"][0]).params
    assert (params.kind, params.source, params.strength) == ("img2img", answer["id"], 0.6)


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
def test_pictures_may_come_within_the_json(client: TestClient, services: Services, prefix: str) -> None:
    source, mask = prefix + in_base64(png()), prefix + in_base64(png("white"))
    answer = client.post(JOBS, json={"prompt": "x", "source": source, "mask": mask} | SMALL).json()
    params = services.studio.job(answer["job_ids"][0]).params
    assert params.kind == "inpaint"
    assert [services.studio.sources.size(each) for each in (params.source, params.mask)] == [(128, 128)] * 2


def test_pictures_may_come_as_a_form(client: TestClient, services: Services) -> None:
    job = json.dumps({"prompt": "x", "strength": 0.3} | SMALL)
    answer = client.post(JOBS, data={"job": job}, files={"source": ("a.png", png("blue"))}).json()
    params = services.studio.job(answer["job_ids"][0]).params
    assert (params.kind, params.strength) == ("img2img", 0.3)


@pytest.fixture
def reads_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The starter takes three references."""
    monkeypatch.setattr(families, "references_of", lambda architecture: 3)


@pytest.mark.usefixtures("reads_pictures")
def test_several_pictures_may_come_within_the_json_and_as_a_form(client: TestClient, services: Services) -> None:
    known = services.studio.sources.add(png("blue")).id
    sent = [{"image": in_base64(png()), "use": "edit", "mask": in_base64(png("white"))}, known]
    answer = client.post(JOBS, json={"prompt": "x", "references": sent} | SMALL).json()
    first, second = services.studio.job(answer["job_ids"][0]).params.references
    assert (first.use, second.image) == ("edit", known)
    assert [services.studio.sources.size(each) for each in first.inputs] == [(128, 128)] * 2
    job = json.dumps({"prompt": "x", "references": [known]} | SMALL)
    files = [("references", ("a.png", png("red"))), ("references", ("b.png", png("lime")))]
    answer = client.post(JOBS, data={"job": job}, files=files).json()
    assert [each.image for each in services.studio.job(answer["job_ids"][0]).params.references] == [
        known,
        first.image,
        services.studio.sources.add(png("lime")).id,
    ]


@pytest.mark.usefixtures("reads_pictures")
@pytest.mark.parametrize(
    ("references", "words"),
    [
        ([{"image": "f" * 64}], "names an unknown source picture"),
        ([{"image": "http://169.254.169.254/latest"}], "URLs are not fetched"),
        ([{"image": "AAAA"}], "must be a picture"),
        ([{"use": "style"}], "must have image as text"),
        ([7], "must have image as text"),
        ([{"image": in_base64(png()), "colour": 1}], "has the fields"),
        ([{"image": in_base64(png()), "use": "hat"}], "one of"),
        ([{"image": in_base64(png()), "weight": 3}], "from 0 to 2"),
        ([{"image": in_base64(png()), "adapter": "../x"}], "name of a file"),
        ([{"image": in_base64(png())}] * 4, "at most 3 pictures"),
        ([{"image": in_base64(png())}] * 11, "at most 10"),
    ],
)
def test_a_bad_reference_is_refused_by_its_field(
    client: TestClient, services: Services, references: list[Any], words: str
) -> None:
    answer = client.post(JOBS, json={"prompt": "x", "references": references})
    assert (answer.status_code, answer.json()["error"]["field"].partition("[")[0]) == (422, "references")
    assert words in answer.json()["error"]["message"]
    assert services.studio.jobs("queued") == []


def test_a_model_that_reads_no_pictures_takes_none(client: TestClient) -> None:
    answer = client.post(JOBS, json={"prompt": "x", "references": [{"image": in_base64(png())}]})
    assert (answer.status_code, answer.json()["error"]["id"]) == (422, "no_references")


@pytest.mark.usefixtures("reads_pictures")
def test_pictures_that_are_too_large_together_are_refused(
    client: TestClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(values, "MAX_PICTURES_MEGAPIXELS", 0.03)
    one = services.studio.sources.add(png()).id
    assert client.post(JOBS, json={"prompt": "x", "references": [one]} | SMALL).status_code == 202
    answer = client.post(JOBS, json={"prompt": "x", "references": [one, {"image": one}]} | SMALL)
    assert (answer.status_code, answer.json()["error"]["id"]) == (422, "megapixels_together")


def test_an_upscale_needs_no_prompt(client: TestClient, services: Services) -> None:
    body = {"prompt": "", "kind": "upscale", "source": in_base64(png()), "scale": 2.0}
    answer = client.post(JOBS, json=body).json()
    assert (services.studio.job(answer["job_ids"][0]).params.width, answer["warnings"]) == (256, [])


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"source": "http://169.254.169.254/latest"}, "source"),
        ({"source": "file:///etc/passwd"}, "source"),
        ({"source": "../../etc/passwd"}, "source"),
        ({"source": "f" * 64}, "source"),
        ({"source": in_base64(b"no picture")}, "source"),
        ({"source": in_base64(png()), "mask": "AAAA"}, "mask"),
        ({"mask": "ä"}, "mask"),
        ({"source": 7}, "source"),
        ({"kind": "img2img"}, "source"),
    ],
)
def test_what_is_no_picture_is_refused_by_its_field(
    client: TestClient, services: Services, body: dict[str, Any], field: str
) -> None:
    answer = client.post(JOBS, json={"prompt": "x"} | body)
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, field)
    assert services.studio.jobs("queued") == []


def test_uploads_that_are_no_picture_are_refused(client: TestClient) -> None:
    for body in ({"content": b""}, {"content": b"GIF89a"}, {"files": {"other": ("x.png", png())}}):
        answer = client.post(SOURCES, **body)  # type: ignore[arg-type]
        assert answer.status_code in (400, 422), answer.text
    bad = client.post(f"{SOURCES}?field=mask", content=b"x")
    assert bad.json()["error"]["field"] == "mask"
    assert client.post(JOBS, data={"other": "x"}, files={"source": ("a.png", png())}).status_code in (400, 422)


@pytest.mark.parametrize("name", ["nope", "..%2f..%2fapp.db", "%00", "F" * 64, "../sources"])
def test_no_other_file_is_served(client: TestClient, name: str) -> None:
    assert client.get(f"/sources/{name}.png").status_code == 404


@pytest.mark.parametrize(
    "written",
    [
        lambda text: f"{text}\n",
        lambda text: "\r\n".join(text[place : place + 76] for place in range(0, len(text), 76)),
        lambda text: f"  \t{text} ",
        lambda text: f"data:image/png;charset=utf-8;base64,{text}",
        lambda text: f"data:;base64,\n{text}\n",
        lambda text: f"DATA:IMAGE/PNG;BASE64,{text}",
        lambda text: f'data:image/png;name="a, b.png";base64,{text}',
        lambda text: f"data:image/png;base64,{quote(text, safe='')}",
        lambda text: text.translate(str.maketrans("+/", "-_")).rstrip("="),
        lambda text: f"\ufeff{text}",
    ],
)
def test_white_space_and_variants_of_base64_are_no_fault(written: Callable[[str], str]) -> None:
    data = b"\x00\xff\xfe\xfbpicture" * 28  # with + and / and padding
    text = base64.b64encode(data).decode()
    assert {"+", "/", "="} <= set(text)
    assert uploads.decoded("source", written(text)) == data


@pytest.mark.parametrize(
    ("text", "reason"),
    [("abcde", "base64|characters"), ("ab*d", "base64 data"), ("http://a/b.png", "not fetched")],
)
def test_a_picture_that_is_refused_has_its_reason(text: str, reason: str) -> None:
    with pytest.raises(InvalidParams, match=f"(?i){reason}"):
        uploads.decoded("source", text)
