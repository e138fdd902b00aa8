"""LoRAs and their kin draw what a model draws whose weights were changed by hand, and leave no trace."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PIL
from safetensors.torch import save_file

from diffusion_local.engine import adapters, hooked, weight_deltas
from diffusion_local.engine.adapter_names import Layers
from diffusion_local.engine.diffusers_engine import DiffusersEngine
from diffusion_local.engine.graphs import denoiser_of
from diffusion_local.engine.inputs import PictureInputs
from diffusion_local.errors import ModelUnavailable
from diffusion_local.models.catalog import Model, read_folder
from diffusion_local.models.loras import read_lora
from diffusion_local.options.types import Lora
from tests.engine import tiny
from tests.engine.conftest import Draw
from tests.engine.home import Home
from tests.engine.test_flow_families import flux, sd3
from tests.support import tiers

Tensors = dict[str, torch.Tensor]
RANK = 2


@pytest.fixture(scope="module")
def starter(narrow: Model) -> Model:
    return narrow


class Random:
    def __init__(self) -> None:
        self._generator = torch.Generator().manual_seed(5)

    def __call__(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self._generator) * 0.3


def lora(weight: torch.Tensor, random: Random) -> tuple[Tensors, torch.Tensor]:
    up, down = random(weight.shape[0], RANK), random(RANK, *weight.shape[1:])
    if weight.ndim == 4:
        up = up[:, :, None, None]
    parts = {"lora_up.weight": up, "lora_down.weight": down, "alpha": torch.tensor(1.0)}
    return parts, (up.flatten(1) @ down.flatten(1)).reshape(weight.shape) * (1.0 / RANK)


def locon_mid(weight: torch.Tensor, random: Random) -> tuple[Tensors, torch.Tensor]:
    if weight.ndim == 2:
        return lora(weight, random)
    rows, columns, *size = weight.shape
    up, mid, down = random(rows, RANK, 1, 1), random(RANK, RANK, *size), random(RANK, columns, 1, 1)
    change = torch.zeros_like(weight)
    for p in range(RANK):
        for q in range(RANK):
            outer = up[:, p, 0, 0][:, None] * down[q, :, 0, 0][None, :]
            change += outer[:, :, None, None] * mid[p, q][None, None]
    return {"lora_up.weight": up, "lora_mid.weight": mid, "lora_down.weight": down}, change


def loha(weight: torch.Tensor, random: Random) -> tuple[Tensors, torch.Tensor]:
    rows, columns = weight.flatten(1).shape
    a1, a2, b1, b2 = random(rows, RANK), random(rows, RANK), random(RANK, columns), random(RANK, columns)
    parts = {"hada_w1_a": a1, "hada_w1_b": b1, "hada_w2_a": a2, "hada_w2_b": b2, "alpha": torch.tensor(3.0)}
    return parts, ((a1 @ b1) * (a2 @ b2)).reshape(weight.shape) * (3.0 / RANK)


def lokr(weight: torch.Tensor, random: Random) -> tuple[Tensors, torch.Tensor]:
    rows, columns, *size = weight.shape
    small = random(2, 2)
    if size:  # the large one is a whole kernel, and the strength has no say
        large = random(rows // 2, columns // 2, *size)
        parts = {"lokr_w1": small, "lokr_w2": large, "alpha": torch.tensor(99.0)}
        blocks = [[small[i, j] * large for j in range(2)] for i in range(2)]
        return parts, torch.cat([torch.cat(row, dim=1) for row in blocks])
    a, b = random(rows // 2, RANK), random(RANK, columns // 2)
    parts = {"lokr_w1": small, "lokr_w2_a": a, "lokr_w2_b": b, "alpha": torch.tensor(1.0)}
    return parts, torch.from_numpy(np.kron(small.numpy(), (a @ b).numpy())) * (1.0 / RANK)


def diff(weight: torch.Tensor, random: Random) -> tuple[Tensors, torch.Tensor]:
    change = random(*weight.shape) * 0.2
    return {"diff": change}, change


def dora_rows(weight: torch.Tensor, random: Random) -> tuple[Tensors, torch.Tensor]:
    parts, change = lora(weight, random)
    magnitude = random(weight.shape[0], *[1] * (weight.ndim - 1)).abs() + 0.5
    merged = weight + change
    norms = torch.stack([row.norm() for row in merged]).reshape(magnitude.shape)
    return parts | {"dora_scale": magnitude}, magnitude * merged / norms - weight


def dora_columns(weight: torch.Tensor, random: Random) -> tuple[Tensors, torch.Tensor]:
    parts, change = lora(weight, random)
    magnitude = random(1, weight.shape[1], *[1] * (weight.ndim - 2)).abs() + 0.5
    merged = weight + change
    norms = torch.stack([column.norm() for column in merged.transpose(0, 1)]).reshape(magnitude.shape)
    return parts | {"dora_scale": magnitude}, magnitude * merged / norms - weight


def rotation(generator: torch.Tensor) -> torch.Tensor:
    """Cayley's transform of the skew part of a square matrix."""
    skew, one = (generator - generator.T).numpy().astype(np.float64), np.eye(len(generator))
    return torch.from_numpy(np.linalg.solve((one - skew).T, (one + skew).T).T)


