"""Where in the queue somebody is: filters, folded batches, and the pages behind. ``queue.js`` writes it, in one line.

``state=failed&text=boat&open=ID+ID&shut=ID&wide=ID:1.0.50+ID:&live=0.0.20&ended=ID``
"""

from dataclasses import dataclass, field, fields
from typing import Any, Self
from urllib.parse import parse_qsl

from diffusion_local.queue.groups import MAX_TEXT, STATES, JobFilter, ListPosition, QueuePosition

MOST_IDS = 60
MOST_WIDE = 4  # batches of which a long window is shown at once
MOST_PAGES = 200  # that one can walk back


@dataclass(frozen=True, slots=True)
class QueuePlace:
    """``opened`` and ``shut`` are the batches that a person has unfolded and folded, ``wide`` those with a long window
    and the key behind which it begins; ``live`` and ``ended`` the last ones of the pages before."""

    wanted: JobFilter = field(default_factory=JobFilter)
    opened: frozenset[str] = frozenset()
    shut: frozenset[str] = frozenset()
    wide: dict[str, ListPosition | None] = field(default_factory=dict)
    live: tuple[QueuePosition, ...] = ()
    ended: tuple[str, ...] = ()

    @classmethod
    def read(cls, written: Any) -> Self:
        """What a browser sends is not trusted: what is not understood is left out."""
        values = dict(parse_qsl(written)) if isinstance(written, str) else {}
        named = {each.name: values.get(each.name, "").strip()[:MAX_TEXT] for each in fields(JobFilter)}
        if named["state"] not in STATES:
            named["state"] = ""
        pages = [numbers(each) for each in values.get("live", "").split()[-MOST_PAGES:]]
        windows = [each.partition(":") for each in values.get("wide", "").split()[-MOST_WIDE:]]
        return cls(
            JobFilter(**named),
            frozenset(values.get("open", "").split()[-MOST_IDS:]),
            frozenset(values.get("shut", "").split()[-MOST_IDS:]),
            {batch_id: ListPosition(*key) if (key := numbers(written)) else None for batch_id, _, written in windows},
            tuple(QueuePosition(*each) for each in pages if each),
            tuple(values.get("ended", "").split()[-MOST_PAGES:]),
        )


def numbers(written: str) -> tuple[int, int, int] | None:
    try:
        first, second, third = (int(each) for each in written.split("."))
    except ValueError:
        return None
    return (first, second, third) if max(map(abs, (first, second, third))) < 2**62 else None


def written(key: tuple[int, int, int]) -> str:
    return ".".join(map(str, key))
