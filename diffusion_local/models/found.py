"""What the files of a model say about it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TXT2IMG, IMG2IMG, INPAINT = "txt2img", "img2img", "inpaint"
EVERY_KIND = (TXT2IMG, IMG2IMG, INPAINT)

#: States of an entry.
READY, INCOMPLETE, UNSUPPORTED = "ready", "incomplete", "unsupported"


@dataclass(frozen=True, slots=True)
class Found:
    """``family`` says how it is run (sd, sdxl, flux...), ``architecture`` what fits it (sd1, sd2, sdxl, flux...).

    ``config`` is the folder with the configuration and tokenizer of a single-file checkpoint; ``scheduler`` holds
    entries that differ from the scheduler's configuration there. ``memory_bytes`` is that of all weights in fp16.
    """

    family: str = "unknown"
    architecture: str = "unknown"
    kinds: tuple[str, ...] = EVERY_KIND
    size_bytes: int = 0
    memory_bytes: int = 0
    state: str = READY
    problem: str = ""
    title: str = ""
    licence: str = ""
    hub_id: str = ""
    config: Path | None = None
    scheduler: dict[str, Any] = field(default_factory=dict)


def not_supported(problem: str, **known: Any) -> Found:
    return Found(state=UNSUPPORTED, problem=problem, **known)


def incomplete(problem: str, **known: Any) -> Found:
    return Found(state=INCOMPLETE, problem=problem, **known)
