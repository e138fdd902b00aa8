"""Quantised weights, and those that llama.cpp stores in another order, come out as the numbers that they stand for."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file

from diffusion_local.engine import control_nets, ip_adapters
from diffusion_local.engine.single_file import from_llama_cpp
from diffusion_local.engine.tensors import dequantise, read_finite
from diffusion_local.errors import ModelUnavailable

State = dict[str, torch.Tensor]


def note(**entries: Any) -> torch.Tensor:
    return torch.tensor(list(json.dumps(entries).encode()), dtype=torch.uint8)


def test_fp8_with_a_scale_for_each_block() -> None:
    """The last blocks are smaller than the others."""
    weight = torch.randn(300, 200)
    scales = torch.rand(3, 2) + 0.5
    stored = weight.to(torch.float8_e4m3fn)
    right = stored.float()
    for row in range(3):
        for column in range(2):
            right[row * 128 : row * 128 + 128, column * 128 : column * 128 + 128] *= scales[row, column]
    found = dequantise({"a.weight": stored, "a.weight_scale_inv": scales}, torch.float32, "x")
    assert set(found) == {"a.weight"}
    assert torch.equal(found["a.weight"], right)


def regular_hadamard(size: int) -> torch.Tensor:
    """Entry by entry: the product of the entries of the matrix of order 4 over the digits to base 4."""
    found = torch.empty(size, size)
    for row in range(size):
        for column in range(size):
            sign, one, other, rest = 1, row, column, size
            while rest > 1:
                sign *= -1 if one % 4 + other % 4 == 3 else 1
                one, other, rest = one // 4, other // 4, rest // 4
            found[row, column] = sign
    return found / size**0.5


@pytest.mark.parametrize("group", [16, 64])
def test_rotated_int8_is_turned_back(group: int) -> None:
    weight = torch.randn(8, 128)
    turned = (weight.view(8, -1, group) @ regular_hadamard(group).T).reshape(8, 128)
    scale = turned.abs().amax(dim=1, keepdim=True) / 127
    state = {
        "a.weight": (turned / scale).round().to(torch.int8),
        "a.weight_scale": scale,
        "a.comfy_quant": note(format="int8_tensorwise", convrot=True, convrot_groupsize=group),
    }
    found = dequantise(state, torch.float32, "x")
    assert set(found) == {"a.weight"}
    assert (found["a.weight"] - weight).norm() < 0.02 * weight.norm()
    assert (turned - weight).norm() > weight.norm() / 2


def test_an_unknown_format_is_an_error() -> None:
    state = {"a.weight": torch.ones(2, 2), "a.weight_scale": torch.ones(1), "a.comfy_quant": note(format="int8_blocks")}
    with pytest.raises(ModelUnavailable, match="int8_blocks"):
        dequantise(state, torch.float32, "x")


#: llama.cpp's names by parts of the names of transformers.
NAMES = (
    ("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("model.layers.", "blk."),
    ("input_layernorm", "attn_norm"), ("self_attn.o_proj", "attn_output"), ("self_attn.", "attn_"), ("mlp.", "ffn_"),
    ("_proj.", "."),
)  # fmt: skip
SIZES = {
    "vocab_size": 32, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8,
}  # fmt: skip


def published(state: State, *further: tuple[str, str]) -> State:
    made = {}
    for name, tensor in state.items():
        for theirs, ours in (*further, *NAMES):
            name = name.replace(theirs, ours)
        made[name] = tensor
    return made


def test_llama_with_interleaved_heads() -> None:
    """As llama.cpp's converter writes it: row 2n of a head is its row n, row 2n + 1 its row n + half."""
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES))
    state = {name: each.detach() for name, each in model.state_dict().items() if not name.startswith("lm_head")}
    stored = {}
    for name, tensor in published(state, ("post_attention_layernorm", "ffn_norm")).items():
        if name.endswith(("attn_q.weight", "attn_k.weight")):
            heads = tensor.split(SIZES["head_dim"])
            half = SIZES["head_dim"] // 2
            order = [each for pair in zip(range(half), range(half, 2 * half), strict=True) for each in pair]
            tensor = torch.cat([head[order] for head in heads])
        stored[name] = tensor
    metadata = {
        "general.architecture": "llama",
        "llama.attention.head_count": "4",
        "llama.attention.head_count_kv": "2",
    }
    found = from_llama_cpp(stored, metadata)
    assert set(found) == set(state)
    assert all(torch.equal(found[name], each) for name, each in state.items())
    with pytest.raises(ValueError, match="number of attention heads"):
        from_llama_cpp(stored, {"general.architecture": "llama"})


def test_gemma_2_with_its_further_norms() -> None:
    model = transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**SIZES))
    state = {name: each.detach() for name, each in model.state_dict().items() if not name.startswith("lm_head")}
    further = (
        ("post_attention_layernorm", "post_attention_norm"), ("pre_feedforward_layernorm", "ffn_norm"),
        ("post_feedforward_layernorm", "post_ffw_norm"),
    )  # fmt: skip
    stored = {
        name: each + 1 if name.endswith("norm.weight") else each for name, each in published(state, *further).items()
    }
    found = from_llama_cpp(stored, {"general.architecture": "gemma2"})
    assert set(found) == set(state)
    assert all(torch.allclose(found[name], each, atol=1e-6) for name, each in state.items())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_file_with_values_that_are_no_numbers_is_named(tmp_path: Path, value: float) -> None:
    path = tmp_path / "soft.safetensors"
    weight = torch.ones(4, 4, dtype=torch.float16)
    packed = torch.ones(2, dtype=torch.float8_e4m3fn)
    save_file({"a.weight": weight, "b.weight": packed, "alpha": torch.tensor(4)}, path)
    assert set(read_finite(path)) == {"a.weight", "b.weight", "alpha"}
    weight[2, 3] = value
    save_file({"a.weight": weight}, path)
    for read in (read_finite, control_nets.read, ip_adapters.read):
        with pytest.raises(ModelUnavailable, match=r"soft.safetensors is damaged: 'a.weight' contains values"):
            read(path)
