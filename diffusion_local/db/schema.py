"""Facts of the tables that more than one query relies on."""

from hashlib import sha256

from diffusion_local.domain import Params

#: By ``jobs.list_rank``: states in the order of a batch's list: what runs, what waits, what failed, then the rest.
RANKS = ("running", "queued", "failed", "done", "cancelled")

#: Of a picture: 1 for landscape, 0 for square, -1 for portrait; an expression that has an index of its own.
SHAPE = "(width > height) - (width < height)"

#: Notices of failed jobs that a batch gives one by one; the report at its end has them all.
FAILURES_TOLD = 20


def recipe_mark(params: Params) -> str:
    """``images.mark``: equal for equal recipes, seed included; the first 64 bits of SHA-256 in hex."""
    return sha256(params.to_json().encode()).hexdigest()[:16]
