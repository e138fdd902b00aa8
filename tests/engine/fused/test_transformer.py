"""Transformers whose blocks are compiled in the background, and whatever keeps them from that."""

import logging
from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch

from diffusion_local.engine import graphs
from diffusion_local.engine.fused import transformer as compiled_form
from diffusion_local.engine.fused.forms import Forms
from diffusion_local.engine.fused.operations import TorchOperations
from diffusion_local.engine.fused.transformer import CompiledTransformer, EightBitLinear, repeated_blocks
from diffusion_local.engine.graphs import unrecorded
from tests.engine.test_graphs import Recorder

ROOM = 2**40
#: Inputs of a FLUX.1 transformer that have a row for each picture.
BATCHED = ("hidden_states", "encoder_hidden_states", "pooled_projections", "timestep")


class Counting(TorchOperations):
    """Operations whose "compiler" counts, and may be torch's with another backend than Inductor."""

    def __init__(self, backend: str | Callable[..., Any] = "", eight_bits: bool = False) -> None:
        super().__init__(eight_bits)
        self.backend, self.calls, self.problem = backend, 0, ""
        self.change: Callable[[Any], Any] = lambda output: output

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        made = torch.compile(function, backend=self.backend, dynamic=False) if self.backend else function

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.problem:
                raise OSError(28, self.problem)
            return self.change(made(*args, **kwargs))

        return call


def flux() -> tuple[torch.nn.Module, dict[str, Any]]:
    model = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    ids = {"img_ids": torch.zeros(16, 3), "txt_ids": torch.zeros(8, 3)}
    text = {"encoder_hidden_states": torch.randn(1, 8, 32), "pooled_projections": torch.randn(1, 32)}
    return model, {"hidden_states": torch.randn(1, 16, 4), "timestep": torch.tensor([0.5])} | text | ids


def sd3() -> tuple[torch.nn.Module, dict[str, Any]]:
    model = diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=4,
        joint_attention_dim=32, caption_projection_dim=32, pooled_projection_dim=64, out_channels=4,
        pos_embed_max_size=8, dual_attention_layers=(0,), qk_norm="rms_norm",
    )  # fmt: skip
    text = {"encoder_hidden_states": torch.randn(1, 8, 32), "pooled_projections": torch.randn(1, 64)}
    return model, {"hidden_states": torch.randn(1, 4, 8, 8), "timestep": torch.tensor([500.0])} | text


def qwen() -> tuple[torch.nn.Module, dict[str, Any]]:
    model = diffusers.QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, axes_dims_rope=(8, 4, 4),
    )  # fmt: skip
    text = {"encoder_hidden_states": torch.randn(1, 7, 16), "encoder_hidden_states_mask": torch.ones(1, 7)}
    image = {"hidden_states": torch.randn(1, 16, 16), "img_shapes": [[(1, 4, 4)]], "timestep": torch.tensor([0.5])}
    return model, image | text


def z_image() -> tuple[torch.nn.Module, dict[str, Any]]:
    model = diffusers.ZImageTransformer2DModel(
        in_channels=4, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=16,
        axes_dims=[8, 4, 4], axes_lens=[64, 32, 32],
    )  # fmt: skip
    return model, {"x": [torch.randn(4, 1, 8, 8)], "t": torch.tensor([0.5]), "cap_feats": [torch.randn(7, 16)]}


def flux2() -> tuple[torch.nn.Module, dict[str, Any]]:
    model = diffusers.Flux2Transformer2DModel(
        in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=48, timestep_guidance_channels=32, axes_dims_rope=(4, 4, 4, 4),
    )  # fmt: skip
    ids = {"img_ids": torch.zeros(1, 16, 4), "txt_ids": torch.zeros(1, 8, 4)}
    inputs = {"hidden_states": torch.randn(1, 16, 16), "encoder_hidden_states": torch.randn(1, 8, 48)}
    return model, inputs | {"timestep": torch.tensor([0.5]), "guidance": torch.tensor([4.0])} | ids


FAMILIES = {"FLUX.1": flux, "FLUX.2": flux2, "Stable Diffusion 3.5": sd3, "Qwen-Image": qwen, "Z-Image": z_image}


