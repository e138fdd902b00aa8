"""Value types of options: kind of work, LoRAs with weights, rungs of the memory policy."""

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    TXT2IMG = "txt2img"
    IMG2IMG = "img2img"  # starts from a source picture
    INPAINT = "inpaint"  # repaints the white area of the mask and keeps the rest
    UPSCALE = "upscale"  # enlarges a source picture


#: Rungs: ways to hold a model in memory, from the fastest to the least demanding; each includes the measures of those
#: before it. Which ones a device has is decided by the engine.
RUNGS = (
    "resident",
    "vae_tiling",
    "encoder_offload",
    "model_offload",
    "group_offload",
    "attention_slicing",
    "sequential",
)


@dataclass(frozen=True, slots=True)
class Lora:
    """A LoRA by file name below ``loras/``, without suffix, and its strength (1 = full)."""

    name: str
    weight: float = 1.0

    def __str__(self) -> str:
        """``name:weight``, parsed by ``options.values.loras``."""
        plain = not any(sign in self.name for sign in ',"') and self.name == self.name.strip()
        name = self.name if plain else '"' + self.name.replace('"', '""') + '"'
        return f"{name}:{exact(self.weight)}"


def exact(number: float) -> str:
    """Shortest text that parses to the same number: 1, 0.8, 0.12345678."""
    return repr(float(number)).removesuffix(".0")
