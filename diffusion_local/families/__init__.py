"""The families of models, one module each: whatever module lies in this package is registered by its ``FAMILY``.

To add a family, write its module here and its engine half under the same name in ``engine/families``, and list its
models in ``assets/models.json``.
"""

import pkgutil
from collections.abc import Collection
from importlib import import_module

from diffusion_local.families.family import Architecture, Family
from diffusion_local.messages import message
from diffusion_local.options.types import Kind

#: Modules of this package that are no family.
HELPERS = ("family",)


def discovered() -> tuple[Family, ...]:
    names = sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in HELPERS)
    return tuple(import_module(f"{__name__}.{name}").FAMILY for name in names)


#: All families by id, in alphabetical order.
FAMILIES: dict[str, Family] = {family.id: family for family in discovered()}
#: Stands in for the family of a model that was not recognised.
UNKNOWN = Family(id="unknown", title="", pipelines={}, problem=message("model_unknown"))
ARCHITECTURES: dict[str, Architecture] = {
    name: architecture for family in FAMILIES.values() for name, architecture in family.architectures.items()
}
_BY_ARCHITECTURE = {name: family for family in FAMILIES.values() for name in family.architectures}
_BY_PIPELINE = {name: (family, kinds) for family in FAMILIES.values() for name, kinds in family.pipelines.items()}

#: Width of the text that cross attention reads, in a checkpoint or in a LoRA for it -> architecture.
BY_TEXT_WIDTH = {each.text_width: name for name, each in ARCHITECTURES.items() if each.text_width}
#: Width of one token's vector in a textual inversion -> architecture.
BY_TOKEN_WIDTH = {each.token_width: name for name, each in ARCHITECTURES.items() if each.token_width}


def get(family_id: str) -> Family:
    """The family of this id, or ``UNKNOWN``."""
    return FAMILIES.get(family_id, UNKNOWN)


def of_architecture(architecture: str) -> Family:
    """The family of an architecture, or ``UNKNOWN``."""
    return _BY_ARCHITECTURE.get(architecture, UNKNOWN)


def of_pipeline(class_name: str) -> tuple[Family, tuple[Kind, ...]]:
    """The family of a diffusers pipeline class, or ``UNKNOWN``, and the kinds of work it can do."""
    return _BY_PIPELINE.get(class_name, (UNKNOWN, ()))


def of_checkpoint(tensors: Collection[str], prefix: str = "") -> Family:
    """The family whose marker is among the names of a checkpoint's tensors, or ``UNKNOWN``.

    Names may begin with ``prefix``. A derived family goes before the one it derives from.
    """
    found = [
        family
        for family in FAMILIES.values()
        if family.marker and (family.marker in tensors or prefix + family.marker in tensors)
    ]
    origins = {family.derived_from for family in found}
    return next((family for family in found if family.id not in origins), UNKNOWN)


def title_of(architecture: str) -> str:
    """The title of an architecture, empty if it is not known."""
    return ARCHITECTURES[architecture].title if architecture in ARCHITECTURES else ""


def fits(adapter: str, architecture: str) -> bool:
    """Whether adapters made for the architecture ``adapter`` fit models of ``architecture``."""
    known = ARCHITECTURES.get(architecture)
    return adapter == architecture or bool(known and known.adapters == adapter)


def tokens_of(family_id: str, architecture: str) -> int:
    """Tokens that the pipeline lets its text encoder read; 0: as many as the tokenizer allows."""
    known = ARCHITECTURES.get(architecture)
    return (known.tokens if known else 0) or get(family_id).tokens
