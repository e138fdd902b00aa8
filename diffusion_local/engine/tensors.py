"""Reads a part's tensors from its file, and dequantises them.

Files are memory-mapped: a tensor takes no memory of its own until it is converted. Quantised tensors are dequantised
one at a time.
"""

import codecs
import json
import math
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from diffusion_local.errors import ModelUnavailable, echo
from diffusion_local.messages import message
from diffusion_local.models.description import Source
from diffusion_local.models.file_formats import holds_pickle, open_header
from diffusion_local.models.headers import GGUF
from diffusion_local.models.pickled import SETTINGS_CLASSES, calls_problem, collect
from diffusion_local.models.weights import COMFYUI_FORMATS, INT4_ROWS

State = dict[str, torch.Tensor]
#: Names that different programs use for the tensor by which a weight is multiplied.
SCALES = ("scale_weight", "weight_scale", "weight_scale_inv")
#: Tensors that are metadata: how other tensors, or the whole file, are quantised.
SCALE_TENSORS = ("scale_input", "input_scale", "comfy_quant", "scaled_fp8")
#: Numbers multiplied at a time: a whole tensor at once would need several times its size.
COPY_BYTES = 1 << 20


def read(source: Source, dtype: torch.dtype) -> State:
    """A part's tensors without their prefix: matrices converted to ``dtype``, all others as stored. Raises
    ModelUnavailable for an unknown format.
    """
    if source.container == GGUF:
        state = unpack(read_packed(source.path, source.prefix, dtype), dtype)
    else:
        packed = source.quantisation == INT4_ROWS
        state = dequantise(read_mapped(source.path, source.prefix), dtype, source.path.name, packed)
    for name, tensor in state.items():
        if tensor.dim() > 1 and tensor.is_floating_point():
            state[name] = tensor.to(dtype)
    return state


def read_mapped(path: Path, prefix: str) -> State:
    """Map the tensors of a safetensors or PyTorch file with any suffix. Raises ModelUnavailable."""
    try:
        if holds_pickle(path):
            state = read_pickled(path)
            return {name[len(prefix) :]: tensor for name, tensor in state.items() if name.startswith(prefix)}
        with safe_open(path, "pt") as file:
            return {name[len(prefix) :]: file.get_tensor(name) for name in file.keys() if name.startswith(prefix)}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelUnavailable(message("model_damaged", name=path.name)) from error


def read_finite(path: Path) -> State:
    """Map all tensors of a file. Raises ModelUnavailable also if one contains NaN or infinite values."""
    state = read_mapped(path, "")
    require_finite(path.name, state)
    return state


def require_finite(file_name: str, state: State) -> None:
    """Raise ModelUnavailable naming the file if a tensor contains NaN or infinite values.

    They would spoil a picture, whose error cannot name the file that they come from.
    """
    for name, tensor in state.items():
        summable = tensor.is_floating_point() and tensor.dtype.itemsize > 1
        if summable and not math.isfinite(float(tensor.sum(dtype=torch.float32))):  # NaN and infinity stay in a sum
            raise ModelUnavailable(message("model_not_finite", name=file_name, tensor=echo(name)))


#: Non-tensor objects in checkpoints, by their names there; none of them executes code from the file.
INERT: list[Any] = [
    *((type(name.rpartition(" ")[2], (), {}), name.replace(" ", ".")) for name in SETTINGS_CLASSES),
    (defaultdict, "collections.defaultdict"), (dict, "builtins.dict"), (dict, "__builtin__.dict"),
    (np.dtype, "numpy.dtype"), (np.dtypes.Float64DType, "numpy.dtypes.Float64DType"),
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),
    (np.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
    (codecs.encode, "_codecs.encode"),
]  # fmt: skip


def read_pickled(path: Path) -> State:
    """Tensors of a PyTorch file under the names in its header, read without executing code. Zip archives are
    memory-mapped. Raises ModelUnavailable for a file that is damaged or would run code.
    """
    if problem := calls_problem(path.name, open_header(path).calls):
        raise ModelUnavailable(problem)
    try:
        with torch.serialization.safe_globals(INERT):
            built = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except MemoryError:
        raise
    except Exception as error:  # a damaged file may raise anything
        raise ModelUnavailable(message("model_damaged", name=path.name)) from error
    state: State = {}
    collect(built, "", state, {}, set(), leaf=torch.Tensor)
    return {name: tensor.detach() for name, tensor in state.items()}


