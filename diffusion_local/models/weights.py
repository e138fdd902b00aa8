"""How a file stores its weights: prefix, precision, quantisation."""

import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from diffusion_local.models.headers import Header, Tensor, ends_of

#: Prefixes of a denoiser's tensor names in files of various programs, the longest first.
TENSOR_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "base_model.model.", "model.model.", "transformer.",
    "denoiser.", "module.", "model.", "unet.", "net.", "")  # fmt: skip
#: Prefix of a second, averaged copy of the weights, which is ignored.
TWINS = ("model_ema.",)

PRECISION_BY_DTYPE = {
    "F64": "fp64", "F32": "fp32", "F16": "fp16", "BF16": "bf16", "F8_E4M3": "fp8_e4m3", "F8_E5M2": "fp8_e5m2",
    "I8": "int8", "U8": "uint8", "F4": "fp4",
}  # fmt: skip
#: Quantisation schemes.
PLAIN_FP8, SCALED_FP8, BLOCK_FP8, COMFY, NVFP4, MXFP8 = (
    "fp8", "fp8_scaled", "fp8_blocks", "comfy_quant", "nvfp4", "mxfp8",
)  # fmt: skip
NF4, FP4, INT8, TORCHAO, QUANTO, SVDQUANT, SDNQ, GPTQ, GGUF, RARE_GGUF, AWQ, HQQ, MODELOPT, FLOAT8, MLX = (
    "bnb_nf4", "bnb_fp4", "bnb_int8", "torchao", "quanto", "svdquant", "sdnq", "gptq", "gguf", "gguf_rare", "awq",
    "hqq", "modelopt", "float8_data", "mlx",
)  # fmt: skip
#: Supported schemes; weights are dequantised as they are read.
LOADED = frozenset(("", PLAIN_FP8, SCALED_FP8, BLOCK_FP8, COMFY, NF4, FP4, INT8, "int8", "int4_rows"))
#: Integers with one scale per row: of 8 bits, and of 4 bits as ChatGLM's own code packs them, two in a byte.
INT8_ROWS, INT4_ROWS = "int8", "int4_rows"
#: A matrix of ChatGLM and the norm before it, which is as long as the matrix is wide.
CHATGLM_MATRIX, CHATGLM_NORM = "self_attention.query_key_value.weight", "input_layernorm.weight"
#: GGUF tensor types that diffusers can dequantise.
UNPACKED = frozenset(("F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K",
    "Q2_K", "IQ4_NL", "IQ4_XS"))  # fmt: skip
