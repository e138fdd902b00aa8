"""The manual's table of what large models take on small cards, calculated from their true sizes without weights."""

import importlib
import json
import os
from dataclasses import replace
from typing import Any

import pytest
from accelerate import init_empty_weights

from diffusion_local.domain import Kind, Params
from diffusion_local.engine import precision, quantised
from diffusion_local.engine.kept_blocks import sizes_by_name
from diffusion_local.engine.memory import GIB, LADDERS, Weights, choose, estimate
from diffusion_local.engine.precision import INT8, NF4, Form
from diffusion_local.paths import assets
from tests.support import REPOSITORY

PAGE = REPOSITORY / "assets/docs/memory.md"
MODELS = {
    "FLUX.1 dev": "flux_dev", "FLUX.2 klein 4B": "flux2_klein_4b", "Z-Image": "z_image", "Qwen-Image": "qwen_image",
}  # fmt: skip
CARDS = (8, 12, 16, 24)
FORMS = {"bf16": Form(), "int8": Form(INT8, INT8), "nf4": Form(NF4, INT8)}
#: GiB of a card that CUDA and a desktop take.
BESIDE = 1


def sizes_of(config: str) -> Weights:
    """Numbers of each part, and of the matrices in its blocks, by its class on the meta device."""
    folder = assets() / "configs" / config
    counts, blocks, units = {}, {}, {}
    for part, spec in json.loads((folder / "model_index.json").read_text()).items():
        if part.startswith(("text_encoder", "transformer", "vae")):
            with init_empty_weights(include_buffers=True):
                module = made(getattr(importlib.import_module(spec[0]), spec[1]), folder / part)
            counts[part] = sum(each.numel() for each in module.parameters())
            units[part] = sizes_by_name({name: each.numel() for name, each in module.named_parameters()})
            blocks[part] = sum(layer.weight.numel() for _, layer in quantised.layers_in_blocks(module))
    return Weights(counts, blocks=blocks, units=units)


def made(cls: Any, folder: Any) -> Any:
    if hasattr(cls, "load_config"):
        return cls.from_config(cls.load_config(folder))
    return cls(cls.config_class.from_pretrained(folder, local_files_only=True))


def cell(sizes: Weights, form: Form, card: int) -> str:
    """The rung and GiB at the peak."""
    held = form.of_parts(sizes.parts)
    every = precision.bytes_of_parts(sizes, form, 2)
    need = estimate(replace(sizes, kept={part: every[part] for part in held}), 2, 1024, 1024)
    params = Params("", "", "a", 1024, 1024, 20, 1.0, "Euler", 0, Kind.TXT2IMG)
    choice = choose(LADDERS["cuda"], "a", need, (card - BESIDE) * GIB, params, ())
    return f"`{choice.rung}` {choice.takes / GIB:.1f}"


def table() -> list[str]:
    head = ["| | held in | main memory | " + " | ".join(f"{card} GiB" for card in CARDS) + " |"]
    rows = [*head, "|---" * (3 + len(CARDS)) + "|"]
    for title, config in MODELS.items():
        sizes = sizes_of(config)
        for name, form in FORMS.items():
            total = sum(precision.bytes_of_parts(sizes, form, 2).values()) / GIB
            rows.append(
                f"| {title} | {name} | {total:.1f} | " + " | ".join(cell(sizes, form, card) for card in CARDS) + " |"
            )
    return rows


@pytest.mark.slow
def test_the_manual_has_the_table() -> None:
    """WRITE_RECORDS=1 writes it."""
    text, rows = PAGE.read_text(encoding="utf-8"), "\n".join(table())
    start, end = "<!-- estimates -->\n", "\n<!-- end -->"
    before, _, rest = text.partition(start)
    result, _, after = rest.partition(end)
    if os.environ.get("WRITE_RECORDS"):
        PAGE.write_text(before + start + rows + end + after, encoding="utf-8")
    else:
        assert result == rows


def test_whole_models_in_fewer_bits_reach_a_higher_rung() -> None:
    flux = Weights({"transformer": 11_900_000_000, "text_encoder_2": 4_760_000_000, "vae": 84_000_000})
    rungs = {name: [cell(flux, form, card).split("`")[1] for card in CARDS] for name, form in FORMS.items()}
    assert rungs["bf16"] == ["group_offload", "group_offload", "group_offload", "group_offload"]
    assert rungs["int8"][2:] == ["model_offload", "resident"]
    assert rungs["nf4"][1:3] == ["encoder_offload", "resident"]
