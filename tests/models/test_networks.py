"""Networks beside models (detectors, restorers, annotators, training states) are named; LoRAs tell which models fit."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from diffusion_local import families
from diffusion_local.models.adapters import adapter_fits
from diffusion_local.models.assembly import Pool
from diffusion_local.models.directories import bundled_configs
from diffusion_local.models.headers import Header, Tensor
from diffusion_local.models.identify import read_file
from diffusion_local.models.weights import TensorView
from tests.models.files import read_adapter, read_checkpoint
from tests.models.headers import Tensors, write, write_published
from tests.models.test_kinds import tensors_of_class


def named(*names: str) -> dict[str, torch.Tensor]:
    return {f"{name}.weight": torch.zeros(2, 2) for name in names}


HYPERNETWORK = {size: tuple(OrderedDict(named("linear.0")) for _ in range(2)) for size in (320, 640)}


@pytest.mark.parametrize(
    ("saved", "sentence"),
    [
        ({**HYPERNETWORK, "step": 1000, "name": "style", "layer_structure": [1, 2, 1]}, "a hypernetwork"),
        (named("quantize.embedding", "encoder.conv_in", "decoder.up.5.attn.0.q"), "restores faces"),  # RestoreFormer
        (named("generator.style.1", "ecd0.0.1", "final_linear.0"), "restores faces"),  # GPEN
        ({"depth_model": named("module.encoder_modules.encoder.conv1")}, "estimates depth"),  # LeReS
        ({"model": named("encoder.original_model.conv_stem", "decoder.conv2")}, "normals of surfaces"),
        (named("module.model.model.1.model.1", "module.model.model.3"), "lines or poses"),
        (named("block_1.conv1", "dblock_3.0", "up_block_1.features.0"), "lines or poses"),  # TEED
        ({"state_dict": named("backbone.patch_embed1.proj", "decode_head.conv_seg")}, "labels the parts"),
        ({"model": named("backbone.patch_embed.proj", "sem_seg_head.predictor.query_embed")}, "labels the parts"),
        (named("cp.resnet.conv1", "ffm.convblk.conv"), "finds faces or their parts"),
        (named("module.fnet.conv1", "module.update_block.flow_head.conv1"), "optical flow"),
        (named("synthesis.first_stage.conv_first.conv", "mapping.fc0"), "fills holes"),
        (named("layer1.0.prelu", "features", "fc"), "recognises faces"),
        (named("layer4.0.conv1", "fc"), "classifies or tags"),
        (named("blocks.0.attn.qkv", "patch_embed.proj", "head") | {"pos_embed": torch.zeros(1)}, "classifies or tags"),
        ({"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-4}]}, "an unfinished training"),
        (named("blocks.0.ls1", "patch_embed.proj", "blocks.0.attn.qkv") | {"cls_token": torch.zeros(1)}, "It is DINO"),
        (named("feature_extractor.conv_layers.0.conv", "feature_projection.projection"), "wav2vec"),
        (named("cond_mapper.0", "projection", "blocks.0.depthwise"), "It is Würstchen"),
    ],
)
def test_networks_are_named(saved: Any, sentence: str, tmp_path: Path) -> None:
    torch.save(saved, tmp_path / "x.pth")
    assert sentence in read_checkpoint(tmp_path / "x.pth", ()).problem


@pytest.mark.parametrize(
    ("model", "title"), [("HunyuanVideo 1.5", "HunyuanVideo 1.5, a model"), ("cogview4", "CogView4"),
                         ("CogView3-Plus", "CogView3-Plus, which")],
)  # fmt: skip
def test_models_are_told_from_those_of_the_same_layers(model: str, title: str, tmp_path: Path) -> None:
    assert f"It is {title}" in read_checkpoint(write(tmp_path / "x.safetensors", tensors_of_class(model)), ()).problem


@pytest.mark.parametrize(
    ("file", "architecture", "most", "data"),
    [("cosxl", "cosxl", 120.0, 1.0), ("playground-v2.5-1024px-aesthetic.fp16", "playground25", 80.0, 0.5)],
)
def test_checkpoints_with_edms_noise_levels_bring_their_scheduler(
    file: str, architecture: str, most: float, data: float, tmp_path: Path
) -> None:
    found = read_checkpoint(write_published(tmp_path, f"models/{file}.safetensors"), bundled_configs())
    assert (found.state, found.architecture) == ("ready", architecture)
    assert found.changes["model_index.json"] == {"scheduler": ["diffusers", "EDMEulerScheduler"]}
    assert (found.scheduler["sigma_max"], found.scheduler["sigma_data"]) == (most, data)
    assert ("latents_std" in found.changes.get("vae/config.json", {})) == (architecture == "playground25")
    assert families.sampling_of("sdxl", architecture).samplers == ("Euler", "DPM++ 2M", "DPM++ 2M SDE")
    assert families.fits_architecture("sdxl", architecture)


def test_a_distilled_unet_that_reads_the_guidance_is_built_with_its_embedding(tmp_path: Path) -> None:
    parts = ("models/te/clip_l.safetensors", "parts/vae-ft-mse-840000-ema-pruned.safetensors")
    pool = Pool()
    for file in parts:
        path = write_published(tmp_path, file)
        pool.add_file(path, read_file(path).probe)
    guided: Tensors = {"time_embedding.cond_proj.weight": ["F16", [320, 256]]}
    path = write(tmp_path / "lcm-unet.safetensors", tensors_of_class("sd1") | guided)
    found = read_checkpoint(path, bundled_configs(), pool)
    assert (found.state, found.problem) == ("ready", "")
    assert found.changes["unet/config.json"] == {"time_cond_proj_dim": 256}


def test_prefixes_may_be_nested(tmp_path: Path) -> None:
    tensors = {f"model.model.{name}": each for name, each in tensors_of_class("Stable Audio").items()}
    assert "a model for audio" in read_checkpoint(write(tmp_path / "x.safetensors", tensors), ()).problem


def lora_for(tensors: Tensors, part: str, start: str = "transformer.") -> Tensors:
    made: Tensors = {}
    for name, (_, shape) in tensors.items():
        if part in name and name.endswith(".weight") and len(shape) == 2:
            stem = start + name.removesuffix(".weight")
            made |= {f"{stem}.lora_A.weight": ["BF16", [4, shape[1]]], f"{stem}.lora_B.weight": ["BF16", [shape[0], 4]]}
    return made


@pytest.mark.parametrize(
    ("model", "name", "base"),
    [
        ("Bria 3", "my_bria_style", "Bria 3"), ("Bria 3", "bria-3.2_style", "Bria 3"), ("Bria 3", "my_flux_x", "flux"),
        ("Bria FIBO", "bria_fibo_x", "Bria FIBO"), ("Bria 3", "flux_or_bria", "flux"), ("kolors", "x_kolors", "kolors"),
        ("kolors", "style", "sdxl"),
    ],
)  # fmt: skip
def test_the_file_name_tells_the_base_of_several_with_the_same_layers(
    model: str, name: str, base: str, tmp_path: Path
) -> None:
    tensors = lora_for(tensors_of_class(model), "attn", "unet." if model == "kolors" else "transformer.")
    path = tmp_path / f"{name}.safetensors"
    assert read_adapter(write(path, tensors), "lora").architecture == base
    if base == "kolors":
        stated = {"ss_base_model_version": "sdxl_base_v1-0"}
        assert read_adapter(write(path, tensors, stated), "lora").architecture == "sdxl"


def test_a_lora_fits_every_model_with_its_layers_unless_it_names_one(tmp_path: Path) -> None:
    """Attention layers of Chroma are those of FLUX.1."""
    tensors = lora_for(tensors_of_class("chroma"), ".attn.")
    unnamed = read_adapter(write(tmp_path / "any.safetensors", tensors), "lora")
    stated = read_adapter(write(tmp_path / "own.safetensors", tensors, {"modelspec.architecture": "chroma"}), "lora")
    assert [adapter_fits(unnamed, base) for base in ("flux_dev", "chroma", "qwen_image")] == [True, True, False]
    assert [adapter_fits(stated, base) for base in ("flux_dev", "chroma", "qwen_image")] == [False, True, False]


def test_layers_of_a_lora_that_its_base_does_not_have_are_told(tmp_path: Path) -> None:
    whole = lora_for(tensors_of_class("flux_dev"), ".attn.")
    more = whole | lora_for({"strange_blocks.0.to_q.weight": ["BF16", [64, 64]]}, "to_q")
    found = read_adapter(write(tmp_path / "x.safetensors", more), "lora")
    assert found.ready
    assert "such as strange_blocks_#_to_q, are not in FLUX.1 and are not applied" in found.problem
    assert read_adapter(write(tmp_path / "y.safetensors", whole), "lora").problem == ""
    assert "move it into `loras`" in read_checkpoint(tmp_path / "x.safetensors", ()).problem


@pytest.mark.parametrize("model", ["pixart", "hunyuan_dit"])
def test_loras_for_families_without_any_are_refused(model: str, tmp_path: Path) -> None:
    found = read_adapter(write(tmp_path / "x.safetensors", lora_for(tensors_of_class(model), "attn")), "lora")
    assert not found.ready
    assert "cannot take LoRAs yet" in found.problem


@pytest.mark.parametrize("names", [("self_attn.q_proj", "cross_attn.q_proj"), ("self_attn.q_proj", "mlp.layer1")])
def test_loras_for_cosmos_are_not_taken_for_those_of_wan(names: tuple[str, ...], tmp_path: Path) -> None:
    weights: Tensors = {f"blocks.{n}.{name}.weight": ["BF16", [2048, 2048]] for n in range(28) for name in names}
    found = read_adapter(write(tmp_path / "x.safetensors", lora_for(weights, "", "lora_unet.")), "lora")
    assert "Cosmos Predict 2 or Anima" in found.problem


TINY: Tensors = {
    "encoder.layers.0.weight": ["F16", [64, 3, 3, 3]],
    "decoder.layers.0.weight": ["F16", [64, 4, 3, 3]],
    "decoder.layers.2.conv.0.weight": ["F16", [64, 64, 3, 3]],
}


@pytest.mark.parametrize(
    ("folder", "channels", "part", "fitting"),
    [("taesd", 4, "vae_sd1", "sd1"), ("taesdxl", 4, "vae_sdxl", "sdxl"), ("taef1", 16, "vae_flux", "flux_dev"),
     ("taesd3", 16, "vae_sd3", "sd3")],
)  # fmt: skip
def test_small_vaes_fit_models_of_their_latents(
    folder: str, channels: int, part: str, fitting: str, tmp_path: Path
) -> None:
    """Also in a diffusers folder, whose name tells the base; no model takes one as its own VAE."""
    entrance: Tensors = {"decoder.layers.0.weight": ["F16", [64, channels, 3, 3]]}
    path = write(tmp_path / folder / "diffusion_pytorch_model.safetensors", TINY | entrance)
    found = read_adapter(path, "vae")
    assert (found.state, found.problem, found.part) == ("ready", "", part)
    bases = ("sd1", "sdxl", "flux_dev", "sd3")
    assert [base for base in bases if adapter_fits(found, base)] == [fitting]
    pool = Pool()
    pool.add_file(path, read_file(path).probe)
    assert not pool.sources


@pytest.mark.parametrize("half", ["1", "decoder.1"])
def test_halves_of_small_vaes_are_named(half: str, tmp_path: Path) -> None:
    tensors: Tensors = {
        f"{half}.weight": ["F16", [64, 4, 3, 3]],
        f"{half.replace('1', '3')}.conv.0.weight": ["F16", [64, 64, 3, 3]],
    }
    for found in (
        read_adapter(write(tmp_path / "taesd_decoder.safetensors", tensors), "vae"),
        read_checkpoint(tmp_path / "taesd_decoder.safetensors", ()),
    ):
        assert "In `vae` and in folders that you added it draws previews" in found.problem
        assert "in place of the VAE of SD 1 and SD 2" in found.problem


def test_names_of_modules_below_a_prefix() -> None:
    """Found by the order of all names, in which ``a-b`` and ``ab`` lie between ``a`` and ``a.b``."""
    one = Tensor("F16", (1,))
    header = Header(dict.fromkeys(("x.a.b.c", "x.a-b.d", "x.ab", "x.a", "y.a.z"), one), {}, 0)
    view = TensorView(header, "x.")
    assert [name for name in ("a", "a.b", "a.b.c", "a-b", "ab", "a.z", "b", "z") if name in view.names] == [
        "a", "a.b", "a.b.c", "a-b", "ab"]  # fmt: skip
    assert set(view.tensors) == {"a.b.c", "a-b.d", "ab", "a"}
    assert "x.a" in TensorView(header).names
    assert "y" in TensorView(header).names
