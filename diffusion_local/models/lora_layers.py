"""Groups the tensors of a LoRA file by the layers they change, with sizes, for the tensor names of all layouts."""

import re
from collections.abc import Mapping

from diffusion_local.families.sign import Layer
from diffusion_local.models.headers import Tensor

#: Layouts that diffusers' loader distinguishes.
KOHYA, DIFFUSERS, OLD_DIFFUSERS, COMFY, PEFT, XLABS, BFL_CONTROL, ONETRAINER, LYCORIS, BARE = (
    "kohya", "diffusers", "old_diffusers", "comfy", "peft", "xlabs", "bfl_control", "onetrainer", "lycoris", "bare",
)  # fmt: skip
#: Layouts whose layers the engine finds by name without a conversion.
GENERIC = frozenset((KOHYA, DIFFUSERS, COMFY, PEFT, ONETRAINER, LYCORIS, BARE))
LORA, LOCON, TUCKER, DORA, LOHA, LOKR, OFT, BOFT, IA3, FULL, GLORA, NORM, VERA, ADALORA, OTHER = (
    "lora", "locon", "locon_mid", "dora", "loha", "lokr", "oft", "boft", "ia3", "full", "glora", "norm", "vera",
    "adalora", "other",
)  # fmt: skip

#: Prefixes of layer names: (prefix, layout, text encoder or "" for the denoiser).
LAYER_PREFIXES: tuple[tuple[str, str, str], ...] = (
    ("lora_te1_", KOHYA, "te"), ("lora_te2_", KOHYA, "te2"), ("lora_te3_", KOHYA, "te3"), ("lora_te_", KOHYA, "te"),
    ("lora_unet_", KOHYA, ""), ("lora_transformer_", ONETRAINER, ""), ("lora_prior_unet_", ONETRAINER, ""),
    ("lycoris_te1_", LYCORIS, "te"), ("lycoris_te2_", LYCORIS, "te2"), ("lycoris_", LYCORIS, ""),
    ("base_model.model.model.diffusion_model.", PEFT, ""), ("base_model.model.text_encoder.", PEFT, "te"),
    ("base_model.model.", PEFT, ""),
    ("text_encoder_2.", DIFFUSERS, "te2"), ("text_encoder_3.", DIFFUSERS, "te3"), ("text_encoder.", DIFFUSERS, "te"),
    ("text_encoders.clip_l.transformer.", COMFY, "te"), ("text_encoders.clip_g.transformer.", COMFY, "te2"),
    ("text_encoders.t5xxl.transformer.", COMFY, "te3"), ("text_encoders.", COMFY, "te"),
    ("model.diffusion_model.", COMFY, ""), ("diffusion_model.", COMFY, ""), ("clip_l.", ONETRAINER, "te"),
    ("clip_g.", ONETRAINER, "te2"), ("t5.", ONETRAINER, "te3"), ("omi.", ONETRAINER, ""),
    ("transformer.", DIFFUSERS, ""), ("unet.", DIFFUSERS, ""), ("prior.", DIFFUSERS, ""), ("pipe.dit.", BARE, ""),
    ("model.", BARE, ""),
)  # fmt: skip
ANY_PREFIX = tuple(prefix for prefix, _, _ in LAYER_PREFIXES)
#: The role of a tensor in its layer, by the end of its name.
ENDS = re.compile(
    r"[._](?:(?P<down>lora_down(?:\.default)?(?:\.weight)?|lora_A(?:\.\w+)?(?:\.weight)?|lora\.down\.weight"
    r"|lora_linear_layer\.down\.weight|lora_down)"
    r"|(?P<up>lora_up(?:\.default)?(?:\.weight)?|lora_B(?:\.\w+)?(?:\.weight)?|lora\.up\.weight"
    r"|lora_linear_layer\.up\.weight)"
    r"|(?P<bias>lora_B\.bias|lora_up\.bias)"
    r"|(?P<mid>lora_mid(?:\.weight)?)|(?P<alpha>alpha)|(?P<dora>dora_scale|lora_magnitude_vector(?:\.\w+)?)"
    r"|(?P<hada>hada_[wt][12](?:_[ab])?)|(?P<lokr>lokr_(?:w[12](?:_[ab])?|t2))"
    r"|(?P<oft>oft_blocks)|(?P<oft_r>oft_R(?:\.\w+)*)|(?P<rescale>rescale)|(?P<glora>[ab][12]\.weight)"
    r"|(?P<on_input>on_input)|(?P<ia3>ia3_l(?:\.\w+)?)"
    r"|(?P<full>diff|diff_b|set_weight)|(?P<norm>w_norm|b_norm)|(?P<vera>vera_(?:lambda_[bd]|[AB])(?:\.\w+)?)|(?P<adalora>lora_E(?:\.\w+)?|ranknum(?:\.\w+)?)"
    r"|(?P<boft>boft_[Rs](?:\.\w+)?)|(?P<other>(?:oft_diag|hra_u|fourierft_spectrum|shira_weight|randlora_\w+)(?:\.\w+)?))$"
)
OLD = re.compile(r"\.processor\.(?P<layer>to_\w+?)_lora\.(?P<role>down|up)\.weight$")
XLABS_END = re.compile(r"\.processor\.(?P<layer>\w+?)_lora\d?\.(?P<role>down|up)\.weight$")
BLOCK_NUMBER = re.compile(r"transformer_blocks[._](\d{1,3})")
READING_ROLES = ("down", "diff")
#: Methods with several tensors a layer, whose roles are the ends of their names.
NAMED_BY_ROLE = ("hada", "lokr", "full", "glora", "norm")
GLORA_ROLES = ("a1.weight", "a2.weight", "b1.weight", "b2.weight")
#: A layer's changes of a norm's weight and bias.
NORM_ROLES = frozenset(("w_norm", "b_norm"))


