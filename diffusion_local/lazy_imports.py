"""Hides, defers or changes what a library does at its import and this program does not need."""

import importlib
import importlib.util
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
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
            for name in [each for each in vars(self) if not each.startswith("__")]:
                delattr(self, name)  # the placeholders
        return getattr(importlib.import_module(self.__name__), attribute)


def defer_import(name: str, *placeholders: str) -> None:
    """Let ``import name`` return at once; the package is loaded when one of its attributes is first read.

    Reading ``placeholders`` does not load it: they are classes that importers name in annotations, and stand-ins until
    the package is loaded, before which there is no instance of them. Does nothing if the package is already imported or
    not installed.
    """
    if name in sys.modules:
        return
    spec = importlib.util.find_spec(name)
    if spec is None:
        return
    module = _Deferred(name)
    module.__spec__, module.__file__ = spec, spec.origin
    for each in placeholders:
        setattr(module, each, type(each, (), {}))
    sys.modules[name] = module


class _FirstImport(MetaPathFinder):
    """Finds the module ``name`` once and executes it by ``execute(module, run)``; ``run(module)`` runs its code."""

    def __init__(self, name: str, execute: Callable[[ModuleType, Callable[[ModuleType], None]], None]) -> None:
        self._name, self._execute = name, execute

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module
            spec.loader.exec_module = lambda module: self._execute(module, run)  # type: ignore[method-assign]
        return spec


def at_first_import(name: str, execute: Callable[[ModuleType, Callable[[ModuleType], None]], None]) -> None:
    if name not in sys.modules:
        sys.meta_path.insert(0, _FirstImport(name, execute))


def replace_at_import(name: str, **attributes: Any) -> None:
    """Set attributes of the module ``name`` once it is executed, before the module that imports it reads them.

    Does nothing if the module is already imported.
    """

    def execute(module: ModuleType, run: Callable[[ModuleType], None]) -> None:
        run(module)
        vars(module).update(attributes)

    at_first_import(name, execute)


def import_with_stand_ins(name: str, stand_ins: Mapping[str, ModuleType | None]) -> None:
    """Let the first import of a module see stand-ins for others that it imports at module level (`replaced_modules`).

    Does nothing if the module is already imported.
    """

    def execute(module: ModuleType, run: Callable[[ModuleType], None]) -> None:
        with replaced_modules(stand_ins):
            run(module)

    at_first_import(name, execute)


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


def forwarding_module(name: str, *functions: str) -> ModuleType:
    """A stand-in for a module whose functions import the module when they are called."""
    module = ModuleType(name)
    for each in functions:
        setattr(module, each, _forward(name, each))
    return module


def _forward(name: str, function: str) -> Any:
    def call(*args: Any, **values: Any) -> Any:
        return getattr(importlib.import_module(name), function)(*args, **values)

    return call
