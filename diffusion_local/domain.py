"""The domain objects: Params, Batch, Job, Claim, Image, Worker, Snapshot, and the job state machine.

They are plain frozen values that stores read and write. Times are UTC, ISO 8601 with milliseconds and ``Z``; ids are
ULIDs (sortable, safe in file names and URLs).
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import PurePath
from typing import Any

from ulid import ULID

from diffusion_local.options.table import Params
from diffusion_local.options.types import Kind

#: Lowest and highest priority; higher runs first.
PRIORITIES = (-100, 100)
#: Maximum attempts of a job that fails with transient faults.
MAX_TRIES = 3
MAX_IDS = 1000  # ids in one call; a batch or "all" has no such limit


class State(StrEnum):
    QUEUED = "queued"  # waits in the queue
    RUNNING = "running"  # a worker holds a claim on it
    DONE = "done"  # its picture is in the gallery
    FAILED = "failed"  # ended with an error; `again` submits it again as a new job
    CANCELLED = "cancelled"  # stopped by a user


#: verb: (from, to, who). The complete state machine: ``queue.jobs`` makes only these transitions (for a dead worker,
#: ``recover`` chooses among ``requeue``, ``fail`` and ``stop``).
TRANSITIONS: dict[str, tuple[State, State, str]] = {
    "claim": (State.QUEUED, State.RUNNING, "worker"),
    "finish": (State.RUNNING, State.DONE, "worker"),
    "fail": (State.RUNNING, State.FAILED, "worker"),
    "stop": (State.RUNNING, State.CANCELLED, "worker"),
    "requeue": (State.RUNNING, State.QUEUED, "worker"),
    "cancel": (State.QUEUED, State.CANCELLED, "studio"),
}
FINAL = frozenset(State) - {start for start, _, _ in TRANSITIONS.values()}


class Lane(StrEnum):
    INTERACTIVE = "interactive"  # a user is waiting; always runs before the batch lane
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
    """Jobs submitted together."""

    id: str
    name: str
    owner: str
    lane: Lane
    count: int
    created_at: str
    paused: bool = False
    window: str = ""  # daily hours in which its jobs may start, as ``23:00-07:00`` local time; "" for always
    start_at: str | None = None
    finish_by: str | None = None  # for a warning only: late jobs still run
    webhook: str = ""
    grid: str = ""  # the axes as JSON, if it is a grid
    prediction: str = ""  # webhook format as JSON, if it is Replicate's; see notify.predictions
    graph: str = ""  # the node graph that a new batch was submitted as; stored and read by ``queue.batches``


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job failed: kind, message for users, and detail such as a traceback."""

    kind: str
    message: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
    """Proof that a worker may update a job. ``attempt`` only grows, so a stale claim never matches."""

    job_id: str
    worker: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Flags:
    """Requests to a running job: cancel it, give it back because of a pause, or make room for a job that a user is
    waiting for (the last one only for workers on other machines; local workers query it themselves).
    """

    cancel: bool
    give_back: bool = False
    make_room: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """A request to make one Image from one Params."""

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
    gate: int = 0  # gate (start conditions) of its batch; 0 is always open
    not_before: str | None = None
    worker: str | None = None
    attempt: int = 0
    crashes: int = 0
    tries: int = 0
    faults: int = 0  # attempts that failed with a storage fault of this job alone
    step: int = 0
    phase: str = ""
    cancel_requested: bool = False
    started_at: str | None = None
    finished_at: str | None = None
    from_job: str | None = None
    failure: Failure | None = None
    hidden: bool = False  # belongs to another owner: only queue position and progress are disclosed

    @property
    def final(self) -> bool:
        return self.state in FINAL

    @property
    def claim(self) -> Claim:
        """The claim of a running job."""
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
    """A saved picture. ``key``: path below the gallery, without a PNG's suffix; sizes in pixels and bytes.

    ``facts``: how it was made, besides its params: versions, device, rung, file hashes. ``caption``: a model's
    description of it, "" if none was made.
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
    caption: str = ""

    @property
    def flag(self) -> str:
        """Why it is probably unusable (see ``gallery.quality``): black, one_colour, flat, noise, incomplete; or ""."""
        return str(self.facts.get("flag", ""))

    @property
    def suffix(self) -> str:
        """Suffix of its format: .png, .jpg or .webp."""
        return PurePath(self.key).suffix or ".png"


@dataclass(frozen=True, slots=True)
class Fit:
    """Memory measurements of one model, kind of work and size (pixels) on one device.

    ``worked``: last successful rung, with its ``peak_bytes``; ``failed``: lowest rung that ran out of memory, while
    ``free_bytes`` were free; "" if there is none.
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
    """A device as the memory policy sees it. ``type``: cuda, mps or cpu, "" if it holds no models; ``bytes``: memory
    available to models; ``bf16``: native bfloat16 support.
    """

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
    free_bytes: int = 0  # bytes available to models, as last reported


