"""Every file that people have is told as what it is: over true headers, and over what is made of them."""

import csv
import math
import re
from pathlib import Path
from typing import Any

import pytest

from diffusion_local import families
from diffusion_local.messages import translate
from diffusion_local.models.assembly import Pool
from diffusion_local.models.directories import bundled_configs
from diffusion_local.models.identify import read_file
from diffusion_local.models.probe import CHECKPOINT, DENOISER, Probe
from tests.models.files import read_adapter, read_checkpoint
from tests.models.headers import Tensors, published, tensors_of, write, write_gguf, write_published
from tests.support import every

CONFIGS = bundled_configs()
with Path(__file__).with_name("headers.tsv").open(encoding="utf-8", newline="") as table:
    EXPECTED = list(csv.DictReader(table, delimiter="\t", quoting=csv.QUOTE_NONE))
DENOISERS = [row for row in EXPECTED if row["kind"] in (CHECKPOINT, DENOISER) and row["scheme"] in ("-", "fp8")]
TRANSFORMERS = [row for row in DENOISERS if row["kind"] == DENOISER and not row["what"].startswith("sd")]


def told(path: Path, kind: str) -> tuple[str, str, str, str]:
    """What it is or fits, its layout, and how its entry stands."""
    probe = read_file(path).probe
    if probe.kind == "lora":
        lora = read_adapter(path, "lora")
        return lora.architecture, f"{lora.layout}/{lora.method}", lora.state, lora.problem
    if kind == "vae":
        vae = read_adapter(path, "vae")
        return vae.part, probe.naming, vae.state, vae.problem
    if kind == "control":
        control = read_adapter(path, "control")
        return control.architecture, probe.naming, control.state, control.problem
    if kind in ("ip_adapter", "image_encoder"):
        beside = read_adapter(path, kind)
        fits = f":{beside.architecture}" if beside.architecture else ""
        return f"{beside.part}{fits}", probe.naming, beside.state, beside.problem
    found = read_checkpoint(path, CONFIGS)
    layout = "/".join([probe.naming, *([probe.prediction] if probe.prediction else []), *(["zsnr"] * probe.zero_snr)])
    what = probe.architecture or probe.base or probe.id
    if probe.kind in ("attachment", "stranger"):
        what = f"{probe.id}:{probe.base}"
    return what, layout, found.state, found.problem


def test_each_header_has_a_row() -> None:
    assert [row["file"] for row in EXPECTED] == list(published())
    assert len(EXPECTED) > 120


@pytest.mark.parametrize("row", every(3, EXPECTED), ids=lambda row: row["file"])
def test_a_published_file_is_told_as_what_it_is(row: dict[str, str], tmp_path: Path) -> None:
    path = write_published(tmp_path, row["file"])
    probe = read_file(path).probe
    what, layout, state, problem = told(path, row["kind"])
    assert (probe.kind, what, state) == (row["kind"], row["what"], row["state"])
    assert (probe.precision, probe.quantisation or "-") == (row["precision"], row["scheme"])
    assert (layout or "-") == row["layout"]
    assert (problem or "-") == row["words"]
    assert not problem or re.search(r"[\u4e00-\u9fff]", translate("zh", problem))
    assert (state == "ready") == (not problem)


PARTS = ("models/te/clip_l.safetensors", "models/te/t5xxl_fp16.safetensors", "models/te/qwen_3_4b.safetensors",
         "models/te/qwen_2.5_vl_7b_fp8_scaled.safetensors", "parts/flux-ae.safetensors", "parts/sdxl_vae.safetensors",
         "parts/vae-ft-mse-840000-ema-pruned.safetensors", "parts/qwen_image_vae.safetensors",
         "models/sd3_medium_incl_clips_t5xxlfp8.safetensors", "models/sd_xl_base_1.0.safetensors")  # fmt: skip


