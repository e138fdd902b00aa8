"""The ``webuiapi`` package over the network, with the defaults that it sends."""

from typing import Any

import pytest
from PIL import Image as PIL

from tests.web.conftest import Site

webuiapi = pytest.importorskip("webuiapi")
SMALL = {"steps": 4, "width": 128, "height": 128}


@pytest.fixture
def api(site: Site) -> Any:
    host, _, port = site.url.removeprefix("http://").partition(":")
    return webuiapi.WebUIApi(host=host, port=int(port))


def test_text_to_picture(api: Any) -> None:
    made = api.txt2img(prompt="a red apple", negative_prompt="blur", n_iter=2, cfg_scale=5, **SMALL)
    assert [each.size for each in made.images] == [(128, 128)] * 2
    assert made.info["all_prompts"] == ["a red apple"] * 2


def test_what_its_readme_asks_for(api: Any) -> None:
    made = api.txt2img(prompt="cute squirrel", negative_prompt="ugly", seed=1003, styles=["Photo"], cfg_scale=7)
    assert made.info["styles"] == ["Photo"]
    changed = api.img2img(images=[made.image], prompt="cute cat", seed=5555, cfg_scale=6.5, denoising_strength=0.6)
    assert changed.image.size == made.image.size
    mask = PIL.new("RGB", made.image.size, "white")
    painted = api.img2img(images=[made.image], mask_image=mask, inpainting_fill=2, prompt="cute dog", steps=4)
    assert "Masked content: latent noise" in painted.info["infotexts"][0]
    larger = api.extra_single_image(image=made.image, upscaler_1="R-ESRGAN 4x+", upscaling_resize=1.5)
    assert larger.image.width == round(made.image.width * 1.5)
    several = api.extra_batch_images(images=[made.image, changed.image], upscaler_1="Lanczos", upscaling_resize=2)
    assert len(several.images) == 2
    assert api.png_info(made.image).info.startswith("photograph of cute squirrel")


def test_what_it_lists(api: Any) -> None:
    for ask in (
        *(api.get_options, api.get_cmd_flags, api.get_progress, api.get_samplers, api.get_sd_vae, api.get_upscalers),
        *(api.get_latent_upscale_modes, api.get_loras, api.get_sd_models, api.get_hypernetworks),
        *(api.get_face_restorers, api.get_realesrgan_models, api.get_prompt_styles, api.get_scripts),
        *(api.get_embeddings, api.get_memory, api.get_schedulers, api.refresh_checkpoints, api.interrupt),
    ):
        result = ask()
        assert not isinstance(result, dict) or "detail" not in result, ask
    api.util_set_model("starter")
    assert api.util_get_current_model().startswith("starter")
    api.util_wait_for_ready(0.05)


def test_what_there_is_not_is_an_error(api: Any) -> None:
    with pytest.raises(RuntimeError, match="hr_prompt"):
        api.txt2img(prompt="x", enable_hr=True, hr_prompt="another", **SMALL)
    with pytest.raises(RuntimeError, match="preprocessors/caption"):
        api.interrogate(PIL.new("RGB", (64, 64)))
