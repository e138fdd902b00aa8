"""Applies LoRAs, other VAEs, IP-Adapters and textual inversions to a loaded model.

They stay applied while consecutive pictures use them.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from safetensors.torch import load_file

from diffusion_local import families
from diffusion_local.engine import faults, inputs, ip_adapters, placement, previews, quantised
from diffusion_local.engine.hooked import HookedAdapter, UnmatchedLayer
from diffusion_local.engine.inputs import PictureInputs, short_hash
from diffusion_local.engine.loaded import Loaded
from diffusion_local.engine.tensors import read_finite, read_packed, unpack
from diffusion_local.errors import EngineError, ModelUnavailable, echo
from diffusion_local.families.family import Family
from diffusion_local.messages import Message, message
from diffusion_local.models import lora_layers
from diffusion_local.models.adapters import contains_word
from diffusion_local.models.file_formats import open_header
from diffusion_local.models.headers import GGUF
from diffusion_local.models.lora_layers import LOCON, LORA
from diffusion_local.models.loras import read_lora
from diffusion_local.options.table import Params
from diffusion_local.options.types import Lora


def apply_adapters(loaded: Loaded, params: Params, materials: PictureInputs | None, device: str) -> dict[str, Any]:
    """Apply the adapters that the params name, and remove others; returns facts for the recipe.

    Raises ModelUnavailable naming the file.
    """
    if materials is None:
        if params.loras or params.vae or params.references:
            raise ModelUnavailable(message("no_home_files"))
        return {}
    facts: dict[str, Any] = {}
    loaded.pictures = inputs.edit_references(params, materials)
    loaded.preview_decoder = materials.preview_decoder(loaded.model.architecture, device)
    apply_vae(loaded, params.vae, materials, device)
    apply_loras(loaded, params.loras, materials)
    if loaded.ip_adapters or any(each.adapter for each in params.references):
        what = "IP-Adapter " + ", ".join(each.adapter for each in params.references if each.adapter)
        load_named(what, lambda: ip_adapters.put_in(loaded, params, materials), loaded.model.id)
    words = apply_embeddings(loaded, params, materials)
    if params.vae:
        facts["vae_hash"] = short_hash(materials.vae(params.vae))
    if params.loras:
        facts["lora_hashes"] = {lora.name: short_hash(materials.lora(lora.name)) for lora in params.loras}
        if left_out := {lora.name: list(each) for lora in params.loras if (each := foreign_layers(materials, lora))}:
            facts["lora_layers_left_out"] = left_out
    if loaded.ip_adapters:
        facts["ip_adapter_hashes"] = {name: short_hash(materials.ip_adapter(name)) for name in loaded.ip_adapters}
    if words:
        facts["embedding_hashes"] = {word: short_hash(path) for word, path in words.items()}
    return facts


def apply_loras(loaded: Loaded, loras: tuple[Lora, ...], materials: PictureInputs) -> None:
    """Load missing LoRAs, remove others and set the weights."""
    if loras == loaded.loras:
        return
    before = loaded.loras
    loaded.weights_change()
    if any(changes_encoders(materials.lora(lora.name)) for lora in loras if lora not in before):
        own_encoders(loaded)
    loaded.loras = ()  # after any failure below, the next picture loads them again
    with placement.without_hooks(loaded.pipe, loaded.rung):
        swap_loras(loaded, before, loras, materials)
    loaded.loras = loras


def foreign_layers(materials: PictureInputs, lora: Lora) -> tuple[str, ...]:
    """The layers of a LoRA that its base model does not have."""
    return read_lora(open_header(materials.lora(lora.name)).header).foreign


def changes_encoders(path: Path) -> bool:
    """Whether a LoRA has layers for a text encoder."""
    return any(lora_layers.locate(lora_layers.split_name(name)[0])[1] for name in open_header(path).header.tensors)


def own_encoders(loaded: Loaded) -> None:
    """Copy text encoders shared with other models, before they are changed."""
    device = str(loaded.pipe._execution_device)
    if loaded.encoders.make_own(loaded.pipe) and loaded.rung not in placement.WHOLE:
        placement.place(loaded.pipe, loaded.rung, device)


def swap_loras(loaded: Loaded, before: tuple[Lora, ...], after: tuple[Lora, ...], materials: PictureInputs) -> None:
    """Replace the LoRAs ``before`` by ``after``: both those loaded through peft and those attached by hooks.

    Removes all of them and raises EngineError if one cannot be loaded.
    """
    files = {lora.name: materials.lora(lora.name) for lora in after}
    held = {lora.name for lora in before}
    remove_loras(loaded, held - set(files), held)
    try:
        for name in files:
            if name not in held:
                load_lora(loaded, name, files[name])
        for lora in after:
            if lora.name in loaded.hooked:
                loaded.hooked[lora.name].weight = lora.weight
        if through_peft := [lora for lora in after if lora.name not in loaded.hooked]:
            names = [adapter_name(lora.name) for lora in through_peft]
            loaded.pipe.set_adapters(names, [lora.weight for lora in through_peft])
    except EngineError:
        remove_loras(loaded, held | set(files), held | set(files))
        raise


def remove_loras(loaded: Loaded, gone: set[str], held: set[str]) -> None:
    """Remove the LoRAs ``gone`` from the loaded ones, ``held``."""
    for name in gone & set(loaded.hooked):
        loaded.hooked.pop(name).remove()
        held = held - {name}
    through_peft = held - set(loaded.hooked)
    if through_peft and through_peft <= gone:
        loaded.pipe.unload_lora_weights()
    elif gone & through_peft:
        loaded.pipe.delete_adapters([adapter_name(name) for name in gone & through_peft])


def load_lora(loaded: Loaded, name: str, path: Path) -> None:
    """Load a LoRA file to the model. Raises ModelUnavailable naming the file."""
    what, family = f"The LoRA {name!r}", families.get(loaded.model.family)
    load_named(what, lambda: load_by_kind(loaded, family, name, path), loaded.model.id)


def load_by_kind(loaded: Loaded, family: Family, name: str, path: Path) -> None:
    """Load with diffusers if it supports method and layout; otherwise, or if that fails, with hooks.

    Layers that the model does not have are left out, as the scan tells.

    Raises ModelUnavailable, and the library's own errors.
    """
    lora = read_lora(open_header(path).header)
    tensors = {name: each for name, each in read_finite(path).items() if lora_layers.layer_of(name) not in lora.foreign}
    # diffusers reads the shapes of the weights, which packed 4-bit weights do not have
    if (
        loaded.kept not in quantised.LAYERS
        and lora.method in (LORA, LOCON)
        and (not family.lora_layouts or lora.layout in family.lora_layouts)
    ):
        try:
            load_through_peft(loaded, name, tensors)
            return
        except Exception:  # of any type: its loaders also raise AssertionError
            loaded.pipe.delete_adapters([adapter_name(name)])
            with suppress(UnmatchedLayer, ValueError):  # report diffusers' error instead
                loaded.hooked[name] = HookedAdapter(loaded.pipe, tensors, family.id)
                return
            raise
    try:
        loaded.hooked[name] = HookedAdapter(loaded.pipe, tensors, family.id)
    except UnmatchedLayer as layer:
        raise ModelUnavailable(
            message("lora_layer", name=name, model=loaded.model.id, layer=echo(str(layer)))
        ) from None


def load_through_peft(loaded: Loaded, name: str, tensors: dict[str, torch.Tensor]) -> None:
    """Load a LoRA with diffusers. Raises ModelUnavailable if none of its layers fits, and the libraries' own errors."""
    pipe, adapter = loaded.pipe, adapter_name(name)
    pipe.load_lora_weights(dict(tensors), adapter_name=adapter)
    if not any(adapter in adapters for adapters in pipe.get_list_adapters().values()):
        raise ModelUnavailable(message("lora_fits", name=name, model=loaded.model.id))


