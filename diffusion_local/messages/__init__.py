"""Messages for people, each by an id and its parameters.

The catalogue ``*.toml`` states each sentence once per language: ``id = { en = "…{slot}…", zh = "…" }``. Ids are unique
over all files and part of the HTTP API: rename none. A slot may have a format, as ``{count:,}``.

A `Message` is the English sentence as text, so it can be logged, stored and sent like any other; it also carries ``id``
and ``params``, from which `say_in` composes it in another language. Text from elsewhere (a library, the operating
system) is a parameter, or a whole message by `verbatim`.
"""

import json
import tomllib
from collections.abc import Callable, Iterable, Mapping
from functools import cache, reduce
from pathlib import Path
from string import Formatter
from typing import Any

CATALOGUE = Path(__file__).parent
LANGUAGES = ("en", "zh")
FIRST = "en"
#: The id of a text that the catalogue does not have; it is shown as it is in every language.
VERBATIM = "verbatim"
#: How many messages may lie within each other in what is read from a database or another machine.
MOST_NESTED = 16


class Message(str):
    """An English sentence with its ``id`` in the catalogue and its ``params``.

    A parameter is text, a number, a message, or a list of them, which is shown with commas.
    """

    id: str
    params: dict[str, Any]

    def __new__(cls, id: str, params: Mapping[str, Any]) -> "Message":
        """An unknown id or a missing parameter is a KeyError."""
        kept = {name: _kept(value) for name, value in params.items()}
        made = super().__new__(cls, _composed(FIRST, id, kept))
        made.id, made.params = id, kept
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return Message, (self.id, self.params)


def message(id: str, /, **params: Any) -> Message:
    """The message of the catalogue with this id. A parameter of another type than text or number is shown as text."""
    return Message(id, params)


def verbatim(text: str) -> Message:
    """A message of which only the text is known; an empty one stays empty."""
    return text if isinstance(text, Message) else Message(VERBATIM, {"text": text})


def joined(each: Iterable[Message]) -> Message | str:
    """Messages one after the other, as one; empty if there are none."""
    told = list(each)
    return reduce(lambda first, rest: message("both", first=first, rest=rest), told) if told else ""


def say_in(language: str, text: str) -> str:
    """The message in that language; plain text is returned as it is."""
    return _composed(language, text.id, text.params) if isinstance(text, Message) else text


def described(text: str) -> dict[str, Any]:
    """Id and parameters as JSON values; a message among the parameters is ``{"id", "params", "message"}``."""
    told = verbatim(text)
    return {"id": told.id, "params": {name: _described(value) for name, value in told.params.items()}}


def restored(text: str, told: Any) -> Message:
    """The message that `described` has described, or ``text`` verbatim where this catalogue does not know it."""
    try:
        return Message(str(told["id"]), {name: _restored(value) for name, value in told["params"].items()})
    except (KeyError, ValueError, TypeError, AttributeError, IndexError):
        return verbatim(text)


def encoded(text: str) -> str | None:
    """What is stored beside the text, so that `decoded` has the message again; None where nothing more is known."""
    return json.dumps(described(text), ensure_ascii=False) if isinstance(text, Message) else None


def decoded(text: str, stored: str | None) -> str:
    """A stored text as the message it was; without what `encoded` gave, or where it is damaged, the text as it is."""
    if not text or not stored:
        return text
    try:
        return restored(text, json.loads(stored))
    except (ValueError, RecursionError):
        return text


def changed(text: str, change: Callable[[str], str]) -> Message:
    """The message with ``change`` applied to every text among its parameters."""
    told = verbatim(text)
    return Message(told.id, {name: _changed(value, change) for name, value in told.params.items()})


@cache
def catalogue() -> dict[str, dict[str, str]]:
    """Id -> language -> sentence."""
    found: dict[str, dict[str, str]] = {}
    for path in sorted(CATALOGUE.glob("*.toml")):
        for id, sentences in tomllib.loads(path.read_text(encoding="utf-8")).items():
            if id in found:
                raise ValueError(f"message {id} is in the catalogue twice, the second time in {path.name}")
            found[id] = sentences
    return found


def known(id: str) -> bool:
    return id in catalogue()


def slots(sentence: str) -> set[str]:
    return {slot for _, slot, _, _ in Formatter().parse(sentence) if slot is not None}


def _composed(language: str, id: str, params: Mapping[str, Any]) -> str:
    return catalogue()[id][language].format(**{name: _shown(language, value) for name, value in params.items()})


def _shown(language: str, value: Any) -> Any:
    if isinstance(value, list):
        return ", ".join(str(_shown(language, each)) for each in value)
    return say_in(language, value) if isinstance(value, str) else value


def _kept(value: Any) -> Any:
    if isinstance(value, Message) or value is None:
        return value
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Iterable) and not isinstance(value, bytes | Mapping):
        return [_kept(each) for each in value]
    told = getattr(value, "message", None)  # of an error of ours
    return told if isinstance(told, Message) else str(value)


def _described(value: Any) -> Any:
    if isinstance(value, Message):
        return described(value) | {"message": str(value)}
    return [_described(each) for each in value] if isinstance(value, list) else value


def _restored(value: Any, depth: int = 1) -> Any:
    if depth > MOST_NESTED:
        raise ValueError("messages within messages")
    if isinstance(value, list):
        return [_restored(each, depth + 1) for each in value]
    if isinstance(value, dict):
        params = value["params"].items()
        try:
            return Message(str(value["id"]), {name: _restored(each, depth + 1) for name, each in params})
        except KeyError:
            return verbatim(str(value["message"]))
    return value


def _changed(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, Message):
        return changed(value, change)
    if isinstance(value, list):
        return [_changed(each, change) for each in value]
    return change(value) if isinstance(value, str) else value
