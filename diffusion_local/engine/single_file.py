"""Builds a pipeline from weight files, without network access: from one checkpoint, or from a file for each part.

Sizes and tokenizers come from configuration folders (``Model.folder`` and ``Model.tokenizers``).
"""

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
from accelerate import init_empty_weights
from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
    convert_wan_vae_to_diffusers,
)

from diffusion_local.engine import OnProgress, tensors
from diffusion_local.engine.encoders import Opener
from diffusion_local.engine.families import FAMILIES
from diffusion_local.engine.family import Parts
from diffusion_local.engine.loading import component_class, load_part
from diffusion_local.engine.tensors import State
from diffusion_local.errors import ModelUnavailable, echo
from diffusion_local.messages import message
from diffusion_local.models import tokenizers
from diffusion_local.models.catalog import Model
from diffusion_local.models.description import FOLDER_LAYOUT, Source
from diffusion_local.models.file_formats import open_header
from diffusion_local.models.headers import GGUF

LDM_UNET = "model.diffusion_model."
PROJECTION = "encoder_hid_proj."
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
#: Gemma 2 has further norms, of which llama.cpp stores the factors plus 1.
GEMMA2 = (
    (r"^blk\.(\d+)\.post_attention_norm\.", r"model.layers.\1.post_attention_layernorm."),
    (r"^blk\.(\d+)\.ffn_norm\.", r"model.layers.\1.pre_feedforward_layernorm."),
    (r"^blk\.(\d+)\.post_ffw_norm\.", r"model.layers.\1.post_feedforward_layernorm."), *LANGUAGE,
)  # fmt: skip
#: A tensor that classes compute where a file lacks it.
COMPUTED = "rotary_pos_emb.inv_freq"
#: Language models with another norm after attention, which these rules would misname.
UNFIT = re.compile(r"post_(attention|ffw)_norm")
#: llama.cpp's architectures whose attention has interleaved instead of halved rotary dimensions.
INTERLEAVED = ("llama", "mistral3")


def load(
    model: Model,
    dtype: torch.dtype,
    on_progress: OnProgress = lambda share: None,
    opener: Opener | None = None,
) -> Any:
    """A pipeline on the CPU. ``on_progress`` receives the loaded share of the weights. Raises ModelUnavailable, and
    whatever diffusers and transformers raise.
    """
    if not model.sources:
        raise ModelUnavailable(message("one_file", model=echo(model.id)))
    with tempfile.TemporaryDirectory(prefix="diffusion-local-") as temporary:
        config = merge(model, Path(temporary))
        index = json.loads((config / "model_index.json").read_text(encoding="utf-8"))
        whole, done, loaded = sum(each.count for each in model.sources) or 1, 0, Parts()
        for source in model.sources:
            on_progress(done / whole)
            library, name = index[source.slot]
            cls = component_class(library, name)
            load_it = partial(load_source, cls, source, config, dtype)
            loaded[source.slot] = (opener or Opener()).load_part(model, source.slot, dtype, load_it)
            done += source.count
        on_progress(1.0)
        return FAMILIES[model.family].load(config, dtype, loaded)


def load_source(cls: Any, source: Source, config: Path, dtype: torch.dtype) -> torch.nn.Module:
    """One part of a model, on the CPU. Raises ModelUnavailable if tensors are missing."""
    folder = config / source.slot
    if source.container == FOLDER_LAYOUT:
        return load_part(cls, source.path, dtype)
    if source.slot.startswith("text_encoder"):
        return text_encoder(cls, source, folder, dtype)
    if source.slot == "transformer" and source.container == GGUF:
        return gguf_denoiser(cls, source, folder, dtype)
    state = tensors.read(source, dtype)
    if source.slot == "unet" and source.naming == "original":
        state = from_ldm_unet(state, folder)
    if source.slot == "vae" and cls.__name__ not in SINGLE_FILE_LOADABLE_CLASSES:
        state = from_ldm_vae(state, cls.load_config(folder))
    return check_loaded(build_model(cls, state, folder, dtype), source)