class Stage:
    """A transformer with its form; ``prepare`` does what the background thread would do."""

    def __init__(self, family: str, operations: Counting) -> None:
        torch.manual_seed(0)
        self.model, self.inputs = FAMILIES[family]()
        self.model.requires_grad_(False)
        self.waiting: list[Callable[[], None]] = []
        self.forgotten = 0
        self.parts: list[str] = []
        self.form = CompiledTransformer(self.model, operations, self.forget, self.waiting.append)
        self.exact = self.model(**self.inputs, return_dict=False)[0]

    def forget(self) -> None:
        self.forgotten += 1

    def run(self, part: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.parts.append(part)
        return call(*args, **kwargs)

    def step(self, **changes: Any) -> Any:
        assert self.form.ready(ROOM) or self.form._refused
        output = self.form.forward(self.run, self.model.forward, **self.inputs | changes, return_dict=False)[0]
        return output if torch.is_tensor(output) else output[0]

    def prepare(self) -> None:
        while self.waiting:
            self.waiting.pop()()

    def equals_exact(self, output: Any) -> bool:
        exact = self.exact if torch.is_tensor(self.exact) else self.exact[0]
        return torch.allclose(output, exact, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_pictures_are_made_the_exact_way_until_the_blocks_are_compiled(family: str) -> None:
    operations = Counting()
    stage = Stage(family, operations)
    assert stage.equals_exact(stage.step())
    assert stage.equals_exact(stage.step())
    assert (operations.calls, len(stage.waiting), stage.form.used) == (0, 1, False)
    assert stage.parts == []  # nothing is recorded while another thread compiles
    stage.prepare()
    kinds = operations.calls
    assert 1 <= kinds <= len(repeated_blocks(stage.model))
    assert stage.equals_exact(stage.step())
    assert operations.calls == kinds + len(repeated_blocks(stage.model))
    assert stage.form.used
    stage.step()
    assert stage.parts == ["compiled denoiser"]  # from the second step on, by a graph
    assert not any("forward" in vars(block) for block in repeated_blocks(stage.model))


@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", ["FLUX.1", pytest.param("Qwen-Image", marks=pytest.mark.slow),
                                    pytest.param("Z-Image", marks=pytest.mark.slow)])  # fmt: skip
@pytest.mark.slow
def test_torch_compiles_each_kind_of_block_once(family: str, backend: str) -> None:
    torch._dynamo.reset()
    stage = Stage(family, Counting(backend))
    with torch.no_grad():
        stage.step()
        stage.prepare()
        before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        assert stage.equals_exact(stage.step())
        assert stage.form.used
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before  # nothing is compiled at a step


