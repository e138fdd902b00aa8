"""Whether the time of day can be trusted: what is kept for some days must not be deleted because the clock was wrong.

A clock that jumped forward cannot be told from a program that did not run. So after each jump nothing is deleted until
the clock has gone on without another one for TRUSTED_AFTER.
"""

from datetime import datetime, timedelta

from diffusion_local.db.database import Database
from diffusion_local.domain import utc_now, utc_text

BACK = timedelta(hours=1)  # that a clock may be set back without a doubt
FORTH = timedelta(days=2)  # that may have passed since the last look
TRUSTED_AFTER = timedelta(days=7)


def trusted(database: Database) -> bool:
    """Note the time of day, and tell whether it agrees with the times noted before. Call it every few hours."""
    now = datetime.fromisoformat(utc_now())
    with database.write() as db:
        at, doubted = db.execute("SELECT at, doubted_at FROM clock").fetchone()
        last = datetime.fromisoformat(at) if at else now
        since = datetime.fromisoformat(doubted) if doubted else None
        if now < last - BACK or (since is None and now > last + FORTH):
            since = now
        elif since is not None and now - since >= TRUSTED_AFTER:
            since = None
        db.execute("UPDATE clock SET at = ?, doubted_at = ?", [utc_text(now), utc_text(since) if since else ""])
    return since is None