def read_packed(path: Path, prefix: str, dtype: torch.dtype) -> State:
    """Tensors of a GGUF file without their prefix: matrices stay in blocks, as diffusers' parameters over the mapped
    file; others are converted.
    """
    import gguf
    from diffusers.quantizers.gguf.utils import GGUFParameter, dequantize_gguf_tensor

    kinds = gguf.GGMLQuantizationType
    shapes = {name: tensor.shape for name, tensor in open_header(path).header.tensors.items()}
    state: State = {}
    for tensor in gguf.GGUFReader(path, "c").tensors:
        if not tensor.name.startswith(prefix):
            continue
        name, shape = tensor.name[len(prefix) :], shapes[tensor.name]
        weights = torch.from_numpy(tensor.data)
        if tensor.tensor_type in (kinds.F32, kinds.F16):
            state[name] = weights.reshape(shape)
        elif tensor.tensor_type == kinds.BF16:
            state[name] = weights.view(torch.bfloat16).reshape(shape)
        else:
            state[name] = GGUFParameter(weights, quant_type=tensor.tensor_type)
            if len(shape) != 2:
                state[name] = dequantize_gguf_tensor(state[name]).to(dtype).reshape(shape)
    return state


def unpack(state: State, dtype: torch.dtype) -> State:
    """Dequantise GGUF's blocks."""
    from diffusers.quantizers.gguf.utils import dequantize_gguf_tensor

    for name, tensor in state.items():
        if hasattr(tensor, "quant_type"):
            state[name] = dequantize_gguf_tensor(tensor).to(dtype)
    return state


def dequantise(state: State, dtype: torch.dtype, file: str, packed: bool = False) -> State:
    """Dequantised weights in ``dtype``, without the scales and metadata stored beside them.

    ``packed``: each byte of an integer weight holds two, the first in the upper half.
    """
    for name in list(state):
        if name not in state:
            continue
        stem = name.removesuffix(".weight")
        if f"{name}.absmax" in state:
            state[name] = dequantise_nf4(name, state).to(dtype)
        elif name != stem and (scale := scale_of(stem, state, file)) is not None:
            in_halves = packed and state[name].dtype == torch.int8
            state[name] = apply_scale(state[name], scale, dtype, in_halves)
            if group := rotated_group(stem, state):
                state[name] = unrotate(state[name], group)
        elif state[name].dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
            state[name] = state[name].to(dtype)
    notes = [name for name in state if name.rpartition(".")[2] in SCALE_TENSORS]
    for name in notes:
        del state[name]
    return state


def note_of(stem: str, state: State) -> dict[str, Any]:
    """ComfyUI's note about how a weight is quantised; empty if there is none. Raises ValueError."""
    noted = state.get(f"{stem}.comfy_quant")
    found = {} if noted is None else json.loads(bytes(noted.flatten().tolist()))
    return found if isinstance(found, dict) else {}


def scale_of(stem: str, state: State, file: str) -> torch.Tensor | None:
    """Remove and return a weight's scale from ``state``; None if it has none. Raises ModelUnavailable."""
    form = note_of(stem, state).get("format", COMFYUI_FORMATS[0])
    if form not in COMFYUI_FORMATS:
        raise ModelUnavailable(message("file_quantised", title=file, scheme=str(form)[:40]))
    for name in SCALES:
        if (scale := state.pop(f"{stem}.{name}", None)) is not None:
            return scale.float()
    if (rows := state.pop(f"{stem}.SCB", None)) is not None:  # bitsandbytes' int8
        state.pop(f"{stem}.weight_format", None)
        return rows.float() / 127
    return None


#: Usual number of rows and of columns of a block with one scale.
BLOCK = 128


