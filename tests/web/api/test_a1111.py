"""The A1111 dialect: the calls that Open WebUI and SillyTavern really make, in their order."""

import base64
import io
import json
import threading
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from PIL import Image as PIL

from diffusion_local import families
from diffusion_local.compose import Services
from diffusion_local.options.types import Detail
from diffusion_local.web.api.dialects.a1111 import reading
from diffusion_local.web.api.dialects.pictures import resize
from tests.models.files import STARTER_LORA, write_header
from tests.support import claimed, eventually
from tests.web.api.conftest import Hands
from tests.web.conftest import Site, made

PAGE = True  # of the client

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
        assert {"automatic", "karras", "sgm_uniform"} <= {x["name"] for x in tavern.get(f"{API}/schedulers").json()}
        assert "SCM" not in samplers
        assert [each["name"] for each in tavern.get(f"{API}/upscalers").json()] == ["Lanczos"]
        for empty in ("sd-vae", "loras"):
            assert tavern.get(f"{API}/{empty}").json() == []
        tavern.post(f"{API}/options", json={"sd_model_checkpoint": "starter"})
        progress = tavern.get(f"{API}/progress").json()
        assert (progress["progress"], progress["state"]["job_count"]) == (0, 0)
        options = {"prompt": "a cat", "sampler_name": samplers[0], "scheduler": "karras", "cfg_scale": 5, "seed": -1}
        answer = tavern.post(f"{API}/txt2img", json=options | SMALL | TAVERN).json()
    info = json.loads(answer["info"])
    assert (info["sampler_name"], info["cfg_scale"]) == ("DPM++ 2M Karras", 5)
    assert set(info["not_used"]) == {
        "denoising_strength",
        "hr_additional_modules",
        "hr_scale",
        "hr_second_pass_steps",
        "hr_upscaler",
    }


def test_sillytavern_as_a_client_of_stable_diffusion_cpp(client: TestClient, drawing: Hands) -> None:
    assert client.options("/v1/images/generations").status_code == 204
    assert client.get("/v1/models").json()["data"][0]["id"] == "starter"
    options = {"prompt": "a cat", "negative_prompt": "", "cfg_scale": 7, "seed": -1, "batch_size": 1, "clip_skip": 1}
    options |= {"sampler_name": "euler_a", "scheduler": "discrete", "width": 512, "height": 512, "steps": 20}
    answer = client.post(f"{API}/txt2img", json=options).json()
    assert len(answer["images"]) == 1
    assert json.loads(answer["info"])["sampler_name"] == "Euler a"


@pytest.mark.parametrize("agent", ["node", "node-fetch", "undici"])
def test_sillytavern_as_a_client_of_draw_things(client: TestClient, drawing: Hands, agent: str) -> None:
    """Its router sets the path, so the configuration must be where the page is."""
    node = {"User-Agent": agent, "Accept": "*/*"}
    assert client.head("/", headers=node).is_success
    answer = client.get("/", headers=node).json()
    assert (answer["model"], answer["upscaler"]) == ("starter", "Lanczos")
    options = {"prompt": "a cat", "sampler_name": "Euler A Substep", "steps": 20, "cfg_scale": 7, "width": 512}
    options |= {"height": 512, "restore_faces": False, "enable_hr": False, "denoising_strength": 0.7, "clip_skip": 1}
    options |= {"upscaler_scale": 2, "hr_scale": 2, "negative_prompt": "", "seed": None}
    assert len(client.post(f"{API}/txt2img", json=options, headers=node).json()["images"]) == 1
    assert "text/html" in client.get("/", headers=node | {"Accept": "text/html"}).headers["Content-Type"]
    assert "text/html" in client.get("/", headers={"Accept": "*/*"}).headers["Content-Type"]