TITLES = {
    PLAIN_FP8: "fp8", SCALED_FP8: "scaled fp8", COMFY: "comfy_quant", NVFP4: "NVFP4", MXFP8: "MXFP8",
    NF4: "bitsandbytes nf4", FP4: "bitsandbytes fp4", INT8: "int8", TORCHAO: "torchao", QUANTO: "quanto",
    SVDQUANT: "SVDQuant (nunchaku)", SDNQ: "SDNQ", GPTQ: "GPTQ", GGUF: "GGUF", RARE_GGUF: "a rare type of GGUF",
    INT4_ROWS: "int4", BLOCK_FP8: "fp8 with scales per block", AWQ: "AWQ", HQQ: "HQQ", MODELOPT: "ModelOpt",
    FLOAT8: "fp8 prequantised for one program (float8_data)", MLX: "MLX",
}  # fmt: skip
#: Suffixes (one or two words) of tensor names that only one scheme has; the first match decides.
QUANTISATION_MARKS: tuple[tuple[str, frozenset[str]], ...] = (
    (SVDQUANT, frozenset(("wscales", "smooth_factor", "proj_down"))),
    (NF4, frozenset(("quant_state.bitsandbytes__nf4",))),
    (FP4, frozenset(("quant_state.bitsandbytes__fp4",))),
    (INT8, frozenset(("SCB",))),
    (COMFY, frozenset(("comfy_quant",))),
    (NVFP4, frozenset(("weight_scale_2",))),
    (QUANTO, frozenset(("weight._data", "weight._scale"))),
    (TORCHAO, frozenset(("weight_qdata", "_weight_qdata", "weight:_data", "weight:qdata", "weight.qdata"))),
    (SDNQ, frozenset(("svd_up", "zero_point"))),
    (AWQ, frozenset(("scaled_zeros",))),
    (HQQ, frozenset(("W_q",))),
    (MODELOPT, frozenset(("weight_quantizer._scale", "input_quantizer._amax"))),
    (FLOAT8, frozenset(("float8_data",))),
    (BLOCK_FP8, frozenset(("weight_scale_inv",))),
    (SCALED_FP8, frozenset(("scale_weight", "weight_scale", "scale_input", "scaled_fp8"))),
    (GPTQ, frozenset(("qzeros", "g_idx"))),
    (MLX, frozenset(("biases",))),
)
MARKS = frozenset(mark for _, marks in QUANTISATION_MARKS for mark in marks)
#: Ends of the names of tensors that describe the quantisation of other tensors and are not weights themselves.
AID_ENDS = tuple(
    f".{each}"
    for each in (
        "absmax", "quant_map", "nested_absmax", "nested_quant_map", "SCB", "comfy_quant", "scale_weight", "scale_input",
        "weight_scale", "weight_scale_2", "weight_scale_inv", "input_scale", "wscales", "smooth", "smooth_orig",
        "smooth_factor", "smooth_factor_orig",
    )
)  # fmt: skip
AID_WORD = ".quant_state."
#: Ends of the names of tensors that stand for a layer's ``weight`` in other schemes.
PACKED_ENDS = ("qweight", "weight._data", "_weight_qdata", "weight_qdata", "weight:_data", "weight:qdata")


def is_aid(name: str) -> bool:
    """Whether a tensor describes the quantisation of another one."""
    return name.endswith(AID_ENDS) or AID_WORD in name


class ModuleNames:
    """The names of the tensors below a prefix and of all modules that contain them, for ``in``."""

    __slots__ = ("_known", "_prefix", "_tensors", "_whole")

    def __init__(self, header: Header, prefix: str) -> None:
        self._tensors, self._whole, self._prefix = header.tensors, header.names, prefix
        self._known: dict[str, bool] = {}

    def __contains__(self, name: object) -> bool:
        known = self._known.get(str(name))
        if known is None:
            known = self._known[str(name)] = self._search(f"{self._prefix}{name}")
        return known

    def _search(self, name: str) -> bool:
        if name in self._tensors:
            return True
        at = bisect_left(self._whole, f"{name}.")
        return at < len(self._whole) and self._whole[at].startswith(f"{name}.")


