"""Every error that the project raises on purpose.

DiffusionLocalError
|-- UserError             the request cannot be fulfilled; shown to the user without a traceback
|   |-- InvalidParams     a field is out of its limits; nothing was enqueued
|   |-- NotFound          no such job, batch, image or model
|   |   `-- Gone          it existed and was deleted
|   |-- Conflict          the object exists, but its state does not allow this
|   |-- QueueFull         the queue's own limit is reached
|   |-- QueueBlocked      the queue has stopped itself, for example because the disk is full
|   |-- QueueUnavailable  the message queue that wakes workers cannot be used; workers poll instead
|   |-- LimitReached      the account's own limit is reached
|   |-- Overloaded        too many pictures are being decoded; the request was not accepted
|   |-- Forbidden         the actor may not do this
|   |-- Unauthorized      not authenticated
|   |-- NotDone           the caller's wait timed out; the work continues
|   |-- ServerProblem     a studio on another machine cannot be used
|   |-- HubProblem        the hub has no such model, or it cannot be downloaded; its ``kind`` says why
|   |-- HomeInUse         another process uses this home or this slot
|   |-- StorageProblem    a file or folder of the home cannot be read or written
|   |   `-- DiskFull      the disk has no room for it
|   `-- DatabaseProblem   the database is locked, read-only, damaged or newer than the program
|-- EngineError           a picture could not be made; its ``kind`` is stored with the job
|   |-- ModelUnavailable  files missing, damaged or not supported
|   |-- OutOfMemory       the device has not enough memory, even on the last rung
|   |-- BadImage          the model produced no usable picture
|   |-- DeviceLost        the GPU's driver failed; only a new process can use it again
|   `-- TimedOut          no step was reported within the job's limit
|-- Stopped               raised through the engine to stop it at a step
`-- LostClaim             the claim on this job is no longer valid; write nothing
    `-- LeaseLost         a remote worker's slot was given up, and with it the claims on all its jobs
"""

from diffusion_local import messages
from diffusion_local.messages import Message

#: Characters of a caller's value that an error message may repeat.
MAX_ECHO = 80


def replace_surrogates(text: str) -> str:
    """Replace unpaired surrogates, which JSON may contain but UTF-8 cannot encode."""
    return text.encode(errors="replace").decode()


def echo(value: object) -> str | Message:
    """A caller's value as an error message may repeat it: a number, or quoted text cut to MAX_ECHO characters.

    Only the type of any other value is named: a list or an object may contain data that the caller did not type, such
    as the path of a file that a library added.
    """
    if isinstance(value, str):
        return repr(value if len(value) <= MAX_ECHO else f"{value[:MAX_ECHO]}…")
    if value is None or isinstance(value, bool | float):
        return repr(value)
    if isinstance(value, int):
        return repr(value) if value.bit_length() <= 256 else messages.message("huge_number")
    if isinstance(value, dict):
        return messages.message("an_object")
    return messages.message("a_list") if isinstance(value, list | tuple) else messages.message("another_kind")


class DiffusionLocalError(Exception):
    """Something went wrong."""

    #: Id of the default message.
    usual = "went_wrong"

    def __init__(self, message: Message | None = None) -> None:
        super().__init__(messages.message(self.usual) if message is None else message)

    @property
    def message(self) -> Message:
        return self.args[0]

    @property
    def problem(self) -> Message:
        """The message without its field prefix. Its id and parameters are part of the HTTP API."""
        return self.message


def message_of(error: Exception) -> Message:
    """The message of a project error, or the text of any other error."""
    return error.message if isinstance(error, DiffusionLocalError) else messages.verbatim(str(error))


class UserError(DiffusionLocalError):
    """This cannot be done as asked."""

    code = "user_error"


class InvalidParams(UserError):
    """A field is out of its limits."""

    code = "invalid_params"

    def __init__(self, field: str, problem: Message) -> None:
        super().__init__(messages.message("in_field", field=field, problem=problem))
        self.field = field
        self._problem = problem
        #: Further errors in the same request.
        self.also: tuple[InvalidParams, ...] = ()

    @property
    def problem(self) -> Message:
        return self._problem

    @property
    def option(self) -> str:
        """The name of the option that the field belongs to: ``controls`` for ``controls[1].weight``."""
        return self.field.partition("[")[0]


