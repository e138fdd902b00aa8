"""The A1111 dialect: the calls that Open WebUI and SillyTavern really make, in their order."""

import base64
import json
import threading
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from diffusion_local.compose import House
from tests.support import claimed, eventually
from tests.web.api.conftest import Hands
from tests.web.conftest import Site

API = "/sdapi/v1"
SMALL = {"width": 128, "height": 128, "steps": 4}
#: What SillyTavern sends beside the settings.
TAVERN = {
    "restore_faces": False,
    "enable_hr": False,
    "hr_upscaler": "Latent",
    "hr_scale": 2,
    "hr_additional_modules": [],
    "denoising_strength": 0.7,
    "hr_second_pass_steps": 0,
    "override_settings": {"CLIP_stop_at_last_layers": 1},
    "override_settings_restore_afterwards": True,
    "clip_skip": 1,
    "save_images": True,
    "send_images": True,
    "do_not_save_grid": False,
    "do_not_save_samples": False,
}


def test_open_webui(site: Site) -> None:
    with httpx.Client(base_url=site.url, headers={"authorization": ""}, timeout=30) as web:
        options = web.get(f"{API}/options").json()
        assert options["sd_model_checkpoint"] == "starter"
        models = web.get(f"{API}/sd-models").json()
        assert {"title", "model_name"} <= set(models[0])
        assert web.post(f"{API}/options", json=options | {"sd_model_checkpoint": models[0]["title"]}).status_code == 200
        sent = {"prompt": "a red apple", "batch_size": 2, "negative_prompt": "blur"} | SMALL
        answer = web.post(f"{API}/txt2img", json=sent).json()
    assert [base64.b64decode(each)[:4] for each in answer["images"]] == [b"\x89PNG"] * 2
    info = json.loads(answer["info"])
    assert (info["prompt"], info["negative_prompt"], len(info["all_seeds"])) == ("a red apple", "blur", 2)
    assert "Steps: 4" in info["infotexts"][0]


def test_sillytavern(site: Site) -> None:
    with httpx.Client(base_url=site.url, timeout=30) as tavern:
        assert tavern.get(f"{API}/options").json()["sd_model_checkpoint"]
        samplers = [each["name"] for each in tavern.get(f"{API}/samplers").json()]
        assert [each["name"] for each in tavern.get(f"{API}/schedulers").json()] == ["automatic", "karras"]
        for empty in ("upscalers", "latent-upscale-modes", "sd-vae", "loras"):
            assert tavern.get(f"{API}/{empty}").json() == []
        tavern.post(f"{API}/options", json={"sd_model_checkpoint": "starter"})
        progress = tavern.get(f"{API}/progress").json()
        assert (progress["progress"], progress["state"]["job_count"]) == (0, 0)
        wanted = {"prompt": "a cat", "sampler_name": samplers[0], "scheduler": "karras", "cfg_scale": 5, "seed": -1}
        answer = tavern.post(f"{API}/txt2img", json=wanted | SMALL | TAVERN).json()
    info = json.loads(answer["info"])
    assert (info["sampler_name"], info["cfg_scale"]) == ("DPM++ 2M Karras", 5)
    assert set(info["not_used"]) == {
        "denoising_strength",
        "hr_additional_modules",
        "hr_scale",
        "hr_second_pass_steps",
        "hr_upscaler",
    }