def whole_pool(folder: Path) -> Pool:
    """What somebody has who has one of each part."""
    pool = Pool()
    for file in PARTS:
        path = write_published(folder, file)
        pool.add_file(path, read_file(path).probe)
    return pool


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return whole_pool(tmp_path_factory.mktemp("parts"))


@pytest.mark.parametrize(
    "row", every(4, [row for row in EXPECTED if row["with_parts"] != "-"]), ids=lambda row: row["file"]
)
def test_a_model_is_put_together_with_the_parts_that_lie_beside_it(
    row: dict[str, str], pool: Pool, tmp_path: Path
) -> None:
    found = read_checkpoint(write_published(tmp_path, row["file"]), CONFIGS, pool)
    assert found.state == row["with_parts"], found.problem
    if found.state == "ready":
        needed = families.ARCHITECTURES[found.architecture].parts
        assert [each.part for each in found.sources] == ["denoiser", *needed]
        assert all(each.count > 0 for each in found.sources)


def probed(path: Path) -> Probe:
    return read_file(path).probe


def prefixed(tensors: Tensors, prefix: str) -> Tensors:
    """With another prefix before the denoiser's names."""
    made = {}
    for name, each in tensors.items():
        bare = name
        for own in ("model.diffusion_model.", "net.", "model."):
            bare = bare.removeprefix(own)
        made[prefix + bare] = each
    return made


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model.", "net.", "transformer."])
@pytest.mark.parametrize("row", every(4, TRANSFORMERS), ids=lambda row: row["file"])
def test_a_transformer_is_known_under_each_prefix(row: dict[str, str], prefix: str, tmp_path: Path) -> None:
    tensors = prefixed(tensors_of(row["file"]), prefix)
    probe = probed(write(tmp_path / Path(row["file"]).name, tensors))
    assert (probe.kind, probe.architecture) == (DENOISER, row["what"])
    assert probe.denoiser is not None
    assert probe.denoiser.prefix == prefix


@pytest.mark.parametrize(("kind", "precision"), [("F32", "fp32"), ("BF16", "bf16"), ("F8_E5M2", "fp8_e5m2")])
@pytest.mark.parametrize("row", every(4, DENOISERS[::4]), ids=lambda row: row["file"])
def test_the_precision_is_that_of_most_weights(row: dict[str, str], kind: str, precision: str, tmp_path: Path) -> None:
    """Small tensors stay as they were, as converters leave them."""
    tensors = {
        name: [kind if math.prod(shape) > 10_000 else dtype, shape]
        for name, (dtype, shape) in tensors_of(row["file"]).items()
    }
    probe = probed(write(tmp_path / Path(row["file"]).name, tensors))
    assert (probe.architecture, probe.precision) == (row["what"], precision)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_K", "Q6_K"])
@pytest.mark.parametrize("row", every(4, TRANSFORMERS), ids=lambda row: row["file"])
def test_a_transformer_as_gguf(row: dict[str, str], kind: str, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / f"{Path(row['file']).stem}.gguf", tensors_of(row["file"]), "flux", kind)
    probe = probed(path)
    assert (probe.container, probe.quantisation, probe.architecture) == ("gguf", "gguf", row["what"])
    sizes = {True: 0, False: 0}
    for _, shape in tensors_of(row["file"]).values():
        sizes[len(shape) == 2 and shape[-1] % 256 == 0] += math.prod(shape)
    if sizes[True] > sizes[False]:
        assert probe.precision == kind
    found = read_checkpoint(path, CONFIGS)
    assert found.state in ("recognised", "incomplete")  # without the package that reads it, or without its other parts
    assert found.problem


def scaled(tensors: Tensors, *ends: str) -> Tensors:
    """Each matrix in fp8 with further tensors beside it."""
    made: Tensors = {}
    for name, (kind, shape) in tensors.items():
        matrix = len(shape) == 2 and name.endswith(".weight")
        made[name] = ["F8_E4M3" if matrix else kind, shape]
        if matrix:
            made |= {name.removesuffix("weight") + end: ["F32", []] for end in ends}
    return made


