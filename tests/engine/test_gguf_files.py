"""Transformers and text encoders as GGUF draw what the numbers in their blocks draw."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image as PIL
from safetensors.torch import load_file, save_file

from diffusion_local.engine.diffusers_engine import DiffusersEngine
from diffusion_local.models.catalog import Model
from tests.engine.conftest import Draw
from tests.engine.shrunken import LAYOUTS, Layout, State
from tests.engine.test_flow_families import difference
from tests.engine.test_split_files import JOB, catalogue, close, matrices, narrow_flux  # noqa: F401 - a fixture
from tests.support import tiers

gguf = pytest.importorskip("gguf")

#: The names that llama.cpp gives T5's encoder and Qwen's language model, by parts of the names of transformers.
T5 = (
    ("encoder.block.", "enc.blk."), ("encoder.final_layer_norm", "enc.output_norm"), ("shared", "token_embd"),
    ("layer.0.SelfAttention.relative_attention_bias", "attn_rel_b"), ("layer.0.SelfAttention.", "attn_"),
    ("layer.0.layer_norm", "attn_norm"), ("layer.1.layer_norm", "ffn_norm"),
    ("layer.1.DenseReluDense.wi_0", "ffn_gate"), ("layer.1.DenseReluDense.wi_1", "ffn_up"),
    ("layer.1.DenseReluDense.wo", "ffn_down"),
)  # fmt: skip
QWEN = (
    ("model.norm.", "output_norm."), ("model.", ""), ("embed_tokens", "token_embd"), ("layers.", "blk."),
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"), ("self_attn.q_norm", "attn_q_norm"), ("self_attn.k_norm", "attn_k_norm"),
    ("self_attn.o_proj", "attn_output"), ("self_attn.", "attn_"), ("mlp.", "ffn_"), ("_proj", ""),
)  # fmt: skip


#: Every family and every kind of blocks; the first tier has one family.
IN_FIRST_TIER = ("z_image",)
BLOCKS = [
    pytest.param(
        layout,
        kind,
        marks=[pytest.mark.slow] * (layout not in IN_FIRST_TIER or (place + turn) % 2),
        id=f"{layout}-{kind}",
    )
    for place, layout in enumerate(LAYOUTS)
    for turn, kind in enumerate(("Q8_0", "Q4_0"))
]


@pytest.fixture(scope="module", params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> Layout:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made: Layout = LAYOUTS[request.param]()
        return made


@pytest.fixture
def drawn(diffusers_engine: DiffusersEngine) -> Callable[[Model], PIL.Image]:
    def draw(model: Model) -> PIL.Image:
        assert model.ready, model.problem
        diffusers_engine.load(model)
        return Draw(diffusers_engine)(model=model.id, **JOB | {"sampler": "Euler"}).image

    return draw


def write(path: Path, state: State, architecture: str, kind: Any, names: tuple[tuple[str, str], ...] = ()) -> State:
    """A GGUF file with matrices in blocks where they fit into them, and what its numbers are."""
    writer, whole = gguf.GGUFWriter(path, architecture), dict(state)
    in_blocks = set(matrices(state))
    for name, tensor in state.items():
        published = name
        for theirs, ours in names:
            published = published.replace(theirs, ours, 1)
        numbers = tensor.float().contiguous().numpy()
        if name in in_blocks and numbers.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] == 0:
            blocks = gguf.quants.quantize(numbers, kind)
            writer.add_tensor(published, blocks, raw_dtype=kind)
            whole[name] = torch.from_numpy(gguf.quants.dequantize(blocks, kind)).reshape(tensor.shape)
        else:
            writer.add_tensor(published, numbers)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return whole


@pytest.mark.parametrize(("layout", "kind"), BLOCKS, indirect=["layout"])
def test_a_transformer_in_blocks(
    layout: Layout, kind: str, drawn: Callable[[Model], PIL.Image], tmp_path: Path
) -> None:
    plain = layout.write(tmp_path / "packed")
    bare = {name.removeprefix("model.diffusion_model."): each for name, each in load_file(plain).items()}
    denoiser = {name: each for name, each in bare.items() if not name.startswith("first_stage_model.")}
    plain.unlink()
    whole = write(plain.with_suffix(".gguf"), denoiser, layout.family, gguf.GGMLQuantizationType[kind])
    if "first_stage_model.decoder.conv_in.weight" in bare:  # beside the denoiser, which a GGUF file has alone
        vae = {name: each for name, each in bare.items() if name not in denoiser}
        layout.parts["vae/sd3_vae.safetensors"] = vae
        layout.write(tmp_path / "whole", lambda state: whole)
        layout.write(tmp_path / "packed", lambda state: state)
        plain.unlink()
        del layout.parts["vae/sd3_vae.safetensors"]
    else:
        layout.write(tmp_path / "whole", lambda state: whole)
    models = [catalogue(tmp_path / place).get("tiny") for place in ("packed", "whole")]
    assert models[0].precision.startswith("GGUF")
    # Blocks are unpacked to fp16, which rounds.
    assert difference(*(drawn(model) for model in models)) <= 4


@pytest.mark.parametrize("layout", tiers(LAYOUTS, first=["flux"]), indirect=True)
@pytest.mark.slow
def test_a_text_encoder_in_blocks(layout: Layout, drawn: Callable[[Model], PIL.Image], tmp_path: Path) -> None:
    file = next((name for name in layout.parts if "t5" in name or "qwen" in name), "")
    kind = gguf.GGMLQuantizationType.Q8_0
    for place in ("packed", "whole"):
        layout.write(tmp_path / place)
    encoder = {name: each for name, each in layout.parts[file].items() if name != "encoder.embed_tokens.weight"}
    names, architecture = (T5, "t5encoder") if "t5" in file else (QWEN, "qwen3")
    packed = tmp_path / "packed" / file
    packed.unlink()
    whole = write(packed.with_suffix(".gguf"), encoder, architecture, kind, names)
    save_file({name: each.contiguous().clone() for name, each in whole.items()}, tmp_path / "whole" / file)
    models = [catalogue(tmp_path / place).get("tiny") for place in ("packed", "whole")]
    assert any(each.container == "gguf" for each in models[0].sources)
    assert close(*(drawn(model) for model in models))
