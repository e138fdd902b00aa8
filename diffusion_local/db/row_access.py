"""Row-level access control for the current actor, as SQL conditions over functions that each connection defines.

Reads on a user's behalf include ``readable``, writes include ``writable``, so no interface or use case can forget the
check. SQLite evaluates the functions once per statement; for PostgreSQL ``db.translation`` substitutes their values.
"""

import sqlite3
from collections.abc import Callable

from diffusion_local import actor
from diffusion_local.domain import Job
from diffusion_local.options.table import Params

FIELD_SEPARATOR = "\x1f"  # separates an account name from its idempotency key
SEES_ALL, RULES_ALL = "actor_sees_all()", "actor_rules_all()"


def readable(table: str = "") -> str:
    """SQL condition: rows the actor may read."""
    return f"(actor_sees_all() OR {owner_column(table)} = actor_name())"


def writable(table: str = "") -> str:
    """SQL condition: rows the actor may change."""
    return f"(actor_rules_all() OR {owner_column(table)} = actor_name())"


def owned(table: str = "") -> str:
    """SQL condition: rows owned by the actor. Names the owner explicitly, so that an index on it is used."""
    return f"{owner_column(table)} = actor_name()"


def owner_column(table: str) -> str:
    return f"{table}.owner" if table else "owner"


def add_functions(connection: sqlite3.Connection) -> None:
    functions: dict[str, Callable[[], str | int]] = {
        "actor_name": lambda: actor.current().name,
        "actor_sees_all": lambda: actor.current().sees_all,
        "actor_rules_all": lambda: actor.current().rules_all,
    }
    for name, function in functions.items():
        connection.create_function(name, 0, function, deterministic=True)


def scoped_key(idempotency_key: str) -> str:
    """An idempotency key as stored: prefixed with the actor's name, so each account has its own key space."""
    name = actor.current().name
    return name + FIELD_SEPARATOR + idempotency_key if name else idempotency_key


def redacted(job: Job) -> Job:
    """The job itself, or, if the actor may not read it, a copy with only its place and progress.

    The copy starts from an empty Job, so that a field added later is not disclosed by accident.
    """
    if actor.current().may_see(job.owner):
        return job
    return Job(
        id=job.id,
        batch_id="",
        index=0,
        params=Params("", "", "", *job.params.final_size, job.params.total_steps, 0.0, "", 0),
        state=job.state,
        created_at=job.created_at,
        lane=job.lane,
        priority=job.priority,
        position=job.position,
        held=job.held,
        gate=job.gate,
        not_before=job.not_before,
        worker=job.worker,
        attempt=job.attempt,
        step=job.step,
        phase=job.phase,
        cancel_requested=job.cancel_requested,
        started_at=job.started_at,
        finished_at=job.finished_at,
        hidden=True,
    )