@dataclass(frozen=True)
class TensorView:
    """The tensors of a file whose names start with ``prefix``, by their names without it."""

    header: Header
    prefix: str = ""

    @cached_property
    def tensors(self) -> Mapping[str, Tensor]:
        if not self.prefix:
            return self.header.tensors
        start, names, tensors = len(self.prefix), self.header.names, self.header.tensors
        below = {}
        for at in range(bisect_left(names, self.prefix), len(names)):
            if not names[at].startswith(self.prefix):
                break
            below[names[at][start:]] = tensors[names[at]]
        return below

    @cached_property
    def names(self) -> ModuleNames:
        """Names of the tensors and of all modules that contain them."""
        return ModuleNames(self.header, self.prefix)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of a tensor after dequantisation, if known."""
        tensors, whole = self.header.tensors, f"{self.prefix}{name}"
        tensor = tensors.get(whole)
        if tensor is None:
            stem = whole.removesuffix(".weight")
            tensor = next((tensors[name] for end in PACKED_ENDS if (name := f"{stem}.{end}") in tensors), None)
            return tensor.shape if tensor else None
        stem = whole.removesuffix("weight")
        if tensor.dtype == "U8" and len(tensor.shape) == 2 and f"{stem}weight_scale_2" in tensors:  # NVFP4
            return (tensor.shape[0], tensor.shape[1] * 2)
        if tensor.dtype == "U8" and (scales := tensors.get(f"{stem}scale")) and len(scales.shape) > 1:  # SDNQ
            return (scales.shape[0], tensor.count * 2 // max(scales.shape[0], 1))
        if tensor.dtype == "U8" and f"{whole}.absmax" in tensors:  # two values per byte, flattened
            if noted := self._noted_shape(name):
                return noted
            bias = tensors.get(f"{stem}bias")
            if bias is not None and bias.count and tensor.count * 2 % bias.count == 0:
                return (bias.count, tensor.count * 2 // bias.count)
        return tensor.shape

    def _noted_shape(self, name: str) -> tuple[int, ...]:
        """Shape that bitsandbytes stores beside a 4-bit weight; empty if unreadable."""
        notes = (f"{name}.quant_state.bitsandbytes__{kind}" for kind in ("nf4", "fp4"))
        note = next((each for each in notes if each in self.tensors), "")
        try:
            lengths = json.loads(self.header.bytes_of(self.prefix + note))["shape"] if note else []
            return tuple(length for length in lengths if type(length) is int and length > 0)
        except (ValueError, KeyError, TypeError, RecursionError):
            return ()

    def has(self, *names: str) -> bool:
        return all(name in self.names for name in names)


def views(header: Header, prefixes: Iterable[str] = TENSOR_PREFIXES) -> list[TensorView]:
    """One view per prefix of the file's tensor names, and one without prefix."""
    first = {name[: name.find(".") + 1] for name in header.tensors}
    return [TensorView(header, each) for each in prefixes if not each or each[: each.find(".") + 1] in first]


def quantisation_of(header: Header, tensors: Mapping[str, Tensor] | None = None) -> str:
    """The scheme in which at least some weights are quantised; "" for plain floating-point weights."""
    tensors = header.tensors if tensors is None else tensors
    if header.container == GGUF:
        return GGUF if {tensor.dtype for tensor in tensors.values()} <= UNPACKED else RARE_GGUF
    stated = header.metadata.get("_quantization_metadata", "")
    ends = header.ends
    if tensors is not header.tensors and not MARKS.isdisjoint(ends):
        ends = ends_of(tensors)
    for scheme, marks in QUANTISATION_MARKS:
        if not marks.isdisjoint(ends):
            return scheme_of(scheme, tensors, header)
    if stated:
        return COMFY
    if '"sdnq"' in header.metadata.get("quantization_config", "") or ("scale" in ends and scales_integers(tensors)):
        return SDNQ
    kinds = Counter(tensor.dtype for tensor in tensors.values() if len(tensor.shape) > 1)
    return PLAIN_FP8 if any(kind.startswith("F8_") for kind in kinds) else ""


def scales_integers(tensors: Mapping[str, Tensor]) -> bool:
    """Whether matrices of integers lie beside a ``scale``, as SDNQ stores them."""
    beside = (tensors.get(name.removesuffix("scale") + "weight") for name in tensors if name.endswith(".scale"))
    return any(each is not None and each.dtype in ("I8", "U8") for each in beside)


#: Formats of ComfyUI's layout that are dequantised, and those with a title of their own.
COMFYUI_FORMATS = ("float8_e4m3fn", "float8_e5m2", "int8_tensorwise")
NAMED_FORMATS = {"nvfp4": NVFP4, "mxfp8": MXFP8, "svdquant_int4": SVDQUANT}


