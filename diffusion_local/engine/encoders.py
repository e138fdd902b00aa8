"""Shares text encoders between the models in memory.

An encoder is registered while any model uses it, and the next model with an equal encoder uses the same object. Two
encoders are equal if their class and configuration agree and their files hold the same tensors, byte for byte,
regardless of paths and shards. Changes to an encoder, such as a LoRA, are made to the model's own copy.
"""

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any
from weakref import ReferenceType, WeakSet, ref

import torch
from accelerate.hooks import remove_hook_from_module

from diffusion_local.engine import quantised, tensors
from diffusion_local.errors import ModelUnavailable
from diffusion_local.models.catalog import Model
from diffusion_local.models.description import FOLDER_LAYOUT, Source
from diffusion_local.models.file_formats import open_header
from diffusion_local.models.folders import read_config, weight_files
from diffusion_local.models.headers import GGUF

#: Names of a pipeline's text encoder components.
ENCODER_NAMES = ("text_encoder", "text_encoder_2", "text_encoder_3", "text_encoder_4")
#: Configuration entries that do not affect the output.
IRRELEVANT = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")
#: Classes with a head that pipelines do not use -> the class without it.
HEADLESS = {"Qwen3ForCausalLM": "Qwen3Model"}

#: (path, modification time in ns, size) of a file.
Stamp = tuple[Path, int, int]


@dataclass(frozen=True, slots=True)
class EncoderRequest:
    """Description of a text encoder that a model would load, for comparison with those in memory.

    ``config``: JSON of the relevant entries; ``form``: quantisation scheme or ""; ``prefix``: of tensor names in files.
    """

    name: str
    config: str
    dtype: torch.dtype
    form: str
    files: tuple[Stamp, ...]
    prefix: str


@dataclass(slots=True)
class RegisteredEncoder:
    """A registered encoder and the pipelines that use it."""

    wanted: EncoderRequest
    module: "ReferenceType[torch.nn.Module]"
    users: "WeakSet[Any]"


class TextEncoders:
    """The text encoders in memory and the pipelines that use each. References are weak: models own their encoders."""

    def __init__(self) -> None:
        self._known: list[RegisteredEncoder] = []

    def find(self, request: EncoderRequest | None) -> torch.nn.Module | None:
        """The equal encoder in memory, or None. May read the files of both."""
        self._known = [each for each in self._known if each.module() is not None]
        if request is None:
            return None
        return next((each.module() for each in self._known if equal(each.wanted, request)), None)

    def get(self, request: EncoderRequest | None, load: Callable[[], torch.nn.Module]) -> torch.nn.Module:
        """The equal encoder in memory, else the result of ``load``."""
        encoder = self.find(request)
        if encoder is None:
            encoder = load()
            if request is not None:
                self._known.append(RegisteredEncoder(request, ref(encoder), WeakSet()))
        return encoder

    def join(self, pipe: Any) -> None:
        """Register a pipeline as a user of its encoders."""
        for known in self._of(pipe):
            known.users.add(pipe)

    def make_own(self, pipe: Any) -> bool:
        """Prepare a pipeline's encoders for changes: copy those that others use and stop sharing the rest.

        Returns whether any was copied.
        """
        copied = False
        for known in self._of(pipe):
            others = [each for each in known.users if each is not pipe]
            if not others:
                self._known.remove(known)
                continue
            known.users.discard(pipe)
            for slot, module in encoders_of(pipe).items():
                if module is known.module():
                    remove_hook_from_module(module, recurse=True)
                    pipe.register_modules(**{slot: copy.deepcopy(module)})
                    copied = True
        return copied

    def close(self, pipe: Any) -> None:
        """Stop sharing this pipeline's encoders with models loaded later."""
        used = self._of(pipe)
        self._known = [each for each in self._known if each not in used]

    def _of(self, pipe: Any) -> list[RegisteredEncoder]:
        modules = list(encoders_of(pipe).values())
        return [each for each in self._known if any(each.module() is module for module in modules)]


@dataclass(frozen=True, slots=True)
class Opener:
    """Opens the parts of a model, reusing text encoders in memory and quantising each part as planned.

    ``forms``: quantisation scheme by part; ``device``: computes the quantisation; without ``shared``, every part is
    loaded.
    """

    shared: TextEncoders | None = None
    forms: Mapping[str, str] = field(default_factory=dict)
    device: str = "cpu"

    def load_part(self, model: Model, slot: str, dtype: torch.dtype, load: Callable[[], torch.nn.Module]) -> Any:
        """A model's part: an equal text encoder in memory, else the result of ``load``, quantised as planned."""
        form = self.forms.get(slot, "")

        def load_quantised() -> torch.nn.Module:
            found = load()
            if form in quantised.LAYERS:
                quantised.quantise(found, form, self.device)
            return found

        if self.shared is None or not slot.startswith("text_encoder"):
            return load_quantised()
        return self.shared.get(encoder_request(model, slot, dtype, form), load_quantised)


