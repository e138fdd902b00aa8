"""Models and LoRAs of few steps are told by their names, also where the words are glued, and bring settings along."""

import pytest

from diffusion_local.compose import Services
from diffusion_local.models import distilled
from diffusion_local.models.catalog import Catalog
from diffusion_local.settings import Settings
from tests.models import files
from tests.models.files import write_header


@pytest.fixture
def catalog(services: Services) -> Catalog:
    return services.catalog


@pytest.mark.parametrize(
    ("name", "kind", "steps"),
    [
        ("realvisxlV50_v50LightningBakedvae", "lightning", 0),
        ("dreamshaperXL_lightningDPMSDE", "lightning", 0),
        ("dreamshaperXL_v21TurboDPMSDE", "turbo_merge", 0),
        ("sd_xl_turbo_1.0_fp16", "turbo", 0),
        ("sdxl-turbo", "turbo", 0),
        ("z_image_turbo_bf16", "turbo", 0),
        ("dreamshaper_8LCM", "lcm", 0),
        ("novaAnimeXL_ilLCM", "lcm", 0),
        ("photon_lcm", "lcm", 0),
        ("bigLove_xl4DMD2", "dmd2", 0),
        ("dmd2_sdxl_4step_lora_fp16", "dmd2", 4),
        ("Hyper-SDXL-1step-Unet", "hyper", 1),
        ("realisticVisionV60B1_v51HyperVAE", "hyper", 0),
        ("sdxl_lightning_4step", "lightning", 4),
        ("Hyper-SDXL-8steps-CFG-lora", "hyper", 8),
        ("hyperrealism_v2", "", 0),
        ("HyperRealistic", "", 0),
        ("hyper-realistic", "", 0),
        ("calcmix", "", 0),
        ("ponyDiffusionV6XL_v6StartWithThisOne", "", 0),
        ("v1-5-pruned-emaonly", "", 0),
    ],
)
def test_a_name_tells_the_kind_and_the_steps(name: str, kind: str, steps: int) -> None:
    assert (distilled.distillation_of(name), distilled.steps_of(name)) == (kind, steps)


@pytest.mark.parametrize(
    ("name", "settings_"),
    [
        ("realvisxlV50_v50LightningBakedvae", (4, 0.0, "Euler", 1024)),
        ("bigLove_xl4DMD2", (4, 1.0, "LCM", 1024)),
        ("Hyper-SDXL-1step-Unet", (1, 1.0, "DDIM", 1024)),
        ("dreamshaperXL_v21TurboDPMSDE", (6, 2.0, "DPM++ 2M SDE", 1024)),
        ("hyperrealism_v2", (30, 6.0, "DPM++ 2M", 1024)),
    ],
)
def test_a_checkpoint_brings_its_settings_along(
    catalog: Catalog, settings: Settings, name: str, settings_: tuple[int, float, str, int]
) -> None:
    write_header(settings.models / f"{name}.safetensors", files.SDXL)
    found = catalog.get(name).defaults
    assert (found.steps, found.guidance, found.sampler, found.width) == settings_


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sdxl_lightning_4step_lora", (4, 0.0, "Euler")),
        ("Hyper-SDXL-8steps-CFG-lora", (8, 5.0, "DDIM")),
        ("lcm-lora-sdxl", (4, 1.0, "LCM")),
        ("dmd2_sdxl_4step_lora_fp16", (4, 1.0, "LCM")),
        ("lightning bolts in the sky", (30, 6.0, "DPM++ 2M")),
        ("ink", (30, 6.0, "DPM++ 2M")),
    ],
)
def test_a_distilled_lora_brings_its_settings_along_unless_others_are_given(
    catalog: Catalog, settings: Settings, name: str, expected: tuple[int, float, str]
) -> None:
    write_header(settings.models / "mine.safetensors", files.SDXL)
    write_header(settings.loras / f"{name}.safetensors", files.LORA_XL)
    for prompt, options in (("x", {"loras": [name]}), (f"x <lora:{name}:1>", {})):
        params = catalog.complete(prompt, {"seed": 1, "model": "mine"} | options)
        assert (params.steps, params.guidance, params.sampler) == expected
    params = catalog.complete("x", {"seed": 1, "model": "mine", "loras": [name], "steps": 11, "guidance": 3.0})
    assert (params.steps, params.guidance) == (11, 3.0)
