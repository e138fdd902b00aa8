"""The model families, one module each, registered by the module's ``FAMILY``. Families that are recognised but cannot
be run share the module ``recognised``.

To add a family, write its module here and its engine part under the same name in ``engine/families``, and list its
models in ``assets/models.json``.
"""

import pkgutil
from collections.abc import Callable, Container
from importlib import import_module

from diffusion_local.families import recognised
from diffusion_local.families.family import Architecture, Family
from diffusion_local.families.sign import Layers, Sign
from diffusion_local.messages import message
from diffusion_local.options.samplers import Sampling
from diffusion_local.options.types import Kind

#: Modules of this package that do not define a single family.
HELPERS = ("family", "recognised", "sign")


def discovered() -> tuple[Family, ...]:
    names = sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in HELPERS)
    supported = tuple(import_module(f"{__name__}.{name}").FAMILY for name in names)
    return tuple(sorted((*supported, *recognised.RECOGNISED_FAMILIES), key=lambda family: family.id))


#: All families by id, in alphabetical order.
FAMILIES: dict[str, Family] = {family.id: family for family in discovered()}
#: The family of models that were not recognised.
UNKNOWN = Family(id="unknown", title="", pipelines={}, problem=message("model_unknown"))
ARCHITECTURES: dict[str, Architecture] = {
    name: architecture for family in FAMILIES.values() for name, architecture in family.architectures.items()
}
_BY_ARCHITECTURE = {name: family for family in FAMILIES.values() for name in family.architectures}
_BY_PIPELINE = {name: (family, kinds) for family in FAMILIES.values() for name, kinds in family.pipelines.items()}

#: Width of the text embeddings that cross-attention reads, in a checkpoint or a LoRA for it -> architecture.
BY_TEXT_WIDTH = {each.text_width: name for name, each in ARCHITECTURES.items() if each.text_width}
#: Width of one token's embedding in a textual inversion -> architecture.
BY_TOKEN_WIDTH = {each.token_width: name for name, each in ARCHITECTURES.items() if each.token_width}


def get(family_id: str) -> Family:
    """The family with this id, or ``UNKNOWN``."""
    return FAMILIES.get(family_id, UNKNOWN)


def of_architecture(architecture: str) -> Family:
    """The family of an architecture, or ``UNKNOWN``."""
    return _BY_ARCHITECTURE.get(architecture, UNKNOWN)


def of_pipeline(class_name: str) -> tuple[Family, tuple[Kind, ...]]:
    """The family of a diffusers pipeline class, or ``UNKNOWN``, and the kinds of work it can do."""
    return _BY_PIPELINE.get(class_name, (UNKNOWN, ()))


def of_denoiser(names: Container[str], shape: Callable[[str], tuple[int, ...] | None]) -> tuple[str, Sign] | None:
    """The architecture of a transformer, with the sign that identified it, or None. ``names``: its modules, without
    their common prefix; ``shape`` returns the shape of a tensor.
    """
    matches = [
        (sign.specificity, name, sign)
        for name, architecture in ARCHITECTURES.items()
        for sign in architecture.signs
        if sign.matches(names, shape)
    ]
    best = max(matches, key=lambda each: each[0], default=None)
    return best and (best[1], best[2])


def of_lora(layers: Layers) -> str:
    """The architecture that a LoRA's layers belong to, "" if undecided."""
    matches = [
        (sign.specificity, name)
        for name, architecture in ARCHITECTURES.items()
        for sign in architecture.loras
        if sign.matches(layers)
    ]
    return max(matches, key=lambda each: each[0], default=(0, ""))[1]


def title_of(architecture: str) -> str:
    """The title of an architecture, "" if unknown."""
    return ARCHITECTURES[architecture].title if architecture in ARCHITECTURES else ""


def fits_architecture(adapter: str, architecture: str) -> bool:
    """Whether adapters made for ``adapter``, an architecture or a family, fit models of ``architecture``."""
    known = ARCHITECTURES.get(architecture)
    if adapter == architecture or (adapter and known and known.adapters == adapter):
        return True
    return adapter == of_architecture(architecture).id and adapter not in ("", UNKNOWN.id)


def tokens_of(family_id: str, architecture: str) -> int:
    """The pipeline's token limit for its text encoder; 0: the tokenizer's own limit."""
    known = ARCHITECTURES.get(architecture)
    return (known.tokens if known else 0) or get(family_id).tokens


def sampling_of(family_id: str, architecture: str) -> Sampling:
    """The samplers and schedules of models of an architecture."""
    known = ARCHITECTURES.get(architecture)
    return (known.sampling if known else None) or get(family_id).sampling


def references_of(architecture: str) -> int:
    """Number of reference pictures that models of an architecture accept besides the prompt."""
    known = ARCHITECTURES.get(architecture)
    return known.references if known else 0


def needs_reference(architecture: str) -> bool:
    """Whether models of an architecture require a reference picture."""
    known = ARCHITECTURES.get(architecture)
    return known is not None and known.needs_reference


def supports(feature: str, family_id: str, architecture: str) -> bool:
    """Whether models support a feature of their family: ``controls``, ``regions``, ``ip_adapters``, ``inversions``."""
    known = ARCHITECTURES.get(architecture)
    return bool(getattr(get(family_id), feature)) and not (known and feature in known.lacks)


def certainty(architecture: str, layers: Layers) -> int:
    """Specificity of the sign that assigns a LoRA's layers to an architecture."""
    signs = ARCHITECTURES[architecture].loras if architecture in ARCHITECTURES else ()
    return max((sign.specificity for sign in signs if sign.matches(layers)), default=0)