def test_names_of_draw_things(client: TestClient, services: Services, drawing: Hands) -> None:
    """What scripts write from the configuration that they read."""
    body = client.get("/", headers={"User-Agent": "node"}).json() | SMALL
    body |= {"prompt": "a cat", "guidance_scale": 3, "sampler": "DDIM", "seed": 5, "batch_count": 2, "batch_size": 1}
    answer = client.post(f"{API}/txt2img", json=body).json()
    info = json.loads(answer["info"])
    assert (len(answer["images"]), info["cfg_scale"], info["sampler_name"], info["all_seeds"]) == (2, 3, "DDIM", [5, 6])
    assert not {"guidance_scale", "sampler", "batch_count", "model"} & set(info["not_used"])
    body["loras"] = [{"file": "nobody.safetensors", "weight": 0.5}]
    refused = client.post(f"{API}/txt2img", json=body)
    assert (refused.status_code, "nobody" in refused.json()["errors"]) == (422, True)
    for bad in ({"file": 7}, {"file": "a>b"}, {"file": "x", "weight": "much"}, 5):
        refused = client.post(f"{API}/txt2img", json=body | {"loras": [bad]})
        assert (refused.status_code, refused.json()["errors"].partition(":")[0]) == (422, "loras")


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


def test_a_second_pass_beyond_the_model_is_made_in_tiles(client: TestClient, drawing: Hands) -> None:
    """The default factor of A1111 is 2, and the default size of its clients 512: more than small models make."""
    body = {"prompt": "x", "steps": 1, "enable_hr": True, "width": 512, "height": 512}
    info = json.loads(client.post(f"{API}/txt2img", json=body).json()["info"])
    assert [each for each in info["warnings"] if "hr_scale" in each and "tiles of 512 pixels" in each]
    refused = client.post(f"{API}/txt2img", json=body | {"fit": "strict"})
    assert (refused.status_code, refused.json()["detail"][:9]) == (422, "hr_scale:")


@pytest.mark.parametrize(
    ("asked", "options"),
    [
        ({}, ("Latent", 2.0, 0.75, 0)),
        ({"hr_scale": 1.5, "hr_upscaler": "Latent (nearest)", "denoising_strength": 0.4, "hr_second_pass_steps": 3},
         ("Latent (nearest-exact)", 1.5, 0.4, 3)),
        ({"hr_resize_x": 320, "hr_resize_y": 320, "hr_sampler_name": "Use same sampler"}, ("Latent", 2.5, 0.75, 0)),
        ({"hr_resize_y": 192, "hr_upscaler": "R-ESRGAN 4x+"}, ("Lanczos", 1.5, 0.75, 0)),
    ],
)  # fmt: skip
def test_enable_hr_makes_a_second_pass(
    client: TestClient,
    services: Services,
    drawing: Hands,
    asked: dict[str, Any],
    options: tuple[str, float, float, int],
) -> None:
    info = json.loads(
        client.post(f"{API}/txt2img", json={"prompt": "x", "enable_hr": True} | SMALL | asked).json()["info"]
    )
    made = services.studio.jobs(limit=1)[0].params
    found = (made.hires_upscaler, made.hires_scale, made.hires_strength, made.hires_steps)
    assert found == options
    assert info["denoising_strength"] == options[2]
    assert info["extra_generation_params"]["Hires upscaler"] == options[0]
    assert f"Hires upscale: {options[1]:g}" in info["infotexts"][0]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"enable_hr": "often"}, "enable_hr"),
        ({"enable_hr": True, "hr_prompt": "another"}, "hr_prompt"),
        ({"enable_hr": True, "hr_sampler_name": "Heun"}, "hr_sampler_name"),
        ({"enable_hr": True, "hr_scale": 9}, "hr_scale"),
        ({"enable_hr": True, "hr_scale": 0}, "hr_scale"),
        ({"width": 0, "fit": "strict"}, "width"),
        ({"enable_hr": True, "hr_scale": 8, "fit": "strict"}, "hr_scale"),
        ({"enable_hr": True, "hr_resize_x": -1}, "hr_resize_x"),
        ({"enable_hr": True, "hr_resize_x": 256, "hr_resize_y": 512, "fit": "strict"}, "hr_resize_x"),
        ({"enable_hr": True, "hr_upscaler": "4x-UltraSharp", "fit": "strict"}, "hr_upscaler"),
        ({"restore_faces": True}, "restore_faces"),
        ({"tiling": True}, "tiling"),
        ({"clip_skip": 99}, "clip_skip"),
        ({"styles": ["x"]}, "styles"),
        ({"styles": "x"}, "styles"),
        (
            {"alwayson_scripts": {"ControlNet": {"args": [{"module": "canny"}]}}},
            "alwayson_scripts.ControlNet.args[0].image",
        ),
        ({"alwayson_scripts": {"Dynamic Thresholding": {"args": [True, {}]}}}, "alwayson_scripts.Dynamic Thresholding"),
        ({"script_name": "X/Y/Z plot"}, "script_name"),
        ({"override_settings": {"CLIP_stop_at_last_layers": 99}}, "CLIP_stop_at_last_layers"),
        ({"prompt": "x <hypernet:y:1>"}, "prompt"),
        ({"prompt": "x <lora:y:much>"}, "prompt"),
        ({"prompt": "x <lora:y:99>"}, "loras"),
        ({"init_images": ["x"]}, "init_images"),
        ({"override_settings": {"sd_model_checkpoint": "nope"}}, "sd_model_checkpoint"),
        ({"override_settings": {"sd_vae": "other.pt"}}, "sd_vae"),
        ({"scheduler": "turbo", "fit": "strict"}, "scheduler"),
        ({"sampler_name": "magic", "fit": "strict"}, "sampler_name"),
        ({"sampler_index": "magic", "fit": "strict"}, "sampler_index"),
        ({"width": 100, "fit": "strict"}, "width"),
        ({"override_settings": {"samples_format": "bmp"}}, "samples_format"),
        ({"cfg_scale": -1}, "cfg_scale"),
        ({"batch_size": 0}, "batch_size"),
        ({"n_iter": 10**300}, "n_iter"),
        ({"steps": "many"}, "steps"),
        ({"prompt": ""}, "prompt"),
    ],
)
def test_what_would_change_the_picture_is_refused(
    client: TestClient, services: Services, changes: dict[str, Any], field: str
) -> None:
    answer = client.post(f"{API}/txt2img", json={"prompt": "x"} | changes)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(f"{field}: ")
    assert services.studio.jobs("queued") == []