def adapter_name(name: str) -> str:
    """The name under which peft gets a LoRA: peft uses it as a module name, which must not contain a dot."""
    return f"lora_{sha256(name.encode()).hexdigest()[:16]}"


#: A tensor that only small VAEs have, whose second dimension is the number of latent channels.
TINY_ENTRANCE = "decoder.layers.0.weight"


def apply_vae(loaded: Loaded, name: str, materials: PictureInputs, device: str) -> None:
    """Switch to the VAE file with this name, or with "" back to the model's own. Raises ModelUnavailable."""
    if name == loaded.vae:
        return
    own, factors = loaded.own_vae = loaded.own_vae or (loaded.pipe.vae, loaded.factors)
    vae = own
    if name:
        path = materials.vae(name)
        vae = load_named(f"The VAE {name!r}", lambda: read_vae(path, own), loaded.model.id)
        factors = previews.fit_factors(vae.to(device, own.dtype))
        vae.to("cpu")
    placement.swap_vae(loaded.pipe, vae, loaded.rung, device)
    loaded.factors, loaded.vae = factors, name


def read_vae(path: Path, like: Any) -> Any:
    """A VAE of the same shape as the model's own, from diffusers' or the original layout, or a small one (TAESD)."""
    packed = open_header(path).header.container == GGUF
    weights = unpack(read_packed(path, "", like.dtype), like.dtype) if packed else read_finite(path)
    if TINY_ENTRANCE in weights:
        tiny = diffusers.AutoencoderTiny(latent_channels=weights[TINY_ENTRANCE].shape[1])
        tiny.load_state_dict(weights)
        return tiny.eval()
    vae = type(like).from_config(like.config)
    if "encoder.down_blocks.0.resnets.0.conv1.weight" not in weights:
        start = "first_stage_model."
        named = {start + key.removeprefix(start).removeprefix("vae."): tensor for key, tensor in weights.items()}
        weights = convert_ldm_vae_checkpoint(named, vae.config)
    vae.load_state_dict(weights)
    return vae.eval()


