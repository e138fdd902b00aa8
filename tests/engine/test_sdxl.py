"""The SDXL family, on a model of its architecture with few and random weights."""

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers

from diffusion_local.engine import loading
from diffusion_local.engine.diffusers_engine import DiffusersEngine
from diffusion_local.engine.single_file import update_json
from diffusion_local.models.catalog import Model, read_folder
from tests.engine.conftest import Draw
from tests.engine.home import Home
from tests.engine.passes import check_passes, check_shaping
from tests.support import tiers


@pytest.fixture(scope="module")
def starter(narrow: Model) -> Model:
    return narrow


def tiny_pipeline(starter: Model) -> Any:
    vocabulary = json.loads((starter.folder / "text_encoder/config.json").read_text())["vocab_size"]
    text = transformers.CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=16,
        eos_token_id=vocabulary - 1,
    )
    unet = diffusers.UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(16, 32),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        attention_head_dim=8,
        cross_attention_dim=32,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=16 + 6 * 8,
        use_linear_projection=True,
    )
    tokenizer = transformers.CLIPTokenizer.from_pretrained(starter.folder / "tokenizer")
    return diffusers.StableDiffusionXLPipeline(
        vae=diffusers.AutoencoderKL.from_pretrained(starter.folder / "vae"),
        text_encoder=transformers.CLIPTextModel(text),
        text_encoder_2=transformers.CLIPTextModelWithProjection(text),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=diffusers.EulerDiscreteScheduler(timestep_spacing="leading"),
        add_watermarker=False,
    )