@pytest.mark.slow
def test_blocks_stay_compiled_when_their_step_is_recorded() -> None:
    torch._dynamo.reset()
    executed = []

    def backend(module: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            executed.append(1)
            return module(*args)

        return call

    stage = Stage("FLUX.1", Counting(backend))
    held = graphs.Graphs(Recorder())
    held._room, held._expected = ROOM, {"compiled denoiser": 0}
    stage.run = held.run  # type: ignore[method-assign]
    with torch.no_grad():
        stage.step()
        stage.prepare()
        for _ in range(4):  # compared, tried out, recorded, replayed
            executed.clear()
            stage.step()
            assert len(executed) >= len(repeated_blocks(stage.model))


@pytest.mark.slow
def test_nothing_is_compiled_at_a_step_of_two_pictures() -> None:
    torch._dynamo.reset()
    stage = Stage("FLUX.1", Counting("eager"))
    stage.inputs |= {name: torch.cat([stage.inputs[name]] * 2) for name in BATCHED}
    with torch.no_grad():
        stage.step()
        stage.prepare()
        before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        stage.step()
    assert stage.form.used
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before


def test_a_picture_is_made_in_one_way_from_its_first_step_to_its_last() -> None:
    stage = Stage("FLUX.1", Counting())
    assert stage.form.ready(ROOM)
    options = stage.inputs | {"return_dict": False}
    stage.form.forward(stage.run, stage.model.forward, **options)
    stage.prepare()
    stage.form.forward(stage.run, stage.model.forward, **options)
    assert not stage.form.used
    assert stage.form.ready(ROOM)
    stage.form.forward(stage.run, stage.model.forward, **options)
    assert stage.form.used


def test_another_size_is_prepared_while_the_first_goes_on() -> None:
    stage = Stage("FLUX.1", Counting())
    stage.step()
    stage.prepare()
    larger = {"hidden_states": torch.randn(1, 24, 4), "img_ids": torch.zeros(24, 3)}
    stage.step(**larger)
    assert not stage.form.used
    stage.step()
    assert stage.form.used
    stage.prepare()
    stage.step(**larger)
    assert stage.form.used


def test_a_full_disk_costs_only_the_speed_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    operations = Counting()
    operations.problem = "No space left on device"
    stage = Stage("FLUX.1", operations)
    stage.step()
    with caplog.at_level(logging.WARNING):
        stage.prepare()
        for _ in range(3):
            assert stage.equals_exact(stage.step())
    assert [record.message for record in caplog.records] == [
        "the denoiser runs the exact way: OSError: [Errno 28] No space left on device"
    ]
    assert stage.parts == ["denoiser"] * 3  # by graphs, as without the form
    assert stage.waiting == []


def test_a_kernel_that_fails_at_run_time_costs_only_the_speed(caplog: pytest.LogCaptureFixture) -> None:
    operations = Counting()
    stage = Stage("FLUX.1", operations)
    stage.step()
    stage.prepare()
    stage.step()
    operations.problem = "a kernel failed"
    with caplog.at_level(logging.WARNING):
        assert stage.equals_exact(stage.step())
        assert stage.equals_exact(stage.step())
    assert len(caplog.records) == 1
    assert stage.forgotten == 1
    assert not stage.form.ready(ROOM)


def test_wrong_numbers_are_found_at_the_first_step(caplog: pytest.LogCaptureFixture) -> None:
    operations = Counting()
    operations.change = lambda output: tuple(each * 2 for each in output) if isinstance(output, tuple) else output * 2
    stage = Stage("FLUX.1", operations)
    stage.step()
    stage.prepare()
    assert stage.equals_exact(stage.step())
    assert "differs from the model" in caplog.text


def test_a_preparation_that_is_overtaken_by_other_weights_does_not_count() -> None:
    operations = Counting()
    stage = Stage("FLUX.1", operations)
    stage.step()
    stage.form.drop()  # a LoRA comes in
    operations.problem = "weights on another device"
    stage.prepare()
    operations.problem = ""
    stage.step()
    stage.prepare()
    stage.step()
    assert stage.form.used


def test_out_of_memory_is_not_a_fault_of_the_compiler() -> None:
    operations = Counting()
    stage = Stage("FLUX.1", operations)
    stage.step()
    stage.prepare()

    def no_memory(output: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    operations.change = no_memory
    with pytest.raises(torch.OutOfMemoryError):
        stage.step()


def test_eight_bits_are_in_large_layers_and_leave_no_trace() -> None:
    stage = Stage("FLUX.1", Counting(eight_bits=True))
    stage.step()
    assert any(type(layer) is EightBitLinear for layer in stage.form._eight.values())
    assert not any("norm" in name for _, name in stage.form._eight)
    stage.prepare()
    output = stage.step()
    assert stage.form.used
    assert stage.form.eight_bits
    assert 0.0001 < (output - stage.exact).norm() / stage.exact.norm() < 0.1
    assert not any(isinstance(each, EightBitLinear) for each in stage.model.modules())
    assert stage.equals_exact(stage.model(**stage.inputs, return_dict=False)[0])


def test_eight_bits_are_left_where_they_are_no_faster(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    times = [0.10, 0.095]
    monkeypatch.setattr(compiled_form, "seconds", lambda step, device: (step(), times.pop(0))[1])
    stage = Stage("FLUX.1", Counting(eight_bits=True))
    stage.step()
    stage.prepare()
    assert stage.equals_exact(stage.step())
    assert not stage.form.eight_bits
    assert "as long as one without" in caplog.text
    stage.prepare()
    stage.step()
    stage.prepare()
    assert stage.equals_exact(stage.step())
    assert stage.form.used  # compiled, in 16 bits
    assert times == []


def test_without_room_for_eight_bits_sixteen_go_on(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage("FLUX.1", Counting(eight_bits=True))
    assert stage.form.ready(10)
    assert not stage.form.eight_bits
    assert "no room for weights in 8 bits" in caplog.text


def test_a_transformer_without_known_blocks_runs_the_exact_way(caplog: pytest.LogCaptureFixture) -> None:
    form = CompiledTransformer(torch.nn.Sequential(torch.nn.Linear(2, 2)), Counting(), lambda: None)
    assert not form.ready(ROOM)
    assert "names no repeated blocks" in caplog.text


def test_forms_of_a_model_with_a_transformer_and_their_facts() -> None:
    stage = Stage("FLUX.1", Counting())
    forms = Forms(Counting())
    pipe = type("Pipe", (), {"transformer": stage.model})
    form = forms.denoiser(pipe, ROOM)
    assert isinstance(form, CompiledTransformer)
    assert forms.facts() == {"speed": "exact"}
    form.used = True
    assert forms.facts() == {"speed": "fast", "fused": ["compiled blocks"]}
    assert Forms(None).denoiser(pipe, ROOM) is None


def test_nothing_is_recorded_beside_a_thread_that_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    class Never:
        bytes = 0

        def try_out(self, run: Callable[[], Any], watched: bool) -> Any:
            raise AssertionError

    held = graphs.Graphs(Never())  # type: ignore[arg-type]
    held._room = ROOM
    monkeypatch.setattr(graphs, "others", {object()})
    assert held.run("denoiser", lambda x: x + 1, torch.ones(1)) == 2


def test_the_background_is_a_thread_that_is_known_while_it_runs() -> None:
    import threading

    seen, done = [], threading.Event()

    def work() -> None:
        seen.append(len(graphs.others))
        done.set()

    compiled_form.in_background(work)
    assert done.wait(30)
    assert seen == [1]
    assert unrecorded("denoiser", lambda: 1) == 1
