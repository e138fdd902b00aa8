"""Blocks that come and go: the same pictures, in bounded memory, whatever is done to the model meanwhile.

The CPU is the device here: copies are made in their order, and the numbers are those of the resident model.
"""

import gc
import importlib
import json
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import init_empty_weights
from accelerate.hooks import add_hook_to_module, remove_hook_from_module

from diffusion_local.domain import Kind
from diffusion_local.engine import Pass, block_weights, placement
from diffusion_local.engine.block_weights import blocks_of, own_weights
from diffusion_local.engine.devices import Device
from diffusion_local.engine.diffusers_engine import DiffusersEngine
from diffusion_local.engine.graphs import denoiser_of
from diffusion_local.engine.inputs import PictureInputs
from diffusion_local.engine.kept_blocks import kept_for, sizes_by_name
from diffusion_local.engine.memory import GIB, LADDERS, STREAMING, RungChoice, Weights, choose, estimate
from diffusion_local.engine.streaming import Streamed
from diffusion_local.models.catalog import Model, read_folder
from diffusion_local.options.types import Lora
from diffusion_local.paths import assets
from tests.engine.conftest import Draw
from tests.engine.home import Home, make_lora
from tests.engine.passes import bytes_of, parts_of
from tests.engine.test_flow_families import flux, sd3
from tests.engine.test_language_families import z_image
from tests.engine.test_sdxl import tiny_pipeline as sdxl
from tests.engine.tiny import MAKERS
from tests.support import params, tiers

COMMON = {"sdxl": sdxl, "flux": flux, "sd3": sd3, "z_image": lambda starter: z_image()}
OTHERS: dict[str, Callable[[Model], Any]] = {
    name: lambda starter, make=make: make() for name, make in MAKERS.items() if name not in COMMON
}
#: Names of the entries that tell a transformer's number of blocks.
NUMBERS = ("num_layers", "num_single_layers", "n_layers", "num_mmdit_layers", "num_single_dit_layers")
#: Families whose refiners are called in another order than they are defined in, which is learned at the first call.
REORDERED = ("lumina2",)
JOB = {"model": "tiny", "sampler": "Euler", "steps": 2, "prompt": "a cat", "guidance": 3.0, "width": 64, "height": 64}


def deepened(pipe: Any) -> Any:
    """A pipeline whose transformer has four blocks of each kind."""
    transformer = getattr(pipe, "transformer", None)
    if transformer is not None and "llama_layers" not in transformer.config:  # HiDream's text has one for each block
        config = dict(transformer.config)
        more = {name: 4 for name in NUMBERS if isinstance(config.get(name), int)}
        pipe.register_modules(transformer=type(transformer).from_config(config | more).eval())
    return pipe


def saved(make: Callable[[Model], Any], starter: Model, folder: Path) -> Model:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        deepened(make(starter)).save_pretrained(folder)
    model = read_folder(folder, "tiny", "Tiny")
    assert model.ready, model.problem
    return model


