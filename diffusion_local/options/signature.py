"""Gives functions with ``**options`` an explicit signature, for tools that inspect signatures."""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from diffusion_local.options.option import Option
from diffusion_local.options.table import BATCH_OPTIONS, OPTIONS, SETTINGS

F = TypeVar("F", bound=Callable[..., Any])
MakeParameter = Callable[[Option], inspect.Parameter]


def option_parameter(option: Option) -> inspect.Parameter:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Parameter(option.name, kind, default=None, annotation=option.request_type | None)


def options_of(picture: bool = True, batch: bool = False, without: Iterable[str] = ()) -> list[Option]:
    """Options of a picture (except the prompt), of a batch, or both, except those in ``without``."""
    left_out = set(without)
    found = [OPTIONS[name] for name in SETTINGS] if picture else []
    return [each for each in [*found, *(BATCH_OPTIONS.values() if batch else ())] if each.name not in left_out]


def with_parameters(parameters: Iterable[inspect.Parameter], last: bool = False) -> Callable[[F], F]:
    """Decorator that replaces ``**keywords`` by parameters; one that a call leaves out is not passed on.

    They follow the function's required parameters or, with ``last``, all of its parameters.
    """
    added = list(parameters)

    def decorate(function: F) -> F:
        before = inspect.signature(function, eval_str=True)
        own = [each for each in before.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
        first = len(own) if last else sum(each.default is each.empty for each in own)
        signature = before.replace(parameters=[*own[:first], *added, *own[first:]])

        @functools.wraps(function)
        def call(*args: Any, **named: Any) -> Any:
            return function(**signature.bind(*args, **named).arguments)

        returns = {name: hint for name, hint in function.__annotations__.items() if name == "return"}
        call.__signature__ = signature  # type: ignore[attr-defined]
        call.__annotations__ = annotations(signature.parameters) | returns
        return call  # type: ignore[return-value]

    return decorate


def with_options(
    make: MakeParameter = option_parameter,
    without: Iterable[str] = (),
    picture: bool = True,
    batch: bool = False,
    last: bool = False,
) -> Callable[[F], F]:
    """`with_parameters` for options, each None by default."""
    return with_parameters(map(make, options_of(picture, batch, without)), last)


def with_fields(cls: type) -> Callable[[F], F]:
    """Decorator that replaces ``**keywords`` by one parameter per field of the dataclass ``cls``."""

    def decorate(function: F) -> F:
        before = inspect.signature(function)
        own = [each for each in before.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
        kind = inspect.Parameter.KEYWORD_ONLY
        named = [inspect.Parameter(each.name, kind, default=each.default, annotation=each.type) for each in fields(cls)]
        function.__signature__ = before.replace(parameters=[*own, *named])  # type: ignore[attr-defined]
        return function

    return decorate


def annotations(parameters: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    return {name: each.annotation for name, each in parameters.items() if each.annotation is not each.empty}
