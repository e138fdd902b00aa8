"""Facts about the tables that several queries rely on."""

from hashlib import sha256

from diffusion_local.domain import Params

#: Index = ``jobs.list_rank``: the order of states in a batch's job list.
RANKS = ("running", "queued", "failed", "done", "cancelled")

#: Orientation of a picture: 1 landscape, 0 square, -1 portrait. This exact expression is indexed.
SHAPE = "(width > height) - (width < height)"

#: Failed jobs of a batch that get a notification of their own; the batch's report lists all of them.
FAILURES_NOTIFIED = 20


def recipe_mark(params: Params) -> str:
    """``images.mark``: equal for equal recipes, seed included. The first 64 bits of SHA-256, in hex."""
    return sha256(params.to_json().encode()).hexdigest()[:16]