class Faults:
    """Every fault of a request, so that one refusal names them all."""

    def __init__(self) -> None:
        self._found: list[InvalidParams] = []

    def __enter__(self) -> "Faults":
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> bool:
        """Record an InvalidParams raised in the block, and suppress it."""
        if isinstance(error, InvalidParams):
            self._found.append(error)
            return True
        return False

    def check(self) -> None:
        """Raise the first recorded error, with the others in ``also``; duplicates are dropped."""
        if self._found:
            first, *others = {str(each.message): each for each in self._found}.values()
            first.also = tuple(others)
            raise first


class NotFound(UserError):
    """There is no such thing."""

    code = "not_found"
    usual = "not_there"


class Gone(NotFound):
    """It was deleted."""

    code = "gone"


class Conflict(UserError):
    """Its state does not allow this."""

    code = "conflict"


class QueueFull(UserError):
    """The queue is full."""

    code = "queue_full"


class QueueBlocked(UserError):
    """The queue takes nothing on for the moment."""

    code = "queue_blocked"


class QueueUnavailable(UserError):
    """The message queue cannot be used. Workers look for jobs by themselves until it can."""

    code = "queue_unavailable"
    usual = "queue_unavailable"


class LimitReached(UserError):
    """This account's limit is reached. ``retry_after`` is in seconds."""

    code = "limit_reached"

    def __init__(self, message: Message, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Overloaded(UserError):
    """Too many pictures are being read at the moment. Try again in a few seconds."""

    code = "overloaded"
    usual = "overloaded"


class Forbidden(UserError):
    """This is not allowed."""

    code = "forbidden"


class Unauthorized(UserError):
    """Sign in first, or send a token."""

    code = "unauthorized"


class NotDone(UserError):
    """It is not done yet, and goes on."""

    code = "not_done"


class ServerProblem(UserError):
    """The studio on the other machine cannot be used."""

    code = "server_problem"


class HomeInUse(UserError):
    """Another process holds this home."""

    code = "home_in_use"


class HubProblem(UserError):
    """The model cannot be had from the hub."""

    code = "hub_problem"

    def __init__(self, message: Message | None = None, kind: str = "hub_error") -> None:
        """``kind``: gated, unknown_repo, unknown_file, not_a_model, pickle, no_network, no_space, too_large,
        checksum, exists, refused, hub_error."""
        super().__init__(message)
        self.kind = kind


class StorageProblem(UserError):
    """A file cannot be read or written."""

    code = "storage_error"
    usual = "storage_unread"


class DiskFull(StorageProblem):
    """There is no room on the disk. Free some space; the queue continues by itself."""

    code = "disk_full"
    usual = "disk_full"


class DatabaseProblem(UserError):
    """The database cannot be used."""

    code = "database_problem"


class EngineError(DiffusionLocalError):
    """The picture could not be made."""

    kind = "engine_error"
    usual = "not_made_plain"
    #: Whether the fault is probably temporary; the job is then retried after a pause.
    transient = False
    #: Whether the fault is specific to this machine; another one may still make the picture.
    of_machine = False


class ModelUnavailable(EngineError):
    """The model cannot be loaded."""

    kind = "model_unavailable"
    of_machine = True
    usual = "cannot_load"


class OutOfMemory(EngineError):
    """The device ran out of memory. Try a smaller size, or close other programs that use it."""

    kind = "out_of_memory"
    of_machine = True
    usual = "out_of_memory"


class BadImage(EngineError):
    """The model gave no usable picture."""

    kind = "bad_image"
    usual = "bad_image"


class DeviceLost(EngineError):
    """The GPU or its driver stopped answering; the worker starts anew and tries again."""

    kind = "device_lost"
    of_machine = True
    usual = "device_lost"
    transient = True


class TimedOut(EngineError):
    """The worker made no progress within the job's time limit and was stopped."""

    kind = "timed_out"
    usual = "timed_out"


class Stopped(DiffusionLocalError):
    """Stop at this step. ``reason`` is ``"cancel"`` (for good), ``"pause"`` or ``"shutdown"`` (give the job back)."""

    def __init__(self, reason: str) -> None:
        super().__init__(messages.message("stopped", reason=reason))
        self.reason = reason


class LostClaim(DiffusionLocalError):
    """The claim on this job is no longer valid."""

    usual = "lost_claim"


class LeaseLost(LostClaim):
    """The lease of a worker on another machine ended; it may take its slot again."""
