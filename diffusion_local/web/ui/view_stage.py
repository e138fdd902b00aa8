"""The Create tab: the stage (a large picture and a strip of recent ones), and the form's lists of source
pictures, LoRAs, controls and references, which scripts fill. Pure, like ``view``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from markupsafe import Markup

from diffusion_local.domain import FINAL, Image, Job, Snapshot, State
from diffusion_local.models.adapters import Adapter, adapter_fits
from diffusion_local.options.table import Params
from diffusion_local.options.types import ControlType, Region, Use
from diffusion_local.options.values import MAX_REFERENCE_WEIGHT, MIN_REGION
from diffusion_local.web.ui.templates import macro, render
from diffusion_local.web.ui.view import duration, progress, standing, why
from diffusion_local.web.ui.view_models import Offer

#: Pictures of a batch in the strip; the others appear as a number.
MOST_SHOTS = 24
EXAMPLE_PROMPTS = ("a red apple", "a blue heart", "a yellow star", "a green tree")
FREE = ("vae_tiling",)  # fixed memory modes after which a retry in the automatic one is not offered

Images = Mapping[str, Image]
Counts = Mapping[State, int]
SHOWN_WORDS = 6  # trigger words of a LoRA
SOURCE_KINDS = ("img2img", "inpaint", "upscale")


@dataclass(frozen=True, slots=True)
class Shot:
    """A picture of the strip: a job of this browser, or an older picture, whose job may no longer exist."""

    id: str
    params: Params
    state: str
    job: Job | None = None
    image: Image | None = None
    position: int | None = None
    eta: float | None = None

    @property
    def standing(self) -> Markup:
        return standing(self.job, self.position) if self.job else Markup()

    @property
    def left(self) -> str:
        return "" if self.eta is None else duration(self.eta)

    @property
    def percent(self) -> float:
        return progress(self.job) if self.job else 0.0

    @property
    def why(self) -> Markup:
        return why(self.job) if self.job else Markup()

    @property
    def mend(self) -> bool:
        """Whether the automatic memory mode may succeed where a fixed one failed."""
        failure = self.job.failure if self.job else None
        return bool(failure and failure.kind == "out_of_memory" and self.params.rung not in ("", *FREE))


@dataclass(frozen=True, slots=True)
class Stack:
    """The pictures of a batch in the strip. ``done``, ``left``, ``total``: numbers of done, unfinished, all jobs."""

    id: str
    prompt: str
    shots: Sequence[Shot]
    done: int
    left: int
    total: int

    @property
    def more(self) -> int:
        return max(0, self.total - MOST_SHOTS)


def positions(snapshot: Snapshot) -> dict[str, int]:
    return {job.id: place for place, job in enumerate(snapshot.waiting, start=1)}


def estimates(snapshot: Snapshot) -> dict[str, float]:
    """Remaining seconds by job id; while the queue is held, those of running jobs only."""
    if snapshot.paused or snapshot.reason:
        return {job.id: snapshot.eta[job.id] for job in snapshot.running if job.id in snapshot.eta}
    return dict(snapshot.eta)


def stacked(jobs: Sequence[Job], counts: Mapping[str, Counts], images: Images, snapshot: Snapshot) -> list[Stack]:
    """Group jobs into batches, without finished ones whose picture is not in ``images`` because it is in the trash.

    ``jobs``: at most MOST_SHOTS of each batch, adjacent; ``counts``: number of jobs by state, by batch id.
    """
    order, eta = positions(snapshot), estimates(snapshot)
    stacks = []
    for batch_id, group in groupby(jobs, key=lambda job: job.batch_id):
        if batch_id not in counts:  # removed since ``jobs`` were read
            continue
        mine = list(group)
        shots = [
            Shot(
                job.id, job.params, str(job.state), job, image, order.get(job.id), None if job.held else eta.get(job.id)
            )
            for job in mine
            if (image := images.get(job.id)) or job.state is not State.DONE
        ]
        number = counts[batch_id]
        left = sum(count for state, count in number.items() if state not in FINAL)
        total = sum(number.values())
        if shots:
            stacks.append(Stack(batch_id, mine[0].params.prompt, shots, number[State.DONE], left, total))
    return stacks


def older(images: Sequence[Image], shown: Sequence[Stack]) -> list[Shot]:
    """The gallery's pictures that are not in a stack already."""
    there = {shot.image.id for stack in shown for shot in stack.shots if shot.image}
    return [Shot(each.id, each.params, "done", image=each) for each in images if each.id not in there]


def at_hand(stacks: Sequence[Stack], earlier: Sequence[Shot], chosen: str) -> Shot | None:
    """The picture to show large; None if there is none.

    This is the selected one; otherwise a running one that has a preview, the one that ended last, another running one,
    the newest of the gallery, or the last queued one.
    """
    shots = [shot for stack in stacks for shot in stack.shots]
    for shot in (*shots, *earlier):
        if chosen and shot.id == chosen:
            return shot
    ended = [shot for shot in shots if shot.state in (State.DONE, State.FAILED)]
    for some in (
        [shot for shot in shots if shot.state == State.RUNNING and shot.job and shot.job.step],
        sorted(ended, key=lambda shot: (shot.job and shot.job.finished_at) or "", reverse=True),
        [shot for shot in shots if shot.state == State.RUNNING],
        earlier,
        [shot for shot in shots if shot.state == State.QUEUED][-1:],
    ):
        if some:
            return some[0]
    return None


def stage(
    stacks: Sequence[Stack],
    earlier: Sequence[Shot],
    hand: Shot | None,
    left_out: int = 0,
    offer: Offer | None = None,
) -> Markup:
    """The stage. ``hand``: the picture to show large; ``left_out``: number of unfinished batches not in the strip;
    ``offer``: the model to download first.
    """
    return render(
        "stage.html",
        stacks=stacks,
        earlier=earlier,
        hand=hand,
        left_out=left_out,
        offer=offer,
        examples=EXAMPLE_PROMPTS,
    )


def panel() -> Markup:
    """The source picture, the canvas for its mask, the dialog about a dropped file, and the board for regions."""
    return render("source.html", kinds=SOURCE_KINDS) + render("regions.html", most=Region.most, least=MIN_REGION)


def sample(image: Image | None) -> Markup:
    """The thumbnail beside a model's name. Its ``alt`` is empty because it is decoration."""
    return macro("sample", image) if image else Markup()


def loras(adapters: Sequence[Adapter], architecture: str, previews: Mapping[str, str]) -> Markup:
    """The LoRAs that fit an architecture, as choices; ``previews``: URLs of preview pictures by name."""
    usable = [each for each in adapters if each.ready]
    fitting = [each for each in usable if adapter_fits(each, architecture)]
    return render("loras.html", loras=fitting, previews=previews, others=len(usable) - len(fitting), words=SHOWN_WORDS)


def controls(adapters: Sequence[Adapter]) -> Markup:
    """The form's list of controls, with buttons to add pictures. ``adapters``: ControlNet models."""
    return render("controls.html", models=[each for each in adapters if each.ready], kinds=[*map(str, ControlType)])


def references(uses: Sequence[Use]) -> Markup:
    """The form's list of reference pictures, with buttons to add pictures for ``uses``, which the model supports."""
    return render("references.html", uses=[*map(str, uses)], every=[*map(str, Use)], most_weight=MAX_REFERENCE_WEIGHT)
