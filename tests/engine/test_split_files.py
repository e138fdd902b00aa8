"""Models in the files of their parts draw what a diffusers folder of the same weights draws."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES
from PIL import Image as PIL
from safetensors.torch import save_file

from diffusion_local import families
from diffusion_local.engine.diffusers_engine import DiffusersEngine
from diffusion_local.errors import ModelUnavailable
from diffusion_local.models import parts
from diffusion_local.models.catalog import Catalog, Model
from diffusion_local.models.directories import ModelDirectories
from diffusion_local.paths import assets
from tests.engine.conftest import Draw
from tests.engine.shrunken import LAYOUTS, ONCE, Layout, State, as_folder, narrowed
from tests.engine.test_flow_families import difference
from tests.support import tiers

JOB: dict[str, Any] = {"steps": 2, "prompt": "a cat", "width": 64, "height": 64, "guidance": 3.0}


@pytest.fixture(scope="module")
def starter(narrow: Model) -> Model:
    return narrow


@pytest.fixture(scope="module", autouse=True)
def narrow_flux() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("Flux", "Chroma"):
            known = SINGLE_FILE_LOADABLE_CLASSES[f"{name}Transformer2DModel"]
            patch.setitem(known, "checkpoint_mapping_fn", narrowed(name.lower()))
        yield


@pytest.fixture(scope="module", params=tiers(LAYOUTS, first=["z_image"]))
def layout(request: pytest.FixtureRequest) -> Layout:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made: Layout = (LAYOUTS | ONCE)[request.param]()
        return made


def home_of(folder: Path) -> ModelDirectories:
    return ModelDirectories(
        folder / "models", vae=folder / "vae", text_encoders=folder / "text_encoders", configs=folder / "configs"
    )


def catalogue(folder: Path) -> Catalog:
    return Catalog(assets() / "starter", home_of(folder))


@pytest.fixture
def drawn(diffusers_engine: DiffusersEngine) -> Callable[[Model], PIL.Image]:
    def draw(model: Model) -> PIL.Image:
        assert model.ready, model.problem
        diffusers_engine.load(model)
        return Draw(diffusers_engine)(model=model.id, **JOB | {"sampler": "Euler"}).image

    return draw


@pytest.fixture(scope="module")
def whole(layout: Layout, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return as_folder(layout, tmp_path_factory.mktemp("whole") / "models/tiny")


def close(one: PIL.Image, other: PIL.Image) -> bool:
    """Weights in a mapped file lie at other addresses, for which the CPU may choose another way to multiply."""
    return difference(one, other) <= 1


@pytest.mark.parametrize("layout", tiers([*LAYOUTS, *ONCE], first=["flux"]), indirect=True)
def test_split_files_draw_what_the_folder_draws(
    layout: Layout, whole: Path, drawn: Callable[[Model], PIL.Image], tmp_path: Path
) -> None:
    layout.write(tmp_path)
    model = catalogue(tmp_path).get("tiny")
    assert (model.family, model.source) == (layout.family, "file")
    assert {each.slot for each in model.sources} >= {"transformer", "vae", "text_encoder"}
    assert close(drawn(model), drawn(Catalog(assets() / "starter", whole.parent).get("tiny")))


def matrices(state: State) -> list[str]:
    return [name for name, each in state.items() if each.dim() == 2 and name.endswith(".weight") and "norm" not in name]


def eight_bits(state: State) -> tuple[State, State]:
    """A file in plain fp8, and what its numbers are."""
    small = {name: state[name].to(torch.float8_e4m3fn) for name in matrices(state)}
    return state | small, state | {name: each.float() for name, each in small.items()}


def scaled_fp8(state: State) -> tuple[State, State]:
    stored, whole = dict(state) | {"scaled_fp8": torch.empty(2, dtype=torch.float8_e4m3fn)}, dict(state)
    for name in matrices(state):
        scale = state[name].abs().max() / 448
        stored[name] = (state[name] / scale).to(torch.float8_e4m3fn)
        stored[name.removesuffix("weight") + "scale_weight"] = scale
        stored[name.removesuffix("weight") + "scale_input"] = torch.tensor(1.0)
        whole[name] = stored[name].float() * scale
    return stored, whole


def comfy_quant(state: State) -> tuple[State, State]:
    stored, whole = dict(state), dict(state)
    note = torch.tensor(list(b'{"format": "float8_e4m3fn"}'), dtype=torch.uint8)
    for name in matrices(state):
        stem = name.removesuffix("weight")
        scale = state[name].abs().max() / 448
        stored[name] = (state[name] / scale).to(torch.float8_e4m3fn)
        stored |= {f"{stem}weight_scale": scale, f"{stem}comfy_quant": note.clone()}
        whole[name] = stored[name].float() * scale
    return stored, whole


def int8_rows(state: State) -> tuple[State, State]:
    """As bitsandbytes writes it: each row with its greatest number."""
    stored, whole = dict(state), dict(state)
    for name in matrices(state):
        stem = name.removesuffix("weight")
        greatest = state[name].abs().amax(dim=1)
        stored[name] = (state[name] / greatest[:, None] * 127).round().to(torch.int8)
        stored |= {f"{stem}SCB": greatest, f"{stem}weight_format": torch.tensor(0, dtype=torch.uint8)}
        whole[name] = stored[name].float() * (greatest[:, None] / 127)
    return stored, whole


NF4 = torch.tensor([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
])  # fmt: skip


def nf4(state: State) -> tuple[State, State]:
    """Blocks of 64 numbers, two in a byte, with the blocks' greatest numbers in 8 bits themselves."""
    stored, whole = dict(state), dict(state)
    for name in matrices(state):
        blocks = state[name].reshape(-1, 64)
        greatest = blocks.abs().amax(dim=1)
        offset = greatest.mean()
        groups = torch.nn.functional.pad(greatest - offset, (0, -len(greatest) % 256)).reshape(-1, 256)
        by = groups.abs().amax(dim=1)
        table = torch.linspace(-1, 1, 256)
        places = (groups / by[:, None] * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8).flatten()[: len(greatest)]
        rough = table[places.long()] * by.repeat_interleave(256)[: len(greatest)] + offset
        codes = (blocks / rough[:, None])[..., None].sub(NF4).abs().argmin(dim=-1).flatten()
        facts = {
            "quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": list(state[name].shape),
            "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": float(offset),
        }  # fmt: skip
        stored[name] = (codes[::2] * 16 + codes[1::2]).to(torch.uint8)[:, None]
        stored |= {
            f"{name}.absmax": places, f"{name}.quant_map": NF4.clone(), f"{name}.nested_absmax": by,
            f"{name}.nested_quant_map": table,
            f"{name}.quant_state.bitsandbytes__nf4": torch.tensor(list(json.dumps(facts).encode()), dtype=torch.uint8),
        }  # fmt: skip
        whole[name] = (NF4[codes].reshape(-1, 64) * rough[:, None]).reshape(state[name].shape)
    return stored, whole


