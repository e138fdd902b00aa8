"""Parts of a diffusers folder with quantised weights come out as the numbers that the scales give."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers
from PIL import Image as PIL
from safetensors.torch import load_file, save_file

from diffusion_local.engine import precision
from diffusion_local.engine.diffusers_engine import DiffusersEngine
from diffusion_local.engine.loading import load_part
from diffusion_local.errors import ModelUnavailable
from diffusion_local.models.catalog import Model, read_folder
from diffusion_local.models.folders import unsupported_quantisation
from scripts.starter.assemble import quantise_folder, quantise_rows
from scripts.starter.models import dequantise_rows
from tests.engine.conftest import Draw
from tests.engine.shrunken import State, z_image
from tests.engine.test_split_files import JOB, SCHEMES, close, nf4, scaled_fp8

SIZES = {"block_out_channels": (8, 16), "norm_num_groups": 4, "latent_channels": 2, "layers_per_block": 1} | {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}


@pytest.fixture
def part(tmp_path: Path) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        diffusers.AutoencoderKL(**SIZES).save_pretrained(tmp_path / "vae")
    return tmp_path / "vae"


def state_of(module: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.detach() for name, tensor in module.state_dict().items()}


def test_int8_rows_are_multiplied_by_their_scales(part: Path) -> None:
    whole = state_of(load_part(diffusers.AutoencoderKL, part, torch.float32))
    quantise_folder(part)
    found = load_part(diffusers.AutoencoderKL, part, torch.float32)
    assert not found.training
    for name, tensor in state_of(found).items():
        assert tensor.dtype == torch.float32
        if tensor.dim() > 1:
            numbers, scales = quantise_rows(whole[name])
            right = (numbers.reshape(len(numbers), -1).float() * scales).reshape(tensor.shape)
            assert torch.equal(tensor, right), name
            assert (tensor - whole[name]).norm() < 0.01 * whole[name].norm(), name
        else:
            assert torch.equal(tensor, whole[name]), name
    assert load_part(diffusers.AutoencoderKL, part, torch.bfloat16).dtype == torch.bfloat16


def test_a_tensor_that_is_missing_is_named(part: Path) -> None:
    quantise_folder(part)
    (file,) = part.glob("*.safetensors")
    state = load_file(file)
    del state["decoder.conv_out.weight"]
    save_file(state, file)
    with pytest.raises(ModelUnavailable, match=r"decoder\.conv_out\.weight"):
        load_part(diffusers.AutoencoderKL, part, torch.float32)


def test_quantised_weights_count_as_they_are_in_memory(starter: Model) -> None:
    found = precision.read(starter.folder)
    assert 21_000_000 < found.parts["unet"] < 21_200_000  # scales do not count
    assert 50 * 2**20 < starter.memory_bytes < 62 * 2**20  # two bytes a number once dequantised


@pytest.mark.parametrize(
    ("method", "problem"),
    [
        ("int8_rows", ""),
        ("bitsandbytes", ""),
        *((each, each) for each in ("auto-round", "torchao", "quanto", "gptq", "compressed-tensors")),
    ],
)
def test_a_method_that_cannot_be_dequantised_is_told_at_the_scan(
    starter: Model, tmp_path: Path, method: str, problem: str
) -> None:
    for path in starter.folder.rglob("*"):
        if path.is_file():
            copy = tmp_path / path.relative_to(starter.folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.symlink_to(path)
    config = tmp_path / "unet/config.json"
    noted = json.loads(config.read_text()) | {"quantization_config": {"quant_method": method}}
    config.unlink()
    config.write_text(json.dumps(noted))
    assert unsupported_quantisation(tmp_path) == problem
    model = read_folder(tmp_path, "m", "M")
    assert model.ready is not bool(problem)
    assert problem in model.problem


@pytest.mark.parametrize(
    ("marks", "title"),
    [
        (("qzeros", "g_idx"), "GPTQ"),
        (("weight._data", "weight._scale"), "quanto"),
        (("weight_qdata",), "torchao"),
    ],
)
def test_a_scheme_that_only_the_tensors_tell_is_told_at_the_scan(
    unet_folder: Path, tmp_path: Path, marks: tuple[str, ...], title: str
) -> None:
    folder = tmp_path / "m"
    shutil.copytree(unet_folder, folder)
    state = linear_weights(folder / "text_encoder")
    stem = next(name for name in state if name.endswith("q_proj.weight")).removesuffix(".weight")
    state |= {f"{stem}.{mark}": torch.zeros(4, dtype=torch.uint8) for mark in marks}
    rewrite(folder / "text_encoder", state, None)
    model = read_folder(folder, "m", "M")
    assert not model.ready
    assert title in model.problem


def test_the_recipe_reads_the_same_numbers_as_the_app(part: Path) -> None:
    quantise_folder(part)
    (file,) = part.glob("*.safetensors")
    found, right = dequantise_rows(load_file(file)), state_of(load_part(diffusers.AutoencoderKL, part, torch.float32))
    assert found.keys() == right.keys()
    assert all(torch.equal(found[name], right[name]) for name in right)


def fp4(state: State) -> tuple[State, State]:
    """bitsandbytes' other 4-bit type."""
    stored, whole = nf4(state)
    renamed = {name.replace("bitsandbytes__nf4", "bitsandbytes__fp4"): each for name, each in stored.items()}
    return renamed, whole


