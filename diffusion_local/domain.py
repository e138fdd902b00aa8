"""The nouns: Params, Batch, Job, Claim, Image, Worker, Snapshot, and the table of state transitions.

Plain frozen values without behaviour of their own; ``store`` reads and writes them, everyone else passes them on.
Times are UTC, ISO 8601 with milliseconds and ``Z``; ids are ULIDs (sortable, safe in file names and URLs).
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import PurePath
from typing import Any

from ulid import ULID

from diffusion_local.options.table import Params as Params
from diffusion_local.options.types import RUNGS as RUNGS
from diffusion_local.options.types import Kind as Kind
from diffusion_local.options.types import Lora as Lora


class State(StrEnum):
    QUEUED = "queued"  # waits in line
    RUNNING = "running"  # a worker holds a claim on it
    DONE = "done"  # its picture is in the gallery
    FAILED = "failed"  # it ended with an error; `again` makes a new job of it
    CANCELLED = "cancelled"  # a person stopped it


#: verb: (from, to, who). The whole state machine; ``queue.jobs`` moves a job by nothing else (``recover`` chooses
#: among ``requeue``, ``fail`` and ``stop`` for a worker that died).
TRANSITIONS: dict[str, tuple[State, State, str]] = {
    "claim": (State.QUEUED, State.RUNNING, "worker"),
    "finish": (State.RUNNING, State.DONE, "worker"),
    "fail": (State.RUNNING, State.FAILED, "worker"),
    "stop": (State.RUNNING, State.CANCELLED, "worker"),
    "requeue": (State.RUNNING, State.QUEUED, "worker"),
    "cancel": (State.QUEUED, State.CANCELLED, "studio"),
}
FINAL = frozenset(State) - {start for start, _, _ in TRANSITIONS.values()}


#: Lowest and highest priority of a job; higher runs first.
PRIORITIES = (-100, 100)

#: How often a job with transient faults is tried.
MAX_TRIES = 3


class Lane(StrEnum):
    INTERACTIVE = "interactive"  # somebody is waiting: always before the batch lane
    BATCH = "batch"  # prompt lists


def new_id() -> str:
    return str(ULID())


def shortened(prompt: str, length: int = 60) -> str:
    line = " ".join(prompt.split())
    return line if len(line) <= length else line[: length - 1] + "…"


def utc_now() -> str:
    return utc_text(datetime.now(UTC))


def utc_text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class Batch:
    """Jobs that were submitted together."""

    id: str
    name: str
    owner: str
    lane: Lane
    count: int
    created_at: str
    paused: bool = False
    window: str = ""  # in which its pictures may begin, as ``23:00-07:00`` in local time; empty is always
    start_at: str | None = None
    finish_by: str | None = None  # for a warning only: nothing is dropped that comes late
    webhook: str = ""
    grid: str = ""  # its axes as JSON, where it is a grid
    prediction: str = ""  # as JSON how its webhook is told, where that is as Replicate does; see notify.predictions
    graph: str = ""  # of a new batch: the graph of nodes that it was submitted as; read by ``queue.graphs``


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job failed: a named kind, a sentence for the person, and the traceback or other detail."""

    kind: str
    message: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
    """The proof that a worker may write about a job. ``attempt`` only grows, so an old claim never fits again."""

    job_id: str
    worker: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Flags:
    """Whether a person wants a running job to end for good, or to be given back because of a pause."""

    cancel: bool
    give_back: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """One Params to be made into one Image."""

    id: str
    batch_id: str
    index: int
    params: Params
    state: State
    created_at: str
    owner: str = ""
    lane: Lane = Lane.INTERACTIVE
    priority: int = 0
    position: int = 0
    held: bool = False
    gate: int = 0  # of the times at which it may begin; 0 is always
    not_before: str | None = None
    worker: str | None = None
    attempt: int = 0
    crashes: int = 0
    tries: int = 0
    faults: int = 0  # tries that the storage failed, and only for this job
    step: int = 0
    phase: str = ""
    cancel_requested: bool = False
    started_at: str | None = None
    finished_at: str | None = None
    from_job: str | None = None
    failure: Failure | None = None
    hidden: bool = False  # somebody else's: only its place and progress are told

    @property
    def final(self) -> bool:
        return self.state in FINAL

    @property
    def claim(self) -> Claim:
        """The claim under which a running job runs."""
        return Claim(self.id, self.worker or "", self.attempt)


