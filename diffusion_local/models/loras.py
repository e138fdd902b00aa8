"""Reads LoRAs and similar adapters: base model, layout and method, from the header."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from diffusion_local import families
from diffusion_local.families.sign import Layer, LoraSign
from diffusion_local.models.headers import Header, Tensor
from diffusion_local.models.known_layers import KnownModel, makes_of, models_of
from diffusion_local.models.lora_layers import (
    ADALORA,
    BARE,
    BFL_CONTROL,
    BOFT,
    COMFY,
    DORA,
    FULL,
    GLORA,
    IA3,
    LOCON,
    LOHA,
    LOKR,
    LORA,
    NORM,
    NORM_ROLES,
    OFT,
    OLD_DIFFUSERS,
    OTHER,
    TUCKER,
    VERA,
    XLABS,
    XLABS_END,
    add_layer,
    is_known_layer,
    locate,
    method_of,
    split_name,
)

METHOD_TITLES = {
    LORA: "a LoRA", LOCON: "a LoCon", TUCKER: "a LoCon with mid layers", DORA: "a DoRA", LOHA: "a LoHa", LOKR: "a LoKr",
    OFT: "an OFT", IA3: "an IA3", FULL: "a full difference", GLORA: "a GLoRA", NORM: "a LoRA with norm layers",
    VERA: "a VeRA", ADALORA: "an AdaLoRA", BOFT: "a BOFT", OTHER: "an adapter of another kind",
}  # fmt: skip
#: Methods that the engine applies.
APPLIED = frozenset((LORA, LOCON, TUCKER, DORA, LOHA, LOKR, FULL, OFT, BOFT, IA3, GLORA, NORM))
#: Parts of names of layers that are several layers in diffusers.
FUSED = ("qkv", "linear1", "_kv_")

#: Parts of tensor names, of which a line break ends each.
LORA_MARKS = (
    "lora_",
    "lora.",
    ".lora",
    "_lora",
    "hada_",
    "lokr_",
    "oft_",
    ".on_input",
    ".diff\n",
    ".diff_b\n",
    "lora_magnitude_vector",
    "vera_",
    "lycoris_",
    "ia3_l",
    "hra_u",
    "boft_",
    "fourierft_",
)
VIDEO, TEXT, PICTURE = "video", "text", "picture"
#: Tensors outside of layers that can be ignored.
ASIDE = re.compile(r"^(lora_te.*\.text_projection.*|.*\.reshape_weight|.*\.diff_b)$")
BUNDLED = ("bundle_emb.",)
#: Architectures with a UNet, and those whose UNet has another's shape.
UNETS = frozenset(("sd1", "sd2", "sdxl"))
SHAPED_ALIKE = {"kolors": "sdxl"}
UNET_BLOCKS = ("down_blocks_", "up_blocks_", "mid_block_", "input_blocks_", "output_blocks_", "middle_block_")
#: Unsupported models by a few layers of their LoRAs, which may lie among supported ones.
FOREIGN_LORAS = (
    ("Wan", VIDEO, LoraSign(parts=("blocks_#_self_attn_", "blocks_#_cross_attn_"), lacks=("_attn_q_proj",))),
    ("Wan", VIDEO, LoraSign(parts=("blocks_#_ffn_#",), reads={"blocks_#_self_attn_q": (1536, 2048, 3072, 5120)})),
    ("Wan", VIDEO, LoraSign(reads={"blocks_#_attn1_to_q": (1536, 3072, 5120)}, parts=("blocks_#_attn2_to_",))),
    ("HunyuanVideo", VIDEO, LoraSign(parts=("double_blocks_#_", "txt_in_individual_token_refiner"))),
    ("LTX-Video", VIDEO, LoraSign(reads={"transformer_blocks_#_attn1_to_q": (2048, 4096)}, lacks=("attentions",
        "norm1_linear"))),
    ("Mochi", VIDEO, LoraSign(parts=("blocks_#_attn_qkv_x",))),
    ("CogVideoX", VIDEO, LoraSign(reads={"transformer_blocks_#_attn1_to_q": (1920, 3072)}, lacks=("attentions",))),
    ("AnimateDiff", VIDEO, LoraSign(parts=("motion_modules_#_",))),
    ("AnimateDiff", VIDEO, LoraSign(parts=("temporal_transformer_blocks", "down_blocks_#", "motion"))),
    ("Anima", PICTURE, LoraSign(parts=("llm_adapter_",))),
    ("Cosmos Predict 2 or Anima", PICTURE, LoraSign(parts=("blocks_#_self_attn_q_proj", "blocks_#_mlp_layer1"))),
    ("Cosmos Predict 2 or Anima", PICTURE, LoraSign(parts=("blocks_#_self_attn_q_proj", "blocks_#_cross_attn_q_proj"))),
    ("a language model", TEXT, LoraSign(parts=("layers_#_self_attn_q_proj",))),
    ("a language model", TEXT, LoraSign(parts=("layers_#_self_attn_qkv_proj",))),
    ("a language model", TEXT, LoraSign(parts=("layers_#_mlp_gate_proj", "layers_#_mlp_down_proj"))),
)  # fmt: skip
STRANGER_WORDS = (
    ("hunyuan_video", "HunyuanVideo"), ("hunyuan-video", "HunyuanVideo"), ("hunyuanvideo", "HunyuanVideo"),
    ("wan2", "Wan"), ("wan_", "Wan"), ("ltxv", "LTX-Video"), ("ltx-video", "LTX-Video"), ("ltx2", "LTX-2"),
    ("cogvideo", "CogVideoX"), ("framepack", "HunyuanVideo"), ("mochi", "Mochi"),
)  # fmt: skip


@dataclass(slots=True)
class LoraFile:
    """What a LoRA's header tells.

    ``base``: an architecture or family, the title of an unsupported model, or "" if unknown; ``alike``: further
    architectures and families that it fits as well, as far as its layers tell; ``rank``: that of most layers;
    ``unknown``: tensors of unknown meaning; ``foreign``: layers that the base does not have, with ``#`` for numbers and
    ``_`` for dots; ``strange``: a layer that no known model has, if the base is unknown for that reason; ``halved``: a
    layer that has only one of its two matrices; ``mixes_rows``: the new rows of a layer's weight depend on several old
    ones.
    """

    base: str = ""
    layout: str = BARE
    method: str = LORA
    layers: dict[str, Layer] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()
    bundled: bool = False
    rank: int = 0
    strange: str = ""
    halved: str = ""
    mixes_rows: bool = False
    alike: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()

    @property
    def applied(self) -> bool:
        """Whether the engine applies its method to all of its layers."""
        split = self.mixes_rows and any(word in name for word in FUSED for name in self.layers)
        return self.method in APPLIED and not split

    @property
    def makes(self) -> str:
        """What an unsupported base makes: ``video``, ``text`` or ``picture``; "" if the base may be supported."""
        if self.base in families.ARCHITECTURES or families.get(self.base).title:
            return ""
        titled = {title: makes for title, makes, _ in FOREIGN_LORAS} | {title: VIDEO for _, title in STRANGER_WORDS}
        return titled.get(self.base) or makes_of(self.base)

    @property
    def title(self) -> str:
        """Display title of its base model."""
        return families.title_of(self.base) or families.get(self.base).title or self.base


def is_lora(header: Header) -> bool:
    marks = [mark for mark in LORA_MARKS if mark in header.text]
    return any(is_known_layer(name) for name in header.tensors if marks and any(mark in f"{name}\n" for mark in marks))


def read_lora(header: Header) -> LoraFile:
    """Read a LoRA. The caller must have checked that it is one (``is_lora``)."""
    lora = LoraFile()
    stems: dict[str, dict[str, Tensor]] = defaultdict(dict)
    unknown: list[str] = []
    layouts: Counter[str] = Counter()
    ranks: Counter[int] = Counter()
    control = False
    for name, tensor in header.tensors.items():
        stem, end = split_name(name)
        if not end:
            if name.endswith(("norm.query_norm.scale", "norm.key_norm.scale")):
                control = True
            elif name.startswith(BUNDLED):
                lora.bundled = True
            elif not ASIDE.match(name):
                unknown.append(name)
            continue
        layout, where, bare = locate(stem)
        if ".processor." in name:
            layout = (
                XLABS if XLABS_END.search(name) and "blocks" in bare and "attentions" not in bare else OLD_DIFFUSERS
            )
        layouts[layout] += 1
        stems[f"{where}:{bare}" if where else bare][end] = tensor
        if end == "down" and tensor.shape:
            ranks[tensor.shape[0]] += 1
    lora.layout = BFL_CONTROL if control else max(layouts, key=lambda each: layouts[each], default=BARE)
    for stem, tensors in stems.items():
        if not tensors.keys() <= NORM_ROLES:  # norms have no matrices by which the base is recognised
            add_layer(lora.layers, stem, tensors)
    lora.halved = next((stem for stem, tensors in stems.items() if ("down" in tensors) != ("up" in tensors)), "")
    ia3 = any("ia3" in tensors or "on_input" in tensors for tensors in stems.values())
    lora.unknown = tuple(each for each in unknown if not (ia3 and each.endswith(".weight")))[:8]
    lora.method = method_of(stems)
    lora.mixes_rows = any("oft" in tensors for tensors in stems.values())
    lora.rank = max(ranks, key=lambda each: ranks[each], default=0)
    denoiser = {name: layer for name, layer in lora.layers.items() if ":" not in name}
    best = models_of(denoiser)
    stated = stated_base(header.metadata) or base_by_file_name(header.path.stem if header.path else "", best)
    lora.base = base_of(lora.layers, stated, lora.layout, best)
    if lora.base in families.ARCHITECTURES or families.get(lora.base).title:
        lora.foreign = tuple(
            name for name, layer in denoiser.items() if best and not any(m.has(name, layer) for m in best)
        )
        if not stated_base(header.metadata):
            lora.alike = further_bases(lora.base, best)
    if not lora.base and denoiser and not is_of_unet(denoiser):
        lora.strange = next(stem for stem in stems if ":" not in stem)
    return lora


def further_bases(base: str, models: Iterable[KnownModel]) -> tuple[str, ...]:
    """Bases of supported models with the same layers, of other families than ``base``."""
    own = families.of_architecture(base) if base in families.ARCHITECTURES else families.get(base)
    bases = dict.fromkeys(adapters_of(each.model) for each in models if each.model in families.ARCHITECTURES)
    return tuple(
        each for each in bases if (family := families.of_architecture(each)) not in (own, families.UNKNOWN)
        and family.supported and family.loras
    )  # fmt: skip


def base_by_file_name(stem: str, best: Iterable[KnownModel]) -> str:
    """The model that a file's name names, of those with a LoRA's layers; "" if it names none, or several."""
    words = {each.model: families.of_architecture(each.model).id.split("_")[0] for each in best}
    words |= {model: model.split()[0].lower() for model, word in words.items() if word == families.UNKNOWN.id}
    named = {model: word for model, word in words.items() if word in stem.lower()}
    if len(set(named.values())) != 1:
        return ""
    whole = (model for model in named if all(word in stem.lower() for word in model.lower().split()))
    return next(whole, next(iter(named)))


def base_of(layers: Mapping[str, Layer], stated: str, layout: str, best: Iterable[KnownModel]) -> str:
    """The base according to the layers, or the ``stated`` one if several models have such layers (``best``)."""
    denoiser = {name: layer for name, layer in layers.items() if ":" not in name}
    if not denoiser:
        return stated or base_of_texts(layers)
    bases = dict.fromkeys(adapters_of(each.model) for each in best)
    if (not bases or bases.keys() & UNETS) and is_of_unet(denoiser):
        found = base_of_unet(denoiser, layers)
        # the layers may identify only the family, and do not distinguish SDXL from models of the same shape
        alike = found in (families.of_architecture(stated).id, SHAPED_ALIKE.get(stated, ""))
        return stated if stated and (alike or not found) else found
    if stated in {title for _, title in STRANGER_WORDS}:
        return stated
    if len(bases) == 1:
        return next(iter(bases))
    by_names = base_by_names(denoiser, stated, layout)
    if adapters_of(stated) in bases and families.of_architecture(stated) is not families.of_architecture(by_names):
        return stated
    if not bases or by_names in bases:
        return by_names
    of_families = {families.of_architecture(each).id for each in bases}
    return of_families.pop() if len(of_families) == 1 and families.UNKNOWN.id not in of_families else next(iter(bases))


def is_of_unet(denoiser: Mapping[str, Layer]) -> bool:
    unet = any(name.startswith(UNET_BLOCKS) for name in denoiser)
    return unet and not any(sign.matches(denoiser) for _, _, sign in FOREIGN_LORAS)


def adapters_of(model: str) -> str:
    """The base of adapters for a model: an architecture or family, or the title of an unsupported model."""
    known = families.ARCHITECTURES.get(model)
    return known.adapters or model if known else model


def base_by_names(denoiser: Mapping[str, Layer], stated: str, layout: str) -> str:
    """The base by the names of a few layers, for LoRAs whose sizes do not identify it and for unknown models."""
    if layout == COMFY and is_chroma(denoiser):
        return stated or "chroma"
    known = [(sign.specificity, title) for title, _, sign in FOREIGN_LORAS if sign.matches(denoiser)]
    stranger = max(known, default=None)
    supported = families.of_lora(denoiser)
    if stranger and (not supported or stranger[0] >= families.certainty(supported, denoiser)):
        return stranger[1]
    if stated and (not supported or families.certainty(supported, denoiser) <= 1):
        return stated
    return supported or stated


def is_chroma(layers: Mapping[str, Layer]) -> bool:
    """Whether all of FLUX.1's block layers except the modulation are present: Chroma lacks it."""
    there = ("double_blocks_#_img_attn", "double_blocks_#_txt_mlp", "double_blocks_#_img_mlp", "single_blocks_#_linear")
    whole = all(any(part in name for name in layers) for part in there)
    wide = any(12288 in layer.writes for name, layer in layers.items() if "img_mlp" in name)
    return whole and wide and not any("_mod_" in name or "modulation" in name for name in layers)