def block_length(size: int, count: int) -> int:
    """Length of a block, of which ``count`` cover ``size``; the last one may be shorter."""
    return BLOCK if -(-size // BLOCK) == count else -(-size // count)


def halves_of(weight: torch.Tensor) -> torch.Tensor:
    """The two signed numbers in each byte of an int8 matrix (rows x columns), as rows x twice the columns."""
    return torch.stack((weight >> 4, (weight << 4) >> 4), dim=-1).flatten(-2)


def apply_scale(weight: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype, packed: bool = False) -> torch.Tensor:
    """Multiply by ``scale``: one number, one per row, or one per block of rows and columns.

    ``packed``: each byte of ``weight`` holds two numbers.
    """
    shape = (*weight.shape[:-1], 2 * weight.shape[-1]) if packed else weight.shape
    scaled = torch.empty(shape, dtype=dtype)
    if scale.dim() == 2 and scale.shape[1] > 1:
        height, width = (block_length(*each) for each in zip(weight.shape, scale.shape, strict=True))
        columns = scale.repeat_interleave(width, dim=1)[:, : weight.shape[1]]
        for row, factors in enumerate(columns):
            block = slice(row * height, (row + 1) * height)
            scaled[block] = weight[block].float().mul_(factors)
        return scaled
    numbers, by = scaled.view(len(weight) if weight.dim() > 1 else 1, -1), scale.reshape(-1, 1)
    rows = max(1, COPY_BYTES // max(1, numbers.shape[1]))
    stored = weight.view(len(numbers), -1)
    for at in range(0, len(numbers), rows):
        piece = stored[at : at + rows]
        piece = (halves_of(piece) if packed else piece).float()
        numbers[at : at + rows] = piece.mul_(by if len(by) == 1 else by[at : at + rows])
    return scaled


def rotated_group(stem: str, state: State) -> int:
    """Size of the groups of columns that were rotated before quantisation (ConvRot); 0 if they were not."""
    note = note_of(stem, state)
    return int(note.get("convrot_groupsize", ROTATED)) if note.get("convrot") else 0


#: Usual size of rotated groups.
ROTATED = 256


def unrotate(weight: torch.Tensor, group: int) -> torch.Tensor:
    """Undo a rotation of each ``group`` columns by a regular Hadamard matrix, which is its own inverse.

    Raises ValueError if ``group`` is not a power of 4.
    """
    base = torch.tensor([[1.0, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]]) / 2
    matrix = base
    while len(matrix) < group:
        matrix = torch.kron(matrix, base)
    if len(matrix) != group:
        raise ValueError("not a power of 4")
    return (weight.view(len(weight), -1, group).float() @ matrix).to(weight.dtype).view(weight.shape)


def dequantise_nf4(name: str, state: State) -> torch.Tensor:
    """A weight of bitsandbytes' nf4 or fp4; removes its metadata from ``state``.

    A byte holds two values, the first in the upper half; each is an index into a table, multiplied by the largest
    absolute value of its block.
    """
    notes = {key[len(name) + 1 :]: key for key in list(state) if key.startswith(f"{name}.")}
    taken = {short: state.pop(key) for short, key in notes.items()}
    quant_state = next(value for short, value in taken.items() if short.startswith("quant_state"))
    facts: dict[str, Any] = json.loads(bytes(quant_state.tolist()))
    largest = taken["absmax"].float()
    if "nested_absmax" in taken:
        block = int(facts["nested_blocksize"])
        by = taken["nested_absmax"].float().repeat_interleave(block)[: largest.numel()]
        largest = taken["nested_quant_map"].float()[taken["absmax"].long()] * by + float(facts["nested_offset"])
    shape, size = [int(each) for each in facts["shape"]], int(facts["blocksize"])
    numbers = torch.Size(shape).numel()
    packed = state[name].flatten()
    table = taken["quant_map"].float()
    places = torch.stack((packed >> 4, packed & 15), dim=1).flatten()[:numbers]
    values = table[places.int()]
    whole = values.numel() // size * size
    values[:whole].view(-1, size).mul_(largest[: whole // size, None])
    values[whole:].mul_(largest[-1])
    return values.reshape(shape)
