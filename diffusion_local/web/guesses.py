"""Guesses of tokens, counted by address: beyond a limit an address must wait, except with tokens it has used before.

A token has 256 random bits, so that nobody guesses one; this stops who tries anyway from asking the database each time.
In memory, for the addresses of late; a restart forgives.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256

from diffusion_local.accounts import WINDOW

MOST_WRONG = 60  # unknown tokens of an address within WINDOW seconds
MOST_KEPT = 10_000  # addresses, and pairs of an address and its token


class TokenGuesses:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._wrong: OrderedDict[str, tuple[int, float]] = OrderedDict()  # address: (how many, since when)
        self._right: OrderedDict[tuple[str, bytes], None] = OrderedDict()

    def wait(self, address: str, token: str) -> float:
        """Seconds until the address may send this token; 0 where it may now."""
        count, since = self._wrong.get(address, (0, 0.0))
        left = since + WINDOW - self._clock()
        if count < MOST_WRONG or left <= 0 or (address, digest(token)) in self._right:
            return 0.0
        return left

    def note(self, address: str, token: str, right: bool) -> None:
        """Count a token that was looked up."""
        if right:
            self._right[(address, digest(token))] = None
            self._right.move_to_end((address, digest(token)))
            trim(self._right)
            return
        now = self._clock()
        count, since = self._wrong.pop(address, (0, now))
        self._wrong[address] = (count + 1, since) if since + WINDOW > now else (1, now)
        trim(self._wrong)


def digest(token: str) -> bytes:
    return sha256(token.encode("utf-8", "replace")).digest()


def trim(kept: "OrderedDict[str, tuple[int, float]] | OrderedDict[tuple[str, bytes], None]") -> None:
    while len(kept) > MOST_KEPT:
        kept.popitem(last=False)