@pytest.fixture(scope="module")
def tiny(starter: Model, tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("models") / "tiny-sdxl"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tiny_pipeline(starter).save_pretrained(folder)
    return read_folder(folder, "tiny", "Tiny")


@pytest.mark.parametrize("guidance", tiers([1.0, 5.0], first=[1.0]))
def test_it_draws(diffusers_engine: DiffusersEngine, tiny: Model, guidance: float) -> None:
    diffusers_engine.load(tiny)
    draw = Draw(diffusers_engine)
    pictures = [draw(model="tiny", steps=2, width=128, height=192, guidance=guidance) for _ in range(2)]
    assert pictures[0].image.size == (128, 192)
    assert pictures[0].image.tobytes() == pictures[1].image.tobytes()
    assert draw.steps == [1, 2]


def test_weights_long_prompts_and_clip_skip_reach_both_encoders(diffusers_engine: DiffusersEngine, tiny: Model) -> None:
    diffusers_engine.load(tiny)
    draw = Draw(diffusers_engine)

    def drawn(prompt: str, **more: Any) -> bytes:
        return draw(model="tiny", prompt=prompt, seed=3, steps=2, **more).image.tobytes()

    usual = drawn("a red cat")
    assert drawn("a (red:1.0) cat") == usual
    assert drawn("a (red:5) cat") != usual
    assert drawn("a red cat", clip_skip=2) == usual  # trained with the last layer but one
    assert drawn("a red cat", clip_skip=3) != usual
    long = "a red cat" + ", a red cat" * 40
    assert drawn(long) != drawn(f"{long}, a blue house at night")


@pytest.mark.parametrize("guidance", tiers([1.0, 5.0], first=[5.0]))
def test_a_prompt_that_changes_by_steps_changes_both_embeddings(
    diffusers_engine: DiffusersEngine, tiny: Model, guidance: float
) -> None:
    diffusers_engine.load(tiny)
    draw = Draw(diffusers_engine)
    job: dict[str, Any] = {"model": "tiny", "steps": 4, "guidance": guidance, "negative": "blurry"}
    first, second = (draw(**job, prompt=f"a {colour} cat").image.tobytes() for colour in ("red", "blue"))
    half = draw(**job, prompt="a [red:blue:0.5] cat").image.tobytes()
    assert half not in (first, second)
    assert draw(**job, prompt="a [red:red:0.5] cat").image.tobytes() == first
    assert draw(**job, prompt="a [red:[red:blue:2]:1] cat").image.tobytes() == half


def test_pixels_are_those_of_a_bare_pipeline(diffusers_engine: DiffusersEngine, tiny: Model) -> None:
    diffusers_engine.load(tiny)
    ours = Draw(diffusers_engine)(model="tiny", prompt="a cat", seed=3, steps=2, sampler="Euler").image
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(tiny.folder, add_watermarker=False)
    theirs = pipe(
        "a cat",
        width=128,
        height=128,
        num_inference_steps=2,
        guidance_scale=5.0,
        generator=torch.Generator().manual_seed(3),
    ).images[0]
    assert ours.tobytes() == theirs.tobytes()


COSXL = {"sigma_max": 120.0, "sigma_data": 1.0, "prediction_type": "v_prediction", "sigma_schedule": "exponential"}
LATENTS = {"latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [1.1, 0.9, 1.2, 1.0], "scaling_factor": 0.5}


@pytest.mark.parametrize(
    ("architecture", "levels", "latents"), [("cosxl", COSXL, {}), ("playground25", {}, LATENTS)]
)  # fmt: skip
@pytest.mark.slow
def test_models_with_edms_noise_levels_draw_as_diffusers_draws(
    diffusers_engine: DiffusersEngine, tiny: Model, tmp_path: Path, architecture: str, levels: Any, latents: Any
) -> None:
    folder = shutil.copytree(tiny.folder, tmp_path / "edm")
    diffusers.EDMEulerScheduler(**levels).save_pretrained(folder / "scheduler")
    update_json(folder / "model_index.json", {"scheduler": ["diffusers", "EDMEulerScheduler"]})
    update_json(folder / "vae/config.json", latents)
    model = read_folder(folder, "edm", "EDM")
    assert (model.architecture, model.problem) == (architecture, "")
    diffusers_engine.load(model)
    draw = Draw(diffusers_engine)
    job = {"model": "edm", "prompt": "a cat", "seed": 3, "steps": 3}
    ours = draw(**job, sampler="Euler").image
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False)
    sizes = {"width": 128, "height": 128, "guidance_scale": 5.0, "num_inference_steps": 3}
    theirs = pipe("a cat", generator=torch.Generator().manual_seed(3), **sizes).images[0]
    assert ours.tobytes() == theirs.tobytes()
    others = [draw(**job, sampler=name).image.tobytes() for name in ("DPM++ 2M", "DPM++ 2M SDE")]
    others += [draw(**job, sampler="Euler", schedule=name).image.tobytes() for name in ("Karras", "Exponential")]
    assert len({ours.tobytes(), *others}) == 4  # one of the two schedules is the model's own


def test_half_precision_files_are_taken_where_they_fit_or_are_all_there_is(tmp_path: Path) -> None:
    unet = tmp_path / "unet"
    unet.mkdir()
    (unet / "diffusion_pytorch_model.fp16.safetensors").touch()
    assert loading.variant(unet, torch.float32) == "fp16"
    (unet / "diffusion_pytorch_model.safetensors").touch()
    assert loading.variant(unet, torch.float32) is None
    assert loading.variant(unet, torch.float16) == "fp16"
    (unet / "diffusion_pytorch_model.fp16.safetensors").unlink()
    assert loading.variant(unet, torch.float16) is None


def test_a_folder_of_half_precision_files_only_is_loaded(
    diffusers_engine: DiffusersEngine, tiny: Model, tmp_path: Path
) -> None:
    folder = tmp_path / "half"
    shutil.copytree(tiny.folder, folder)
    for path in folder.rglob("*.safetensors"):
        path.rename(path.with_name(path.name.replace(".safetensors", ".fp16.safetensors")))
    diffusers_engine.load(read_folder(folder, "half", "Half"))
    Draw(diffusers_engine)(model="half", steps=1)


def test_pictures_share_a_pass_and_continue_bit_for_bit(diffusers_engine: DiffusersEngine, tiny: Model) -> None:
    diffusers_engine.load(tiny)
    check_passes(diffusers_engine, model=tiny.id, steps=3, sampler="Euler a")


@pytest.mark.slow
def test_it_makes_a_second_pass_and_paints_within_pictures(
    draw_at_home: Draw, diffusers_engine: DiffusersEngine, tiny: Model, at_home: Home
) -> None:
    diffusers_engine.load(tiny)
    check_shaping(draw_at_home.engine, at_home, model=tiny.id, steps=2)
