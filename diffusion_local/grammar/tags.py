"""Extra-network tags in prompts: ``<lora:name:weight>``, and ``<lyco:…>``, which A1111 treats the same."""

import re
from dataclasses import dataclass

LORAS = ("lora", "lyco")
#: Tags that A1111 removes from a prompt. Nothing inside is parsed otherwise.
TAG = r"<(?:lora|lyco|hypernet):[^<>]*>"
_FOUND = re.compile(rf"(?<!\\) ?(?<!\\)({TAG})", re.IGNORECASE)
#: Directives of other tools, which are not supported: SwarmUI's ``<random:a,b>``, ``<segment:face>`` and the like.
_OTHER = re.compile(r"<([a-z][a-z ]{0,30}(?:\[[^\]<>]{0,30}\])?):[^<>]{0,200}>", re.IGNORECASE)
ENDING = ".safetensors"


@dataclass(frozen=True, slots=True)
class Tag:
    """A tag. ``weight``: text between the second and third colon; ``rest``: further parts."""

    kind: str
    name: str
    weight: str = ""
    rest: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Tag":
        kind, name, *parts = text[1:-1].split(":")
        return cls(kind.lower(), name.strip().removesuffix(ENDING), parts[0].strip() if parts else "", tuple(parts[1:]))

    def to_text(self) -> str:
        return f"<{':'.join((self.kind, self.name, self.weight, *self.rest))}>"


def find_tags(text: str) -> list[Tag]:
    return [Tag.parse(found[1]) for found in _FOUND.finditer(text)] if "<" in text else []


def remove_tags(text: str) -> str:
    """The text without tags and the space before them."""
    return _FOUND.sub("", text).strip() if "<" in text else text


def find_other_tags(text: str) -> list[str]:
    """Text that looks like a tag but is unknown."""
    return [found[0] for found in _OTHER.finditer(remove_tags(text))] if "<" in text else []
