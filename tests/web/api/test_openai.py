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

from diffusion_local import families
from diffusion_local.compose import Services
from diffusion_local.gallery.recipes import read_picture
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
        ({"model": "none-of-these"}, "model"),
        ({"size": "huge"}, "size"),
        ({"size": "4096x4096", "extra_body": {"fit": "strict"}}, "size"),
        ({"size": "99999x1"}, "size"),
        ({"n": 11}, "n"),
        ({"n": 0}, "n"),
        ({"quality": "superb"}, "quality"),
        ({"output_format": "gif"}, "output_format"),
        ({"extra_body": {"partial_images": 4}}, "partial_images"),
        ({"extra_body": {"colour": "red", "fit": "strict"}}, "colour"),
        ({"extra_body": {"negative_promt": "red"}}, "negative_promt"),
        ({"extra_body": {"num_inference_steps": -1}}, "num_inference_steps"),
        ({"extra_body": {"guidance_scale": "much"}}, "guidance_scale"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(sdk: openai.OpenAI, changes: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        sdk.images.generate(**{"prompt": "x"} | changes)
    assert (refused.value.param, refused.value.type) == (param, "invalid_request_error")


@pytest.mark.parametrize("name", ["dall-e-2", "dall-e-3", "gpt-image-1", "gpt-image-1.5", "gpt-image-9-mini"])
def test_names_of_openais_models_mean_the_default_model_with_a_warning(sdk: openai.OpenAI, name: str) -> None:
    answer = sdk.images.with_raw_response.generate(prompt="x", model=name, **SMALL)
    assert name in answer.headers["Warning"]
    assert "starter" in answer.headers["Warning"]
    assert len(answer.parse().data or []) == 1
    assert sdk.models.retrieve(name).id == name


def test_the_other_names_of_models_are_listed_behind_the_models(sdk: openai.OpenAI) -> None:
    ids = [each.id for each in sdk.models.list()]
    assert ids[0] == "starter"
    assert {"dall-e-3", "gpt-image-1"} <= set(ids)


def test_a_size_that_the_model_cannot_do_is_fitted(sdk: openai.OpenAI) -> None:
    for size, made in (("1024x1024", "512x512"), ("1536x1024", "512x344"), ("130x131", "128x128")):
        answer = sdk.images.with_raw_response.generate(prompt="x", size=size, extra_body={"steps": 1})
        assert (answer.parse().size, f"{size} was changed to {made}" in answer.headers["Warning"]) == (made, True)


@pytest.mark.parametrize(
    ("changes", "steps", "warned"),
    [
        ({"quality": "low"}, 6, []),
        ({"quality": "medium"}, 12, []),
        ({"quality": "hd"}, 18, []),
        ({"quality": "high", "num_inference_steps": 3}, 3, []),
        ({"style": "vivid", "moderation": "low", "user": "me", "metadata": {"a": "b"}}, 12, []),
        ({"background": "transparent"}, 12, ["background"]),
        ({"colour": "red", "background": "opaque"}, 12, ["colour"]),
        ({"steps": 400}, 100, ["steps"]),
        ({"sampler": "dpmpp_3m_sde_karras"}, 12, ["sampler"]),
        ({"output_format": "webp", "response_format": "url"}, 12, ["output_format"]),
    ],
)
def test_what_openais_clients_choose_is_a_hint_or_passed_over(
    client: TestClient, services: Services, drawing: Hands, changes: dict[str, Any], steps: int, warned: list[str]
) -> None:
    body = {"prompt": "x", "size": "128x128"} | changes
    told = client.post(URL, json=body).json()
    assert [each.partition(":")[0] for each in told.get("warnings", [])] == warned
    assert services.studio.jobs(limit=1)[0].params.steps == steps


def test_names_of_other_tools_are_taken(client: TestClient, services: Services, drawing: Hands) -> None:
    more = {"negative_prompt": "blur", "guidance_scale": 2.5, "num_inference_steps": 3, "aspectRatio": "1:2"}
    assert "warnings" not in client.post(URL, json={"prompt": "x"} | more).json()
    params = services.studio.jobs(limit=1)[0].params
    assert (params.negative, params.guidance, params.steps) == ("blur", 2.5, 3)
    assert (params.width, params.height) == (184, 360)


def test_arguments_of_stable_diffusion_cpp_in_the_prompt(
    client: TestClient, services: Services, drawing: Hands
) -> None:
    assert client.options(URL).status_code == 204  # how SillyTavern connects
    inner = {"seed": 5, "vae_tiling": True, "sample_params": {"sample_steps": 3, "sample_method": "euler_a"}}
    inner["sample_params"] |= {"scheduler": "discrete", "guidance": {"txt_cfg": 2.5}}  # type: ignore[operator]
    prompt = f"a fox <sd_cpp_extra_args>{json.dumps(inner)}</sd_cpp_extra_args>"
    told = client.post(URL, json={"prompt": prompt, "size": "128x128"}).json()
    params = services.studio.jobs(limit=1)[0].params
    assert (params.prompt, params.seed, params.steps, params.guidance) == ("a fox", 5, 3, 2.5)
    assert params.sampler == "Euler a"
    assert [each.partition(":")[0] for each in told["warnings"]] == ["vae_tiling", "schedule"]
    refused = client.post(URL, json={"prompt": "x <sd_cpp_extra_args>{</sd_cpp_extra_args>"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "prompt")


def test_an_answer_has_both_forms_unless_one_is_asked_for(client: TestClient, drawing: Hands) -> None:
    assert {"b64_json", "url"} <= set(client.post(URL, json=BODY).json()["data"][0])
    assert "url" not in client.post(URL, json=BODY | {"response_format": "b64_json"}).json()["data"][0]
    assert "b64_json" not in client.post(URL, json=BODY | {"response_format": "url"}).json()["data"][0]


def test_a_picture_is_streamed_with_its_previews(sdk: openai.OpenAI) -> None:
    slow = {"steps": 6}
    stream = sdk.images.generate(
        prompt="patience [slow:0.5]", stream=True, partial_images=2, size="128x128", extra_body=slow
    )
    seen = list(stream)
    assert [each.type for each in seen] == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    assert [each.partial_image_index for each in seen[:2]] == [0, 1]  # type: ignore[union-attr]
    for each in seen:
        with PIL.open(io.BytesIO(base64.b64decode(each.b64_json))) as picture:
            assert picture.format == "PNG"
    assert seen[-1].size == "128x128"


def test_an_edit_is_streamed_and_a_failure_is_an_error(sdk: openai.OpenAI) -> None:
    more = {"steps": 2, "strength": 1.0}
    seen = list(sdk.images.edit(image=png(), prompt="x", stream=True, extra_body=more))
    assert [each.type for each in seen] == ["image_edit.completed"]
    with pytest.raises(openai.APIError):
        list(sdk.images.generate(prompt="broken [fail]", stream=True, **SMALL))


def test_of_several_pictures_the_first_is_edited(sdk: openai.OpenAI, site: Site) -> None:
    prompt = "two pictures"
    answer = sdk.images.with_raw_response.edit(image=[png("red"), png("blue")], prompt=prompt, extra_body={"steps": 2})
    assert "first one" in answer.headers["Warning"]
    params = site.services.studio.job(jobs_of(site, prompt)[0]).params
    with PIL.open(site.services.studio.sources.file(params.source).local_path) as picture:
        assert picture.convert("RGB").getpixel((1, 1)) == (255, 0, 0)


def test_a_model_that_reads_pictures_is_given_all_of_them(
    client: TestClient, services: Services, drawing: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(families, "references_of", lambda architecture: 2)
    files = [("image[]", ("a.png", png("red"))), ("image[]", ("b.png", png("blue")))]
    answer = client.post("/v1/images/edits", data={"prompt": "both", "steps": "2"}, files=files)
    assert answer.status_code == 200, answer.text
    params = services.studio.jobs(limit=1)[0].params
    colours = []
    for each in params.references:
        with PIL.open(services.studio.sources.file(each.image).local_path) as picture:
            colours.append(picture.convert("RGB").getpixel((1, 1)))
    assert (params.kind, colours) == ("txt2img", [(255, 0, 0), (0, 0, 255)])
    answer = client.post("/v1/images/edits", data={"prompt": "x"}, files=[*files, files[0]])
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "image")


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
def test_the_recipe_is_in_every_format(client: TestClient, services: Services, drawing: Hands, form: str) -> None:
    told = client.post(URL, json=BODY | {"output_format": form}).json()
    found = read_picture(base64.b64decode(told["data"][0]["b64_json"]))
    assert found.settings["prompt"] == "a red apple"
    assert found.settings["steps"] == 4


@pytest.mark.parametrize("path", ["/openai/v1", "/openai/deployments/starter"])
def test_it_is_at_paths_of_its_own_too(client: TestClient, drawing: Hands, path: str) -> None:
    answer = client.post(f"{path}/images/generations?api-version=2024-02-01", json=BODY, headers={"api-key": "none"})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nope", 404),
        ("POST", "/v1/responses", 404),
        ("POST", "/openai/v1/chat/completions", 404),
        ("GET", "/v1/images/generations", 405),
        ("DELETE", "/v1/models/starter", 405),
    ],
)
def test_what_is_not_there_is_told_in_openais_shape(client: TestClient, method: str, path: str, status: int) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


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
        ({"image": [png()] * 17}, "image"),
        ({"image": b"no picture"}, "image"),
        ({"mask": png()}, "mask"),
        ({"n": 0}, "n"),
        ({"extra_body": {"steps": "many"}}, "steps"),
        ({"extra_body": {"strength": 3}}, "strength"),
        ({"mask": ("m.png", b"")}, "mask"),
        ({"extra_body": {"outpaint": "sideways"}}, "outpaint"),
        ({"extra_body": {"upscaler": "x4"}}, "upscaler"),
    ],
)
def test_an_edit_that_cannot_be_is_refused_by_name(sdk: openai.OpenAI, changes: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        sdk.images.edit(**{"prompt": "x", "image": png()} | changes)
    assert refused.value.param == param


def test_a_picture_is_extended(sdk: openai.OpenAI, site: Site) -> None:
    prompt = "a wide green apple"
    sdk.images.edit(image=png(), prompt=prompt, extra_body={"outpaint": "left:64", "steps": 4})
    params = site.services.studio.job(jobs_of(site, prompt)[0]).params
    assert (params.kind, params.mask, params.outpaint, params.width) == ("inpaint", "", "left:64", 192)


def test_a_list_that_is_none_is_refused_by_the_name_of_the_field(client: TestClient) -> None:
    for body in ({"controls": 7}, {"loras": {"name": 1}}):
        error = client.post(URL, json=BODY | body).json()["error"]
        assert error["param"] == next(iter(body)), error


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