def nf4_with_plain_scales(state: State) -> tuple[State, State]:
    """Without double quantisation, which is bitsandbytes' default: the greatest number of each block as it is."""
    stored, whole = nf4(state)
    for name in [each.removesuffix(".nested_absmax") for each in stored if each.endswith(".nested_absmax")]:
        by, table = stored.pop(f"{name}.nested_absmax"), stored.pop(f"{name}.nested_quant_map")
        note = f"{name}.quant_state.bitsandbytes__nf4"
        facts = json.loads(bytes(stored[note].tolist()))
        offset = facts.pop("nested_offset")
        places = stored[f"{name}.absmax"].long()
        stored[f"{name}.absmax"] = table[places] * by.repeat_interleave(256)[: len(places)] + offset
        del facts["nested_blocksize"], facts["nested_dtype"]
        stored[note] = torch.tensor(list(json.dumps(facts).encode()), dtype=torch.uint8)
    return stored, whole


def fp8(state: State) -> tuple[State, State]:
    """All matrices and convolutions cast to eight bits, without scales."""
    small = {name: each.to(torch.float8_e4m3fn) for name, each in state.items() if each.dim() > 1}
    return state | small, state | {name: each.float() for name, each in small.items()}


BITSANDBYTES = {"quant_method": "bitsandbytes"}
#: By name: how the weights of a part are stored, the note in its configuration, and the precision on its card.
FORMS: dict[str, tuple[Callable[[State], tuple[State, State]], dict[str, Any] | None, str]] = {
    "nf4": (nf4, BITSANDBYTES | {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "nf4"),
    "nf4_with_plain_scales": (nf4_with_plain_scales, BITSANDBYTES | {"load_in_4bit": True}, "nf4"),
    "fp4": (fp4, BITSANDBYTES | {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}, "fp4"),
    "int8": (SCHEMES["bnb_int8"], BITSANDBYTES | {"load_in_8bit": True}, "int8"),
    "fp8": (fp8, None, "fp8_e4m3"),
    "fp8_scaled": (scaled_fp8, None, "fp8_e4m3"),
}


#: Tried in the default suite, the others in the slow one.
FIRST = {("unet", "int8"), ("transformer", "nf4_with_plain_scales")}


def store(part: Path, form: str) -> None:
    """Quantise a part's matrices in place."""
    stored = FORMS[form][0](linear_weights(part))[0]
    rewrite(part, stored, FORMS[form][1])


def store_numbers(part: Path, form: str) -> None:
    """Store in place the numbers that the quantised weights are."""
    rewrite(part, FORMS[form][0](linear_weights(part))[1], None)


def linear_weights(part: Path) -> State:
    """Weights of a part; those that bitsandbytes leaves alone have names that the quantisers of the tests pass over."""
    state: State = {}
    for file in sorted(part.glob("*.safetensors")):
        state |= load_file(file)
    return state


def rewrite(part: Path, state: State, note: dict[str, Any] | None) -> None:
    names = [file.name for file in part.glob("*.safetensors*")]
    for each in names:
        (part / each).unlink()
    target = "model.safetensors" if part.name.startswith("text_encoder") else "diffusion_pytorch_model.safetensors"
    save_file({name: each.contiguous().clone() for name, each in state.items()}, part / target, {"format": "pt"})
    config = json.loads((part / "config.json").read_text())
    config.pop("quantization_config", None)
    (part / "config.json").write_text(json.dumps(config | ({"quantization_config": note} if note else {})))


@pytest.fixture(scope="module")
def transformer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Z-Image: its denoiser is a transformer, its text encoder a language model."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        folder = tmp_path_factory.mktemp("whole") / "z"
        z_image().pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def unet_folder(narrow: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The narrow starter with its weights as plain numbers."""
    folder = tmp_path_factory.mktemp("whole") / "sd"
    names = ("model_index.json", "scheduler", "text_encoder", "tokenizer", "unet", "vae")
    shutil.copytree(
        narrow.folder,
        folder,
        ignore=lambda at, found: set(found) - set(names) if Path(at) == narrow.folder else set(),
    )
    for part, cls in (("unet", diffusers.UNet2DConditionModel), ("text_encoder", transformers.CLIPTextModel)):
        rewrite(folder / part, state_of(load_part(cls, folder / part, torch.float32)), None)
    return folder


@pytest.fixture
def drawn(_diffusers: DiffusersEngine, narrow: Model) -> Iterator[Callable[[Path], PIL.Image]]:
    def draw(folder: Path) -> PIL.Image:
        model = read_folder(folder, "m", "M")
        assert model.ready, model.problem
        _diffusers.load(model)
        return Draw(_diffusers)(model="m", **JOB | {"sampler": "Euler"}).image

    yield draw
    _diffusers.load(narrow)


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        pytest.param(kind, form, marks=() if (kind, form) in FIRST else pytest.mark.slow)
        for kind in ("unet", "transformer")
        for form in FORMS
    ],
)
def test_folders_with_quantised_parts_draw_what_their_numbers_draw(
    request: pytest.FixtureRequest,
    kind: str,
    form: str,
    drawn: Callable[[Path], PIL.Image],
    tmp_path: Path,
) -> None:
    whole = request.getfixturevalue(f"{kind}_folder")
    for name, change in (("quantised", store), ("numbers", store_numbers)):
        shutil.copytree(whole, tmp_path / name)
        for part in (kind, "text_encoder"):
            change(tmp_path / name / part, form)
    quantised, numbers = (read_folder(tmp_path / name, "m", "M") for name in ("quantised", "numbers"))
    most = "fp32" if (kind, form) == ("unet", "fp8_scaled") else FORMS[form][2]  # convolutions are not scaled
    assert (quantised.precision, numbers.precision) == (most, "fp32")
    assert quantised.memory_bytes == pytest.approx(numbers.memory_bytes, rel=1e-3)
    assert precision.read(quantised.path).parts == pytest.approx(precision.read(numbers.path).parts, rel=1e-3)
    assert close(drawn(quantised.path), drawn(numbers.path))
