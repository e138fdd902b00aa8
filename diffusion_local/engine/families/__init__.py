"""The engine half of each family of models, one module each, under the ids of ``diffusion_local.families``."""

import pkgutil
from importlib import import_module

from diffusion_local.engine.family import EngineFamily

#: Whatever module lies in this package is registered by its ``FAMILY``, under its own name.
FAMILIES: dict[str, EngineFamily] = {
    name: import_module(f"{__name__}.{name}").FAMILY
    for name in sorted(each.name for each in pkgutil.iter_modules(__path__))
}
