"""The engine's part of each model family: one module per family, named by its id in ``diffusion_local.families``."""

import pkgutil
from collections.abc import Iterator, Mapping
from importlib import import_module

from diffusion_local.engine.family import EngineFamily


class _Families(Mapping[str, EngineFamily]):
    """The ``FAMILY`` of each module in this package, by module name.

    A module is imported when its family is first looked up: each takes its own pipeline from diffusers, and with it its
    text encoders from transformers, so importing all of them would take a worker seconds at its start.
    """

    def __init__(self) -> None:
        self._names = sorted(each.name for each in pkgutil.iter_modules(__path__))

    def __getitem__(self, name: str) -> EngineFamily:
        if name not in self._names:
            raise KeyError(name)
        family: EngineFamily = import_module(f"{__name__}.{name}").FAMILY
        return family

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


FAMILIES = _Families()
