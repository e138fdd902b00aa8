"""ControlNets at the scan: folders and files by name, their base, and the starter model's own."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from diffusion_local.errors import InvalidParams
from diffusion_local.models.catalog import Catalog
from diffusion_local.models.directories import ModelDirectories
from diffusion_local.options.types import Control
from diffusion_local.paths import assets
from tests.models.files import CONTROLNET, SD1, write_header

SD15 = CONTROLNET | {"down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight": (320, 768)}
FLUX_NET = {
    "controlnet_x_embedder.weight": (3072, 64), "x_embedder.weight": (3072, 64),
    "controlnet_blocks.0.weight": (3072, 3072), "transformer_blocks.0.attn.to_q.weight": (3072, 3072),
    "context_embedder.weight": (3072, 4096),
}  # fmt: skip
CONTROL = {"controls": [{"image": "0" * 64}], "seed": 1}


def folder_of(path: Path, shapes: dict[str, tuple[int, ...]], name: str = "ControlNetModel") -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"_class_name": name}))
    return write_header(path / "diffusion_pytorch_model.safetensors", shapes)


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    folder_of(tmp_path / "bundled", CONTROLNET)
    write_header(tmp_path / "models/anime.safetensors", SD1)
    (tmp_path / "controlnet").mkdir()
    places = ModelDirectories(
        tmp_path / "models", controlnet=tmp_path / "controlnet", bundled_control=tmp_path / "bundled"
    )
    return Catalog(assets() / "starter", places, lambda source: (64, 64))


def test_folders_and_files_are_listed_by_name_with_their_base(catalog: Catalog, tmp_path: Path) -> None:
    folder_of(tmp_path / "controlnet/sd-controlnet-canny", SD15)
    folder_of(tmp_path / "controlnet/xl/depth", CONTROLNET | {"x.attn2.to_k.weight": (640, 2048)})
    half = tmp_path / "controlnet/sd-controlnet-canny/diffusion_pytorch_model.fp16.safetensors"
    write_header(half, SD15)
    write_header(tmp_path / "controlnet/flat.safetensors", SD15)
    found = {each.name: each for each in catalog.controls()}
    assert {name: (each.architecture, each.ready) for name, each in found.items()} == {
        "starter-edges": ("starter", True), "sd-controlnet-canny": ("sd1", True), "xl/depth": ("sdxl", True),
        "flat": ("sd1", True),
    }  # fmt: skip
    assert found["sd-controlnet-canny"].path == half
    assert "controlnet" not in str([each.id for each in catalog.all()])


@pytest.mark.parametrize(
    "shapes",
    [
        SD15 | {"controlnet_cond_embedding.conv_in.weight": (16, 4, 3, 3)},
        SD15 | {"controlnet_cond_embedding.conv_in.weight": (16, 6, 3, 3)},
        FLUX_NET | {"controlnet_x_embedder.weight": (3072, 68)},
    ],
)
def test_one_that_reads_more_than_a_picture_is_told_and_refused(
    catalog: Catalog, tmp_path: Path, shapes: dict[str, tuple[int, ...]]
) -> None:
    write_header(tmp_path / "controlnet/more.safetensors", shapes)
    [found] = [each for each in catalog.controls() if each.name == "more"]
    assert not found.ready
    assert "cannot be used" in found.problem
    with pytest.raises(InvalidParams, match="more") as refused:
        catalog.complete("x", CONTROL | {"controls": [{"image": "0" * 64, "model": "more"}]})
    assert refused.value.field == "controls[0].model"


def test_a_control_for_inpainting_needs_a_mask(catalog: Catalog) -> None:
    wish = CONTROL | {"controls": [{"image": "0" * 64, "type": "inpaint"}]}
    with pytest.raises(InvalidParams, match="mask") as refused:
        catalog.complete("x", wish)
    assert refused.value.field == "controls[0].type"
    painted = {"kind": "inpaint", "source": "0" * 64, "mask": "1" * 64, "width": 128, "height": 128}
    [control] = catalog.complete("x", wish | painted).controls
    assert (control.model, control.seen) == ("starter-edges", "")


UNION = CONTROLNET | {
    "x.attn2.to_k.weight": (640, 2048), "task_embedding": (6, 320),
    "control_add_embedding.linear_1.weight": (1280, 1536),
}  # fmt: skip
SD3_NET = {"controlnet_blocks.0.weight": (1536, 1536), "transformer_blocks.0.attn.to_q.weight": (1536, 1536)}


@pytest.mark.parametrize(
    ("architecture", "shapes", "control", "field", "told"),
    [
        ("sdxl", UNION, {"type": "none"}, "controls[0].mode", "canny"),
        ("sdxl", UNION, {"type": "tile"}, "controls[0].mode", "openpose"),
        ("sdxl", UNION, {"type": "canny", "mode": "inpaint"}, "controls[0].mode", "openpose"),
        ("sdxl", UNION | {"task_embedding": (8, 320)}, {"type": "tile"}, "", ""),
        ("sdxl", UNION, {"type": "none", "mode": "depth"}, "", ""),
        ("flux", FLUX_NET | {"controlnet_mode_embedder.weight": (5, 3072)}, {"type": "luminance"}, "controls[0].mode",
         "blur"),
        ("flux", FLUX_NET | {"controlnet_mode_embedder.weight": (5, 3072)}, {"type": "canny"}, "", ""),
        ("sd3", SD3_NET | {"pos_embed_input.proj.weight": (1536, 17, 2, 2)}, {"type": "canny"}, "controls[0].type",
         "inpaint"),
        ("sd3", SD3_NET | {"pos_embed_input.proj.weight": (1536, 16, 2, 2)}, {"type": "canny"}, "", ""),
    ],
)  # fmt: skip
def test_what_a_control_cannot_read_is_refused_before_the_work(
    catalog: Catalog,
    tmp_path: Path,
    architecture: str,
    shapes: dict[str, tuple[int, ...]],
    control: dict[str, str],
    field: str,
    told: str,
) -> None:
    """A union without the mode, and a picture alone for a ControlNet that reads a mask."""
    write_header(tmp_path / "controlnet/mine.safetensors", shapes)
    vars(catalog)["_starter"] = replace(catalog.default, family=architecture, architecture=architecture)
    given = CONTROL | {"controls": [{"image": "0" * 64, "model": "mine"} | control], "sampler": "Euler"}
    if not field:
        assert catalog.complete("x", given).controls[0].model == "mine"
        return
    with pytest.raises(InvalidParams, match=told) as refused:
        catalog.complete("x", given)
    assert refused.value.field == field


def test_a_control_that_needs_the_whole_model_is_refused_with_a_rung_that_splits_it(
    catalog: Catalog, tmp_path: Path
) -> None:
    net = {"control_layers.0.x.weight": (8, 8), "control_all_x_embedder.2-1.weight": (8, 8)}
    write_header(tmp_path / "controlnet/mine.safetensors", net)
    vars(catalog)["_starter"] = replace(catalog.default, family="z_image", architecture="z_image")
    given = {"seed": 1, "sampler": "Euler", "controls": [{"image": "0" * 64, "model": "mine"}]}
    assert catalog.complete("x", given | {"rung": "vae_tiling"}).controls
    with pytest.raises(InvalidParams, match="resident, vae_tiling") as refused:
        catalog.complete("x", given | {"rung": "model_offload"})
    assert refused.value.field == "rung"


def test_the_starters_own_fits_the_starter_alone(catalog: Catalog) -> None:
    params = catalog.complete("x", CONTROL)
    assert params.controls == (Control("0" * 64, model="starter-edges"),)
    given = CONTROL | {"model": "anime", "controls": [{"image": "0" * 64, "model": "starter-edges"}]}
    with pytest.raises(InvalidParams, match="starter-edges") as refused:
        catalog.complete("x", given)
    assert refused.value.field == "controls[0].model"


def test_one_that_lies_to_the_scan_is_listed_with_its_problem(catalog: Catalog, tmp_path: Path) -> None:
    whole = write_header(tmp_path / "controlnet/cut.safetensors", SD15)
    whole.write_bytes(whole.read_bytes()[:40])
    write_header(tmp_path / "controlnet/lora_controlnet.safetensors", {"lora_controlnet": (1,), "x.down": (1, 2)})
    found = {each.name: each for each in catalog.controls()}
    assert not found["cut"].ready
    assert "cut" in found["cut"].problem
    assert not found["lora_controlnet"].ready
    with pytest.raises(InvalidParams, match="cut"):
        catalog.complete("x", CONTROL | {"controls": [{"image": "0" * 64, "model": "cut"}]})


def test_a_folder_of_shards_is_listed_with_the_reason(catalog: Catalog, tmp_path: Path) -> None:
    whole = folder_of(tmp_path / "controlnet/large", SD15)
    for number in (1, 2):
        shutil.copy(whole, whole.with_name(f"diffusion_pytorch_model-{number:05}-of-00002.safetensors"))
    assert {each.name: each.path for each in catalog.controls()}["large"] == whole  # the whole one counts
    whole.unlink()
    found = {each.name: each for each in catalog.controls()}
    assert set(found) == {"starter-edges", "large"}
    assert (found["large"].ready, "00001-of-00002" in found["large"].problem) == (False, True)
    with pytest.raises(InvalidParams, match="must be a single file"):
        catalog.complete("x", CONTROL | {"controls": [{"image": "0" * 64, "model": "large"}]})


def test_families_without_controlnets_say_so(catalog: Catalog) -> None:
    vars(catalog)["_starter"] = replace(catalog.default, family="lumina2")
    with pytest.raises(InvalidParams, match="does not support ControlNets"):
        catalog.complete("x", CONTROL)
