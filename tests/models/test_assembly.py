"""A checkpoint in one file is known by the names and shapes of its tensors, whatever it is called."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from diffusion_local.compose import Services
from diffusion_local.errors import InvalidParams
from diffusion_local.models.catalog import Catalog, Model
from diffusion_local.paths import assets
from diffusion_local.settings import Settings
from tests.models import files
from tests.models.files import write_header


@pytest.fixture
def catalog(services: Services) -> Catalog:
    return services.catalog


def found(catalog: Catalog, settings: Settings, shapes: dict[str, Any], name: str = "any name", **more: Any) -> Model:
    write_header(settings.models / f"{name}.safetensors", shapes, **more)
    return catalog.get(name)


@pytest.mark.parametrize(
    ("shapes", "family", "architecture", "width", "kinds"),
    [
        (files.SD1, "sd", "sd1", 512, ("txt2img", "img2img", "inpaint")),
        (files.SD1_INPAINT, "sd", "sd1", 512, ("inpaint",)),
        (files.SD2, "sd", "sd2", 768, ("txt2img", "img2img", "inpaint")),
        (files.SDXL, "sdxl", "sdxl", 1024, ("txt2img", "img2img", "inpaint")),
    ],
)
def test_stable_diffusion_is_told_apart_and_ready(
    catalog: Catalog, settings: Settings, shapes: dict[str, Any], family: str, architecture: str, width: int, kinds: Any
) -> None:
    model = found(catalog, settings, shapes)
    assert (model.state, model.problem) == ("ready", "")
    assert (model.family, model.architecture, model.defaults.width, model.kinds) == (family, architecture, width, kinds)
    assert model.folder == assets() / "configs" / architecture
    assert (model.source, model.path) == ("file", settings.models / "any name.safetensors")
    assert model.size_bytes == model.path.stat().st_size
    assert 0 < model.memory_bytes < model.size_bytes


def test_memory_is_that_of_half_precision_whatever_the_file_has(catalog: Catalog, settings: Settings) -> None:
    half = found(catalog, settings, files.SD1, "half", dtype="F16")
    full = found(catalog, settings, files.SD1, "full", dtype="F32")
    assert full.memory_bytes == half.memory_bytes
    assert full.size_bytes > half.size_bytes * 1.9


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        (files.REFINER, "SDXL refiner"),
        (files.FLUX, "It is FLUX.1 schnell (fp16), which also needs CLIP-L, T5-XXL and the VAE of FLUX.1"),
        (files.SD3, "It is SD 3 (fp16), which also needs CLIP-L, CLIP-G, T5-XXL and the VAE of SD 3"),
        (files.LORA, "It is a LoRA, not a model: move it into `loras`"),
        (files.VAE, "It is the VAE of Stable Diffusion (SD 1, SD 2 or SDXL), not a model: move it into `vae`"),
        (files.UPSCALER, "It is an upscaler, not a model: move it into `upscalers`"),
        (files.EMBEDDING, "It is a textual inversion, not a model: move it into `embeddings`"),
        ({"control_model.time_embed.0.weight": (8, 8)}, "ControlNet"),
        (files.UNET_OF_DIFFUSERS, "which also needs CLIP-L and the VAE of SD 1 and SD 2"),
        ({"something.else": (8, 8)}, "not a checkpoint of a known kind"),
        (files.unet(768, 5) | files.SD1 | files.unet(768, 5), "takes 5 channels"),
        (files.unet(999), "text embeddings of width 999"),
        (files.unet(768), "which also needs CLIP-L"),
        (
            {name: shape for name, shape in files.SDXL.items() if "first_stage" not in name},
            "needs the VAE of SDXL",
        ),
    ],
)
def test_what_is_no_checkpoint_that_can_run_says_what_it_is(
    catalog: Catalog, settings: Settings, shapes: dict[str, Any], words: str
) -> None:
    model = found(catalog, settings, shapes)
    assert model.state in ("unsupported", "recognised", "incomplete")
    assert words in model.problem


def test_a_file_that_is_cut_short_or_damaged_says_so(catalog: Catalog, settings: Settings) -> None:
    path = write_header(settings.models / "cut.safetensors", files.SD1)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)
    assert "cut.safetensors is cut short" in catalog.get("cut").problem
    (settings.models / "page.safetensors").write_bytes(b"<!DOCTYPE html>" + b" " * 4096)
    assert "page.safetensors is a web page" in catalog.get("page").problem
    assert {model.state for model in catalog.all()[1:]} == {"incomplete"}


def test_a_job_for_it_is_refused_before_it_waits(services: Services) -> None:
    write_header(services.settings.models / "flux.safetensors", files.FLUX)
    with pytest.raises(InvalidParams, match=r"model: flux is not ready: It is FLUX\.1"):
        services.studio.submit("x", model="flux")


@pytest.mark.parametrize(
    ("shapes", "metadata", "scheduler"),
    [
        (files.SD2, {}, {"prediction_type": "v_prediction"}),
        (files.SD2, {"modelspec.prediction_type": "epsilon"}, {"prediction_type": "epsilon"}),
        (files.SDXL, {"modelspec.prediction_type": "v"}, {"prediction_type": "v_prediction"}),
        (
            files.SDXL | {"v_pred": (), "ztsnr": ()},
            {},
            {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
        ),
        (files.SDXL, {}, {}),
    ],
)
def test_how_it_was_trained_is_read_from_the_file(
    catalog: Catalog, settings: Settings, shapes: dict[str, Any], metadata: dict[str, str], scheduler: dict[str, Any]
) -> None:
    assert found(catalog, settings, shapes, metadata=metadata).scheduler == scheduler


@pytest.mark.parametrize(
    ("name", "steps", "guidance", "sampler"),
    [
        ("sd_xl_turbo_1.0", 4, 0.0, "Euler a"),
        ("dreamshaperXL_lightning", 4, 0.0, "Euler"),
        ("some-lcm-xl", 4, 1.0, "LCM"),
        ("sd_xl_base", 30, 6.0, "DPM++ 2M"),
    ],
)
def test_a_name_that_tells_of_few_steps_changes_the_defaults_only(
    catalog: Catalog, settings: Settings, name: str, steps: int, guidance: float, sampler: str
) -> None:
    model = found(catalog, settings, files.SDXL, name)
    assert (model.defaults.steps, model.defaults.guidance, model.defaults.sampler) == (steps, guidance, sampler)
    assert model.family == "sdxl"


def test_odd_sizes_need_a_configuration_and_the_message_says_where(catalog: Catalog, settings: Settings) -> None:
    shapes = files.unet(768, first=64) | {"cond_stage_model.transformer.text_model.x": (8, 8)}
    model = found(catalog, settings, shapes)
    assert model.state == "incomplete"
    assert "into `configs` in the home" in model.problem
    config = settings.configs_folder / "odd"
    (config / "unet").mkdir(parents=True)
    (config / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    (config / "unet/config.json").write_text(json.dumps({"block_out_channels": [64], "cross_attention_dim": 768}))
    assert catalog.all()[1].folder == config
    assert catalog.get("any name").ready


ZERO_TERMINAL = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


@pytest.mark.parametrize(
    ("shapes", "metadata", "name", "own", "scheduler"),
    [
        (files.SD2, {}, "any name", "epsilon", {"prediction_type": "epsilon"}),
        (files.SD2, {}, "sd2-base-512", "v_prediction", {"prediction_type": "v_prediction"}),
        (files.SD2, {}, "any name", None, {"prediction_type": "v_prediction"}),
        (files.SD2, {}, "any name", "no_such_type", {"prediction_type": "v_prediction"}),
        (files.SD2, {}, "any name", ["epsilon"], {"prediction_type": "v_prediction"}),
        (files.SD2 | {"v_pred": ()}, {}, "any name", "epsilon", {"prediction_type": "v_prediction"}),
        (files.SD2, {"modelspec.prediction_type": "v"}, "any name", "epsilon", {"prediction_type": "v_prediction"}),
        (files.SDXL | {"v_pred": (), "ztsnr": ()}, {}, "any name", "epsilon", ZERO_TERMINAL),
        (files.SDXL, {}, "any name", "v_prediction", {"prediction_type": "v_prediction"}),
        (files.SD1, {}, "any name", "epsilon", {"prediction_type": "epsilon"}),
    ],
)
def test_own_configurations_beat_guesses_about_the_prediction_but_not_marks_in_the_file(
    catalog: Catalog,
    settings: Settings,
    shapes: dict[str, Any],
    metadata: dict[str, str],
    name: str,
    own: Any,
    scheduler: dict[str, Any],
) -> None:
    family = found(catalog, settings, shapes, name, metadata=metadata).architecture
    config = settings.configs_folder / "mine"
    shutil.copytree(assets() / "configs" / family, config)
    stated = {} if own is None else {"prediction_type": own}
    (config / "scheduler/scheduler_config.json").write_text(json.dumps(stated))
    model = catalog.all()[1]
    assert (model.folder, model.scheduler) == (config, scheduler)


def test_an_edited_configuration_counts_without_a_restart(catalog: Catalog, settings: Settings) -> None:
    config = settings.configs_folder / "mine"
    shutil.copytree(assets() / "configs/sd2", config)
    write_header(settings.models / "any name.safetensors", files.SD2)
    for prediction, width in (("epsilon", 512), ("v_prediction", 768), ("epsilon", 512)):
        (config / "scheduler/scheduler_config.json").write_text(json.dumps({"prediction_type": prediction}))
        model = catalog.all()[1]
        assert (model.scheduler, model.defaults.width) == ({"prediction_type": prediction}, width)


@pytest.mark.parametrize(
    ("text", "prediction"),
    [
        ("model:\n  params:\n    parameterization: v\n", "v_prediction"),
        ('model: {params: {parameterization: "eps"}}', "epsilon"),
        ("model:\n  target: ldm.models.diffusion.ddpm.LatentDiffusion\n  params:\n    timesteps: 1000\n", "epsilon"),
        ("model: [1, 2]", "v_prediction"),
        ("other: 1", "v_prediction"),
        ("model: {params: {parameterization: [v]}}", "v_prediction"),
        ("\t: broken: [", "v_prediction"),
        ("[" * 600, "v_prediction"),
        ("", "v_prediction"),
    ],
)
def test_a_yaml_beside_a_checkpoint_beats_the_guess(
    catalog: Catalog, settings: Settings, text: str, prediction: str
) -> None:
    assert found(catalog, settings, files.SD2).scheduler == {"prediction_type": "v_prediction"}
    (settings.models / "any name.yaml").write_text(text)
    assert catalog.all()[1].scheduler == {"prediction_type": prediction}
    marked = found(catalog, settings, files.SD2, metadata={"modelspec.prediction_type": "v"})
    assert marked.scheduler == {"prediction_type": "v_prediction"}


def test_a_configuration_is_found_in_the_hubs_cache(settings: Settings, tmp_path: Path, monkeypatch: Any) -> None:
    from diffusion_local.compose import open_services

    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    config = tmp_path / "hub/models--someone--odd/snapshots/abc"
    (config / "unet").mkdir(parents=True)
    (config / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    (config / "unet/config.json").write_text(json.dumps({"block_out_channels": [64], "cross_attention_dim": 768}))
    catalog = open_services(settings).catalog
    shapes = files.unet(768, first=64) | {"cond_stage_model.transformer.text_model.x": (8, 8)}
    assert found(catalog, settings, shapes).folder == config


def test_the_title_and_licence_that_it_carries_are_shown(catalog: Catalog, settings: Settings) -> None:
    result = {"modelspec.title": "My Model", "modelspec.license": "MIT"}
    model = found(catalog, settings, files.SD1, metadata=result)
    assert (model.name, model.licence) == ("My Model", "MIT")


def test_prompts_for_it_are_counted_with_the_tokenizer_that_comes_with_us(services: Services) -> None:
    write_header(services.settings.models / "mine.safetensors", files.SD1)
    receipt = services.studio.submit("apple " * 100, model="mine")
    assert receipt.warnings == ["prompt: the model reads 75 tokens at a time; this prompt has 100, read in 2 parts."]
