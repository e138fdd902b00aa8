"""Declarations of options. The table itself is the class ``Params`` in ``table``."""

from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, replace
from enum import Enum
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

from diffusion_local.options import values
from diffusion_local.options.types import Kind, Record

#: Validates (name, value); returns the value in the option's type, or raises InvalidParams.
Check = Callable[[str, Any], Any]

RecordType = type[Record]

EVERY_KIND = tuple(Kind)
#: Kinds of work in which a model denoises.
DENOISED = (Kind.TXT2IMG, Kind.IMG2IMG, Kind.INPAINT)


class Visibility(Enum):
    """Whether the viewer and a job's history list an option."""

    ALWAYS = "always"
    SET = "set"  # only if it differs from its default
    APART = "apart"  # shown elsewhere, so not in the list


class Widget(Enum):
    """An option's component on the page, created by ``web.ui.form``."""

    PROMPT = "prompt"
    TEXT = "text"
    MODEL = "model"
    NUMBER = "number"
    SLIDER = "slider"
    SEED = "seed"  # a number, or empty for a random one
    CHOICE = "choice"  # one of ``choices`` or ``files``
    HIDDEN = "hidden"  # set by a script of the page


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One setting of a picture or a batch.

    ``name``, ``type`` and ``default`` come from the declaring field; without a default the option is ``required``: the
    model or the Studio supplies it. ``low`` and ``high`` bound a number for all models; a model's limits are narrower.
    ``choices``: fixed values; ``files``: folder of files that can be chosen in addition to them.
    """

    meaning: str
    #: Names in A1111's recipe text: the first is written, all are read. Empty: it is only in our own JSON.
    a1111: tuple[str, ...]
    kinds: tuple[Kind, ...] = DENOISED
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    files: str = ""
    check: Check | None = None
    #: Names in other tools, accepted in lists and by the cog dialect.
    spellings: tuple[str, ...] = ()
    #: Name in A1111's web API, if different.
    web_api: str = ""
    #: Type in requests, if it differs from the stored type.
    sent: Any = None
    example: Any = None
    widget: Widget | None = None
    #: Part of the Create form, or a row in its expert section ("expert.NAME").
    place: str = "expert.more"
    step: float | None = None  # of the component
    #: Initial value on the page, which also replaces a missing value, if the default means "unused".
    initial: Any = None
    #: Name of an option without which this one has no effect and keeps its default.
    needs: str = ""
    #: Whether the option can be a grid axis.
    varies: bool = True
    shown: Visibility = Visibility.SET
    name: str = ""
    type: Any = None
    default: Any = None
    required: bool = False

    @property
    def is_number(self) -> bool:
        return self.type in (int, float)

    @property
    def is_picture(self) -> bool:
        return self.check is values.check_source_id

    @property
    def record(self) -> RecordType | None:
        """The class of its entries, if it is a list of records."""
        entry = get_args(self.type)[0] if get_origin(self.type) is tuple else None
        return entry if isinstance(entry, type) and issubclass(entry, Record) else None

    @property
    def request_type(self) -> Any:
        """Type of its values in requests."""
        return self.sent or self.type

    @property
    def component(self) -> Widget:
        if self.widget:
            return self.widget
        return Widget.NUMBER if self.is_number else Widget.CHOICE if self.choices or self.files else Widget.TEXT

    def validate(self, value: Any) -> Any:
        """Validate a value; None and empty text or lists give the default. Raises InvalidParams."""
        if value is None or value == "" or value == () or value == []:
            return self.default
        if self.check:
            return self.check(self.name, value)
        if self.files:
            return values.check_choice_or_file(self.name, value, self.choices)
        if self.choices:
            return values.check_choice(self.name, value, self.choices)
        if self.type is int:
            return values.check_integer(self.name, value, int(self.bounds[0]), int(self.bounds[1]))
        if self.type is float:
            return values.check_number(self.name, value, *self.bounds)
        values.check_prompt(self.name, value)
        return value.strip()

    @property
    def bounds(self) -> tuple[float, float]:
        if self.low is None or self.high is None:
            raise ValueError(f"The option {self.name} needs bounds.")
        return self.low, self.high

    def is_set(self, value: Any, kind: Kind | None = None) -> bool:
        """Whether the value must be stored: it differs from the default, or from the completed value.

        Options with an ``initial`` value are completed with that one wherever they apply to the ``kind``.
        """
        completed_otherwise = self.initial is not None and kind in self.kinds
        return self.required or completed_otherwise or value != self.default


def declared(table: Any) -> dict[str, Option]:
    """The options that the fields of a dataclass declare, by name."""
    options = {}
    for field in fields(table):
        kind, option = get_args(field.type)
        if isinstance(kind, UnionType):
            [kind] = [each for each in get_args(kind) if each is not NoneType]
        required = field.default is MISSING
        default = None if required else field.default
        options[field.name] = replace(option, name=field.name, type=kind, default=default, required=required)
    return options