@pytest.mark.parametrize("options", [{"sd_model_checkpoint": "nope"}, {"sd_vae": "x"}, {"samples_format": "gif"}])
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
        ("DPM++ 2M SDE Karras", None, "DPM++ 2M SDE"),
        ("k_euler_a", "normal", "Euler a"),
        ("euler_ancestral", "simple", "Euler a"),
        ("dpmpp_2m", "karras", "DPM++ 2M Karras"),
        ("DPM++ 3M SDE Karras", "Align Your Steps", "DPM++ 2M SDE"),
        ("LMS", "beta", "Euler"),
        ("no such sampler", "no such schedule", "DPM++ 2M"),
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


def test_a_forgotten_job_is_no_progress(client: TestClient, services: Services, drawing: Hands) -> None:
    client.post(f"{API}/txt2img", json={"prompt": "x"} | SMALL)
    services.studio.queue.forget(ended=True)
    assert client.get(f"{API}/progress").json()["progress"] == 0
    assert client.post(f"{API}/interrupt").json() == {}


def png(colour: str = "red", size: tuple[int, int] = (128, 128)) -> str:
    file = io.BytesIO()
    PIL.new("RGB", size, colour).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_img2img(client: TestClient, services: Services, drawing: Hands) -> None:
    body = {"prompt": "x", "init_images": [f"data:image/png;base64,{png()}"], "denoising_strength": 0.4, "steps": 4}
    answer = client.post(f"{API}/img2img", json=body).json()
    info = json.loads(answer["info"])
    params = services.studio.job(info["job_ids"][0]).params
    assert (params.kind, params.strength, params.width, len(answer["images"])) == ("img2img", 0.4, 128, 1)
    assert "init_images" not in answer["parameters"]


