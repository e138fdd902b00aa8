"""A pipeline's parts on the rungs of memory, as far as a CPU can show it: here the CPU is the device, too."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch

from diffusion_local.engine import placement
from diffusion_local.engine.memory import SMALL_TILE, TILE
from diffusion_local.models.catalog import Model
from scripts.starter.models import load_pipeline
from tests.support import tiers


@pytest.fixture(scope="module")
def starter(narrow: Model) -> Model:
    return narrow


@pytest.fixture
def pipe(starter: Model) -> Any:
    return load_pipeline(starter.folder)


def other_than(vae: Any) -> Any:
    """A VAE whose pictures are brighter."""
    other = type(vae).from_config(vae.config).eval()
    other.load_state_dict(vae.state_dict())
    with torch.no_grad():
        other.decoder.conv_out.bias += 0.3
    return other


def decoded(vae: Any) -> torch.Tensor:
    latents = torch.randn(1, vae.config.latent_channels, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        pixels: torch.Tensor = vae.decode(latents).sample
    return pixels


def put(pipe: Any, rung: str) -> None:
    """On the rung; diffusers refuses the CPU as the device of the last one, so that is done for the VAE alone."""
    if rung == "sequential":
        accelerate.cpu_offload(pipe.vae, torch.device("cpu"))
    else:
        placement.place(pipe, rung, "cpu")


@pytest.mark.parametrize(
    "rung",
    tiers(
        [
            "resident",
            "vae_tiling",
            "encoder_offload",
            "block_streaming",
            "model_offload",
            "group_offload",
            "sequential",
        ],
        first=["resident", "block_streaming", "sequential"],
    ),
)
def test_another_vae_is_placed_as_the_own_one_was_and_taken_out_again(pipe: Any, rung: str) -> None:
    own = pipe.vae
    other, before = other_than(own), decoded(own)
    expected = decoded(other)
    put(pipe, rung)
    placement.swap_vae(pipe, other, rung, "cpu")
    assert pipe.vae is other
    assert torch.equal(decoded(pipe.vae), expected)
    assert hasattr(other, "_hf_hook") == (rung in ("encoder_offload", "block_streaming", "model_offload", "sequential"))
    waits = next(other.parameters()).device.type
    assert waits == ("meta" if rung == "sequential" else "cpu")
    assert other.use_tiling == (rung != "resident")
    if other.use_tiling:
        assert other.tile_sample_min_size == (SMALL_TILE if rung == "sequential" else TILE)
    assert not hasattr(own, "_hf_hook")
    assert torch.equal(decoded(own), before)  # with its weights, on the CPU
    placement.swap_vae(pipe, own, rung, "cpu")
    assert torch.equal(decoded(pipe.vae), before)
    assert not hasattr(other, "_hf_hook")


def test_pages_of_files_count_as_free_in_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {
        "max": "1000000",
        "current": "900000",
        "stat": "anon 300000\nactive_file 200000\ninactive_file 400000\n",
    }.items():
        (tmp_path / f"memory.{name}").write_text(text)
    monkeypatch.setattr(placement, "_CGROUP", tmp_path)
    assert placement.free_main_memory() == 700_000
    (tmp_path / "memory.max").write_text("max")
    assert placement.free_main_memory() > 1_000_000


def hooked(pipe: Any) -> set[str]:
    return {name for name, part in pipe.components.items() if hasattr(part, "_hf_hook")}


def drawn(pipe: Any) -> Any:
    generator = torch.Generator().manual_seed(1)
    return pipe("a red apple", num_inference_steps=2, height=64, width=64, generator=generator, output_type="np").images


def test_only_the_denoiser_stays_and_the_pixels_are_the_same(pipe: Any) -> None:
    expected = drawn(pipe.to(torch.float32))
    placement.place(pipe, "encoder_offload", "cpu")
    assert hooked(pipe) == {"vae", "text_encoder"}
    assert (drawn(pipe) == expected).all()
    placement.offload_all(pipe)
    assert hooked(pipe) == {"vae", "text_encoder"}
    placement.place(pipe, "resident", "cpu")
    assert hooked(pipe) == set()
    assert (drawn(pipe) == expected).all()


def addresses(part: torch.nn.Module) -> list[int]:
    return [each.data_ptr() for each in part.parameters()]


def test_parts_that_have_done_their_work_leave_the_device_and_nothing_is_copied_back(pipe: Any) -> None:
    placement.place(pipe, "encoder_offload", "cpu")
    waiting = {name: addresses(part) for name, part in pipe.components.items() if name in ("vae", "text_encoder")}
    tokens = torch.ones(1, 4, dtype=torch.long)
    with torch.no_grad():
        words = pipe.text_encoder(tokens)[0]
        assert not set(addresses(pipe.text_encoder)) & set(waiting["text_encoder"])
        decoded(pipe.vae)
        assert addresses(pipe.text_encoder) == waiting["text_encoder"]  # it makes room for the VAE
        assert addresses(pipe.vae) != waiting["vae"]
        placement.offload_encoders(pipe)
        assert addresses(pipe.vae) == waiting["vae"]
        assert torch.equal(pipe.text_encoder(tokens)[0], words)


@pytest.mark.parametrize("rung", ["encoder_offload", "block_streaming"])
def test_a_vae_that_visits_the_device_keeps_fp32(pipe: Any, rung: str) -> None:
    pipe.vae.to(torch.float64)
    placement.place(pipe, rung, "cpu")
    latents = torch.randn(1, pipe.vae.config.latent_channels, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        pipe.vae.decode(latents)
        placement.vae_in_fp32(pipe, rung, "cpu")
        assert pipe.vae.dtype == torch.float32
        placement.offload_all(pipe)
        assert pipe.vae.decode(latents.float()).sample.dtype == torch.float32
    placement.place(pipe, "resident", "cpu")
    assert {each.dtype for each in pipe.vae.parameters()} == {torch.float32}


def test_no_hooks_are_in_the_way_of_what_is_put_in_and_all_are_back_after_a_failure(pipe: Any) -> None:
    placement.place(pipe, "encoder_offload", "cpu")
    with suppress(RuntimeError), placement.without_hooks(pipe, "encoder_offload"):
        assert hooked(pipe) == set()
        raise RuntimeError
    assert hooked(pipe) == {"vae", "text_encoder"}
    with placement.without_hooks(pipe, "model_offload"):
        assert hooked(pipe) == {"vae", "text_encoder"}