def is_known_layer(name: str) -> bool:
    return ENDS.search(name) is not None or OLD.search(name) is not None or XLABS_END.search(name) is not None


def split_name(name: str) -> tuple[str, str]:
    """(layer, role of the tensor: ``down``, ``hada_w1_a`` ...); role "" for other tensors."""
    for pattern in (OLD, XLABS_END):
        if ".processor." in name and (match := pattern.search(name)):
            return f"{name[: match.start()]}.{match['layer']}", match["role"]
    match = ENDS.search(name)
    if match is None:
        return name, ""
    kind = str(match.lastgroup)
    return name[: match.start()], match[kind] if kind in NAMED_BY_ROLE else kind


def locate(stem: str) -> tuple[str, str, str]:
    """(layout, text encoder or "" for the denoiser, the layer's name without prefixes)."""
    for prefix, layout, where in LAYER_PREFIXES if stem.startswith(ANY_PREFIX) else ():
        if stem.startswith(prefix):
            return layout, where, stem[len(prefix) :]
    return BARE, "te" if stem.startswith("text_model") else "", stem


def name_of(words: list[str]) -> str:
    """A layer's name with ``#`` for each number and ``_`` for each dot."""
    return "_".join("#" if word.isdigit() else word for word in words)


def layer_of(name: str) -> str:
    """The name of the denoiser's layer that a tensor of a LoRA belongs to, as in ``LoraFile.layers``; "" if none."""
    stem, end = split_name(name)
    _, where, bare = locate(stem)
    return name_of(re.split(r"[._]", bare)) if end and not where else ""


def add_layer(layers: dict[str, Layer], stem: str, tensors: Mapping[str, Tensor]) -> None:
    """Add a layer's sizes and block numbers under its name with ``#`` for each number."""
    words = re.split(r"[._]", stem)
    numbers = [int(word) for word in words if word.isdigit() and len(word) < 6]
    layer = layers.setdefault(name_of(words), Layer())
    if numbers:
        layer.first, layer.last = min(layer.first, numbers[0]), max(layer.last, numbers[0])
    if deep := BLOCK_NUMBER.search(stem):
        layer.depth = max(layer.depth, int(deep[1]))
    layer.dimensions = max(
        layer.dimensions, *(len(each.shape) for end, each in tensors.items() if end in READING_ROLES), 0
    )
    reads, writes = layer_sizes(tensors)
    if reads:
        layer.reads.add(reads)
    if writes:
        layer.writes.add(writes)


def layer_sizes(tensors: Mapping[str, Tensor]) -> tuple[int, int]:
    """(input, output) features of a layer; 0 if unknown."""

    def length(name: str, axis: int) -> int:
        tensor = tensors.get(name)
        return tensor.shape[axis] if tensor and len(tensor.shape) > max(axis, 1) else 0

    if "down" in tensors or "up" in tensors:
        return length("down", 1), length("up", 0)
    if "diff" in tensors:
        return length("diff", 1), length("diff", 0)
    if "b1.weight" in tensors and "b2.weight" in tensors:  # the first versions of GLoRA swapped the two
        swapped = length("b1.weight", 1) != length("b2.weight", 0)
        left, right = ("b2.weight", "b1.weight") if swapped else ("b1.weight", "b2.weight")
        return length(right, 1), length(left, 0)
    if "hada_w1_b" in tensors:
        return length("hada_w1_b", 1), length("hada_w1_a", 1 if "hada_t1" in tensors else 0)
    first = (length("lokr_w1", 1) or length("lokr_w1_b", 1)), (length("lokr_w1", 0) or length("lokr_w1_a", 0))
    second = (length("lokr_w2", 1) or length("lokr_w2_b", 1)), (length("lokr_w2", 0) or length("lokr_w2_a", 0))
    return first[0] * second[0], first[1] * second[1]


def method_of(stems: Mapping[str, Mapping[str, Tensor]]) -> str:
    ends = {end for tensors in stems.values() for end in tensors}
    if any(end.startswith("hada_") for end in ends):
        return LOHA
    if any(end.startswith("lokr_") for end in ends):
        return LOKR
    if any(len(tensors["oft"].shape) == 4 for tensors in stems.values() if "oft" in tensors):
        return BOFT
    for end, method in (
        ("boft", OTHER),
        ("oft", OFT),
        ("oft_r", OFT),
        ("adalora", ADALORA),
        ("other", OTHER),
        ("ia3", IA3),
        ("on_input", IA3),
        ("a1.weight", GLORA),
        ("vera", VERA),
        ("dora", DORA),
        ("mid", TUCKER),
    ):
        if end in ends:
            return method
    if NORM_ROLES & ends:
        return NORM
    if "diff" in ends or "set_weight" in ends:
        return FULL
    convolved = any(
        len(tensors["down"].shape) == 4 and tensors["down"].shape[-1] > 1
        for tensors in stems.values()
        if "down" in tensors
    )
    return LOCON if convolved else LORA
