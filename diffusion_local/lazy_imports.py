"""Hides, defers or changes what a library does at its import and this program does not need."""

import importlib
import importlib.util
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
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


class _Replacing(MetaPathFinder):
    def __init__(self, name: str, attributes: Mapping[str, Any]) -> None:
        self._name, self._attributes = name, attributes

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_replace(module: ModuleType) -> None:
            execute(module)
            vars(module).update(self._attributes)

        spec.loader.exec_module = execute_and_replace  # type: ignore[method-assign]
        return spec


def replace_at_import(name: str, **attributes: Any) -> None:
    """Set attributes of the module ``name`` once it is executed, before the module that imports it reads them.

    Does nothing if the module is already imported.
    """
    if name not in sys.modules:
        sys.meta_path.insert(0, _Replacing(name, attributes))


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
