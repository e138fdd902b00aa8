"""Values passed between a graph's nodes, and the error for a graph that cannot be translated."""

from dataclasses import dataclass, field
from typing import Any

from diffusion_local.web.api.dialects.comfyui.checking import Fault


class Refused(Exception):
    """The graph is not supported. ``faults``: by node; if there are none, the graph as a whole is refused."""

    def __init__(self, type: str, message: str, details: str = "", faults: list[Fault] | None = None) -> None:
        super().__init__(message)
        self.type = type
        self.message = message
        self.details = details
        self.faults = faults or []


@dataclass(frozen=True, slots=True)
class Scaling:
    """ImageScale and ImageScaleBy: to a size in pixels, of which a side of 0 follows the other, or by a factor.

    ``crop``: cut the overhang off instead of stretching the picture.
    """

    method: str
    width: int = 0
    height: int = 0
    factor: float = 0.0
    crop: bool = False

    def size_of(self, size: tuple[int, int]) -> tuple[int, int]:
        """Width and height that a picture of a size gets, at least 1 pixel each."""
        if self.factor:
            width, height = (side * self.factor for side in size)
        else:
            width = self.width or size[0] * self.height / size[1]
            height = self.height or size[1] * self.width / size[0]
        return max(1, round(width)), max(1, round(height))


@dataclass(frozen=True, slots=True)
class Picture:
    """LoadImage's picture under its name in the graph. ``scaling`` and ``preprocessor``: applied by nodes, in this
    order.
    """

    name: str
    node_id: str
    preprocessor: str = ""
    scaling: Scaling | None = None


@dataclass(frozen=True, slots=True)
class Control:
    """A ControlNet of a conditioning; ``start`` and ``end``: shares of the steps."""

    name: str
    mode: str = ""
    picture: Picture | None = None
    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0
    node_id: str = ""


@dataclass(frozen=True, slots=True)
class Mask:
    """The area to repaint: where ``channel`` is white, or ``alpha`` transparent; ``grow``: enlarged by, in pixels."""

    name: str
    channel: str
    node_id: str
    grow: int = 0


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference picture; ``values``: further fields of its entry in the option ``references``."""

    picture: Picture
    node_id: str
    values: dict[str, Any] = field(default_factory=dict, hash=False)
    mask: Mask | None = None


@dataclass(frozen=True, slots=True)
class Region:
    """An area with its own prompt; ``box``: x, y, width and height, in ``pixels`` or in shares."""

    prompt: str
    node_id: str
    box: tuple[float, ...]
    weight: float = 1.0
    pixels: bool = False


@dataclass(frozen=True, slots=True)
class Model:
    name: str
    node_id: str
    split: bool = False
    loras: tuple[tuple[str, float], ...] = ()
    references: tuple[Reference, ...] = ()


@dataclass(frozen=True, slots=True)
class Clip:
    skip: int = 0


@dataclass(frozen=True, slots=True)
class Vae:
    name: str = ""
    node_id: str = ""


@dataclass(frozen=True, slots=True)
class Conditioning:
    text: str
    clip: Clip
    node_id: str
    guidance: float | None = None
    zero: bool = False
    controls: tuple[Control, ...] = ()
    references: tuple[Reference, ...] = ()
    regions: tuple[Region, ...] = ()
    area: Region | None = None
    key: str = "text"


@dataclass(frozen=True, slots=True)
class Latent:
    node_id: str
    width: int | None = None
    height: int | None = None
    count: int = 1
    picture: Picture | None = None
    mask: Mask | None = None
    vae: Vae = Vae()


@dataclass(frozen=True, slots=True)
class Work:
    """One submit: its options, the pictures to resolve for it, and their origins. ``origins`` maps options to (node id,
    input); ``node_id``: the node that does the work.
    """

    node_id: str
    options: dict[str, Any]
    model: Model | None = None
    vae: Vae = Vae()
    picture: Picture | None = None
    mask: Mask | None = None
    origins: dict[str, tuple[str, str]] = field(default_factory=dict, hash=False)
    sampled: bool = True
    controls: tuple[Control, ...] = ()
    references: tuple[Reference, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    work: Work
    outputs: list[str]  # ids of the output nodes
    order: list[str]
    warnings: list[str]


def invalid_graph(faults: list[Fault]) -> Refused:
    details = "\n".join(f"{each.message}: {each.details}" for each in faults)
    return Refused("prompt_outputs_failed_validation", "Prompt outputs failed validation", details, faults)


def unsupported_use(node_id: str, why: str, key: str = "") -> Fault:
    """The error for an unsupported use of a supported node."""
    extra = {"input_name": key} if key else {}
    return Fault(
        node_id, "custom_validation_failed", "This server cannot do this", f"{key} - {why}" if key else why, extra
    )


def unsupported(node_id: str, why: str, key: str = "") -> Refused:
    """The refusal of a graph for one unsupported use."""
    return invalid_graph([unsupported_use(node_id, why, key)])
