"""Value types of options: kinds of work, LoRAs, lists of records such as controls, rungs of the memory policy."""

import re
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, ClassVar, Self
from urllib.parse import quote, unquote

#: Rungs: ways to hold a model in memory, from the fastest to the least demanding. Each includes the measures of those
#: before it. The engine decides which rungs a device has.
RUNGS = (
    "resident",
    "vae_tiling",
    "encoder_offload",
    "block_streaming",
    "model_offload",
    "group_offload",
    "attention_slicing",
    "sequential",
)
#: A ``name=value`` pair after a colon. Matched part by part: one pattern for the whole text would take quadratic time.
PAIR_START = re.compile(r"[a-z_]+=")
PAIR = re.compile(r":(?=[a-z_]+=)")


class Kind(StrEnum):
    TXT2IMG = "txt2img"
    IMG2IMG = "img2img"  # starts from a source picture
    INPAINT = "inpaint"  # repaints the white area of the mask and keeps the rest
    UPSCALE = "upscale"  # enlarges a source picture


@dataclass(frozen=True, slots=True)
class Lora:
    """A LoRA: file name below ``loras/``, without suffix, and strength (1 = full)."""

    name: str
    weight: float = 1.0

    def __str__(self) -> str:
        """``name:weight``, parsed by ``options.values.check_loras``."""
        plain = not any(sign in self.name for sign in ',"') and self.name == self.name.strip()
        name = self.name if plain else '"' + self.name.replace('"', '""') + '"'
        return f"{name}:{format_number(self.weight)}"


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of an option that is a list. Its text form is ``LEAD:name=value:...`` (see ``values.record_values``).

    Subclasses declare fields of type str, int, float or StrEnum; all but the first, the ``lead``, have defaults.
    """

    lead: ClassVar[str]
    #: Fields that contain the id of a source picture.
    pictures: ClassVar[tuple[str, ...]] = ()
    #: Maximum number of entries in one job.
    most: ClassVar[int] = 10

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
    def from_dict(cls, record: dict[str, Any]) -> Self:
        """The inverse of ``to_dict``. Unknown fields of newer versions are ignored."""
        known = {each.name: each for each in fields(cls)}
        return cls(**{name: converted(known[name].default, value) for name, value in record.items() if name in known})

    @classmethod
    def split(cls, text: str) -> list[str]:
        """Split a text into its comma-separated entries."""
        return text.split(",")

    @classmethod
    def read(cls, text: str) -> dict[str, Any]:
        """Parse the text of one entry, ``LEAD:name=value:...``; returns its values by name.

        The leading value may itself contain colons, as a path or a data URL does.
        """
        parts = text.split(":")
        first = len(parts)
        while first > 1 and PAIR_START.match(parts[first - 1]):
            first -= 1
        pairs = (pair.partition("=") for pair in parts[first:])
        lead = ":".join(parts[:first])
        lead = lead if cls.lead in cls.pictures else unquote(lead)
        return {cls.lead: lead} | {name: unquote(value) for name, _, value in pairs}

    def __str__(self) -> str:
        values = {
            name: format_number(value) if isinstance(value, float) else str(value)
            for name, value in self.to_dict().items()
        }
        pairs = (f"{name}={quote(value, safe='/ ')}" for name, value in values.items() if name != self.lead)
        lead = values[self.lead] if self.lead in self.pictures else quote(values[self.lead], safe="/ ")
        return ":".join([lead, *pairs])


@dataclass(frozen=True, slots=True)
class PictureRecord(Record):
    """An entry that names a source picture by its id."""

    lead: ClassVar[str] = "image"
    pictures: ClassVar[tuple[str, ...]] = ("image",)

    image: str


def converted(default: Any, value: Any) -> Any:
    return type(default)(value) if isinstance(default, StrEnum) else value


class Use(StrEnum):
    EDIT = "edit"  # the model itself reads it besides the prompt
    STYLE = "style"  # an IP-Adapter reads content and style from it
    FACE = "face"  # an IP-Adapter for faces reads the face in it


@dataclass(frozen=True, slots=True)
class Reference(PictureRecord):
    """A reference picture. ``weight``: strength of an IP-Adapter (1 = full); ``adapter``: file name of the IP-Adapter,
    "" for one that fits the use; ``mask``: source picture, white where the IP-Adapter has an effect.
    """

    pictures: ClassVar[tuple[str, ...]] = ("image", "mask")

    use: Use = Use.EDIT
    weight: float = 1.0
    adapter: str = ""
    mask: str = ""


class ControlType(StrEnum):
    """How a control's picture is preprocessed. ``none``: it is already a control picture."""

    NONE = "none"
    CANNY = "canny"
    SOFT_EDGE = "softedge"
    SCRIBBLE = "scribble"
    TILE = "tile"
    LUMINANCE = "luminance"
    INVERT = "invert"
    LINE_ART = "lineart"
    DEPTH = "depth"
    NORMAL = "normal"
    OPENPOSE = "openpose"
    SEGMENT = "segment"
    INPAINT = "inpaint"  # the source picture without what the mask covers, made when the picture is

    @property
    def needs_model(self) -> bool:
        """Whether it needs a model below ``preprocessors/``. Such a preprocessor runs only at submit."""
        return self in LEARNED