@dataclass(frozen=True, slots=True)
class Condition:
    """A worker's heartbeat report: its GPU's temperature in °C (None: unknown), bytes of GPU memory that other programs
    use, and a problem that prevents it from working, or "".
    """

    temperature: int | None = None
    shared_bytes: int = 0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class SharedFile:
    """A file of a model or adapter that a worker may fetch from the studio.

    ``kind`` and ``name`` as in ``dispatch.matching``; ``path``: POSIX, below the folder of the kind; ``sha256``: of
    this file, "" for large ones; ``whole``: digest of the entire model or adapter.
    """

    kind: str
    name: str
    path: str
    bytes: int
    sha256: str
    whole: str


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """How a model would be held on a slot's device, for a picture of its default size or for given options.

    ``takes_bytes``: bytes at the peak; ``total_bytes``: bytes of the device for models; ``free_bytes``: those that are
    free now or held by models that can be evicted. ``numbers``: the compute dtype, and the form of the denoiser's
    weights if different. ``blocks``: blocks that stay on the device if the others are streamed, such as ``12/57``.
    ``additions``: bytes of the networks that the options need besides the model, such as ``controlnet/canny``.
    """

    slot: str
    device: str
    rung: str
    why: str
    takes_bytes: int
    free_bytes: int
    total_bytes: int
    numbers: str = ""
    blocks: str = ""
    additions: dict[str, int] = field(default_factory=dict)

    @property
    def fits_memory(self) -> bool:
        return self.takes_bytes <= self.free_bytes


@dataclass(frozen=True, slots=True)
class Receipt:
    """The answer to a submit. ``memory``: for pictures that need networks besides their model, how each device would
    hold them.
    """

    batch_id: str
    job_ids: list[str]
    warnings: list[str] = field(default_factory=list)
    memory: list[MemoryPlan] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Preview:
    """Preview of a submit: number of pictures and of prompt combinations, and the first prompts.

    ``combinations`` is capped at a billion. ``memory``: how each device would hold the model for the first picture.
    """

    pictures: int
    combinations: int
    seed: int
    prompts: list[str]
    negatives: list[str]
    loras: list[str]
    warnings: list[str] = field(default_factory=list)
    memory: list[MemoryPlan] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The queue as the queue view shows it, read in one transaction. ``eta``: seconds from now by job id.

    ``opens``: when each closed gate opens (UTC; None: never); ``window``: daily hours of the batch lane.
    """

    revision: int
    counts: dict[State, int]
    running: list[Job]
    waiting: list[Job]
    ended: list[Job]
    workers: list[Worker]
    paused: bool  # by a user
    reason: str  # why the queue is blocked (such as a full disk), or ""
    eta: dict[str, float]
    total_eta: float | None
    window: str = ""
    resting: str = ""  # why the batch lane is held back (heat, another program), or ""
    sleep_at: str = ""  # when the machine sleeps or shuts down (UTC), or ""
    opens: dict[int, str | None] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


#: States of a loan; see ``Loan``.
ASKED, LENT, USED, RECALLED = "asked", "lent", "used", "recalled"
#: How long a loan lives without being renewed, which happens at each step: longer than any step.
LOAN_TIME = timedelta(minutes=2)
#: How long the borrower has to return a GPU that is recalled.
RECALL_TIME = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class Loan:
    """The GPU of ``slot``, of which ``borrower`` needs ``size`` bytes; ``state``: asked, lent (its memory is free for
    the borrower), used (the borrower may hold memory there) or recalled.
    """

    slot: str
    borrower: str
    size: int
    state: str
    expires_at: str

    def expired(self, now: datetime) -> bool:
        """Whether it has ended; also one that ends too late, because the clock was changed."""
        return not now < datetime.fromisoformat(self.expires_at) <= now + LOAN_TIME