def test_a_model_that_reads_pictures_is_given_them_beside_the_prompt(
    client: TestClient, services: Services, drawing: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(families, "references_of", lambda architecture: 2)
    body = {"prompt": "x", "init_images": [png("red"), png("blue")], "steps": 4, "image_cfg_scale": 1.2}
    answer = client.post(f"{API}/img2img", json=body)
    assert answer.status_code == 200, answer.text
    params = services.studio.job(json.loads(answer.json()["info"])["job_ids"][0]).params
    assert (params.kind, params.source, len(params.references), params.image_guidance) == ("txt2img", "", 2, 1.2)
    assert client.post(f"{API}/img2img", json=body | {"init_images": [png()] * 3}).status_code == 422


@pytest.mark.parametrize(("invert", "corner"), [(0, 255), (1, 0)])
def test_inpainting_with_a_mask_either_way_round(
    client: TestClient, services: Services, drawing: Hands, invert: int, corner: int
) -> None:
    body = {"prompt": "x", "init_images": [png()], "mask": png("white"), "inpainting_mask_invert": invert}
    more = {"inpainting_fill": 1, "mask_blur": 4, "inpaint_full_res": False, "steps": 4}
    more |= {"inpaint_full_res_padding": 16}
    info = json.loads(client.post(f"{API}/img2img", json=body | more).json()["info"])
    params = services.studio.job(info["job_ids"][0]).params
    assert params.kind == "inpaint"
    with PIL.open(services.studio.sources.file(params.mask).local_path) as mask:
        assert mask.convert("L").getpixel((0, 0)) == corner
    assert info["not_used"] == []
    assert (params.mask_content, params.mask_blur, params.mask_padding) == ("original", 4, 16)


def test_the_masked_region_alone_and_what_lies_under_it(client: TestClient, services: Services, drawing: Hands) -> None:
    mask = {"mask": png("white", (200, 120)), "inpaint_full_res": True, "inpainting_fill": 2}
    body = {"prompt": "x", "init_images": [png(size=(200, 120))], "inpaint_full_res_padding": 8} | SMALL
    info = json.loads(client.post(f"{API}/img2img", json=body | mask).json()["info"])
    params = services.studio.job(info["job_ids"][0]).params
    assert (params.inpaint_area, params.mask_content, params.mask_padding) == ("Only masked", "latent noise", 8)
    with PIL.open(services.studio.sources.file(params.source).local_path) as source:
        assert source.size == (200, 120)  # not in the shape of the region
    assert "Inpaint area: Only masked, Masked area padding: 8" in info["infotexts"][0]
    plain = client.post(f"{API}/img2img", json=body | {"mask_blur": 4}).json()  # as clients send it without a mask
    assert json.loads(plain["info"])["mask_blur"] == 0


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"init_images": []}, "init_images"),
        ({"init_images": ["http://10.0.0.1/x.png"]}, "init_images"),
        ({"init_images": ["AAAA"]}, "init_images"),
        ({"mask": "AAAA"}, "mask"),
        ({"inpainting_fill": 4}, "inpainting_fill"),
        ({"mask": png("white", (64, 128))}, "mask"),
        ({"mask": png("white"), "mask_blur": 65}, "mask_blur"),
        ({"outpaint": "left:9999"}, "outpaint"),
        ({"resize_mode": 4}, "resize_mode"),
        ({"denoising_strength": 7}, "denoising_strength"),
    ],
)
def test_what_img2img_cannot_do_is_refused(
    client: TestClient, services: Services, changes: dict[str, Any], field: str
) -> None:
    answer = client.post(f"{API}/img2img", json={"prompt": "x", "init_images": [png()]} | changes)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(f"{field}: ")
    assert services.studio.jobs("queued") == []


def test_settings_that_go_by_other_names(client: TestClient, services: Services, drawing: Hands) -> None:
    body = {"prompt": "a cat <lora:ink:0.5> in <lora:paper> rain", "clip_skip": 2, "scheduler": "sgm_uniform"} | SMALL
    body |= {"sampler_name": "DDIM", "subseed": 9, "subseed_strength": 0.25}
    for name in ("ink", "paper"):
        write_header(services.settings.loras / f"{name}.safetensors", STARTER_LORA)
    info = json.loads(client.post(f"{API}/txt2img", json=body).json()["info"])
    params = services.studio.job(info["job_ids"][0]).params
    assert (params.prompt, [str(each) for each in params.loras]) == ("a cat in rain", ["ink:0.5", "paper:1"])
    assert (params.clip_skip, params.schedule, params.sampler) == (2, "SGM Uniform", "DDIM")
    assert (params.variation_seed, info["subseed"], info["subseed_strength"]) == (9, 9, 0.25)
    assert [each["name"] for each in client.get(f"{API}/loras").json()] == ["ink", "paper"]


