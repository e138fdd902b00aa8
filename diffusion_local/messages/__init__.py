"""Messages for users, by id and parameters.

The catalogue ``*.toml`` has each sentence per language: ``id = { en = "…{slot}…", zh = "…" }``. Ids are unique over all
files and part of the HTTP API: never rename one. A slot may have a format, as ``{count:,}``.

A `Message` is the English sentence as text, so it can be logged, stored and sent; it also carries ``id`` and
``params``, from which `translate` composes it in another language. Text from a library or the operating system
is a parameter, or becomes a message with `verbatim`.
"""

import json
import tomllib
from collections.abc import Callable, Iterable, Mapping
from functools import cache, reduce
from pathlib import Path
from typing import Any

CATALOGUE = Path(__file__).parent
LANGUAGES = ("en", "zh")
DEFAULT_LANGUAGE = "en"
#: Id of text that is not in the catalogue; shown unchanged in every language.
VERBATIM = "verbatim"
#: Nesting limit of messages read from a database or another machine.
MAX_NESTED = 16


class Message(str):
    """An English sentence with its ``id`` in the catalogue and its ``params``.

    A parameter is text, a number, a message, or a list of them, which is shown with commas.
    """

    id: str
    params: dict[str, Any]

    def __new__(cls, id: str, params: Mapping[str, Any]) -> "Message":
        """Raises KeyError for an unknown id or a missing parameter."""
        normalised = {name: _normalise(value) for name, value in params.items()}
        made = super().__new__(cls, _compose(DEFAULT_LANGUAGE, id, normalised))
        made.id, made.params = id, normalised
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return Message, (self.id, self.params)


def message(id: str, /, **params: Any) -> Message:
    """The catalogue's message of this id. Parameters of other types than text and numbers are converted to text."""
    return Message(id, params)


def verbatim(text: str) -> Message:
    """A message that wraps plain text; "" stays empty."""
    return text if isinstance(text, Message) else Message(VERBATIM, {"text": text})


def concatenate(parts: Iterable[Message]) -> Message | str:
    """Concatenate messages into one; "" if there are none."""
    messages = list(parts)
    return reduce(lambda first, rest: message("both", first=first, rest=rest), messages) if messages else ""


def translate(language: str, text: str) -> str:
    """The message in a language; plain text is returned unchanged."""
    return _compose(language, text.id, text.params) if isinstance(text, Message) else text


def serialize(text: str) -> dict[str, Any]:
    """Id and parameters as JSON values; nested messages are ``{"id", "params", "message"}``."""
    as_message = verbatim(text)
    return {"id": as_message.id, "params": {name: _describe_value(value) for name, value in as_message.params.items()}}


def deserialize(text: str, description: Any) -> Message:
    """The inverse of `serialize`; ``text`` verbatim if this catalogue does not know the message."""
    try:
        return Message(
            str(description["id"]), {name: _restore_value(value) for name, value in description["params"].items()}
        )
    except (KeyError, ValueError, TypeError, AttributeError, IndexError):
        return verbatim(text)


def to_json(text: str) -> str | None:
    """JSON to store beside the text, for `from_json`; None for plain text."""
    return json.dumps(serialize(text), ensure_ascii=False) if isinstance(text, Message) else None


def from_json(text: str, stored: str | None) -> str:
    """A stored text as the message it was; the plain text if ``stored`` is missing or damaged."""
    if not text or not stored:
        return text
    try:
        return deserialize(text, json.loads(stored))
    except (ValueError, RecursionError):
        return text


def map_params(text: str, change: Callable[[str], str]) -> Message:
    """The message with ``change`` applied to all texts among its parameters."""
    as_message = verbatim(text)
    return Message(as_message.id, {name: _change_value(value, change) for name, value in as_message.params.items()})


@cache
def catalogue() -> dict[str, dict[str, str]]:
    """Id -> language -> sentence."""
    sentences_by_id: dict[str, dict[str, str]] = {}
    for path in sorted(CATALOGUE.glob("*.toml")):
        for id, sentences in tomllib.loads(path.read_text(encoding="utf-8")).items():
            if id in sentences_by_id:
                raise ValueError(f"message {id} is in the catalogue twice, the second time in {path.name}")
            sentences_by_id[id] = sentences
    return sentences_by_id


def is_known(id: str) -> bool:
    return id in catalogue()


def _compose(language: str, id: str, params: Mapping[str, Any]) -> str:
    return catalogue()[id][language].format(**{name: _render(language, value) for name, value in params.items()})


def _render(language: str, value: Any) -> Any:
    if isinstance(value, list):
        return ", ".join(str(_render(language, each)) for each in value)
    return translate(language, value) if isinstance(value, str) else value


def _normalise(value: Any) -> Any:
    if isinstance(value, Message) or value is None:
        return value
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Iterable) and not isinstance(value, bytes | Mapping):
        return [_normalise(each) for each in value]
    nested = getattr(value, "message", None)  # from one of our errors
    return nested if isinstance(nested, Message) else str(value)


def _describe_value(value: Any) -> Any:
    if isinstance(value, Message):
        return serialize(value) | {"message": str(value)}
    return [_describe_value(each) for each in value] if isinstance(value, list) else value


def _restore_value(value: Any, depth: int = 1) -> Any:
    if depth > MAX_NESTED:
        raise ValueError("messages within messages")
    if isinstance(value, list):
        return [_restore_value(each, depth + 1) for each in value]
    if isinstance(value, dict):
        params = value["params"].items()
        try:
            return Message(str(value["id"]), {name: _restore_value(each, depth + 1) for name, each in params})
        except KeyError:
            return verbatim(str(value["message"]))
    return value


def _change_value(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, Message):
        return map_params(value, change)
    if isinstance(value, list):
        return [_change_value(each, change) for each in value]
    return change(value) if isinstance(value, str) else value
