"""Names of tensors as other programs write them -> the names that transformers and diffusers load."""

import re
from typing import Any

from diffusers.loaders.single_file_utils import (
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
    convert_wan_vae_to_diffusers,
)

from diffusion_local.engine.tensors import State

#: llama.cpp's names of a language model, and of T5's encoder.
LANGUAGE = (
    (r"^token_embd\.", "model.embed_tokens."), (r"^output_norm\.", "model.norm."), (r"^output\.", "lm_head."),
    (r"^blk\.(\d+)\.attn_norm\.", r"model.layers.\1.input_layernorm."),
    (r"^blk\.(\d+)\.attn_(q|k|v)\.", r"model.layers.\1.self_attn.\2_proj."),
    (r"^blk\.(\d+)\.attn_output\.", r"model.layers.\1.self_attn.o_proj."),
    (r"^blk\.(\d+)\.attn_(q|k)_norm\.", r"model.layers.\1.self_attn.\2_norm."),
    (r"^blk\.(\d+)\.ffn_norm\.", r"model.layers.\1.post_attention_layernorm."),
    (r"^blk\.(\d+)\.ffn_(gate|up|down)\.", r"model.layers.\1.mlp.\2_proj."),
)  # fmt: skip
T5 = (
    (r"^token_embd\.", "shared."), (r"^enc\.output_norm\.", "encoder.final_layer_norm."),
    (r"^enc\.blk\.(\d+)\.attn_(q|k|v|o)\.", r"encoder.block.\1.layer.0.SelfAttention.\2."),
    (r"^enc\.blk\.(\d+)\.attn_rel_b\.", r"encoder.block.\1.layer.0.SelfAttention.relative_attention_bias."),
    (r"^enc\.blk\.(\d+)\.attn_norm\.", r"encoder.block.\1.layer.0.layer_norm."),
    (r"^enc\.blk\.(\d+)\.ffn_gate\.", r"encoder.block.\1.layer.1.DenseReluDense.wi_0."),
    (r"^enc\.blk\.(\d+)\.ffn_up\.", r"encoder.block.\1.layer.1.DenseReluDense.wi_1."),
    (r"^enc\.blk\.(\d+)\.ffn_down\.", r"encoder.block.\1.layer.1.DenseReluDense.wo."),
    (r"^enc\.blk\.(\d+)\.ffn_norm\.", r"encoder.block.\1.layer.1.layer_norm."),
)  # fmt: skip
#: Families of language models with another norm behind attention, whose names here would be wrong.
UNFIT = re.compile(r"post_(attention|ffw)_norm")


def from_llama_cpp(state: State) -> State:
    """A text encoder's tensors in GGUF; raises ValueError for a kind of model that is not known here."""
    if any(UNFIT.search(name) for name in state):
        raise ValueError("this kind of text encoder is not known as GGUF")
    rules = T5 if any(name.startswith("enc.") for name in state) else LANGUAGE
    return {rename(name, rules): tensor for name, tensor in state.items() if name != "rope_freqs.weight"}


def rename(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, by in rules:
        changed, count = re.subn(pattern, by, name)
        if count:
            return changed
    return name


def from_open_clip(state: State, encoder: Any, layers: int) -> State:
    """The text model of OpenCLIP for an encoder of so many layers: SD 2's leaves out the last one."""
    kept = {
        name: tensor
        for name, tensor in state.items()
        if not (found := re.match(r"transformer\.resblocks\.(\d+)\.", name)) or int(found[1]) < layers
    }
    named: State = convert_open_clip_checkpoint(encoder, kept, prefix="")
    return named


def from_ldm_vae(state: State, config: dict[str, Any]) -> State:
    """An autoencoder of Stable Diffusion's kind, or Wan's, with the names of its authors; of diffusers' as it is."""
    if any(name.startswith("decoder.up_blocks.") for name in state):
        return state
    if any(name.startswith("decoder.middle.") for name in state):
        converted: State = convert_wan_vae_to_diffusers(state)
        return converted
    inner = {"decoder.post_quant_conv.": "post_quant_conv.", "encoder.quant_conv.": "quant_conv."}
    for name in list(state):
        for before, after in inner.items():
            if name.startswith(before):
                state[after + name[len(before) :]] = state.pop(name)
    named: State = convert_ldm_vae_checkpoint(state, config)
    return named | {name: tensor for name, tensor in state.items() if name.startswith("bn.")}
