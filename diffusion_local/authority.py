"""Authority: every operation is checked against the registry before it is carried out.

The registry (``diffusion_local.operations``) names the scope that an actor must have for an operation, and whose things
it reads or changes. Scope, and the account where an account is concerned, are checked here; ownership of rows is
checked where the rows are read (``db.access``). A class with a public method that the registry does not declare
cannot be imported, so there is no operation without authority.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from diffusion_local import actor
from diffusion_local.errors import Forbidden
from diffusion_local.messages import message
from diffusion_local.operations import registry
from diffusion_local.operations.operation import Whose

C = TypeVar("C", bound=type)


def check(name: str, account: Any = None) -> None:
    """Raises Forbidden unless the current actor may ask for the operation; ``account`` is the one that it concerns."""
    operation, who = registry.OPERATIONS[name], actor.current()
    if operation.scope is not None:
        who.require(operation.scope)
    if operation.whose is Whose.ACCOUNT and (who.source == "token" or not (who.rules_all or who.name == account)):
        raise Forbidden(message("own_account"))


def guarded(part: str) -> Callable[[C], C]:
    """A class decorator that puts ``check`` before every public method and property of a part of the Studio.

    Raises TypeError where the class and the registry do not name the same operations.
    """

    def guard(cls: C) -> C:
        public, declared = {name for name in dir(cls) if not name.startswith("_")}, registry.verbs(part)
        if public != declared:
            raise TypeError(f"{cls.__name__} and the registry of operations differ: {sorted(public ^ declared)}")
        for name in public:
            setattr(cls, name, checked(f"{part}.{name}".lstrip("."), inspect.getattr_static(cls, name)))
        return cls

    return guard


def checked(name: str, found: Any) -> Any:
    """A method or property with the check before it."""
    if isinstance(found, property) and found.fget:
        return property(checked(name, found.fget))
    if not inspect.isfunction(found):
        raise TypeError(f"{name} must be a method or a property to have authority.")
    registry.implement(name, found)

    @functools.wraps(found)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        check(name, args[0] if args else kwargs.get("name"))
        return found(self, *args, **kwargs)

    return call