def apply_embeddings(loaded: Loaded, params: Params, materials: PictureInputs) -> dict[str, Path]:
    """Load the textual inversions whose trigger words occur in the prompts; returns these words and their files."""
    if not isinstance(loaded.pipe, diffusers.loaders.TextualInversionLoaderMixin):
        return {}
    parts = [*(region.prompt for region in params.regions), *(detail.prompt for detail in params.details)]
    text = "\n".join([params.prompt, params.negative, *parts])
    called = {word: path for word, path in materials.embeddings().items() if contains_word(text, word)}
    for word in sorted(set(called) - loaded.words):
        loaded.graphs.forget()  # the text encoder's embedding table is replaced
        own_encoders(loaded)
        with placement.without_hooks(loaded.pipe, loaded.rung):
            load = partial(load_embedding, loaded.pipe, word, called[word])
            load_named(f"The embedding {word!r}", load, loaded.model.id)
        loaded.words |= {word}
    return called


def load_embedding(pipe: Any, word: str, path: Path) -> None:
    """Load a textual inversion to the text encoders. Raises ModelUnavailable if its width does not fit."""
    weights = read_embedding(path)
    if "clip_g" in weights:  # SDXL: one for each text encoder
        for key, number in (("clip_l", ""), ("clip_g", "_2")):
            if key in weights:
                add_embedding(pipe, word, weights[key], number)
    else:
        add_embedding(pipe, word, next(iter(weights.values())), "")


def read_embedding(path: Path) -> dict[str, torch.Tensor]:
    """The vectors of a textual inversion; pickle files are read without executing code."""
    if path.suffix.lower() in (".safetensors", ".sft"):
        return load_file(path)
    found = torch.load(path, map_location="cpu", weights_only=True)
    inside = found.get("string_to_param", found)  # A1111's format, which has other entries too
    return {name: tensor.detach() for name, tensor in inside.items() if isinstance(tensor, torch.Tensor)}


def add_embedding(pipe: Any, word: str, vectors: torch.Tensor, number: str) -> None:
    encoder, tokenizer = getattr(pipe, f"text_encoder{number}"), getattr(pipe, f"tokenizer{number}")
    width = encoder.get_input_embeddings().weight.shape[1]
    if vectors.shape[-1] != width:
        raise ModelUnavailable(message("embedding_fits", name=word, width=vectors.shape[-1], wanted=width))
    pipe.load_textual_inversion({word: vectors}, token=word, text_encoder=encoder, tokenizer=tokenizer)


def load_named(what: str, load: Callable[[], Any], model_id: str) -> Any:
    """Call ``load``, wrapping errors in one that names the file and the model."""
    problem: EngineError
    try:
        return load()
    except Exception as error:
        problem = faults.to_engine_error(error, lambda error: ModelUnavailable(does_not_fit(what, model_id, error)))
    raise problem


def does_not_fit(what: str, model_id: str, error: Exception) -> Message:
    """The message for a file that cannot be loaded: it belongs to another kind of model, or the library's reason."""
    shapes = any(words in str(error) for words in ("size mismatch", "shape", "Target modules"))
    if isinstance(error, RuntimeError | ValueError) and shapes:
        return message("unfit", what=what, model=model_id)
    return message("unloadable", what=what, error=faults.first_line(error), model=model_id)