def new_job(batch: Batch, index: int, params: Params, priority: int = 0, from_job: str | None = None) -> Job:
    """A queued job of a batch."""
    return Job(
        id=new_id(),
        batch_id=batch.id,
        index=index,
        params=params,
        state=State.QUEUED,
        created_at=batch.created_at,
        owner=batch.owner,
        lane=batch.lane,
        priority=priority,
        from_job=from_job,
    )


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a job's history, written by a trigger."""

    job_id: str
    state: str
    at: str
    attempt: int
    worker: str | None
    note: str


@dataclass(frozen=True, slots=True)
class Image:
    """A saved picture. ``key`` is its path below the gallery, without the suffix of a PNG; sizes in pixels and bytes.

    ``facts`` tell how it was made beside its params: versions, device, rung, hashes of files.
    """

    id: str
    job_id: str
    key: str
    params: Params
    width: int
    height: int
    bytes: int
    created_at: str
    seconds: float = 0.0
    starred: bool = False
    trashed_at: str | None = None
    owner: str = ""
    facts: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def flag(self) -> str:
        """Why it is probably not what was wanted (see ``blemishes``): black, one_colour, flat, noise; or empty."""
        return str(self.facts.get("flag", ""))

    @property
    def suffix(self) -> str:
        """Of its format: .png, .jpg or .webp."""
        return PurePath(self.key).suffix or ".png"


@dataclass(frozen=True, slots=True)
class Fit:
    """What was learned about the memory of one model, kind of work and size (pixels) on one device.

    ``worked`` and ``failed`` are rungs or empty: the one used last with success, with the ``peak_bytes`` it took, and
    the one nearest to the end of the ladder that ran out of memory while ``free_bytes`` were free.
    """

    model: str
    kind: Kind
    width: int
    height: int
    device: str
    worked: str = ""
    peak_bytes: int = 0
    failed: str = ""
    free_bytes: int = 0
    at: str = ""


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """A device as the memory policy sees it. ``type`` is cuda, mps or cpu, empty where no model is held at all;
    ``bytes`` is all of its memory that models may take; ``bf16`` whether it computes in bfloat16 itself."""

    type: str = ""
    bytes: int = 0
    bf16: bool = False


@dataclass(frozen=True, slots=True)
class Worker:
    """A slot (``gpu0``, ``cpu0``) and the process that holds it."""

    slot: str
    pid: int
    device: str
    status: str  # starting, idle, loading, busy, stopped
    model: str
    started_at: str
    seen_at: str
    room: DeviceMemory = DeviceMemory()
    free_bytes: int = 0  # that models may take, as it last told


@dataclass(frozen=True, slots=True)
class Receipt:
    """The answer to a submit."""

    batch_id: str
    job_ids: list[str]
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Preview:
    """What a submit would draw: how many pictures, of how many different prompts, and the prompts of the first ones.

    ``combinations`` stops at a billion.
    """

    pictures: int
    combinations: int
    seed: int
    prompts: list[str]
    negatives: list[str]
    loras: list[str]
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything the queue view shows, read in one transaction. ``eta`` maps job ids to seconds from now.

    ``opens`` says of each gate that is closed when it opens (UTC; None: never), ``window`` is the batch lane's own.
    """

    revision: int
    counts: dict[State, int]
    running: list[Job]
    waiting: list[Job]
    ended: list[Job]
    workers: list[Worker]
    paused: bool  # by a person
    reason: str  # why the queue holds itself back (no disk space); empty if it does not
    eta: dict[str, float]
    total_eta: float | None
    window: str = ""
    resting: str = ""  # why the batch lane rests (heat, another program); empty if it does not
    sleep_at: str = ""  # when the machine goes to sleep or off, in UTC; empty if it does not
    opens: dict[int, str | None] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