@pytest.fixture(scope="module")
def flux_model(starter: Model, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return saved(flux, starter, tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def engine() -> Iterator[DiffusersEngine]:
    opened = DiffusersEngine(Device("cpu", "cpu", "CPU"), threads=1)
    yield opened
    opened.unload()


def hook(engine: DiffusersEngine) -> Streamed:
    assert engine._loaded is not None
    found = placement.streamed_denoiser(engine._loaded.pipe)
    assert found is not None
    return found


def streamed(engine: DiffusersEngine, model: Model, room: int = 0) -> Streamed:
    engine.load(model, RungChoice(STREAMING, room=room))
    return hook(engine)


def align(engine: DiffusersEngine) -> None:
    """Weights in a mapped file begin anywhere, and a CPU's kernels may round otherwise for them."""
    assert engine._loaded is not None
    for weight in denoiser_of(engine._loaded.pipe).parameters():
        weight.data = weight.data.clone()


@pytest.mark.parametrize("name", tiers([*COMMON, *OTHERS], ["sdxl", "flux", "z_image"]))
def test_pictures_are_those_of_the_resident_model(
    name: str, engine: DiffusersEngine, starter: Model, tmp_path: Path
) -> None:
    model, draw = saved((COMMON | OTHERS)[name], starter, tmp_path / "tiny"), Draw(engine)
    engine.unload()
    engine.load(model)
    align(engine)
    resident = draw(**JOB).image.tobytes()
    found = streamed(engine, model)
    assert found.count >= 2
    assert engine._loaded is not None
    calls: list[int] = []
    handle = denoiser_of(engine._loaded.pipe).register_forward_hook(lambda *_: calls.append(1))
    picture = draw(**JOB)
    handle.remove()
    assert picture.image.tobytes() == resident
    assert picture.facts["blocks_kept"] == f"0 of {found.count}"
    assert picture.facts["speed"] == "exact"
    # Each block once a call; the last call also asked for the first blocks of a next one.
    more = found.copied - len(calls) * found.moved_bytes
    assert more <= 2 * max(found.sizes) + found.moved_bytes * (name in REORDERED)
    some = streamed(engine, model, found.moved_bytes - 1)
    assert 0 < len(some.kept) < some.count
    draw(**JOB | {"prompt": "a red car"})
    assert draw(**JOB).image.tobytes() == resident
    engine.load(model, RungChoice("encoder_offload"))
    assert draw(**JOB).image.tobytes() == resident
    engine.unload()


def test_a_pass_that_was_put_aside_continues_to_the_same_pixels(engine: DiffusersEngine, flux_model: Model) -> None:
    job = JOB | {"steps": 3}
    engine.load(flux_model)
    expected = parts_of("a cat", **job)
    engine.run(Pass(list(expected)))
    streamed(engine, flux_model)
    held, asked = parts_of("a cat", **job), iter(range(1, 100))
    crew = Pass(list(held), lambda: next(asked) == 1)
    engine.run(crew)
    assert crew.held is not None
    assert crew.held.steps == 1
    engine.run(Pass(parts_of("somebody waits", **job)))
    engine.run(crew)
    assert bytes_of(held) == bytes_of(expected)


def test_a_cancelled_picture_and_one_that_fails_within_a_block_leave_it_usable(
    engine: DiffusersEngine, flux_model: Model
) -> None:
    engine.load(flux_model)
    expected = Draw(engine)(**JOB).image.tobytes()
    streamed(engine, flux_model)

    def cancel(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.generate(params(**JOB), cancel)
    assert engine._loaded is not None
    inside = engine._loaded.pipe.transformer.transformer_blocks[1].ff
    handle = inside.register_forward_pre_hook(cancel)
    with pytest.raises(KeyboardInterrupt):
        Draw(engine)(**JOB)
    handle.remove()
    assert Draw(engine)(**JOB).image.tobytes() == expected


@pytest.mark.parametrize("numbers", tiers(["fp8", "int8", "nf4"], first=["nf4"]))
def test_weights_in_fewer_bits_go_along(numbers: str, flux_model: Model) -> None:
    engine = DiffusersEngine(Device("cpu", "cpu", "CPU"), threads=1, numbers=numbers)
    engine.load(flux_model)
    expected = Draw(engine)(**JOB)
    assert expected.facts["weights"] == numbers
    found = streamed(engine, flux_model)
    assert Draw(engine)(**JOB).image.tobytes() == expected.image.tobytes()
    some = streamed(engine, flux_model, found.moved_bytes // 2)
    assert 0 < len(some.kept) < some.count
    assert Draw(engine)(**JOB).image.tobytes() == expected.image.tobytes()
    engine.unload()


def test_weights_of_gguf_keep_their_type() -> None:
    import gguf
    from diffusers.quantizers.gguf.utils import GGUFLinear, GGUFParameter

    def layer() -> torch.nn.Module:
        made = GGUFLinear(64, 64, False, torch.float32)
        packed = torch.randint(0, 60, (64, 68), dtype=torch.uint8)
        made.weight = GGUFParameter(packed, quant_type=gguf.GGMLQuantizationType.Q8_0)
        return made

    model: Any = torch.nn.Sequential(torch.nn.ModuleList(layer() for _ in range(4)))
    model.forward = lambda inputs: [inputs := each(inputs) for each in model[0]][-1]
    inputs = torch.randn(2, 64)
    expected = model(inputs)
    add_hook_to_module(model, Streamed("cpu"))
    assert torch.equal(model(inputs), expected)
    remove_hook_from_module(model)
    assert isinstance(model[0][0].weight, GGUFParameter)
    assert torch.equal(model(inputs), expected)


def test_loras_are_put_in_and_taken_out(
    engine: DiffusersEngine, narrow: Model, at_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By diffusers' loader, and by hooks of our own."""
    monkeypatch.setattr(engine, "_materials", PictureInputs(at_home.settings, at_home.services.files.open_source))
    engine.load(narrow)
    assert engine._loaded is not None
    make_lora(at_home.settings.loras / "ink.safetensors", engine._loaded.pipe.unet)
    draw, ink = Draw(engine), (Lora("ink", 0.7),)
    bare, inked = draw(steps=1).image.tobytes(), draw(steps=1, loras=ink).image.tobytes()
    assert draw(steps=1).image.tobytes() == bare != inked
    before = streamed(engine, narrow, 200_000)
    assert 0 < len(before.kept) < before.count
    assert draw(steps=1, loras=ink).image.tobytes() == inked
    after = hook(engine)
    assert after is not before
    assert (after.kept, after.sizes) == (before.kept, before.sizes)  # the LoRA itself stays on the device
    assert draw(steps=1).image.tobytes() == bare
    monkeypatch.setattr(type(engine._loaded.pipe), "load_lora_weights", refuse)
    assert draw(steps=1, loras=ink).image.tobytes() != bare
    assert engine._loaded.hooked
    assert draw(steps=1).image.tobytes() == bare
    engine.unload()


def refuse(*_: Any, **__: Any) -> None:
    raise ValueError


def test_text_encoders_go_before_the_denoiser_comes_and_give_its_place_to_each_other(
    engine: DiffusersEngine, flux_model: Model
) -> None:
    own = streamed(engine, flux_model)
    assert engine._loaded is not None
    pipe, seen = engine._loaded.pipe, []
    encoders = [pipe.text_encoder, pipe.text_encoder_2]
    handles = [
        pipe.text_encoder_2.register_forward_pre_hook(lambda *_: seen.append(("reads", own.slot_bytes))),
        pipe.transformer.register_forward_pre_hook(
            lambda *_: seen.append(("denoises", sum(each._hf_hook.bytes_here for each in encoders)))
        ),
    ]
    for prompt in ("a cat", "a dog"):
        Draw(engine)(**JOB | {"prompt": prompt})
    for handle in handles:
        handle.remove()
    assert [each for each in seen if each[1]] == []
    assert [name for name, _ in seen] == ["reads", "denoises", "denoises"] * 2


def test_where_memory_cannot_be_taken_blocks_are_copied_from_where_they_are() -> None:
    model: Any = torch.nn.Sequential(torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(5)))
    model.forward = lambda value: [value := each(value) for each in model[0]][-1]
    value, lies = torch.randn(2, 8), [each.weight.data_ptr() for each in model[0]]
    expected = model(value)
    asked: list[int] = []
    found = Streamed("cpu", may_gather=lambda size: bool(asked.append(size)))
    add_hook_to_module(model, found)
    assert asked == [8 * 8 * 4 + 8 * 4] * 5
    assert torch.equal(model(value), expected)
    remove_hook_from_module(model)
    assert [each.weight.data_ptr() for each in model[0]] == lies


def test_main_memory_holds_one_copy_and_is_given_back(engine: DiffusersEngine, flux_model: Model) -> None:
    engine.load(flux_model, RungChoice("resident"))
    assert engine._loaded is not None
    [first, *_] = blocks_of(engine._loaded.pipe.transformer)
    found = streamed(engine, flux_model)
    assert {each.numel() for each in own_weights(first)} == {0}  # only the buffer has them
    buffer = weakref.ref(block_weights._waiting[first])
    half = found.moved_bytes // 2
    del found
    again = streamed(engine, flux_model, half)  # other blocks stay: the buffers are those that there are
    assert again.kept
    assert block_weights._waiting[first] is buffer()
    engine.load(flux_model, RungChoice("resident"))
    del again
    gc.collect()
    assert buffer() is None
    engine.unload()


def test_a_choice_that_does_not_fit_leaves_the_model_as_it_was(
    engine: DiffusersEngine, flux_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.load(flux_model)
    expected = Draw(engine)(**JOB).image.tobytes()
    assert engine._loaded is not None
    pipe, calls, put = engine._loaded.pipe, [], block_weights.Waiting.put

    def fail(self: block_weights.Waiting, tensors: Any) -> None:
        calls.append(1)
        if len(calls) == 14:  # when some of the blocks have been moved
            raise torch.OutOfMemoryError("CUDA out of memory")
        put(self, tensors)

    with monkeypatch.context() as patch:
        patch.setattr(block_weights.Waiting, "put", fail)
        with pytest.raises(torch.OutOfMemoryError):
            placement.place(pipe, STREAMING, "cpu", 1 << 40)
    assert len(calls) > 14
    assert placement.streamed_denoiser(pipe) is None
    engine._loaded.rung = STREAMING  # as after a LoRA that left no room
    streamed(engine, flux_model)
    assert Draw(engine)(**JOB).image.tobytes() == expected


def test_another_order_of_calls_is_learned() -> None:
    model: Any = torch.nn.Sequential(torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(5)))
    order = [3, 0, 4, 1, 2]
    model.forward = lambda inputs: [inputs := model[0][place](inputs) for place in order][-1]
    inputs = torch.randn(2, 8)
    expected = model(inputs)
    found = Streamed("cpu")
    add_hook_to_module(model, found)
    assert torch.equal(model(inputs), expected)
    before = found.copied
    for _ in range(3):
        assert torch.equal(model(inputs), expected)
    assert found.copied - before == 3 * found.moved_bytes  # each block once a call


# -- which blocks stay -------------------------------------------------------------------------------------------------


def test_as_many_stay_as_fit_and_the_others_lie_between_them() -> None:
    assert kept_for([10] * 8, 79) == {1, 2, 3, 4, 5, 6, 7}
    assert kept_for([10] * 8, 80) == set(range(8))
    assert kept_for([10] * 8, 45) == {1, 3, 5, 7}
    assert kept_for([10] * 8, 9) == set()
    assert kept_for([], 5) == set()


#: Blocks that ``scripts/bench_precision.py`` kept at 8, 12, 16 and 24 GiB, with less exact an estimate of the rest.
MEASURED = {
    "flux_dev": (5, 11, 17, 46),
    "qwen_image": (5, 11, 17, 30),
    "flux2_klein_4b": (0, 25, 25, 25),
    "z_image": (0, 0, 34, 34),
}


def weights_of(config: str) -> tuple[Weights, dict[str, tuple[list[int], list[int]]]]:
    """Numbers of a model's parts, and of their blocks: by the names of tensors, and by the modules."""
    folder = assets() / "configs" / config
    counts: dict[str, int] = {}
    blocks: dict[str, tuple[list[int], list[int]]] = {}
    for part, spec in json.loads((folder / "model_index.json").read_text()).items():
        if not part.startswith(("text_encoder", "transformer", "vae", "unet")):
            continue
        cls: Any = getattr(importlib.import_module(spec[0]), spec[1])
        with init_empty_weights(include_buffers=True):
            if hasattr(cls, "load_config"):
                module = cls.from_config(cls.load_config(folder / part))
            else:
                module = cls(cls.config_class.from_pretrained(folder / part, local_files_only=True))
        numbers = {name: each.numel() for name, each in module.named_parameters()}
        counts[part] = sum(numbers.values())
        if part != "vae":
            sizes = [sum(each.numel() for each in own_weights(block)) for block in blocks_of(module)]
            blocks[part] = list(sizes_by_name(numbers)), sizes
    return Weights(counts, units={part: tuple(named) for part, (named, _) in blocks.items()}), blocks


@pytest.mark.parametrize("config", tiers([*MEASURED, "sdxl", "sd1", "sd35_large", "flux2_klein_9b"], MEASURED))
def test_the_plan_knows_the_blocks_and_keeps_what_fits(config: str) -> None:
    weights, blocks = weights_of(config)
    for named, found in blocks.values():
        assert sorted(named) == sorted(found)
        assert len(named) >= 12
    need = estimate(weights, 2, 1024, 1024)
    job = params(width=1024, height=1024, kind=Kind.TXT2IMG)
    kept = []
    for card in (8, 12, 16, 24):
        free = (card - 1) * GIB
        choice = choose(LADDERS["cuda"], "it", need, free, job, [], STREAMING)
        assert choice.rung == STREAMING
        assert choice.takes <= free
        kept.append(len(kept_for(need.blocks, choice.room)))
        assert choice.why.endswith(f"{kept[-1]} of {len(need.blocks)} stay there")
        if kept[-1] < len(need.blocks):
            assert choice.takes > free - 1.2 * max(need.blocks)  # another one would not fit
    assert kept == sorted(kept)
    for found_kept, measured in zip(kept, MEASURED.get(config, ()), strict=False):
        assert found_kept >= measured


def test_the_large_ones_are_streamed_on_small_cards_by_themselves() -> None:
    weights, _ = weights_of("flux_dev")
    need = estimate(weights, 2, 1024, 1024)
    job = params(width=1024, height=1024)
    choices = [choose(LADDERS["cuda"], "it", need, (card - 1) * GIB, job, []) for card in (3, 8, 12, 24, 48)]
    assert [each.rung for each in choices] == ["group_offload", STREAMING, STREAMING, STREAMING, "resident"]
    batch = estimate(weights, 2, 1024, 1024, together=4)
    both = choose(LADDERS["cuda"], "it", need, 11 * GIB, job, [], together=batch)
    assert both.rung == STREAMING
    assert both.room < choices[2].room  # several pictures at once leave less for blocks
    assert both.takes <= 11 * GIB


def test_the_denoiser_of_a_pipeline_is_found_whatever_it_is_called(starter: Model) -> None:
    from scripts.starter.models import load_pipeline

    pipe = load_pipeline(starter.folder)
    order: list[Any] = []
    blocks = blocks_of(denoiser_of(pipe))
    handles = [each.register_forward_pre_hook(lambda block, _: order.append(block)) for each in blocks]
    pipe("a cat", num_inference_steps=1, guidance_scale=1.0, height=64, width=64, output_type="latent")
    for handle in handles:
        handle.remove()
    assert order == blocks  # in the order of their calls
