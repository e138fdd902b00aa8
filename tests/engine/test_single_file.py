"""A checkpoint in one file, in the layout of the original training code, draws what its diffusers folder draws."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import diffusers
import gguf
import numpy as np
import pytest
import safetensors.torch
import torch
import transformers

from diffusion_local.engine import samplers, single_file, tensors
from diffusion_local.engine.diffusers_engine import DiffusersEngine
from diffusion_local.errors import ModelUnavailable
from diffusion_local.models.catalog import Catalog, Model
from diffusion_local.models.directories import ModelDirectories
from diffusion_local.models.tokenizers import extract
from diffusion_local.paths import assets
from tests.engine.conftest import Draw
from tests.engine.test_flow_families import difference
from tests.engine.test_gguf_files import write as write_gguf
from tests.engine.test_split_files import matrices
from tests.models.files import Trap, original_encoder, original_unet, original_vae
from tests.models.headers import tensors_of
from tests.support import first_of

LIGHTNING = "pytorch_lightning.callbacks.model_checkpoint"


@pytest.fixture(scope="module")
def starter(narrow: Model) -> Model:
    return narrow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline with the blocks of Stable Diffusion 1, few and random weights, and CLIP's own tokenizer."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = diffusers.UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(32, 32, 64, 64),
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
            layers_per_block=2,
            attention_head_dim=8,
            cross_attention_dim=32,
        )
        vae = diffusers.AutoencoderKL(
            block_out_channels=(32, 32, 32, 32),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
        )
        text = transformers.CLIPTextModel(
            transformers.CLIPTextConfig(
                hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, projection_dim=32
            )
        )
    words = extract("clip")
    target = tmp_path_factory.mktemp("single") / "tiny"
    diffusers.StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=transformers.CLIPTokenizer.from_pretrained(words),
        unet=unet,
        scheduler=diffusers.PNDMScheduler(beta_schedule="scaled_linear", steps_offset=1, skip_prk_steps=True),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(target)
    return target


@pytest.fixture
def checkpoint(folder: Path, tmp_path: Path) -> Callable[[], Model]:
    """Writes ``models/tiny.safetensors`` and its configuration, and gives the catalogue's entry."""

    def write() -> Model:
        pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
        state = original_unet(pipe.unet.state_dict())
        state |= original_vae(pipe.vae.state_dict()) | original_encoder(pipe.text_encoder.state_dict())
        places = ModelDirectories(tmp_path / "models", configs=tmp_path / "configs")
        places.models.mkdir()
        weights = {name: tensor.contiguous() for name, tensor in state.items()}
        safetensors.torch.save_file(weights, places.models / "tiny.safetensors")
        shutil.copytree(folder, tmp_path / "configs/tiny", ignore=shutil.ignore_patterns("*.safetensors"))
        return Catalog(assets() / "starter", places).get("tiny")

    return write


def assert_same_picture(one: bytes, other: bytes) -> None:
    """Within one level: a processor may add in another order where a mapped file aligns its tensors differently."""
    apart = np.abs(np.frombuffer(one, np.uint8).astype(int) - np.frombuffer(other, np.uint8))
    assert apart.max() <= 1
    assert (apart > 0).mean() < 0.01


def test_it_draws_what_its_folder_draws(
    diffusers_engine: DiffusersEngine, folder: Path, checkpoint: Callable[[], Model], tmp_path: Path
) -> None:
    model = checkpoint()
    assert model.ready, model.problem
    (tmp_path / "whole").mkdir()
    shutil.copytree(folder, tmp_path / "whole/tiny")
    whole = Catalog(assets() / "starter", tmp_path / "whole").get("tiny")
    pictures = []
    for each in (model, whole):
        diffusers_engine.load(each)
        pictures.append(Draw(diffusers_engine)(model="tiny", steps=2, width=64, height=64).image.tobytes())
    assert_same_picture(*pictures)