@pytest.mark.parametrize(
    ("change", "metadata", "scheme"),
    [
        (lambda tensors: scaled(tensors, "scale_weight"), {}, "fp8_scaled"),
        (lambda tensors: scaled(tensors, "weight_scale", "comfy_quant"), {}, "comfy_quant"),
        (lambda tensors: scaled(tensors), {"_quantization_metadata": '{"layers": {}}'}, "comfy_quant"),
        (lambda tensors: scaled(tensors, "weight_scale", "weight_scale_2"), {}, "nvfp4"),
        (lambda tensors: scaled(tensors, "weight.quant_state.bitsandbytes__nf4"), {}, "bnb_nf4"),
        (lambda tensors: scaled(tensors, "SCB"), {}, "bnb_int8"),
        (lambda tensors: scaled(tensors, "weight._data", "weight._scale"), {}, "quanto"),
    ],
)
def test_how_weights_are_quantised_is_told(change: Any, metadata: dict[str, str], scheme: str, tmp_path: Path) -> None:
    for file in ("models/sd_xl_base_1.0.safetensors", "models/flux1-dev.safetensors"):
        path = write(tmp_path / Path(file).name, change(tensors_of(file)), metadata)
        assert probed(path).quantisation == scheme
        found = read_checkpoint(path, CONFIGS)
        if scheme in ("nvfp4", "quanto"):
            assert (found.state, "cannot be loaded yet" in found.problem) == ("recognised", True)
        else:
            assert found.state == ("ready" if "sd_xl" in file else "incomplete")


def test_a_second_averaged_copy_of_the_weights_is_not_counted(tmp_path: Path) -> None:
    one, two = (f"models/{name}.safetensors" for name in ("v1-5-pruned-emaonly", "v1-5-pruned"))
    small, large = (read_file(write_published(tmp_path, file)) for file in (one, two))
    assert large.size_bytes > small.size_bytes * 1.7
    assert large.memory_bytes == small.memory_bytes


def test_what_a_file_holds_and_lacks_is_kept_for_the_engine(tmp_path: Path) -> None:
    whole = probed(write_published(tmp_path, "models/flux1-dev-fp8-AIO.safetensors"))
    assert [(each.id, each.precision) for each in whole.held] == [
        ("denoiser", "fp8_e4m3"), ("clip_l", "fp8_e4m3"), ("t5_xxl", "fp8_e4m3"), ("vae_16", "fp16"),
    ]  # fmt: skip
    assert whole.missing == ()
    alone = probed(write_published(tmp_path, "models/z_image_turbo_bf16.safetensors"))
    assert alone.missing == ("qwen3_4b", "vae_flux")
    held = {each.id: each.prefix for each in whole.held}
    assert held["t5_xxl"] == "text_encoders.t5xxl.transformer."
    assert held["vae_16"] == "vae."


@pytest.mark.parametrize(
    ("numbers", "prediction", "width"), [(0.02, "epsilon", 512), (0.2, "v_prediction", 768)], ids=["noise", "v"]
)
def test_how_sd2_was_trained_is_told_by_the_spread_of_one_tensor(
    numbers: float, prediction: str, width: int, tmp_path: Path, services: Any
) -> None:
    """Whatever its name says."""
    import json
    import struct

    name = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
    path = write(
        services.settings.models / "768-or-512.safetensors", tensors_of("models/v2-1_512-ema-pruned.safetensors")
    )
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        start, end = json.loads(file.read(length))[name]["data_offsets"]
        file.seek(8 + length + start)
        count = (end - start) // 4
        file.write(struct.pack(f"<{count}f", *(numbers if each % 2 else -numbers for each in range(count))))
    model = services.catalog.get("768-or-512")
    assert model.scheduler["prediction_type"] == prediction
    assert model.defaults.width == width