def test_a_picture_is_made_larger(client: TestClient, drawing: Hands) -> None:
    body = {"image": png(), "upscaling_resize": 2, "upscaler_1": "Lanczos", "gfpgan_visibility": 0}
    answer = client.post(f"{API}/extra-single-image", json=body)
    assert PIL.open(io.BytesIO(base64.b64decode(answer.json()["image"]))).size == (256, 256)
    refused = client.post(f"{API}/extra-single-image", json=body | {"gfpgan_visibility": 1})
    assert (refused.status_code, refused.json()["detail"][:21]) == (422, "gfpgan_visibility: is")


def test_a_picture_is_made_larger_to_a_size(client: TestClient, drawing: Hands) -> None:
    body = {"image": png(), "resize_mode": 1, "upscaling_resize_w": 300, "upscaling_resize_h": 200}
    for crop, size in ((True, (300, 200)), (False, (200, 200))):
        answer = client.post(f"{API}/extra-single-image", json=body | {"upscaling_crop": crop}).json()
        assert PIL.open(io.BytesIO(base64.b64decode(answer["image"]))).size == size
    answer = client.post(f"{API}/extra-single-image", json=body | {"upscaler_1": "R-ESRGAN 4x+"}).json()
    assert answer["html_info"].startswith("upscaler_1: 'R-ESRGAN 4x+' is not available")


def test_several_pictures_are_made_larger(client: TestClient, drawing: Hands) -> None:
    body = {"imageList": [{"data": png(colour), "name": colour} for colour in ("red", "blue")], "upscaling_resize": 2}
    answer = client.post(f"{API}/extra-batch-images", json=body).json()
    assert [PIL.open(io.BytesIO(base64.b64decode(each))).size for each in answer["images"]] == [(256, 256)] * 2
    assert client.post(f"{API}/extra-batch-images", json=body | {"imageList": []}).status_code == 422


@pytest.mark.parametrize(("mode", "corner"), [(0, "red"), (1, "red"), (2, "red"), (3, "red")])
def test_a_source_of_another_shape_is_resized_as_asked(
    client: TestClient, services: Services, drawing: Hands, mode: int, corner: str
) -> None:
    body = {"prompt": "x", "init_images": [png(corner, (128, 256))], "resize_mode": mode, "steps": 4}
    info = json.loads(client.post(f"{API}/img2img", json=body | {"width": 256, "height": 128}).json()["info"])
    params = services.studio.job(info["job_ids"][0]).params
    width, height = services.studio.sources.size(params.source)
    assert (width, height) == ((128, 256) if mode == 1 else (256, 128))
    assert bool(info["warnings"]) == (mode == 3)


def test_a_source_is_filled_with_its_edges() -> None:
    picture = PIL.new("RGB", (2, 2), "red")
    picture.putpixel((1, 0), (0, 0, 255))
    picture.putpixel((1, 1), (0, 0, 255))
    with PIL.open(io.BytesIO(resize(picture, (8, 2), 2))) as filled:
        assert filled.size == (8, 2)
        assert [filled.getpixel((x, 1)) for x in (0, 7)] == [(255, 0, 0), (0, 0, 255)]


def test_what_was_fitted_is_warned_of(client: TestClient, drawing: Hands) -> None:
    body = {"prompt": "x", "width": 1024, "height": 1024, "steps": 150, "scheduler": "normal", "inpainting_fill": 2}
    info = json.loads(client.post(f"{API}/txt2img", json=body).json()["info"])
    assert (info["width"], info["height"], info["steps"]) == (512, 512, 100)
    assert [each.partition(":")[0] for each in info["warnings"]] == ["width", "steps", "scheduler"]


def test_styles_are_the_studios(client: TestClient, services: Services, drawing: Hands) -> None:
    names = [each["name"] for each in client.get(f"{API}/prompt-styles").json()]
    assert "Photo" in names
    answer = client.post(f"{API}/txt2img", json={"prompt": "a cat", "styles": ["Photo"]} | SMALL).json()
    info = json.loads(answer["info"])
    assert (info["prompt"][:21], info["styles"]) == ("photograph of a cat, ", ["Photo"])


