"""Authorization: every operation is checked against the registry before it is executed.

The registry (``diffusion_local.operations``) defines the required scope of an operation and whose data it touches.
Scope, and the account for account operations, are checked here; ownership of rows is checked where they are read
(``db.row_access``). A class with a public method that the registry does not declare cannot be imported, so no
operation is unguarded.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from diffusion_local import actor
from diffusion_local.errors import Forbidden
from diffusion_local.messages import message
from diffusion_local.operations import registry
from diffusion_local.operations.operation import DataScope

C = TypeVar("C", bound=type)


def check(name: str, account: Any = None) -> None:
    """Raise Forbidden unless the current actor may use the operation. ``account``: the account concerned, if any."""
    operation, who = registry.OPERATIONS[name], actor.current()
    if operation.scope is not None:
        who.require(operation.scope)
    if operation.data is DataScope.ACCOUNT and (who.source == "token" or not (who.rules_all or who.name == account)):
        raise Forbidden(message("own_account"))


def guarded(part: str) -> Callable[[C], C]:
    """Class decorator that runs ``check`` before every public method and property of a part of the Studio.

    Raises TypeError if the class and the registry declare different operations.
    """

    def guard(cls: C) -> C:
        public, declared = {name for name in dir(cls) if not name.startswith("_")}, registry.operation_names(part)
        if public != declared:
            raise TypeError(f"{cls.__name__} and the registry of operations differ: {sorted(public ^ declared)}")
        for name in public:
            setattr(cls, name, guard_member(f"{part}.{name}".lstrip("."), inspect.getattr_static(cls, name)))
        return cls

    return guard


def guard_member(name: str, member: Any) -> Any:
    """Wrap a method or property so that the check runs first."""
    if isinstance(member, property) and member.fget:
        return property(guard_member(name, member.fget))
    if not inspect.isfunction(member):
        raise TypeError(f"{name} must be a method or a property to have authority.")
    registry.register_method(name, member)

    @functools.wraps(member)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        check(name, args[0] if args else kwargs.get("name"))
        return member(self, *args, **kwargs)

    return call
