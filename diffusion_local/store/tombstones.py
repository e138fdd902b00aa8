"""What was deleted: the table is written by triggers, and read when something asked for is not there."""

from diffusion_local.db.access import seen
from diffusion_local.db.database import Transaction
from diffusion_local.errors import Gone, NotFound, echo
from diffusion_local.messages import message


def missing(db: Transaction, what: str, row_id: str) -> NotFound:
    """The error for a job, batch or picture that is not there: Gone if it was deleted, and whoever asks might have
    looked at it."""
    if db.scalar(f"SELECT 1 FROM deleted WHERE what = :what AND id = :id AND {seen()}", what=what, id=row_id):
        return Gone(message(f"deleted_{what}", id=echo(row_id)))
    return NotFound(message(f"no_such_{what}", id=echo(row_id)))