def build_model(cls: Any, state: State, folder: Path, dtype: torch.dtype, **more: Any) -> torch.nn.Module:
    """Build a diffusers model from tensors with diffusers' names or the original ones of its authors."""
    if cls.__name__ in SINGLE_FILE_LOADABLE_CLASSES:
        made: torch.nn.Module = cls.from_single_file(
            state, config=str(folder), dtype=dtype, local_files_only=True, **more
        )
        return made
    with init_empty_weights():
        empty: torch.nn.Module = cls.from_config(cls.load_config(folder))
    converted = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    empty.load_state_dict(converted, strict=True, assign=True)
    return empty.eval()


def gguf_denoiser(cls: Any, source: Source, folder: Path, dtype: torch.dtype) -> torch.nn.Module:
    """A transformer whose matrices stay in GGUF blocks and are dequantised at each use."""
    from diffusers import GGUFQuantizationConfig
    from diffusers.quantizers.gguf.utils import GGUFLinear, GGUFParameter, dequantize_gguf_tensor

    state, form = tensors.read_packed(source.path, source.prefix, dtype), GGUFQuantizationConfig(compute_dtype=dtype)
    made = build_model(cls, state, folder, dtype, quantization_config=form)
    for module in made.modules():
        for name, held in list(module.named_parameters(recurse=False)):
            if isinstance(held, GGUFParameter) and not isinstance(module, GGUFLinear):
                setattr(module, name, torch.nn.Parameter(dequantize_gguf_tensor(held).to(dtype), requires_grad=False))
    return check_loaded(made, source)


def text_encoder(cls: Any, source: Source, folder: Path, dtype: torch.dtype) -> torch.nn.Module:
    """Build a text encoder from any supported naming. Raises ModelUnavailable if tensors are missing."""
    config = cls.config_class.from_pretrained(folder, local_files_only=True)
    state = tensors.read(source, dtype)
    if source.container == GGUF:
        state = from_llama_cpp(state, open_header(source.path).header.metadata)
    if "transformer.resblocks.0.attn.in_proj_weight" in state:
        with init_empty_weights():
            empty = cls(config)
        state = from_open_clip(state, empty, config.num_hidden_layers)
    made, loading_info = cls.from_pretrained(
        None, config=config, state_dict=state, dtype=dtype, output_loading_info=True
    )
    if missing := sorted(name for name in loading_info["missing_keys"] if not name.endswith(COMPUTED)):
        raise ModelUnavailable(message("file_tensor_missing", name=source.path.name, tensor=missing[0]))
    encoder: torch.nn.Module = made.eval()
    return encoder


def check_loaded(module: torch.nn.Module, source: Source) -> torch.nn.Module:
    """The module, if it has all of its weights. Raises ModelUnavailable naming the first one that the file lacks."""
    missing = next((name for name, each in module.named_parameters() if each.is_meta), None)
    if missing:
        raise ModelUnavailable(message("file_tensor_missing", name=source.path.name, tensor=missing))
    return module


def merge(model: Model, folder: Path) -> Path:
    """A configuration folder for diffusers: small files only, adjusted to the model's files."""
    target = folder / "config"
    shutil.copytree(model.folder, target, ignore=weight_files, dirs_exist_ok=True)
    for source in model.sources:
        if source.slot.startswith("text_encoder"):
            add_tokenizer(model, target, source)
    update_json(target / "scheduler/scheduler_config.json", model.scheduler)
    for name, entries in model.changes.items():
        update_json(target / name, entries)
    return target


def add_tokenizer(model: Model, config: Path, source: Source) -> None:
    """Copy a text encoder's tokenizer into the configuration, unless there is one already."""
    slot = source.slot.replace("text_encoder", "tokenizer")
    if tokenizers.has_vocabulary(config / slot):
        return
    words = model.tokenizers.get(slot) or tokenizers.tokenizer_of_part(source.part)
    if words is not None:
        shutil.copytree(words, config / slot, ignore=weight_files, dirs_exist_ok=True)