SCHEMES = {
    "fp8": eight_bits, "fp8_scaled": scaled_fp8, "comfy_quant": comfy_quant, "bnb_int8": int8_rows, "bnb_nf4": nf4,
}  # fmt: skip


#: The first tier has one, the second each scheme with each family; nf4 and int8 are also in test_loading_quantised.
FIRST = {("z_image", "fp8_scaled")}
PAIRS = [
    pytest.param(layout, scheme, marks=() if (layout, scheme) in FIRST else pytest.mark.slow, id=f"{layout}-{scheme}")
    for layout in LAYOUTS
    for scheme in SCHEMES
]


@pytest.mark.parametrize(("layout", "scheme"), PAIRS, indirect=["layout"])
def test_quantised_files_draw_what_their_numbers_draw(
    layout: Layout, scheme: str, drawn: Callable[[Model], PIL.Image], tmp_path: Path
) -> None:
    pictures = []
    for kind in (0, 1):
        layout.write(tmp_path / str(kind), lambda state: SCHEMES[scheme](state)[kind])  # noqa: B023
        model = catalogue(tmp_path / str(kind)).get("tiny")
        assert model.probe is not None
        assert model.probe.quantisation == ("" if kind else scheme)
        pictures.append(drawn(model))
    assert close(*pictures)


def test_a_file_with_all_parts_draws_what_the_folder_draws(
    layout: Layout, whole: Path, drawn: Callable[[Model], PIL.Image], tmp_path: Path
) -> None:
    """As programs save a checkpoint: each part under a prefix of its own."""
    prefixes = {"models": "model.diffusion_model.", "vae": "vae."}
    state: State = {}
    for place, held in layout.parts.items():
        folder, _, name = place.partition("/")
        prefix = prefixes.get(folder) or f"text_encoders.{name.removesuffix('.safetensors')}.transformer."
        bare = {key.removeprefix("model.diffusion_model."): each for key, each in held.items()}
        state |= {key if key.startswith("first_stage_model.") else prefix + key: each for key, each in bare.items()}
    (tmp_path / "models").mkdir()
    save_file({name: each.contiguous().clone() for name, each in state.items()}, tmp_path / "models/tiny.safetensors")
    layout.configure(tmp_path)
    model = catalogue(tmp_path).get("tiny")
    assert {each.path.name for each in model.sources} == {"tiny.safetensors"}
    assert close(drawn(model), drawn(Catalog(assets() / "starter", whole.parent).get("tiny")))


@pytest.mark.parametrize(
    "kind", [torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.slow)], ids=["fp16", "bf16"]
)
@pytest.mark.slow
def test_half_precision_is_read_as_it_is(
    layout: Layout, kind: torch.dtype, drawn: Callable[[Model], PIL.Image], tmp_path: Path
) -> None:
    def halved(state: State) -> State:
        return {name: each.to(kind) for name, each in state.items()}

    layout.write(tmp_path / "half", halved)
    layout.write(tmp_path / "full", lambda state: {name: each.float() for name, each in halved(state).items()})
    assert close(*(drawn(catalogue(tmp_path / place).get("tiny")) for place in ("half", "full")))


def test_what_is_missing_is_named_and_found_once_it_is_there(layout: Layout, tmp_path: Path) -> None:
    denoiser = layout.write(tmp_path)
    away = [path for path in tmp_path.glob("*/*.safetensors") if path != denoiser]
    kept = {path: path.rename(path.with_suffix(".away")) for path in away}
    shelf = catalogue(tmp_path)
    model = shelf.get("tiny")
    assert (model.ready, model.state) == (False, "incomplete")
    for part in families.ARCHITECTURES[model.architecture].parts:
        own = any(each.id in (part, parts.LATENTS.get(part)) for each in model.probe.held) if model.probe else False
        assert (parts.title_of(part) in model.problem) is not own
    for path, name in kept.items():
        name.rename(path)
    assert next(each for each in shelf.all() if each.id == "tiny").ready


def test_a_tensor_that_is_missing_is_named(
    layout: Layout, diffusers_engine: DiffusersEngine, tmp_path: Path, starter: Model
) -> None:
    def without_last(state: State) -> State:
        last = next(name for name in state if "final_layer.linear.weight" in name)
        return {name: each for name, each in state.items() if name != last}

    layout.write(tmp_path, without_last)
    with pytest.raises(ModelUnavailable, match="cannot be loaded"):
        diffusers_engine.load(catalogue(tmp_path).get("tiny"))
    diffusers_engine.load(starter)