@pytest.mark.parametrize("old", first_of(1, [False, True]), ids=["zip", "before 1.6"])
@pytest.mark.slow
def test_a_checkpoint_in_a_pickle_draws_what_its_safetensors_form_draws(
    diffusers_engine: DiffusersEngine, checkpoint: Callable[[], Model], tmp_path: Path, old: bool
) -> None:
    model = checkpoint()
    with pytest.MonkeyPatch.context() as patch:
        callback = lightning_callback(patch)
        content = {
            "state_dict": safetensors.torch.load_file(model.path),
            "callbacks": {callback: {"best_model_score": np.float64(0.5)}},
            "epoch": 3,
        }
        torch.save(content, model.path.with_name("old.ckpt"), _use_new_zipfile_serialization=not old)
    catalog = Catalog(assets() / "starter", ModelDirectories(model.path.parent, configs=tmp_path / "configs"))
    pictures = []
    for name in ("tiny", "old"):
        each = catalog.get(name)
        assert each.ready, each.problem
        diffusers_engine.load(each)
        pictures.append(Draw(diffusers_engine)(model=name, steps=2, width=64, height=64).image.tobytes())
    assert_same_picture(*pictures)


@pytest.mark.slow
def test_a_checkpoint_as_gguf_draws_what_its_numbers_draw(
    diffusers_engine: DiffusersEngine, checkpoint: Callable[[], Model], tmp_path: Path
) -> None:
    """The UNet, the text encoder and the VAE, with matrices in blocks, which are unpacked to fp16."""
    model = checkpoint()
    kind = gguf.GGMLQuantizationType.Q8_0
    whole = write_gguf(model.path.with_name("packed.gguf"), safetensors.torch.load_file(model.path), "sd1", kind)
    rounded = {name: each.half().float() if name in matrices(whole) else each for name, each in whole.items()}
    safetensors.torch.save_file({name: each.contiguous() for name, each in rounded.items()}, model.path)
    catalog = Catalog(assets() / "starter", ModelDirectories(model.path.parent, configs=tmp_path / "configs"))
    pictures = []
    for name in ("tiny", "packed"):
        each = catalog.get(name)
        assert each.ready, each.problem
        diffusers_engine.load(each)
        pictures.append(Draw(diffusers_engine)(model=name, steps=2, width=64, height=64).image)
    assert difference(*pictures) <= 4


def lightning_callback(patch: pytest.MonkeyPatch) -> type:
    """A class that is pickled under the name of PyTorch Lightning's, which checkpoints of SD 1 hold."""
    names = ("pytorch_lightning", "pytorch_lightning.callbacks", LIGHTNING)
    for name in names:
        patch.setitem(sys.modules, name, ModuleType(name))
    callback = type("ModelCheckpoint", (), {"__module__": LIGHTNING})
    patch.setattr(sys.modules[LIGHTNING], "ModelCheckpoint", callback, raising=False)
    return callback


def test_a_pickle_that_would_run_code_is_not_loaded(checkpoint: Callable[[], Model], tmp_path: Path) -> None:
    path = tmp_path / "evil.ckpt"
    torch.save({"state_dict": {"a": torch.zeros(2)}, "x": Trap(tmp_path / "sprung")}, path)
    with pytest.raises(ModelUnavailable, match="would run code when opened"):
        tensors.read_mapped(path, "")
    assert not (tmp_path / "sprung").exists()


def test_what_the_checkpoint_says_of_its_training_reaches_the_scheduler(
    diffusers_engine: DiffusersEngine, checkpoint: Callable[[], Model]
) -> None:
    from dataclasses import replace

    from diffusion_local.engine import single_file

    model = replace(checkpoint(), scheduler={"prediction_type": "v_prediction", "timestep_spacing": "trailing"})
    config = single_file.load(model, torch.float32).scheduler.config
    assert (config.prediction_type, config.timestep_spacing) == ("v_prediction", "trailing")


