"""The engine's part of each model family: one module per family, named by its id in ``diffusion_local.families``."""

import pkgutil
from importlib import import_module

from diffusion_local.engine.family import EngineFamily

#: The ``FAMILY`` of each module in this package, by module name.
FAMILIES: dict[str, EngineFamily] = {
    name: import_module(f"{__name__}.{name}").FAMILY
    for name in sorted(each.name for each in pkgutil.iter_modules(__path__))
}