def weight_files(folder: str, names: list[str]) -> list[str]:
    """The names that ``shutil.copytree`` shall ignore: all but configurations and vocabularies."""
    light = (".json", ".txt", ".model", ".jinja")
    return [
        name
        for name in names
        if not (Path(folder) / name).is_dir() and (not name.endswith(light) or name.endswith(".index.json"))
    ]


def update_json(path: Path, entries: Mapping[str, Any]) -> None:
    if entries:
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | dict(entries)), encoding="utf-8")


# -- tensor names of other programs, converted to those of transformers and diffusers ----------------------------------


def from_llama_cpp(state: State, metadata: Mapping[str, str]) -> State:
    """Convert the tensors of a text encoder in GGUF. Raises ValueError for an unknown architecture."""
    architecture = metadata.get("general.architecture", "")
    if architecture == "gemma2":
        lowered = {name: each - 1 if name.endswith("norm.weight") else each for name, each in state.items()}
        return {rename_tensor(name, GEMMA2): each for name, each in lowered.items()}
    if any(UNFIT.search(name) for name in state):
        raise ValueError("this kind of text encoder is not known as GGUF")
    if architecture in INTERLEAVED:
        state = halved(state, metadata, architecture)
    rules = T5 if any(name.startswith("enc.") for name in state) else LANGUAGE
    return {rename_tensor(name, rules): tensor for name, tensor in state.items() if name != "rope_freqs.weight"}


def halved(state: State, metadata: Mapping[str, str], architecture: str) -> State:
    """The state with the rows of each attention head in transformers' order: all first rotary dimensions, then all
    second ones, which llama.cpp interleaves. Raises ValueError if the number of heads is not in the metadata.
    """
    heads = {"q": "head_count", "k": "head_count_kv"}
    reordered = dict(state)
    for name, tensor in state.items():
        if match := re.search(r"\.attn_(q|k)\.(weight|bias)$", name):
            count = int(metadata.get(f"{architecture}.attention.{heads[match[1]]}", 0))
            if count < 1 or len(tensor) % (2 * count):
                raise ValueError("the number of attention heads is not stated")
            pairs = tensor.reshape(count, len(tensor) // count // 2, 2, *tensor.shape[1:])
            reordered[name] = pairs.swapaxes(1, 2).reshape(tensor.shape)
    return reordered


def rename_tensor(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    """Apply the first matching rule (pattern, replacement)."""
    for pattern, by in rules:
        changed, count = re.subn(pattern, by, name)
        if count:
            return changed
    return name


def from_open_clip(state: State, encoder: Any, layers: int) -> State:
    """Rename OpenCLIP's text model, keeping ``layers`` layers: SD 2 leaves out the last one."""
    weights = {
        name: tensor
        for name, tensor in state.items()
        if not (found := re.match(r"transformer\.resblocks\.(\d+)\.", name)) or int(found[1]) < layers
    }
    named: State = convert_open_clip_checkpoint(encoder, weights, prefix="")
    return named


def from_ldm_unet(state: State, folder: Path) -> State:
    """A UNet's tensors as diffusers reads them in one file. It would leave out the projection of Kolors' prompts."""
    named = {LDM_UNET + name: tensor for name, tensor in state.items()}
    projection = {name: tensor for name, tensor in state.items() if name.startswith(PROJECTION)}
    if not projection:
        return named
    converted: State = convert_ldm_unet_checkpoint(named, diffusers.UNet2DConditionModel.load_config(folder))
    return converted | projection


def from_ldm_vae(state: State, config: dict[str, Any]) -> State:
    """Rename the tensors of Stable Diffusion's or Wan's original VAE; diffusers' names are left unchanged."""
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
