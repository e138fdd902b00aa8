"""Tensors of known denoisers: equal to the classes, and the bases of LoRAs told by them."""

import json
import lzma
import re
from pathlib import Path
from typing import Any

import pytest

from diffusion_local import families
from diffusion_local.models.headers import Header, Tensor
from diffusion_local.models.known_layers import KnownModel, known_models, pack, unpack
from diffusion_local.models.loras import adapters_of, is_lora, read_lora
from scripts import model_layers
from tests.models.files import read_adapter
from tests.models.headers import Tensors, write
from tests.support import every

MODELS = {f"{each.model}-{each.naming}-{at}": each for at, each in enumerate(known_models())}
#: Models whose blocks are of the sizes and number of another one's, which is then taken as the base.
ALIKE = {
    "kolors": ("sdxl",), "chroma": ("flux",), "longcat_image": ("flux",), "Bria 3": ("flux", "longcat_image"),
    "Bria FIBO": ("flux",),
    "GLM-Image": ("cogview4",), "CogView3-Plus": ("cogview4",), "SkyReels V2": ("Wan",), "Sana Video": ("sana",),
    "DiT, which draws classes instead of texts": ("pixart",), "Motif Video": ("HunyuanVideo",),
}  # fmt: skip
ATTENTION = re.compile(r"\.(to_q|to_k|to_v|to_out\.0|to_qkv|qkv|\w+_proj|proj|out)\.weight$")
#: Built within a second.
FAST = ("z_image", "flux2_klein_4b", "qwen_image")


def test_packing_keeps_every_name_and_shape() -> None:
    shapes = {
        **{f"blocks.{number}.to_q.weight": (8, 4) for number in range(5)},
        **{f"down.{level}.{number}.conv.weight": (4, 4, 3, 3) for level, number in ((0, 0), (0, 1), (2, 0))},
        "blocks.3.to_k.weight": (2, 2),
        "final.weight": (3,),
    }
    assert unpack(json.loads(json.dumps(pack(shapes)))) == shapes


def classes(fast: bool) -> list[tuple[str, str, dict[str, object]]]:
    return [(name, what, dict(config)) for name, what, config in model_layers.CLASSES if (what in FAST) == fast]


def kept_rows() -> list[dict[str, Any]]:
    return [json.loads(row) for row in lzma.decompress(model_layers.TARGET.read_bytes()).splitlines()]


def check_class(name: str, what: str, config: dict[str, object]) -> None:
    row = json.loads(model_layers.line(what, "diffusers", name, model_layers.shapes_of_class(name, config)))
    assert row in kept_rows(), f"run scripts/model_layers.py: the tensors of {name} have changed"


@pytest.mark.parametrize("entry", classes(True), ids=lambda entry: entry[1])
def test_the_tensors_are_those_of_the_classes(entry: tuple[str, str, dict[str, object]]) -> None:
    check_class(*entry)


@pytest.mark.slow
@pytest.mark.parametrize("entry", classes(False), ids=lambda entry: entry[1].replace("/", "-"))
def test_the_tensors_are_those_of_the_other_classes(entry: tuple[str, str, dict[str, object]]) -> None:
    check_class(*entry)


def test_the_tensors_are_those_of_the_published_files() -> None:
    rows = {row["source"]: row for row in kept_rows()}
    for stem, what in model_layers.FILES:
        made = json.loads(model_layers.line(what, "original", f"{stem}.safetensors", model_layers.shapes_of_file(stem)))
        assert rows[made["source"]] == made


def lora(known: KnownModel, layout: str, attention: bool) -> Header:
    """A LoRA of rank 4 over the matrices of a model, or those of its attention."""
    tensors: dict[str, Tensor] = {}
    shapes = {name: shape for name, shape in unpack(known.tensors).items() if name.endswith(".weight")}
    shapes = {name: shape for name, shape in shapes.items() if len(shape) == 2 and "." in name.removesuffix(".weight")}
    if attention:
        shapes = {name: shape for name, shape in shapes.items() if ATTENTION.search(name)} or shapes
    for name, (rows, columns) in shapes.items():
        stem = name.removesuffix(".weight")
        if layout in ("kohya", "onetrainer"):
            prefix = "lora_unet_" if layout == "kohya" else "lora_transformer_"
            down, up = (f"{prefix}{stem.replace('.', '_')}.lora_{end}.weight" for end in ("down", "up"))
        else:
            prefix = {"peft": "transformer.", "comfy": "diffusion_model.", "bare": ""}[layout]
            down, up = (f"{prefix}{stem}.lora_{end}.weight" for end in ("A", "B"))
        tensors[down] = Tensor("BF16", (4, columns))
        tensors[up] = Tensor("BF16", (rows, 4))
    return Header(tensors=tensors, metadata={}, size=0)


@pytest.mark.parametrize("name", every(4, MODELS))
def test_the_base_of_a_lora_is_told_by_the_sizes_of_its_layers(name: str) -> None:
    known = MODELS[name]
    requested = adapters_of(known.model)
    for layout, attention in (("peft", True), ("onetrainer", False), ("comfy", True), ("kohya", False)):
        header = lora(known, layout, attention)
        assert is_lora(header)
        found = read_lora(header)
        family = families.of_architecture(known.model).id
        assert found.base in (requested, family, *ALIKE.get(known.model, ())), (layout, attention)


def test_a_lora_for_another_base_says_so(tmp_path: Path) -> None:
    """Each was said to be for FLUX.1, Krea 2 or any model."""
    for file, tensors, sentence in (
        (
            "video",
            layers("transformer_blocks", 20, 3072) | layers("single_transformer_blocks", 40, 3072),
            "HunyuanVideo",
        ),
        ("text", layers("model.layers", 32, 4096, "self_attn.q_proj"), "a language model, which writes text"),
        ("unknown", layers("strange_blocks", 3, 100), "a model that is not known: layers such as strange_blocks.0"),
    ):
        found = read_adapter(write(tmp_path / f"{file}.safetensors", tensors), "lora")
        assert not found.ready
        assert sentence in found.problem


def layers(blocks: str, count: int, width: int, name: str = "attn.to_q") -> Tensors:
    stems = [f"base_model.model.{blocks}.{number}.{name}" for number in range(count)]
    return {
        f"{stem}.lora_{end}.weight": ["F16", shape]
        for stem in stems
        for end, shape in (("A", [4, width]), ("B", [width, 4]))
    }


@pytest.mark.parametrize(
    ("end", "method"),
    [
        ("lora_E", "an AdaLoRA"), ("hra_u", "an adapter of another kind"), ("vera_lambda_b", "a VeRA"),
        ("boft_R", "an adapter of another kind"),
    ],
)  # fmt: skip
def test_methods_that_are_not_applied_are_named(tmp_path: Path, end: str, method: str) -> None:
    tensors: Tensors = {
        f"base_model.model.transformer_blocks.{number}.attn.to_{each}.{end}": ["F16", [3072, 4]]
        for number in range(19)
        for each in "qkv"
    }
    found = read_adapter(write(tmp_path / "x.safetensors", tensors), "lora")
    assert found.state == "recognised"
    assert f"It is {method}" in found.problem
    assert "FLUX.1" in found.problem


def test_kolors_is_told_from_sdxl_by_the_metadata(tmp_path: Path) -> None:
    tensors = layers("down_blocks.1.attentions", 2, 2048, "transformer_blocks.0.attn2.to_k")
    found = read_adapter(write(tmp_path / "x.safetensors", tensors, {"base_model": "Kwai-Kolors/Kolors"}), "lora")
    assert found.architecture == "kolors"
