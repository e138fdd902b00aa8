"""Tags of extra networks in a prompt: ``<lora:name:weight>``, and ``<lyco:…>``, which A1111 reads as the same."""

import re
from dataclasses import dataclass

LORAS = ("lora", "lyco")
#: Tags that A1111 takes out of a prompt. Nothing within them is read as anything else.
TAG = r"<(?:lora|lyco|hypernet):[^<>]*>"
_FOUND = re.compile(rf"(?<!\\) ?(?<!\\)({TAG})", re.IGNORECASE)
#: Directives of other tools, which nothing here follows: SwarmUI's ``<random:a,b>``, ``<segment:face>`` and the like.
_OTHER = re.compile(r"<([a-z][a-z ]{0,30}(?:\[[^\]<>]{0,30}\])?):[^<>]{0,200}>", re.IGNORECASE)
ENDING = ".safetensors"


@dataclass(frozen=True, slots=True)
class Tag:
    """``weight`` is the text between the second colon and the next one; ``rest`` are further parts."""

    kind: str
    name: str
    weight: str = ""
    rest: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Tag":
        kind, name, *parts = text[1:-1].split(":")
        return cls(kind.lower(), name.strip().removesuffix(ENDING), parts[0].strip() if parts else "", tuple(parts[1:]))

    def printed(self) -> str:
        return f"<{':'.join((self.kind, self.name, self.weight, *self.rest))}>"


def found_in(text: str) -> list[Tag]:
    return [Tag.parse(found[1]) for found in _FOUND.finditer(text)] if "<" in text else []


def without(text: str) -> str:
    """The text without its tags, and without the space before each of them."""
    return _FOUND.sub("", text).strip() if "<" in text else text


def others_in(text: str) -> list[str]:
    """What looks like a tag and is none that is known here."""
    return [found[0] for found in _OTHER.finditer(without(text))] if "<" in text else []
