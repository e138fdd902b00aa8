"""What is declared about an option. The table itself is the class ``Params`` in ``table``."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from diffusion_local.options import values
from diffusion_local.options.types import Kind

#: (name, value) -> the value in the option's own type; raises InvalidParams.
Check = Callable[[str, Any], Any]

EVERY_KIND = tuple(Kind)
#: Kinds whose pictures are denoised by a model.
DENOISED = (Kind.TXT2IMG, Kind.IMG2IMG, Kind.INPAINT)


class Shown(Enum):
    """When the viewer and a job's history list an option."""

    ALWAYS = "always"
    SET = "set"  # only where it differs from its default
    APART = "apart"  # in a place of its own, so not in the list


class Widget(Enum):
    """The component of an option on the page. ``web.ui.form`` makes one for each."""

    PROMPT = "prompt"
    TEXT = "text"
    MODEL = "model"
    NUMBER = "number"
    SLIDER = "slider"
    SEED = "seed"  # a number, or empty for one that is drawn
    CHOICE = "choice"  # one of ``choices`` or of ``files``
    HIDDEN = "hidden"  # set by a script of the page


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One setting of a picture, or of a batch.

    ``name``, ``type`` and ``default`` are those of the field that declares it; where that has no default, the option is
    ``required``: the model, or the Studio, supplies what is left out. ``low`` and ``high`` bound a number whatever the
    model; a model's limits are narrower.
    ``choices`` are the values of a text that is one of a few; ``files`` is the folder of the files it chooses from.
    """

    meaning: str
    #: Names in A1111's recipe text: written under the first, read under all. Empty: only our own JSON carries it.
    a1111: tuple[str, ...]
    kinds: tuple[Kind, ...] = DENOISED
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    files: str = ""
    check: Check | None = None
    #: Names in other tools, taken in lists and by the cog dialect.
    spellings: tuple[str, ...] = ()
    #: The name in A1111's web API, where it is not ours.
    web_api: str = ""
    #: The type in requests, where it is not the type that is stored.
    sent: Any = None
    example: Any = None
    widget: Widget | None = None
    #: The part of Create's form, or a row in its section for experts ("expert.NAME").
    place: str = "expert.more"
    step: float | None = None  # of the component
    #: The value that the page offers at first and that stands for a missing one, where the default means "unused".
    initial: Any = None
    #: Whether it can be an axis of a grid.
    varies: bool = True
    shown: Shown = Shown.SET
    name: str = ""
    type: Any = None
    default: Any = None
    required: bool = False

    @property
    def is_number(self) -> bool:
        return self.type in (int, float)

    @property
    def is_picture(self) -> bool:
        return self.check is values.picture_id

    @property
    def taken(self) -> Any:
        """The type of its values in requests."""
        return self.sent or self.type

    @property
    def component(self) -> Widget:
        if self.widget:
            return self.widget
        return Widget.NUMBER if self.is_number else Widget.CHOICE if self.choices or self.files else Widget.TEXT

    def of(self, given: Any) -> Any:
        """The value for what was given; nothing, or an empty text or list, is the default. Raises InvalidParams."""
        if given is None or given == "" or given == () or given == []:
            return self.default
        if self.check:
            return self.check(self.name, given)
        if self.choices:
            return values.one_of(self.name, given, self.choices)
        if self.files:
            return values.file_name(self.name, given)
        if self.type is int:
            return values.whole_number(self.name, given, int(self.bounds[0]), int(self.bounds[1]))
        if self.type is float:
            return values.number(self.name, given, *self.bounds)
        values.check_prompt(self.name, given)
        return given.strip()

    @property
    def bounds(self) -> tuple[float, float]:
        if self.low is None or self.high is None:
            raise ValueError(f"The option {self.name} needs bounds.")
        return self.low, self.high

    def is_set(self, value: Any, kind: Kind | None = None) -> bool:
        """Whether the value has to be written down: it is not the default, or the default is not what completes it.

        An option with an ``initial`` value is completed with that one wherever it applies to the ``kind`` of work.
        """
        completed_otherwise = self.initial is not None and kind in self.kinds
        return self.required or completed_otherwise or value != self.default