def test_progress_and_interrupt_are_the_callers_own(site: Site) -> None:
    mine = httpx.Client(base_url=site.url, headers={"User-Agent": "mine"}, timeout=30)
    other = httpx.Client(base_url=site.url, headers={"User-Agent": "other"}, timeout=30)
    answers: list[httpx.Response] = []
    long = {"prompt": "long [slow:0.3]"} | SMALL | {"steps": 50}
    call = threading.Thread(target=lambda: answers.append(mine.post(f"{API}/txt2img", json=long)))
    call.start()
    try:
        eventually(lambda: mine.get(f"{API}/progress").json()["state"]["sampling_step"] > 0)
        assert 0 < mine.get(f"{API}/progress").json()["progress"] < 1
        assert other.get(f"{API}/progress").json()["state"]["job_count"] == 0
        assert other.post(f"{API}/interrupt").json() == {}
        assert mine.get(f"{API}/progress").json()["state"]["job_count"] == 1
        assert not mine.get(f"{API}/progress").json()["state"]["interrupted"]
    finally:
        mine.post(f"{API}/interrupt")
        call.join(20)
    assert (answers[0].status_code, answers[0].json()["error"]) == (409, "interrupted")
    assert mine.post(f"{API}/interrupt").json() == {}  # twice does no harm
    mine.close()
    other.close()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"enable_hr": True}, "enable_hr"),
        ({"restore_faces": True}, "restore_faces"),
        ({"tiling": True}, "tiling"),
        ({"clip_skip": 2}, "clip_skip"),
        ({"styles": ["x"]}, "styles"),
        ({"alwayson_scripts": {"ControlNet": {}}}, "alwayson_scripts"),
        ({"override_settings": {"CLIP_stop_at_last_layers": 2}}, "CLIP_stop_at_last_layers"),
        ({"override_settings": {"sd_model_checkpoint": "nope"}}, "sd_model_checkpoint"),
        ({"override_settings": {"sd_vae": "other.pt"}}, "sd_vae"),
        ({"scheduler": "exponential"}, "scheduler"),
        ({"sampler_name": "DDIM", "scheduler": "karras"}, "scheduler"),
        ({"sampler_name": "magic"}, "sampler"),
        ({"width": 100}, "width"),
        ({"batch_size": 0}, "batch_size"),
        ({"n_iter": 10**300}, "n_iter"),
        ({"steps": "many"}, "steps"),
        ({"prompt": ""}, "prompt"),
    ],
)
def test_what_would_change_the_picture_is_refused(
    client: TestClient, house: House, changes: dict[str, Any], field: str
) -> None:
    answer = client.post(f"{API}/txt2img", json={"prompt": "x"} | changes)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(f"{field}: ")
    assert house.studio.jobs("queued") == []


@pytest.mark.parametrize("options", [{"sd_model_checkpoint": "nope"}, {"sd_vae": "x"}, {"samples_format": "jpg"}])
def test_options_that_cannot_be_set_are_refused(client: TestClient, options: dict[str, str]) -> None:
    assert client.post(f"{API}/options", json=options).status_code == 422


@pytest.mark.parametrize(
    ("sampler", "scheduler", "found"),
    [
        ("Euler a", None, "Euler a"),
        ("euler A", "Automatic", "Euler a"),
        ("DPM++ 2M", "Karras", "DPM++ 2M Karras"),
        ("DPM++ 2M Karras", "karras", "DPM++ 2M Karras"),
        ("Automatic", "automatic", "DPM++ 2M"),
        (None, None, "DPM++ 2M"),
    ],
)
def test_samplers_and_schedules(
    client: TestClient, drawing: Hands, sampler: str | None, scheduler: str | None, found: str
) -> None:
    answer = client.post(
        f"{API}/txt2img", json={"prompt": "x", "sampler_name": sampler, "scheduler": scheduler} | SMALL
    )
    assert json.loads(answer.json()["info"])["sampler_name"] == found


def test_a_failed_job_is_an_error_with_its_reason(client: TestClient, failing: Hands) -> None:
    answer = client.post(f"{API}/txt2img", json={"prompt": "x"} | SMALL)
    assert (answer.status_code, answer.json()["errors"]) == (500, "it broke")


def test_a_forgotten_job_is_no_progress(client: TestClient, house: House, drawing: Hands) -> None:
    client.post(f"{API}/txt2img", json={"prompt": "x"} | SMALL)
    house.studio.forget(everything=True)
    assert client.get(f"{API}/progress").json()["progress"] == 0
    assert client.post(f"{API}/interrupt").json() == {}


def test_img2img_says_that_it_is_not_there(client: TestClient) -> None:
    assert client.post(f"{API}/img2img", json={}).status_code == 501


def test_no_model_path_is_told(client: TestClient, house: House) -> None:
    assert str(house.settings.starter) not in client.get(f"{API}/sd-models").text
    house.studio.submit("x")
    claimed(house.jobs)
