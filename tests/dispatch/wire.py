"""A dispatch by way of bytes: every argument, answer and error is packed and unpacked, as over a network."""

from collections.abc import Callable
from typing import Any

from diffusion_local.dispatch import Dispatch, wire
from diffusion_local.domain import utc_now


class Wire:
    """See ``Dispatch``; ``far`` makes the calls."""

    def __init__(self, far: Dispatch) -> None:
        self._far = far

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in wire.CALLS:
            raise AttributeError(name)

        def call(*args: Any, **kwargs: Any) -> Any:
            called, arguments = wire.parse_arguments(*wire.unpack(wire.request(name, args, kwargs)))
            answer = wire.parse_response(name, wire.response(lambda: self._answer(called, arguments)))
            return answer.terms if name == "take" else answer

        return call

    def _answer(self, name: str, arguments: dict[str, Any]) -> Any:
        answer = getattr(self._far, name)(**arguments)
        return wire.SlotGrant("a session", answer, utc_now()) if name == "take" else answer
