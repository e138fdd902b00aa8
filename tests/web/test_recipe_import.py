"""A dropped picture's recipe in the form, ours and another tool's."""

import json
from typing import Any

from diffusion_local.compose import Services
from diffusion_local.gallery import recipes
from diffusion_local.web.ui import form, recipe_import
from tests.models import files
from tests.models.files import write_header
from tests.web.conftest import made

SKIP = {"__type__": "update"}
FOREIGN = """a castle <lora:ink:0.6>
Negative prompt: lowres
Steps: 28, Sampler: DPM adaptive, CFG scale: 7.5, Size: 192x128, Model hash: 31e35c80fc, Model: <b>dream, VAE: bright, \
Denoising strength: 0.4"""


def recipe(text: str) -> str:
    found = recipes.read_text(text)
    return json.dumps({"settings": found.settings, "facts": found.facts, "others": found.others})


def fill(services: Services, text: str, **before: Any) -> tuple[str, dict[str, Any]]:
    result, *values = recipe_import.fill_form(
        services.studio, text, *(dict.fromkeys(form.FORM_FIELDS) | before).values()
    )
    return result, dict(zip(form.FORM_FIELDS, values, strict=True))


def test_our_own_recipe_comes_back_and_says_what_changed(services: Services) -> None:
    image = made(services, seed=4242)
    now = dict(zip(form.FORM_FIELDS, form.fill(image.params), strict=True))
    ours = json.dumps({"settings": image.params.to_dict(), "facts": {}, "others": {}})
    result, values = fill(services, ours, **now | {"steps": 50})
    assert values == now
    assert "Applied: Steps</span>" in result
    assert "left out" not in result


def test_another_tools_recipe_fills_the_form_and_names_what_is_not_here(services: Services) -> None:
    result, values = fill(services, recipe(FOREIGN), model="starter", seed="7")
    assert values["model"] == SKIP
    expected = {"prompt": "a castle", "negative": "lowres", "steps": 28, "guidance": 7.5, "width": 192, "seed": ""}
    assert {name: values[name] for name in expected} == expected
    assert (values["sampler"], values["loras"], values["vae"], values["kind"]) == ("DPM++ 2M", "", "", "txt2img")
    lost = "VAE bright; LoRA ink; its source image; Model &lt;b&gt;dream; Sampler DPM adaptive"
    assert f"left out: {lost}" in result


def test_a_model_is_known_by_its_files_name_in_any_case(services: Services) -> None:
    write_header(services.settings.models / "Dream.safetensors", files.SDXL, {"modelspec.title": "The dream"})
    for named in ("dream", "the DREAM"):
        result, values = fill(services, recipe(f"a cat\nSteps: 9, Sampler: Euler, Seed: 7, Model: {named}"))
        assert values["model"] == "Dream"
        assert (values["sampler"], values["seed"], "left out" in result) == ("Euler", "7", False)


def test_nonsense_changes_nothing(services: Services) -> None:
    for nonsense in ("", "{}", "[]", '{"settings": 7, "others": {}}', "null", "[" * 100_000):
        result, values = fill(services, nonsense)
        assert (result, all(value == SKIP for value in values.values())) == (SKIP, True)