def oft(weight: torch.Tensor, random: Random) -> tuple[Tensors, torch.Tensor]:
    """Two groups of rows, each with a rotation of its own, and a scale of each row."""
    size = len(weight) // 2
    blocks = torch.stack([random(size, size) * 0.2 for _ in range(2)])
    scales = random(len(weight), 1).abs() + 0.5
    whole = torch.block_diag(*(rotation(each).T for each in blocks)).float()
    new = (whole @ weight.flatten(1)) * scales
    parts = {"oft_blocks": blocks, "alpha": torch.tensor(0.0), "rescale": scales}
    return parts, new.reshape(weight.shape) - weight


def oft_limited(weight: torch.Tensor, random: Random) -> tuple[Tensors, torch.Tensor]:
    """``alpha`` times the number of rows limits the norm of all generators together."""
    block, limit = random(len(weight), len(weight)), 1.5
    skew = block - block.T
    turn = rotation(torch.triu(skew, 1) * (limit / skew.norm()))
    parts = {"oft_blocks": block[None], "alpha": torch.tensor(limit / len(weight))}
    return parts, (turn.T.float() @ weight.flatten(1)).reshape(weight.shape) - weight


def boft(weight: torch.Tensor, random: Random) -> tuple[Tensors, torch.Tensor]:
    """Two levels of a butterfly of pairs: neighbours first, then rows at a distance of two."""
    count = len(weight) // 2
    blocks = torch.stack([torch.stack([random(2, 2) for _ in range(count)]) for _ in range(2)])
    rows = weight.flatten(1).clone()
    for level, distance in enumerate((1, 2)):
        firsts = [row for row in range(len(rows)) if row // distance % 2 == 0]
        for block, first in zip(blocks[level], firsts, strict=True):
            pair = [first, first + distance]
            rows[pair] = rotation(block).float() @ rows[pair]
    return {"oft_blocks": blocks, "alpha": torch.tensor(0.0)}, rows.reshape(weight.shape) - weight


def oft_of_peft(weight: torch.Tensor, random: Random) -> tuple[Tensors, torch.Tensor]:
    """Columns in groups, rotated by peft itself."""
    from peft.tuners.oft.layer import OFTRotationModule

    columns, size = weight[0].numel(), 8
    rotor = OFTRotationModule(columns // size, size * (size - 1) // 2, size, columns)
    rotor.weight.data = random(columns // size, size * (size - 1) // 2) * 0.3
    with torch.no_grad():
        turn = rotor.get_weight()
    return {"oft_R.weight": rotor.weight.data}, (weight.flatten(1) @ turn.T).reshape(weight.shape) - weight


def ia3(weight: torch.Tensor, random: Random) -> tuple[Tensors, torch.Tensor]:
    """Columns of linear layers and rows of convolutions, as LyCORIS writes it."""
    by_column = weight.ndim == 2
    shape = (1, weight.shape[1]) if by_column else (len(weight), 1, 1, 1)
    factors = random(*shape)
    return {"weight": factors, "on_input": torch.tensor(by_column)}, weight * factors


def glora(weight: torch.Tensor, random: Random) -> tuple[Tensors, torch.Tensor]:
    """A low-rank change, and one that each column takes from the others; of a kernel, each place alike."""
    rows, columns, *size = weight.shape
    a1, a2 = random(columns, RANK), random(RANK, columns)
    b1, b2 = random(rows, RANK), random(RANK, columns, *size)
    change = (b1 @ b2.flatten(1)).reshape(weight.shape)
    for place in np.ndindex(*size):
        change[(..., *place)] += weight[(..., *place)] @ (a1 @ a2)
    parts = {"a1.weight": a1, "a2.weight": a2, "b1.weight": b1, "b2.weight": b2, "alpha": torch.tensor(1.0)}
    return parts, change * (1.0 / RANK)


def glora_of_old_files(weight: torch.Tensor, random: Random) -> tuple[Tensors, torch.Tensor]:
    parts, change = glora(weight, random)
    swapped = {"a1": "a2", "a2": "a1", "b1": "b2", "b2": "b1"}
    return {f"{swapped.get(name[:2], name[:2])}{name[2:]}": each for name, each in parts.items()}, change


METHODS = [
    glora,
    glora_of_old_files,
    lora,
    locon_mid,
    loha,
    lokr,
    diff,
    dora_rows,
    dora_columns,
    oft,
    oft_limited,
    boft,
    oft_of_peft,
    ia3,
]
JOB = {"steps": 2, "guidance": 3.0, "seed": 7}


def difference(one: PIL.Image, other: PIL.Image) -> int:
    return int(np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).max())


def changed(part: torch.nn.Module, ends: tuple[str, ...]) -> dict[str, torch.nn.Module]:
    found = {name: module for name, module in part.named_modules() if name.endswith(ends)}
    assert found
    return found


@pytest.fixture
def merged() -> Iterator[Callable[[torch.nn.Module, torch.Tensor], None]]:
    """Adds to weights, which are as they were afterwards."""
    kept: list[tuple[Any, torch.Tensor]] = []

    def add(module: Any, change: torch.Tensor) -> None:
        kept.append((module, module.weight.data.clone()))
        module.weight.data += change

    yield add
    for module, weight in kept:
        module.weight.data.copy_(weight)


class Net(torch.nn.Module):
    """A denoiser of two layers."""

    dtype = torch.float32

    def __init__(self) -> None:
        super().__init__()
        self.to_q = torch.nn.Linear(16, 8)
        self.conv1 = torch.nn.Conv2d(16, 8, 3)


@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_a_method_changes_layers_as_merged_weights_do(method: Any) -> None:
    net, random = Net(), Random()
    pipe = SimpleNamespace(unet=net, _execution_device="cpu")
    given = {"to_q": random(5, 16), "conv1": random(2, 16, 6, 6)}

    def outputs() -> list[torch.Tensor]:
        return [net.get_submodule(name)(each) for name, each in given.items()]

    tensors: Tensors = {}
    changes = {}
    for name in given:
        parts, changes[name] = method(net.get_submodule(name).weight.data, random)
        tensors |= {f"lora_unet_{name}.{end}": tensor.contiguous() for end, tensor in parts.items()}
    plain = outputs()
    adapter = hooked.HookedAdapter(pipe, tensors, "sd")
    ours = outputs()
    adapter.weight = 0.5
    half = outputs()
    adapter.remove()
    assert all(map(torch.equal, outputs(), plain))
    for name, change in changes.items():
        net.get_submodule(name).weight.data += change
    for made, middle, before, expected in zip(ours, half, plain, outputs(), strict=True):
        assert torch.allclose(made, expected, atol=1e-4)
        assert torch.allclose(middle, (before + expected) / 2, atol=1e-4)
        assert not torch.allclose(before, expected, atol=1e-2)


@pytest.mark.parametrize("method", tiers(METHODS, first=[dora_rows]))
def test_a_method_draws_what_merged_weights_draw(
    draw_at_home: Draw, at_home: Home, diffusers_engine: DiffusersEngine, method: Any, merged: Any
) -> None:
    """Linear layers and convolutions of the UNet and a text encoder, under kohya's names."""
    assert diffusers_engine._loaded is not None
    pipe, random = diffusers_engine._loaded.pipe, Random()
    bare = draw_at_home(**JOB).image
    layers = {f"lora_unet_{name}": module for name, module in changed(pipe.unet, ("to_q", "conv1", "proj_in")).items()}
    layers |= {f"lora_te_text_model_{name}": each for name, each in changed(pipe.text_encoder, ("q_proj",)).items()}
    tensors: Tensors = {}
    changes = []
    for name, module in layers.items():
        parts, change = method(module.weight.data, random)
        tensors |= {f"{name.replace('.', '_')}.{end}": tensor.contiguous() for end, tensor in parts.items()}
        changes.append((module, change))
    save_file(tensors, at_home.settings.loras / "mine.safetensors")
    ours = draw_at_home(**JOB, loras=(Lora("mine"),)).image
    half = draw_at_home(**JOB, loras=(Lora("mine", 0.5),)).image
    assert draw_at_home(**JOB).image.tobytes() == bare.tobytes()
    for module, change in changes:
        merged(module, change)
    diffusers_engine._loaded.prompts.clear()
    by_hand = draw_at_home(**JOB).image
    diffusers_engine._loaded.prompts.clear()
    assert difference(ours, by_hand) <= 1
    assert difference(by_hand, bare) > 8
    assert len({half.tobytes(), ours.tobytes(), bare.tobytes()}) == 3


@pytest.mark.parametrize("ends", [("w_norm", "b_norm"), ("w_norm",), ("b_norm",)])
@torch.no_grad()
def test_norms_are_changed_as_merged_ones(ends: tuple[str, ...]) -> None:
    class Norms(Net):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = torch.nn.LayerNorm(16), torch.nn.GroupNorm(4, 16)

    net, random = Norms(), Random()
    given = {"norm1": random(5, 16), "norm2": random(2, 16, 6, 6)}
    tensors = {f"lora_unet_{name}.{end}": random(16) for name in given for end in ends}
    plain = [net.get_submodule(name)(each) for name, each in given.items()]
    adapter = hooked.HookedAdapter(SimpleNamespace(unet=net, _execution_device="cpu"), tensors, "sd")
    ours = [net.get_submodule(name)(each) for name, each in given.items()]
    adapter.remove()
    for name in given:
        module: Any = net.get_submodule(name)
        module.weight += tensors.get(f"lora_unet_{name}.w_norm", 0)
        module.bias += tensors.get(f"lora_unet_{name}.b_norm", 0)
    merged = [net.get_submodule(name)(each) for name, each in given.items()]
    for made, before, expected in zip(ours, plain, merged, strict=True):
        assert torch.allclose(made, expected, atol=1e-5)
        assert not torch.allclose(before, expected, atol=1e-2)


def test_a_norm_of_another_size_or_kind_is_refused() -> None:
    for name, size in (("norm", 8), ("to_q", 16)):
        net = Net()
        net.norm = torch.nn.LayerNorm(16)
        pipe = SimpleNamespace(unet=net, _execution_device="cpu")
        with pytest.raises(ValueError, match="mismatch"):
            hooked.HookedAdapter(pipe, {f"lora_unet_{name}.w_norm": torch.zeros(size)}, "sd")


def test_both_ways_of_applying_add_up(draw_at_home: Draw, at_home: Home, diffusers_engine: DiffusersEngine) -> None:
    """One adapter through peft and one by hooks, in either order, and each alone again."""
    assert diffusers_engine._loaded is not None
    module_name = next(iter(changed(diffusers_engine._loaded.pipe.unet, ("to_q",))))
    weight = diffusers_engine._loaded.pipe.unet.get_submodule(module_name).weight.data
    for name, method in (("plain", lora), ("hada", loha)):
        parts, _ = method(weight, Random())
        start = f"lora_unet_{module_name.replace('.', '_')}"
        save_file(
            {f"{start}.{end}": tensor for end, tensor in parts.items()}, at_home.settings.loras / f"{name}.safetensors"
        )
    bare = draw_at_home(**JOB).image.tobytes()
    alone = [draw_at_home(**JOB, loras=(Lora(name),)).image.tobytes() for name in ("plain", "hada")]
    both = draw_at_home(**JOB, loras=(Lora("plain"), Lora("hada"))).image.tobytes()
    assert len({bare, both, *alone}) == 4
    assert draw_at_home(**JOB, loras=(Lora("plain"),)).image.tobytes() == alone[0]
    assert draw_at_home(**JOB, loras=(Lora("hada"), Lora("plain"))).image.tobytes() == both
    assert draw_at_home(**JOB, loras=(Lora("hada"),)).image.tobytes() == alone[1]
    assert draw_at_home(**JOB).image.tobytes() == bare


def test_an_adapter_with_a_layer_that_the_model_lacks_is_named(draw_at_home: Draw, at_home: Home) -> None:
    bare = draw_at_home(**JOB).image.tobytes()
    parts, _ = loha(torch.zeros(8, 8), Random())
    save_file(
        {f"lora_unet_down_blocks_9_attn.{end}": tensor for end, tensor in parts.items()},
        at_home.settings.loras / "mine.safetensors",
    )
    with pytest.raises(ModelUnavailable, match="has no layer 'lora_unet_down_blocks_9_attn'"):
        draw_at_home(**JOB, loras=(Lora("mine"),))
    assert draw_at_home(**JOB).image.tobytes() == bare


@pytest.mark.parametrize("method", tiers([lora, loha], first=[lora]))
def test_layers_that_the_scan_found_in_no_model_are_left_out_and_recorded(
    draw_at_home: Draw, at_home: Home, diffusers_engine: DiffusersEngine, method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert diffusers_engine._loaded is not None
    name, module = next(iter(changed(diffusers_engine._loaded.pipe.unet, ("to_q",)).items()))
    assert isinstance(module.weight, torch.Tensor)
    parts, _ = method(module.weight.data, Random())
    whole = {f"lora_unet_{name.replace('.', '_')}.{end}": tensor for end, tensor in parts.items()}
    more = {f"lora_unet_strange_0_to_q.{end}": tensor for end, tensor in parts.items()}
    save_file(whole, at_home.settings.loras / "whole.safetensors")
    save_file(
        whole | {key: tensor.clone() for key, tensor in more.items()}, at_home.settings.loras / "more.safetensors"
    )

    def read(header: Any) -> Any:  # a tiny model is of no known base
        found = read_lora(header)
        found.foreign = ("strange_#_to_q",) if any("strange" in key for key in header.tensors) else ()
        return found

    monkeypatch.setattr(adapters, "read_lora", read)
    fitting, partly = (draw_at_home(**JOB, loras=(Lora(each),)) for each in ("whole", "more"))
    assert partly.image.tobytes() == fitting.image.tobytes()
    assert partly.facts["lora_layers_left_out"] == {"more": ["strange_#_to_q"]}
    assert "lora_layers_left_out" not in fitting.facts


#: Families, with names of their authors that stand for one layer or for several: (name, layers in the order of rows).
BLOCK = "transformer_blocks.0"
ORIGINAL: dict[str, list[tuple[str, tuple[str, ...]]]] = {
    "flux": [
        ("double_blocks.0.img_attn.qkv", (f"{BLOCK}.attn.to_q", f"{BLOCK}.attn.to_k", f"{BLOCK}.attn.to_v")),
        ("double_blocks.0.txt_mlp.2", (f"{BLOCK}.ff_context.net.2",)),
        (
            "single_blocks.0.linear1",
            (*(f"single_{BLOCK}.attn.to_{each}" for each in "qkv"), f"single_{BLOCK}.proj_mlp"),
        ),
    ],
    "sd3": [
        ("joint_blocks.0.x_block.attn.qkv", tuple(f"{BLOCK}.attn.to_{each}" for each in "qkv")),
        ("joint_blocks.0.x_block.mlp.fc1", (f"{BLOCK}.ff.net.0.proj",)),
    ],
    "chroma": [
        ("double_blocks.0.txt_attn.qkv", tuple(f"{BLOCK}.attn.add_{each}_proj" for each in "qkv")),
        ("single_blocks.0.linear2", (f"single_{BLOCK}.proj_out",)),
    ],
    "lumina2": [
        ("layers.0.attention.qkv", tuple(f"layers.0.attn.to_{each}" for each in "qkv")),
        ("layers.0.feed_forward.w2", ("layers.0.feed_forward.linear_2",)),
    ],
    "qwen_image": [(f"{BLOCK}.attn.to_q", (f"{BLOCK}.attn.to_q",))],
    "krea2": [("blocks.0.attn.wq", (f"{BLOCK}.attn.to_q",)), ("blocks.0.mlp.gate", (f"{BLOCK}.ff.gate",))],
    "flux2_dev": [("single_blocks.0.linear1", (f"single_{BLOCK}.attn.to_qkv_mlp_proj",))],
    "aura_flow": [
        ("joint_transformer_blocks.0.attn.to_v", ("joint_transformer_blocks.0.attn.to_v",)),
        ("proj_out", ("proj_out",)),
    ],
    "cogview4": [(f"{BLOCK}.attn1.to_q", (f"{BLOCK}.attn1.to_q",))],
    "hidream": [("double_stream_blocks.0.block.attn1.to_q", ("double_stream_blocks.0.block.attn1.to_q",))],
    "ernie_image": [
        ("layers.0.self_attention.to_v", ("layers.0.self_attention.to_v",)),
        ("final_linear", ("final_linear",)),
    ],
}
#: What layouts write before a name and instead of its dots, and how they call the two matrices.
LAYOUTS = {
    "comfy": ("diffusion_model.", ".", "lora_A.weight", "lora_B.weight"),
    "comfy whole": ("model.diffusion_model.", ".", "lora_down.weight", "lora_up.weight"),
    "peft": ("base_model.model.", ".", "lora_A.weight", "lora_B.weight"),
    "bare": ("", ".", "lora_A.weight", "lora_B.weight"),
    "kohya": ("lora_unet_", "_", "lora_down.weight", "lora_up.weight"),
    "onetrainer": ("lora_transformer_", "_", "lora_down.weight", "lora_up.weight"),
}


def made(family: str, starter: Model) -> Any:
    """A tiny pipeline."""
    known = {"flux": flux, "sd3": sd3}
    return known[family](starter) if family in known else tiny.MAKERS[family]()


@pytest.mark.parametrize("family", ORIGINAL)
def test_each_layout_of_each_family_names_its_layers(family: str, starter: Model) -> None:
    pipe = made(family, starter)
    denoiser = denoiser_of(pipe)
    for prefix, dot, first, second in LAYOUTS.values():
        tensors, expected = {}, []
        for name, layers in ORIGINAL[family]:
            tensors |= {f"{prefix}{name.replace('.', dot)}.{end}": torch.zeros(1) for end in (first, second)}
            row = 0
            for module in map(denoiser.get_submodule, layers):
                rows = slice(row, row := row + module.weight.shape[0]) if len(layers) > 1 else None
                expected.append((module, rows))
        found = list(hooked.match_layers(pipe, tensors, family))
        assert [(module, rows) for module, _, rows in found] == expected
        assert all(set(parts) == {"up", "down"} for _, parts, _ in found)


@pytest.fixture(scope="module", params=tiers(ORIGINAL, first=["flux"]))
def model(request: pytest.FixtureRequest, starter: Model, tmp_path_factory: pytest.TempPathFactory) -> Model:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        folder: Path = tmp_path_factory.mktemp("models") / "tiny"
        made(request.param, starter).save_pretrained(folder)
    return read_folder(folder, "tiny", request.param)


@pytest.fixture
def draw(diffusers_engine: DiffusersEngine, model: Model, at_home: Home, monkeypatch: pytest.MonkeyPatch) -> Draw:
    monkeypatch.setattr(
        diffusers_engine, "_materials", PictureInputs(at_home.settings, at_home.services.files.open_source)
    )
    diffusers_engine.load(model)
    return Draw(diffusers_engine)


def test_each_layout_of_each_family_draws_what_merged_weights_draw(draw: Draw, at_home: Home, merged: Any) -> None:
    engine: Any = draw.engine
    family, denoiser = engine._loaded.model.name, denoiser_of(engine._loaded.pipe)
    job = JOB | {"model": "tiny", "sampler": "Euler", "width": 64, "height": 64}
    bare = draw(**job).image
    matrices, changes = {}, []
    random = Random()
    for name, layers in ORIGINAL[family]:
        modules = [denoiser.get_submodule(layer) for layer in layers]
        rows = sum(module.weight.shape[0] for module in modules)
        up, down = random(rows, RANK) * 10, random(RANK, modules[0].weight.shape[1]) * 10
        matrices[name] = up, down
        changes += zip(modules, (up @ down).split([module.weight.shape[0] for module in modules]), strict=True)
    for layout, (prefix, dot, first, second) in LAYOUTS.items():
        tensors = {}
        for name, (up, down) in matrices.items():
            stem = f"{prefix}{name.replace('.', dot)}"
            tensors |= {f"{stem}.{first}": down, f"{stem}.{second}": up}
        save_file(tensors, at_home.settings.loras / f"{layout}.safetensors")
    drawn = {layout: draw(**job, loras=(Lora(layout),)).image for layout in LAYOUTS}
    assert draw(**job).image.tobytes() == bare.tobytes()
    for module, change in changes:
        merged(module, change)
    by_hand = draw(**job).image
    assert difference(by_hand, bare) > 1
    assert {layout: difference(picture, by_hand) <= 1 for layout, picture in drawn.items()} == dict.fromkeys(
        LAYOUTS, True
    )


@pytest.mark.parametrize(
    ("original", "ours"),
    [
        (
            "input_blocks_1_1_transformer_blocks_0_attn1_to_q",
            "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
        ),
        ("input_blocks_2_0_in_layers_2", "down_blocks.0.resnets.1.conv1"),
        ("input_blocks_3_0_op", "down_blocks.0.downsamplers.0.conv"),
        ("middle_block_1_proj_in", "mid_block.attentions.0.proj_in"),
        ("middle_block_2_out_layers_3", "mid_block.resnets.1.conv2"),
        ("output_blocks_4_1_proj_out", "up_blocks.1.attentions.1.proj_out"),
        ("output_blocks_2_1_conv", "up_blocks.0.upsamplers.0.conv"),
        ("output_blocks_3_0_skip_connection", "up_blocks.1.resnets.0.conv_shortcut"),
        ("time_embed_0", "time_embedding.linear_1"),
    ],
)
def test_names_of_the_original_unet_stand_for_diffusers_layers(original: str, ours: str) -> None:
    assert Layers([ours]).with_name(original) == (ours,)
    assert Layers([ours]).with_name(ours) == (ours,)
    assert Layers([ours]).with_name("input_blocks_8_0_in_layers_2") == ()


def test_a_product_in_a_cores_form_is_that_of_its_factors() -> None:
    """LoHa and LoKr with a core for the kernel (Tucker), element by element."""
    random = Random()
    parts = {name: random(*shape) for name, shape in {
        "hada_t1": (RANK, RANK, 3, 3), "hada_w1_a": (RANK, 4), "hada_w1_b": (RANK, 6),
        "hada_t2": (RANK, RANK, 3, 3), "hada_w2_a": (RANK, 4), "hada_w2_b": (RANK, 6),
    }.items()}  # fmt: skip
    found = weight_deltas.weight_delta(parts)
    assert found.shape == (4, 6, 3, 3)

    def half(number: int, o: int, i: int, y: int, x: int) -> float:
        core, a, b = (parts[f"hada_{name}"] for name in (f"t{number}", f"w{number}_a", f"w{number}_b"))
        return sum(float(core[p, q, y, x] * a[p, o] * b[q, i]) for p in range(RANK) for q in range(RANK))

    assert abs(float(found[3, 5, 1, 2]) - half(1, 3, 5, 1, 2) * half(2, 3, 5, 1, 2)) < 1e-5


def test_ia3_of_peft_multiplies_the_bias_too() -> None:
    layer, given = torch.nn.Linear(6, 4), torch.randn(3, 6)
    factors = torch.rand(4, 1) + 0.5
    with torch.no_grad():
        found = layer(given) + hooked.output_delta(layer, {"ia3": factors}, None, layer.weight, given)
        assert torch.allclose(found, layer(given) * factors.T, atol=1e-5)


def test_oft_of_several_layers_in_one_is_an_error() -> None:
    with pytest.raises(ValueError, match="rows of several layers"):
        weight_deltas.multiplied(torch.ones(4, 4), {"oft": torch.zeros(1, 4, 4)}, slice(0, 4))
