"""Hides or defers heavy packages that a library imports at module level but this program does not need."""

import importlib
import importlib.util
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from types import ModuleType
from typing import Any

_lock = threading.Lock()


class _Deferred(ModuleType):
    """Stands in ``sys.modules`` for a package until one of its attributes is read.

    importlib's LazyLoader does not work here: in Python 3.11 a second ``import`` reads ``__spec__``, which loads the
    package.
    """

    def __getattr__(self, attribute: str) -> Any:
        # Code that iterates over sys.modules (inspect, warnings) reads such names from every module.
        if attribute.startswith("__") and attribute != "__path__":
            raise AttributeError(attribute)
        with _lock:
            if sys.modules.get(self.__name__) is self:
                del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), attribute)


def defer_import(name: str) -> None:
    """Let ``import name`` return at once; the package is loaded when one of its attributes is first read.

    Does nothing if the package is already imported or not installed.
    """
    if name in sys.modules:
        return
    spec = importlib.util.find_spec(name)
    if spec is None:
        return
    module = _Deferred(name)
    module.__spec__, module.__file__ = spec, spec.origin
    sys.modules[name] = module


def hidden_imports(*names: str) -> AbstractContextManager[None]:
    """Context in which importing these packages raises ImportError, as if they were not installed."""
    return replaced_modules(dict.fromkeys(names))


@contextmanager
def replaced_modules(stand_ins: Mapping[str, ModuleType | None]) -> Iterator[None]:
    """Context in which imports of these names return the stand-ins; None makes the import raise ImportError."""
    before = {name: sys.modules.get(name) for name in stand_ins}
    sys.modules.update(stand_ins)  # type: ignore[arg-type]  # an import of None fails with ImportError
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