@pytest.mark.slow
def test_a_checkpoint_trained_on_pure_noise_is_sampled_from_it(
    diffusers_engine: DiffusersEngine, checkpoint: Callable[[], Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = checkpoint().path
    marks = {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    safetensors.torch.save_file(safetensors.torch.load_file(path) | marks, path)
    diffusers_engine.load(
        Catalog(assets() / "starter", ModelDirectories(path.parent, configs=tmp_path / "configs")).get("tiny")
    )
    used = []
    monkeypatch.setattr(samplers, "capture_estimate", lambda scheduler: used.append(scheduler) or (lambda: None))
    for sampler in ("Euler", "DPM++ 2M", "Heun"):
        Draw(diffusers_engine)(model="tiny", steps=2, width=64, height=64, sampler=sampler)
        config = used[-1].config
        assert (config.prediction_type, int(used[-1].timesteps[0])) == ("v_prediction", 999)


def test_a_file_that_is_cut_short_is_named(diffusers_engine: DiffusersEngine, checkpoint: Callable[[], Model]) -> None:
    model = checkpoint()
    with model.path.open("r+b") as file:
        file.truncate(model.path.stat().st_size - 10)
    with pytest.raises(ModelUnavailable, match=r"tiny\.safetensors is cut short"):
        diffusers_engine.load(model)
    assert diffusers_engine.loaded == "starter"


def test_weights_that_do_not_fit_the_configuration_are_an_error_of_the_model(
    diffusers_engine: DiffusersEngine, checkpoint: Callable[[], Model], starter: Model
) -> None:
    model = checkpoint()
    weights = safetensors.torch.load_file(model.path)
    weights["model.diffusion_model.input_blocks.1.0.in_layers.2.weight"] = torch.zeros(7, 7, 3, 3)
    safetensors.torch.save_file(weights, model.path)
    with pytest.raises(ModelUnavailable, match="'tiny' cannot be loaded") as raised:
        diffusers_engine.load(model)
    assert str(model.path.parent) not in raised.value.message
    diffusers_engine.load(starter)


@pytest.mark.parametrize(
    ("name", "unet", "text"),
    [
        ("sd1", 859_520_964, 123_060_480),
        ("sd2", 865_910_724, 340_387_840),
        ("sdxl", 2_567_463_684, 123_060_480),
        ("ssd1b", 1_331_334_404, 123_060_480),
        ("vega", 745_225_604, 123_060_480),
        ("koala_700m", 782_822_724, 123_060_480),
        ("koala_1b", 1_161_184_324, 123_060_480),
    ],
)
def test_our_configurations_have_the_sizes_of_the_published_models(name: str, unet: int, text: int) -> None:
    folder = assets() / "configs" / name
    with torch.device("meta"):
        denoiser = diffusers.UNet2DConditionModel.from_config(
            diffusers.UNet2DConditionModel.load_config(folder / "unet")
        )
        encoder = transformers.CLIPTextModel(transformers.CLIPTextConfig.from_pretrained(folder / "text_encoder"))
        vae = diffusers.AutoencoderKL.from_config(diffusers.AutoencoderKL.load_config(folder / "vae"))
    counts = [sum(each.numel() for each in part.parameters()) for part in (denoiser, encoder, vae)]
    assert counts == [unet, text, 83_653_863]


@pytest.mark.parametrize(
    ("slot", "cls", "file"),
    [
        ("transformer", diffusers.QwenImageTransformer2DModel, "models/qwen_image_bf16.safetensors"),
        ("text_encoder", transformers.Qwen2_5_VLTextModel, "models/te/qwen_2.5_vl_7b_fp8_scaled.safetensors"),
        ("vae", diffusers.AutoencoderKLQwenImage, "parts/qwen_image_vae.safetensors"),
    ],
)
def test_our_configurations_of_qwen_image_have_the_tensors_of_the_published_files(
    slot: str, cls: Any, file: str
) -> None:
    folder = assets() / "configs/qwen_image" / slot
    with torch.device("meta"):
        if slot == "text_encoder":
            ours = cls(cls.config_class.from_pretrained(folder))
        else:
            ours = cls.from_config(cls.load_config(folder))
        state = {name: torch.empty(shape) for name, (_, shape) in tensors_of(file).items()}
    state = single_file.from_ldm_vae(state, dict(ours.config)) if slot == "vae" else state
    prefixes = ("model.diffusion_model.", "model.")
    theirs = {}
    for name, tensor in state.items():
        bare = next((name.removeprefix(prefix) for prefix in prefixes if name.startswith(prefix)), name)
        theirs[bare] = tuple(tensor.shape)
    assert theirs == {name: tuple(tensor.shape) for name, tensor in ours.state_dict().items()}


def test_our_tokenizer_is_clips(tmp_path: Path) -> None:
    tokenizer = transformers.CLIPTokenizer.from_pretrained(extract("clip"))
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
