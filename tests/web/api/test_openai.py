"""OpenAI's images API, by the real ``openai`` package over the network; and what it sends again after a time-out."""

import base64
import io
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from fastapi.testclient import TestClient
from PIL import Image as PIL

from diffusion_local.compose import Services
from diffusion_local.web.api.dialects import openai as dialect
from tests.support import eventually
from tests.web.api.conftest import Hands
from tests.web.conftest import Site

SMALL = {"size": "128x128", "extra_body": {"steps": 4}}
URL = "/v1/images/generations"
BODY = {"prompt": "a red apple", "size": "128x128", "steps": 4}


@pytest.fixture
def sdk(site: Site) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{site.url}/v1", api_key="none", timeout=30) as client:
        yield client


def jobs_of(site: Site, prompt: str) -> list[str]:
    return [job.id for job in site.services.studio.jobs(limit=100) if job.params.prompt == prompt]


def test_pictures_come_as_base64(sdk: openai.OpenAI) -> None:
    answer = sdk.images.generate(prompt="a red apple", n=2, response_format="b64_json", **SMALL)
    assert answer.created > 0
    assert len(answer.data or []) == 2
    for each in answer.data or []:
        picture = PIL.open(io.BytesIO(base64.b64decode(each.b64_json or "")))
        assert (picture.size, each.url) == ((128, 128), None)


def test_a_url_can_be_fetched(sdk: openai.OpenAI, site: Site) -> None:
    [data] = sdk.images.generate(prompt="a red apple", model="starter", response_format="url", **SMALL).data or []
    assert str(data.url).startswith(f"{site.url}/images/")
    assert httpx.get(str(data.url)).content.startswith(b"\x89PNG")


