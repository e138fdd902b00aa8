"""Whose turn it is: fair shares between owners, and jobs of the loaded model first for a bounded streak. Pure.

Fair shares are start-time fair queueing (Goyal, Vin and Cheng, 1996) with pictures as the unit: each picture moves its
owner's ``finish`` on by one, and the owner whose next picture would start earliest is next. Owners who always have work
get equal numbers of pictures; one who had none for a while has gathered no credit, and owes nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class Head:
    """The first waiting job of one owner and model, within one lane and priority."""

    job_id: str
    owner: str
    model: str
    position: int


@dataclass(frozen=True, slots=True)
class Share:
    """What an owner was served: the virtual time at which the last picture ended, and the turn in which it began."""

    finish: int = 0
    turn: int = 0


@dataclass(frozen=True, slots=True)
class Turns:
    """The state of one lane. ``passed_over``: picks since the last change of model in which the loaded one
    went before whose turn it was.
    """

    virtual: int = 0
    turn: int = 0
    passed_over: int = 0
    shares: Mapping[str, Share] = field(default_factory=dict)

    def rank(self, head: Head) -> tuple[int, int, int]:
        """The order of turns: earliest start, then the owner served least recently, then the place in line."""
        share = self.shares.get(head.owner, Share())
        return max(self.virtual, share.finish), share.turn, head.position

    def after(self, head: Head, passed_over: bool, loaded: str) -> "Turns":
        """The state once this head's job is taken by a worker that has ``loaded``."""
        start, turn = self.rank(head)[0], self.turn + 1
        return replace(
            self,
            virtual=start if not passed_over else self.virtual,
            turn=turn,
            passed_over=self.passed_over + passed_over if head.model == loaded else 0,
            shares={**self.shares, head.owner: Share(start + 1, turn)},
        )


def choose(heads: Iterable[Head], turns: Turns, loaded: str, streak: int) -> tuple[Head, bool]:
    """(the head that runs next, whether others were passed over for it). ``heads`` must not be empty.

    Between two changes of model at most ``streak`` picks go to jobs whose turn it is not; then turns alone decide until
    one of them changes the model. The count belongs to the lane, so jobs of the other lane do not begin it anew.
    """
    line: Sequence[Head] = sorted(heads, key=turns.rank)
    if line[0].model != loaded and turns.passed_over < streak:
        for head in line:
            if head.model == loaded:
                return head, True
    return line[0], False