def encoders_of(pipe: Any) -> dict[str, torch.nn.Module]:
    """The text encoders of a pipeline by component name."""
    found = {slot: getattr(pipe, slot, None) for slot in ENCODER_NAMES}
    return {slot: each for slot, each in found.items() if isinstance(each, torch.nn.Module)}


def shared_encoders(one: Any, other: Any) -> list[torch.nn.Module]:
    """The text encoders that two pipelines have in common."""
    others = list(encoders_of(other).values())
    return [each for each in encoders_of(one).values() if any(each is module for module in others)]


def encoder_request(model: Model, slot: str, dtype: torch.dtype, form: str = "") -> EncoderRequest | None:
    """The description of a model's text encoder; ``form``: quantisation scheme of its weights.

    None if files cannot be read; loading them raises the error later.
    """
    source = next((each for each in model.sources if each.slot == slot), None)
    if source is None:
        source = Source(slot, "", model.folder / slot, container=FOLDER_LAYOUT)
    try:
        index = json.loads((model.folder / "model_index.json").read_text(encoding="utf-8"))
        name = (index | model.changes.get("model_index.json", {}))[slot][1]
        paths = weight_files(source.path) if source.container == FOLDER_LAYOUT else [source.path]
        stats = [(path, path.stat()) for path in paths]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    own = read_config(source.path) if source.container == FOLDER_LAYOUT else {}
    config = own or read_config(model.folder / slot) | model.changes.get(f"{slot}/config.json", {})
    config = {key: each for key, each in config.items() if key not in IRRELEVANT}
    return EncoderRequest(
        HEADLESS.get(name, name),
        json.dumps(config, sort_keys=True),
        dtype,
        form,
        tuple((path, stat.st_mtime_ns, stat.st_size) for path, stat in stats),
        source.prefix,
    )


def equal(one: EncoderRequest, other: EncoderRequest) -> bool:
    """Whether two encoders are equal, see the module's docstring. Compares files only if all else agrees."""
    if (one.name, one.config, one.dtype, one.form) != (other.name, other.config, other.dtype, other.form):
        return False
    if (one.files, one.prefix) == (other.files, other.prefix):
        return True
    headless = one.name in HEADLESS.values()
    return same_tensors(one.files, one.prefix, other.files, other.prefix, headless)


@lru_cache(maxsize=64)
def same_tensors(
    files: tuple[Stamp, ...], prefix: str, others: tuple[Stamp, ...], other_prefix: str, headless: bool
) -> bool:
    """Whether two sets of files hold the same tensors under the same names. ``headless``: ignore a language model head.

    Files are memory-mapped, and small tensors compared first, so that differences are found quickly.
    """
    try:
        headers = [[open_header(path).header for path, _, _ in each] for each in (files, others)]
        shapes = [
            {
                bare_name(name, start): (tensor.dtype, tensor.shape)
                for header in each
                for name, tensor in header.tensors.items()
                if name.startswith(start) and not (headless and name.startswith("lm_head."))
            }
            for each, start in zip(headers, (prefix, other_prefix), strict=True)
        ]
        if shapes[0] != shapes[1] or any(header.container == GGUF for each in headers for header in each):
            return False
        states: list[tensors.State] = [{}, {}]
        for state, each, start in zip(states, (files, others), (prefix, other_prefix), strict=True):
            for path, _, _ in each:
                mapped = tensors.read_mapped(path, start)
                state |= {bare_name(name): tensor for name, tensor in mapped.items() if bare_name(name) in shapes[0]}
    except (ModelUnavailable, OSError):
        return False
    first, second = states
    order = sorted(first, key=lambda name: first[name].nbytes)
    return all(torch.equal(as_bytes(first[name]), as_bytes(second[name])) for name in order)


def bare_name(name: str, prefix: str = "") -> str:
    """A tensor's name without the file's ``prefix`` and the optional "model." of language models."""
    return name.removeprefix(prefix).removeprefix("model.")


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor's memory as bytes, in which NaN equals itself."""
    return tensor.contiguous().view(-1).view(torch.uint8)