def base_of_unet(denoiser: Mapping[str, Layer], layers: Mapping[str, Layer]) -> str:
    """The base of a LoRA for a UNet, by its text width, a second text encoder, or its shape.

    SDXL's UNet has several transformer blocks per attention, and no attention in its first level.
    """
    for name, layer in denoiser.items():
        if "attn2_to_k" in name or "attn2_to_v" in name or "attn2_processor_to_k" in name:
            for width in sorted(layer.reads, reverse=True):
                if width in families.BY_TEXT_WIDTH:
                    return families.BY_TEXT_WIDTH[width]
    if any(name.startswith("te2:") for name in layers):
        return "sdxl"
    texts = base_of_texts(layers)
    if texts:
        return texts
    if any(layer.depth > 0 for name, layer in denoiser.items()):
        return "sdxl"
    if not any(is_outside_of_xl(name, layer) for name, layer in denoiser.items()):
        return ""
    for name, layer in denoiser.items():
        if name.endswith("_proj_in") and layer.dimensions:
            return "sd1" if layer.dimensions == 4 else "sd2"
    return "sd"


def is_outside_of_xl(name: str, layer: Layer) -> bool:
    """Whether an attention layer is in the outermost level, where SDXL has none."""
    if "transformer_blocks" not in name and "attentions" not in name:
        return False
    return (
        (name.startswith("down_blocks_") and layer.first == 0)
        or (name.startswith("up_blocks_") and layer.last >= 2)
        or (name.startswith("input_blocks_") and layer.first < 4)
        or (name.startswith("output_blocks_") and layer.last > 5)
    )


def base_of_texts(layers: Mapping[str, Layer]) -> str:
    if any(name.startswith("te2:") for name in layers):
        return "sdxl"
    for name, layer in layers.items():
        if name.startswith("te:") and ("q_proj" in name or "fc1" in name):
            return {768: "sd1", 1024: "sd2"}.get(max(layer.reads, default=0), "")
    return ""


def stated_base(metadata: Mapping[str, str]) -> str:
    """The architecture by the base model's name in the metadata, "" if unknown.

    The longest match counts, then the first, because names also contain versions (``stable-diffusion-xl-v1-base``).
    """
    keys = ("modelspec.architecture", "ss_base_model_version", "base_model", "baseModel")
    stated = " ".join(metadata.get(key, "") for key in keys).lower()
    words = [(word, name) for name, each in families.ARCHITECTURES.items() for word in each.lora_words]
    found = [(-len(word), stated.index(word), name) for word, name in (*words, *STRANGER_WORDS) if word in stated]
    return min(found)[2] if found else ""