def test_every_field_of_a1111_is_there(client: TestClient, drawing: Hands) -> None:
    info = json.loads(client.post(f"{API}/txt2img", json={"prompt": "x"} | SMALL).json()["info"])
    assert {
        *("prompt", "all_prompts", "negative_prompt", "all_negative_prompts", "seed", "all_seeds", "subseed"),
        *("all_subseeds", "subseed_strength", "width", "height", "sampler_name", "cfg_scale", "steps", "batch_size"),
        *("restore_faces", "face_restoration_model", "sd_model_name", "sd_model_hash", "sd_vae_name", "sd_vae_hash"),
        *("seed_resize_from_w", "seed_resize_from_h", "denoising_strength", "extra_generation_params"),
        *("index_of_first_image", "infotexts", "styles", "job_timestamp", "clip_skip"),
        *("is_using_inpainting_conditioning", "version"),
    } <= set(info)
    assert len(info["job_timestamp"]) == 14
    state = client.get(f"{API}/progress").json()["state"]
    assert {"job_timestamp", "stopping_generation", "job_count", "sampling_step"} <= set(state)


def test_a_model_goes_by_its_title_and_by_its_hash(client: TestClient, drawing: Hands) -> None:
    [model] = client.get(f"{API}/sd-models").json()
    for name in (
        "starter [65c96241f7]",
        "starter",
        "starter.safetensors",
        model["title"],
        model["sha256"] or "starter",
        "gpt-image-1",
    ):
        override = {"override_settings": {"sd_model_checkpoint": name}}
        assert client.post(f"{API}/txt2img", json={"prompt": "x"} | SMALL | override).status_code == 200, name


@pytest.mark.parametrize(("form", "head"), [("jpg", b"\xff\xd8\xff"), ("webp", b"RIFF"), ("png", b"\x89PNG")])
def test_answers_and_their_recipes_in_other_formats(client: TestClient, drawing: Hands, form: str, head: bytes) -> None:
    override = {"override_settings": {"samples_format": form}}
    [image] = client.post(f"{API}/txt2img", json={"prompt": "a fox"} | SMALL | override).json()["images"]
    assert base64.b64decode(image).startswith(head)
    answer = client.post(f"{API}/png-info", json={"image": image}).json()
    assert answer["info"].startswith("a fox\nSteps: 4, ")
    assert answer["parameters"]["Steps"] == "4"


@pytest.mark.parametrize(
    "path",
    [
        *("cmd-flags", "scripts", "script-info", "memory", "hypernetworks", "embeddings", "sd-modules", "loras"),
        *("upscalers", "latent-upscale-modes", "schedulers", "samplers", "face-restorers", "realesrgan-models"),
        *("prompt-styles", "extensions", "sd-vae", "sd-models", "options", "progress"),
    ],
)
def test_what_clients_probe_is_answered_also_below_a1111(client: TestClient, path: str) -> None:
    assert client.get(f"{API}/{path}").status_code == 200
    assert client.get(f"/a1111{API}/{path}").status_code == 200


def test_what_is_not_there_is_told_in_a1111s_shape(client: TestClient) -> None:
    assert client.get("/internal/ping").status_code == 200
    for method, path, status in (("POST", "interrogate", 422), ("GET", "nope", 404), ("GET", "txt2img", 405)):
        answer = client.request(method, f"{API}/{path}")
        assert (answer.status_code, isinstance(answer.json()["detail"], str)) == (status, True)


SWITCHED_OFF: list[dict[str, Any]] = [
    {},
    {"ADetailer": {"args": [False]}},
    {"ControlNet": {"args": []}},
    {"ControlNet": {"args": [{"enabled": False, "module": "canny"}]}},
    {"ADetailer": {"args": [False, False, {"ad_model": "None"}]}},
]


@pytest.mark.parametrize("scripts", SWITCHED_OFF)
def test_scripts_that_are_off_ask_for_nothing(client: TestClient, drawing: Hands, scripts: dict[str, Any]) -> None:
    body = {"prompt": "x", "alwayson_scripts": scripts} | SMALL
    assert client.post(f"{API}/txt2img", json=body).status_code == 200