def test_models(sdk: openai.OpenAI) -> None:
    assert sdk.models.list().data[0].id == "starter"
    assert sdk.models.retrieve("starter").object == "model"
    with pytest.raises(openai.NotFoundError):
        sdk.models.retrieve("nope")


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"prompt": " "}, "prompt"),
        ({"model": "dall-e-3"}, "model"),
        ({"size": "huge"}, "size"),
        ({"size": "4096x4096"}, "size"),
        ({"n": 11}, "n"),
        ({"n": 0}, "n"),
        ({"quality": "hd"}, "quality"),
        ({"stream": True}, "stream"),
        ({"background": "transparent"}, "background"),
        ({"output_format": "webp", "response_format": "url"}, "output_format"),
        ({"output_format": "gif"}, "output_format"),
        ({"extra_body": {"colour": "red"}}, "colour"),
        ({"extra_body": {"steps": 1000}}, "steps"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(sdk: openai.OpenAI, changes: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        sdk.images.generate(**{"prompt": "x"} | changes)
    assert (refused.value.param, refused.value.type) == (param, "invalid_request_error")


def png(colour: str | tuple[int, ...] = "red", mode: str = "RGB", clear: bool = False) -> bytes:
    """A picture; with ``clear`` its left half is transparent."""
    picture = PIL.new(mode, (128, 128), colour)
    if clear:
        picture.paste((0, 0, 0, 0), (0, 0, 64, 128))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


CLEAR = png("white", "RGBA", clear=True)


def test_a_picture_is_edited(sdk: openai.OpenAI, site: Site) -> None:
    prompt = "a green apple"
    more = {"steps": 4, "strength": 0.5}
    [data] = (
        sdk.images.edit(image=("a.png", png()), prompt=prompt, response_format="b64_json", extra_body=more).data or []
    )
    assert PIL.open(io.BytesIO(base64.b64decode(data.b64_json or ""))).size == (128, 128)
    params = site.services.studio.job(jobs_of(site, prompt)[0]).params
    assert (params.kind, params.strength, params.steps) == ("img2img", 0.5, 4)


@pytest.mark.parametrize("files", [{"image": png(), "mask": CLEAR}, {"image": CLEAR}])
def test_what_is_clear_is_painted_anew(sdk: openai.OpenAI, site: Site, files: dict[str, bytes]) -> None:
    prompt = f"a hat {len(files)}"
    sdk.images.edit(prompt=prompt, extra_body={"steps": 4}, **files)  # type: ignore[arg-type]
    params = site.services.studio.job(jobs_of(site, prompt)[0]).params
    assert params.kind == "inpaint"
    with PIL.open(site.services.studio.sources.file(params.mask).local_path) as mask:
        assert [mask.convert("L").getpixel((x, 5)) for x in (5, 100)] == [255, 0]


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"image": [png(), png()]}, "image"),
        ({"image": b"no picture"}, "image"),
        ({"mask": png()}, "mask"),
        ({"n": 0}, "n"),
        ({"extra_body": {"steps": "many"}}, "steps"),
        ({"extra_body": {"strength": 3}}, "strength"),
    ],
)
def test_an_edit_that_cannot_be_is_refused_by_name(sdk: openai.OpenAI, changes: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        sdk.images.edit(**{"prompt": "x", "image": png()} | changes)
    assert refused.value.param == param


def test_an_edit_that_timed_out_and_is_sent_again_is_one(sdk: openai.OpenAI, site: Site) -> None:
    prompt = "edit with patience [slow:0.4]"
    impatient = sdk.with_options(timeout=1.0, max_retries=5)
    impatient.images.edit(image=png(), prompt=prompt, extra_body={"steps": 4, "strength": 1.0})
    assert len(jobs_of(site, prompt)) == 1


@pytest.mark.parametrize(("form", "head"), [("jpeg", b"\xff\xd8\xff"), ("webp", b"RIFF"), ("png", b"\x89PNG")])
def test_pictures_come_in_the_wanted_format(client: TestClient, drawing: Hands, form: str, head: bytes) -> None:
    told = client.post(URL, json=BODY | {"output_format": form, "output_compression": 50}).json()
    assert base64.b64decode(told["data"][0]["b64_json"]).startswith(head)
    assert told["output_format"] == form


def test_variations_say_that_they_are_not_there(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError, match="not supported"):
        sdk.post("/images/variations", cast_to=object)


def test_a_failing_job_is_made_once_only(sdk: openai.OpenAI, site: Site) -> None:
    with pytest.raises(openai.InternalServerError) as failed:
        sdk.images.generate(prompt="broken once [fail]", **SMALL)
    assert failed.value.code == "engine_error"
    assert len(jobs_of(site, "broken once [fail]")) == 1


def test_a_timed_out_call_that_is_sent_again_makes_no_second_picture(sdk: openai.OpenAI, site: Site) -> None:
    prompt = "patience [slow:0.4]"
    impatient = sdk.with_options(timeout=0.7, max_retries=5)
    answer = impatient.images.generate(prompt=prompt, **SMALL)
    assert len(answer.data or []) == 1
    assert len(jobs_of(site, prompt)) == 1
    sdk.images.generate(prompt=prompt, **SMALL)  # another wish, though in the same words
    assert len(jobs_of(site, prompt)) == 2


def test_a_caller_without_the_package_gets_its_first_pictures_too(site: Site) -> None:
    prompt = "hang up [slow:0.6]"
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(site.url + URL, json=BODY | {"prompt": prompt}, timeout=0.5)
    [job_id] = eventually(lambda: jobs_of(site, prompt))
    eventually(lambda: site.services.studio.job(job_id).final)  # hanging up cancelled nothing
    eventually(lambda: httpx.post(site.url + URL, json=BODY | {"prompt": prompt}, timeout=20).status_code == 200)
    assert jobs_of(site, prompt) == [job_id]


def test_a_key_of_the_callers_own_holds_for_ever(client: TestClient, drawing: Hands) -> None:
    key = {"Idempotency-Key": "mine"}
    first, second = (client.post(URL, json=BODY, headers=key).json()["data"] for _ in range(2))
    assert first == second
    assert drawing.submitted == 1
    other = client.post(URL, json=BODY | {"prompt": "another"}, headers=key)
    assert (other.status_code, other.headers["x-should-retry"]) == (409, "false")


def test_what_failed_is_told_beside_what_was_made(
    client: TestClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.web.api.conftest import draw_next, fail_next, hands

    ends = iter([draw_next, fail_next])
    hands(services, monkeypatch, lambda services: next(ends)(services))
    answer = client.post(URL, json=BODY | {"n": 2}).json()
    assert len(answer["data"]) == 1
    assert answer["warnings"] == ["A picture is missing: it broke"]


@pytest.mark.parametrize("user", ["someone", "\ud800", 7, None, ["x"]])
def test_who_it_is_for_does_not_matter(client: TestClient, drawing: Hands, user: Any) -> None:
    body = json.dumps(BODY | {"user": user})
    answer = client.post(URL, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("left", "answered", "retry", "same"),
    [
        (None, None, False, False),  # still being served: two that wish the same
        (None, None, True, True),
        (1, None, False, True),
        (1000, None, False, False),
        (None, 1, False, False),  # served: the next one is a new wish
        (None, 1, True, True),
        (None, 60, True, False),
        (1, 1, False, False),
    ],
)
def test_who_asks_again(left: float | None, answered: float | None, retry: bool, same: bool) -> None:
    now = time.monotonic()
    ago = [None if seconds is None else now - seconds for seconds in (left, answered)]
    assert dialect.Pending(None, *ago).belongs_to(retry) is same  # type: ignore[arg-type]
