"""Types of values that options have: the kind of work, LoRAs with their weights, and the rungs of the memory policy."""

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    TXT2IMG = "txt2img"
    IMG2IMG = "img2img"  # begins from a source picture
    INPAINT = "inpaint"  # paints anew what the mask shows white, and keeps the rest
    UPSCALE = "upscale"  # makes a source picture larger


#: Rungs: how a model is held in memory, and what that means for the work. From the fastest to the one that needs least;
#: each also does what those before it do. Which of them a device has is the engine's to say.
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
    """A LoRA by the name of its file below ``loras/``, without suffix, and how strongly it is applied (1 = full)."""

    name: str
    weight: float = 1.0

    def __str__(self) -> str:
        """``name:weight``, as ``options.values.loras`` reads it in a list with commas."""
        plain = not any(sign in self.name for sign in ',"') and self.name == self.name.strip()
        name = self.name if plain else '"' + self.name.replace('"', '""') + '"'
        return f"{name}:{exact(self.weight)}"


def exact(number: float) -> str:
    """The shortest text that is read as the same number: 1, 0.8, 0.12345678."""
    return repr(float(number)).removesuffix(".0")