def test_units_of_adetailer_are_details(client: TestClient, services: Services, drawing: Hands) -> None:
    unit = {"ad_model": "face_yolov8n.pt", "ad_prompt": "a smile [SEP]", "ad_denoising_strength": 0.35}
    unit |= {"ad_mask_k": 2, "ad_use_steps": True, "ad_steps": 3, "ad_dilate_erode": 8}
    hand = {"ad_model": "hand_yolov8s.pt", "ad_confidence": 0.5, "ad_tab_enable": True}
    body = {"prompt": "x", "alwayson_scripts": {"ADetailer": {"args": [True, False, unit, hand]}}} | SMALL
    refused = client.post(f"{API}/txt2img", json=body)
    assert (refused.status_code, "preprocessors/detector" in refused.text) == (422, True)
    (services.settings.preprocessors / "detector").mkdir(parents=True)
    (services.settings.preprocessors / "detector/config.json").touch()
    answer = client.post(f"{API}/txt2img", json=body)
    assert answer.status_code == 200, answer.text
    assert services.studio.jobs(limit=1)[0].params.details == (
        Detail("face", prompt="a smile", strength=0.35, steps=3, limit=2), Detail("hand", confidence=0.5),
    )  # fmt: skip
    assert "ad_dilate_erode" in str(json.loads(answer.json()["info"])["warnings"])
    body["alwayson_scripts"] = {"ADetailer": {"args": [{"ad_model": "strange.pt"}]}}
    assert client.post(f"{API}/txt2img", json=body).status_code == 422


def test_png_info_reads_the_recipe(client: TestClient, services: Services) -> None:
    data = services.studio.picture_file(made(services).id).read_bytes()
    answer = client.post(f"{API}/png-info", json={"image": base64.b64encode(data).decode()}).json()
    assert answer["info"] == answer["items"]["parameters"]
    assert answer["info"].startswith("a red apple\nSteps: 4, ")
    assert client.post(f"{API}/png-info", json={"image": "AAAA"}).status_code == 422


def test_options_are_each_callers_own(client: TestClient) -> None:
    mine, other = {"User-Agent": "mine"}, {"User-Agent": "other"}
    assert client.post(f"{API}/options", json={"CLIP_stop_at_last_layers": 2}, headers=mine).status_code == 200
    assert client.get(f"{API}/options", headers=mine).json()["CLIP_stop_at_last_layers"] == 2
    assert client.get(f"{API}/options", headers=other).json()["CLIP_stop_at_last_layers"] == 1
    assert client.get(f"{API}/embeddings").json() == {"loaded": {}, "skipped": {}}
    assert client.post(f"{API}/refresh-loras").status_code == 200


def test_no_model_path_is_told(client: TestClient, services: Services) -> None:
    assert str(services.settings.starter) not in client.get(f"{API}/sd-models").text
    services.studio.submit("x")
    claimed(services.jobs)


@pytest.mark.parametrize("fit", ["strict", "nearest"])
@pytest.mark.parametrize(
    "size", [(0, 128), (-64, 128), (128, -64), (10**9, 10**9), (16384, 16384), (2**70, 64)], ids=str
)
def test_an_impossible_size_is_refused_by_its_name_before_a_picture_is_scaled_to_it(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, fit: str, size: tuple[int, int]
) -> None:
    scaled: list[tuple[int, int]] = []
    monkeypatch.setattr(reading, "resize", lambda picture, size, mode: scaled.append(size) or base64.b64decode(png()))
    sides = dict(zip(("width", "height"), size, strict=True)) | {
        "fit": fit,
        "prompt": "x",
        "subseed": 1,
        "subseed_strength": 9,
    }
    picture = {"init_images": [png()]}
    second = {"enable_hr": True, "hr_resize_x": 256, "hr_resize_y": 256}
    for path, more in (("img2img", picture), ("txt2img", second)):
        answer = client.post(f"/sdapi/v1/{path}", json=sides | more)
        assert 400 <= answer.status_code < 500, answer.text
        if fit == "strict":
            assert any(name in answer.text for name in ("width", "height", "subseed_strength")), answer.text
    assert all(max(each) <= 2048 for each in scaled)
