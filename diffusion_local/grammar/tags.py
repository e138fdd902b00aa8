"""Extra-network tags in prompts: ``<lora:name:weight>``, and ``<lyco:…>``, which A1111 treats the same."""

import re
from dataclasses import dataclass

LORA_TAGS = ("lora", "lyco")
#: Tags that A1111 removes from a prompt. Their content is not parsed as prompt syntax.
TAG = r"<(?:lora|lyco|hypernet):[^<>]*>"
_FOUND = re.compile(rf"(?<!\\) ?(?<!\\)({TAG})", re.IGNORECASE)
#: Directives of other tools, which are not supported: SwarmUI's ``<random:a,b>``, ``<segment:face>`` and the like.
_OTHER = re.compile(
    r"<\s{0,9}(?:lora|lyco|hypernet)\b[^<>]{0,200}>?"  # misspelt or unclosed
    r"|&lt;\s{0,9}(?:lora|lyco|hypernet)\b[^<>&]{0,200}(?:&gt;)?"
    r"|<[a-z][a-z ]{0,30}(?:\[[^\]<>]{0,30}\])?:[^<>]{0,200}>",
    re.IGNORECASE,
)
#: A name that contains a colon is quoted as in CSV: ``<lora:"a:b":0.8>``.
_PART = re.compile(r'\s*("(?:[^"]|"")*+")\s*(?::|$)|([^:]*)(?::|$)')
ENDING = ".safetensors"


@dataclass(frozen=True, slots=True)
class Tag:
    """An extra-network tag. ``weight``: text after the name; ``rest``: further parts."""

    kind: str
    name: str
    weight: str = ""
    rest: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Tag":
        kind, _, content = text[1:-1].partition(":")
        first = _PART.match(content)
        assert first is not None  # it matches any text
        name = first[1][1:-1].replace('""', '"') if first[1] else first[2].strip().removesuffix(ENDING)
        parts = content[first.end() :].split(":") if first[0].endswith(":") else []
        return cls(kind.lower(), name, parts[0].strip() if parts else "", tuple(parts[1:]))

    def to_text(self) -> str:
        plain = ":" not in self.name and not self.name.startswith('"') and not self.name.endswith(ENDING)
        plain = plain and self.name == self.name.strip()
        name = self.name if plain else '"' + self.name.replace('"', '""') + '"'
        return f"<{':'.join((self.kind, name, self.weight, *self.rest))}>"


def find_tags(text: str) -> list[Tag]:
    return [Tag.parse(found[1]) for found in _FOUND.finditer(text)] if "<" in text else []


def remove_tags(text: str) -> str:
    """Remove tags and the space before each of them."""
    return _FOUND.sub("", text).strip() if "<" in text else text


def find_other_tags(text: str) -> list[str]:
    """Find text that looks like a tag but is not a supported one."""
    return [found[0] for found in _OTHER.finditer(remove_tags(text))] if "<" in text or "&lt;" in text else []
