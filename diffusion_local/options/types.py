"""Value types of options: kind of work, LoRAs with weights, pictures with their use, rungs of the memory policy."""

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, ClassVar, Self
from urllib.parse import quote


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
        """``name:weight``, parsed by ``options.values.check_loras``."""
        plain = not any(sign in self.name for sign in ',"') and self.name == self.name.strip()
        name = self.name if plain else '"' + self.name.replace('"', '""') + '"'
        return f"{name}:{format_number(self.weight)}"


@dataclass(frozen=True, slots=True)
class PictureRecord:
    """One entry of an option that names several source pictures. ``image``: id of the source picture.

    Subclasses add fields with defaults, of type str, float or StrEnum; ``pictures`` names those that hold an id of a
    source picture.
    """

    pictures: ClassVar[tuple[str, ...]] = ("image",)

    image: str

    @property
    def inputs(self) -> tuple[str, ...]:
        """Ids of its source pictures."""
        return tuple(value for name in self.pictures if (value := getattr(self, name)))

    def to_dict(self) -> dict[str, Any]:
        """Plain values by field, without defaults."""
        values = {
            each.name: getattr(self, each.name) for each in fields(self) if getattr(self, each.name) != each.default
        }
        return {name: str(value) if isinstance(value, StrEnum) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> Self:
        """The record of ``to_dict``; unknown fields of newer versions are ignored."""
        known = {each.name: each for each in fields(cls)}
        return cls(**{name: converted(known[name].default, value) for name, value in found.items() if name in known})

    def __str__(self) -> str:
        """``IMAGE:name=value:...``, parsed by ``options.values.picture_records``."""
        values = {
            name: format_number(value) if isinstance(value, float) else str(value)
            for name, value in self.to_dict().items()
        }
        return ":".join([values.pop("image"), *(f"{name}={quote(value, safe='/ ')}" for name, value in values.items())])


def converted(default: Any, value: Any) -> Any:
    return type(default)(value) if isinstance(default, StrEnum) else value


class Use(StrEnum):
    EDIT = "edit"  # the model itself reads it beside the prompt
    STYLE = "style"  # an IP-Adapter reads content and style from it
    FACE = "face"  # an IP-Adapter made for faces reads the face in it


@dataclass(frozen=True, slots=True)
class Reference(PictureRecord):
    """A picture to which the result refers. ``weight``: strength of an IP-Adapter (1 = full); ``adapter``: file name of
    the IP-Adapter, "" for one that fits the use; ``mask``: source picture, white where the IP-Adapter has its effect.
    """

    pictures: ClassVar[tuple[str, ...]] = ("image", "mask")

    use: Use = Use.EDIT
    weight: float = 1.0
    adapter: str = ""
    mask: str = ""


class ControlType(StrEnum):
    """How the picture of a control is preprocessed. ``none``: it is a control picture already."""

    NONE = "none"
    CANNY = "canny"
    SOFT_EDGE = "softedge"
    SCRIBBLE = "scribble"
    TILE = "tile"
    LUMINANCE = "luminance"
    INVERT = "invert"
    DEPTH = "depth"
    OPENPOSE = "openpose"

    @property
    def needs_model(self) -> bool:
        """Whether it needs a model below ``preprocessors/``. Such a type runs at the submit only."""
        return self in LEARNED


#: Preprocessors whose weights are a model.
LEARNED = (ControlType.DEPTH, ControlType.OPENPOSE)


@dataclass(frozen=True, slots=True)
class Control(PictureRecord):
    """A picture that steers the composition through a ControlNet or T2I-Adapter.

    ``type``: the preprocessor; ``model``: file name below ``controlnet/``, "" for the only one that fits; ``weight``: 1
    is full strength; ``start`` and ``end``: share of the steps, 0 to 1; ``mode``: what a union ControlNet takes the
    picture for, "" for the type; ``seen``: source picture that the ControlNet sees, set when the job is submitted.
    """

    pictures: ClassVar[tuple[str, ...]] = ("image", "seen")

    type: ControlType = ControlType.NONE
    model: str = ""
    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0
    mode: str = ""
    seen: str = ""


def format_number(number: float) -> str:
    """Shortest text that parses to the same number: 1, 0.8, 0.12345678."""
    return repr(float(number)).removesuffix(".0")
