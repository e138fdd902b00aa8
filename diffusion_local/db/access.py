"""Which rows the current actor may see or change: conditions for a WHERE, which a connection answers by functions.

Every read on a person's behalf carries ``seen``, every write ``ruled``, so no interface and no use-case can forget it.
The functions have no arguments and are evaluated once for a statement. Another database has to define the same three.
"""

import sqlite3
from collections.abc import Callable

from diffusion_local import actor
from diffusion_local.domain import Job, Params

SEPARATOR = "\x1f"  # between an account and its idempotency key
SEES_ALL, RULES_ALL = "actor_sees_all()", "actor_rules_all()"


def seen(table: str = "") -> str:
    """Rows that may be looked at."""
    return f"(actor_sees_all() OR {column(table)} = actor_name())"


def ruled(table: str = "") -> str:
    """Rows that may be changed."""
    return f"(actor_rules_all() OR {column(table)} = actor_name())"


def own(table: str = "") -> str:
    """Rows of the actor's own, said outright, so that an index finds them among those of others."""
    return f"{column(table)} = actor_name()"


def column(table: str) -> str:
    return f"{table}.owner" if table else "owner"


def add_functions(connection: sqlite3.Connection) -> None:
    functions: dict[str, Callable[[], str | int]] = {
        "actor_name": lambda: actor.current().name,
        "actor_sees_all": lambda: actor.current().sees_all,
        "actor_rules_all": lambda: actor.current().rules_all,
    }
    for name, function in functions.items():
        connection.create_function(name, 0, function, deterministic=True)


def scoped(idempotency_key: str) -> str:
    """The key as it is stored: each account has keys of its own."""
    name = actor.current().name
    return name + SEPARATOR + idempotency_key if name else idempotency_key


def veiled(job: Job) -> Job:
    """The job, or where it may not be looked at only its place and progress: somebody's job of some size and steps.

    Made from nothing, so that a field that is added later is not told by oversight.
    """
    if actor.current().may_see(job.owner):
        return job
    return Job(
        id=job.id,
        batch_id="",
        index=0,
        params=Params("", "", "", job.params.width, job.params.height, job.params.steps, 0.0, "", 0),
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