def comfyui_format(header: Header, tensors: Mapping[str, Tensor]) -> str:
    """The scheme of ComfyUI's layout, from the notes beside the weights: ``COMFY`` if all can be dequantised.

    Only one note per size is read, because layers of one format have equal notes.
    """
    sizes = {tensor.bytes: id(tensor) for name, tensor in tensors.items() if name.endswith("comfy_quant")}
    noted = set(sizes.values())
    for name in [name for name, tensor in header.tensors.items() if id(tensor) in noted]:  # their whole names
        try:
            form = str(json.loads(header.bytes_of(name) or b"{}").get("format", COMFYUI_FORMATS[0]))[:40]
        except (ValueError, AttributeError, RecursionError):
            continue  # reported when the file is loaded
        if form not in COMFYUI_FORMATS:
            return NAMED_FORMATS.get(form, form)
    return COMFY


def scheme_of(scheme: str, tensors: Mapping[str, Tensor], header: Header) -> str:
    """Refine a scheme by its tensors: scales with integers are not fp8, and ComfyUI's layout includes other formats."""
    if scheme == COMFY:
        if any(name.endswith("weight_scale_2") for name in tensors):
            return NVFP4
        scales = {tensor.dtype for name, tensor in tensors.items() if name.endswith("weight_scale")}
        return MXFP8 if scales & {"U8", "F8_E8M0"} else comfyui_format(header, tensors)
    if scheme != SCALED_FP8:
        return scheme
    kinds = {tensor.dtype for name, tensor in tensors.items() if len(tensor.shape) > 1 and not is_aid(name)}
    if any(kind.startswith("F8_") for kind in kinds):
        return SCALED_FP8
    if "I8" not in kinds:
        return SCALED_FP8
    return INT4_ROWS if packs_rows(tensors) else INT8_ROWS


def packs_rows(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the bytes of a matrix of ChatGLM hold two numbers each."""
    name = next((each for each in tensors if each.endswith(CHATGLM_MATRIX)), "")
    norm = tensors.get(name.removesuffix(CHATGLM_MATRIX) + CHATGLM_NORM)
    return norm is not None and bool(norm.shape) and norm.shape[0] == 2 * tensors[name].shape[-1]


def numbers_in(tensors: Mapping[str, Tensor]) -> int:
    """Number of weights after dequantisation, without second copies."""
    return sum(counts_of(tensors).values())


def counts_of(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Number of values of each weight tensor after dequantisation, without second copies."""
    return {
        name: tensor.count * (2 if is_packed(name, tensor, tensors) else 1)
        for name, tensor in tensors.items()
        if not name.startswith(TWINS) and not is_aid(name)
    }


def is_packed(name: str, tensor: Tensor, tensors: Mapping[str, Tensor]) -> bool:
    """Whether each byte of a tensor holds two weights."""
    if tensor.dtype == "I8":
        return f"{name}_scale" in tensors and packs_rows(tensors)
    return tensor.dtype == "U8" and f"{name}.absmax" in tensors


def size_of(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of the tensors in the file, without second copies."""
    return sum(tensor.bytes for name, tensor in tensors.items() if not name.startswith(TWINS))


def precision_of(tensors: Mapping[str, Tensor], quantisation: str = "") -> str:
    """The type of most weights in common notation: fp16, fp8_e4m3, Q8_0, nf4."""
    if quantisation in (NF4, FP4, INT8, INT4_ROWS):
        return quantisation.removeprefix("bnb_").removesuffix("_rows")
    if quantisation == SVDQUANT:
        scales = (tensor.dtype for name, tensor in tensors.items() if name.endswith("wscales"))
        return "fp4" if any(each.startswith("F8_") for each in scales) else "int4"
    if quantisation == NVFP4:
        return "nvfp4"
    counts: Counter[str] = Counter()
    for name, tensor in tensors.items():
        if len(tensor.shape) > 1 and not is_aid(name):
            counts[tensor.dtype] += tensor.count
    if not counts:
        counts = Counter(tensor.dtype for tensor in tensors.values())
    if not counts:
        return ""
    most = counts.most_common(1)[0][0]
    return PRECISION_BY_DTYPE.get(most, most)