#: Preprocessors that are models.
LEARNED = (ControlType.DEPTH, ControlType.NORMAL, ControlType.OPENPOSE, ControlType.SEGMENT)


@dataclass(frozen=True, slots=True)
class Control(PictureRecord):
    """A picture that steers the composition through a ControlNet or T2I-Adapter.

    ``type``: the preprocessor; ``model``: file name below ``controlnet/``, "" for the only one that fits; ``weight``: 1
    is full strength; ``start`` and ``end``: share of the steps, 0 to 1; ``mode``: how a union ControlNet interprets the
    picture, "" for the type; ``seen``: source picture that the ControlNet reads, set when the job is submitted.
    """

    pictures: ClassVar[tuple[str, ...]] = ("image", "seen")
    most: ClassVar[int] = 5

    type: ControlType = ControlType.NONE
    model: str = ""
    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0
    mode: str = ""
    seen: str = ""


@dataclass(frozen=True, slots=True)
class Region(Record):
    """A part of the picture with its own prompt.

    ``x``, ``y`` (of its upper left corner), ``width`` and ``height`` are shares of the picture, 0 to 1; ``weight``: how
    much its prompt counts there relative to the picture's prompt; at 1 only the region's prompt counts.
    """

    lead: ClassVar[str] = "prompt"
    most: ClassVar[int] = 8

    prompt: str
    x: float = 0.0
    y: float = 0.0
    width: float = 1.0
    height: float = 1.0
    weight: float = 0.8

    @classmethod
    def split(cls, text: str) -> list[str]:
        """Split at commas that follow a pair; other commas belong to the prompt."""
        entries, entry = [], list[str]()
        for segment in text.split(","):
            if not entry and not segment.strip():
                continue
            entry.append(segment if entry else segment.lstrip())
            before, _, pair = entry[-1].rpartition(":")
            if PAIR_START.match(pair) and (before or (len(entry) > 1 and ":" in entry[-1])):
                entries.append(",".join(entry))
                entry = []
        return [*entries, ",".join(entry)] if entry else entries

    def __str__(self) -> str:
        prompt = PAIR.sub("%3A", self.prompt.replace("%", "%25"))
        prompt = f"%2C{prompt[1:]}" if prompt.startswith(",") else prompt
        pairs = {name: format_number(value) for name, value in self.to_dict().items() if name != "prompt"} or {"x": "0"}
        return ":".join([prompt, *(f"{name}={value}" for name, value in pairs.items())])


@dataclass(frozen=True, slots=True)
class Detail(Record):
    """An object that a detector finds in the finished picture, and that is repainted at the model's own size.

    ``target``: its name, such as face; ``prompt``: for repainting, "" for that of the picture; ``strength``: how much
    it may change, 0 to 1; ``steps``: 0 means as many as the picture; ``confidence``: minimum of the detector, 0 to 1;
    ``padding``: pixels around it that the model sees; ``limit``: maximum number repainted, the most certain first.
    """

    lead: ClassVar[str] = "target"
    most: ClassVar[int] = 4

    target: str
    prompt: str = ""
    strength: float = 0.4
    steps: int = 0
    confidence: float = 0.3
    padding: int = 32
    limit: int = 4


def format_number(number: float) -> str:
    """The shortest text that parses to the same number: 1, 0.8, 0.12345678."""
    return repr(float(number)).removesuffix(".0")
