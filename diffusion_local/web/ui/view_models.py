"""The Models tab: cards of installed models, adapters and hub models, and downloads. Pure, like ``view``."""

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from markupsafe import Markup

from diffusion_local import families
from diffusion_local.domain import DeviceMemory, Fit, Image, MemoryPlan
from diffusion_local.hub.downloads import Download, DownloadState
from diffusion_local.models.adapters import Adapter, title_of
from diffusion_local.models.catalog import Model
from diffusion_local.models.curated import CuratedModel
from diffusion_local.models.index import STARTER
from diffusion_local.models.service import format_size
from diffusion_local.settings import PRECISIONS
from diffusion_local.web.ui.templates import macro, render
from diffusion_local.web.ui.view import notice
from diffusion_local.web.ui.words import has_phrase as is_known
from diffusion_local.web.ui.words import language, say, translated

SHOWN_ENDED = 3  # downloads
SHOWN_WORDS = 6
STARTER_FACE = "assets/icons/example-apple.webp"  # a picture that the starter model generated
FAST_STEPS = 8  # models that need at most this many steps are tagged as fast
DIGITS, LETTERS = string.digits, string.ascii_lowercase  # the two parts of a slot's name, such as gpu0


@dataclass(frozen=True, slots=True)
class Card:
    """The contents of a card: an installed model, an adapter, or a model of the hub.

    ``room``: whether it fits this machine, as "good", "tight", or "" if unknown; ``search``: the text that the search
    field matches.
    """

    key: str
    section: str
    title: str
    family: str
    size: int
    state: str = "ready"
    problem: str = ""
    tags: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    facts: Sequence[tuple[str, str]] = ()
    needs: Sequence[str] = ()
    room: str = ""
    about: str = ""
    image: Image | None = None
    preview: str = ""  # URL of the preview picture that belongs to the file
    precision: str = ""
    precisions: tuple[tuple[str, str, bool], ...] = ()  # the choices: (value, label, whether it is selected)
    download: Download | None = None
    action: str = ""
    removable: bool = False
    used_at: str = ""  # creation time of its newest picture

    @property
    def search(self) -> str:
        return " ".join([self.title, self.key, self.family, *self.tags, *self.words]).lower()

    @property
    def size_words(self) -> str:
        return format_size(self.size) if self.size else ""

    @property
    def percent(self) -> float:
        going = self.download
        return 100 * min(1.0, going.bytes_done / going.bytes_total) if going and going.bytes_total else 0.0


def library(
    models: Sequence[Model],
    samples: Mapping[str, Image],
    fits: Mapping[str, Sequence[Fit]],
    plans: Mapping[str, Sequence[MemoryPlan]],
    downloads: Sequence[Download],
    known: Sequence[CuratedModel],
    room: DeviceMemory,
    adapters: Mapping[str, Sequence[Adapter]],
    previews: Mapping[tuple[str, str], str] | None = None,
) -> Markup:
    """The whole tab.

    ``samples``: newest picture by model id; ``room``: memory of the largest device; ``previews``: URLs of the preview
    pictures beside files, by (folder, name).
    """
    there = {model.hub_id.lower() for model in models}
    going = {each.repo.lower(): each for each in reversed(downloads) if not each.file and each.state != "done"}
    offered = [each for each in known if each.id.lower() not in there]
    seen = dict(previews or {})
    cards = [card(each, samples.get(each.id), fits.get(each.id, ()), plans.get(each.id, ()), seen) for each in models]
    shelves = {folder: [adapter_card(folder, each, seen) for each in found] for folder, found in adapters.items()}
    hub = [known_card(each, room, going.get(each.id.lower())) for each in offered]
    in_place = {each.download.id for each in hub if each.download}
    return render(
        "models.html",
        cards=cards,
        shelves=shelves,
        hub=hub,
        downloads=loading([each for each in without_earlier_tries(downloads) if each.id not in in_place]),
        families=sorted({each.family for each in chain(cards, hub, *shelves.values()) if each.family}),
        alone=len(models) == 1,
        words_of=download_words,
        offer=offer(offered, room, downloads) if len(models) == 1 else None,
    )


def card(
    model: Model,
    sample: Image | None,
    fits: Sequence[Fit],
    plans: Sequence[MemoryPlan],
    previews: Mapping[tuple[str, str], str],
) -> Card:
    return Card(
        key=model.id,
        section="models",
        title=model.name,
        family=families.title_of(model.architecture),
        size=model.size_bytes,
        state=model.state,
        problem=translated(model.problem),
        tags=tags(model.defaults.steps, model.defaults.width),
        facts=facts(model, fits, plans),
        needs=planned(plans),
        room="" if not plans else "good" if any(each.fits_memory for each in plans) else "tight",
        image=sample,
        preview=STARTER_FACE if model.id == STARTER else previews.get(("models", model.path.stem), ""),
        precision=model.precision,
        precisions=precisions(model) if model.ready else (),
        action="use_model" if model.ready else "",
        removable=model.id != STARTER,
        used_at=sample.created_at if sample else "",
    )


def tags(steps: int, side: int) -> tuple[str, ...]:
    """Tags of a model: "fast" if few steps suffice, and its native size (``side``, pixels)."""
    fast = [say("models.tag_fast", n=steps)] if 0 < steps <= FAST_STEPS else []
    return (*fast, f"{side} px")


def precisions(model: Model) -> tuple[tuple[str, str, bool], ...]:
    """The precisions to choose from for a model; "" follows the setting."""
    words = {"": say("models.precision_setting"), "auto": say("models.precision_auto")}
    words["stored"] = say("models.precision_stored", precision=model.precision)
    return tuple((each, words.get(each, each), each == model.chosen_precision) for each in ("", *PRECISIONS))


def facts(model: Model, fits: Sequence[Fit], plans: Sequence[MemoryPlan]) -> list[tuple[str, str]]:
    licence = model.licence if model.licence != "unknown" else say("models.licence_unknown")
    rows = [("id", model.id), ("licence", licence), ("disk", format_size(model.size_bytes))]
    if model.precision:
        rows.append(("precision", model.precision))
    if runs_in := sorted({plan.numbers for plan in plans if plan.numbers}):
        rows.append(("runs_in", ", ".join(runs_in)))
    if model.memory_bytes and not plans:  # a plan gives the total, of which the weights are only a part
        rows.append(("memory", say("models.memory_about", size=format_size(model.memory_bytes))))
    if model.ready:
        rows.append(("does", ", ".join(say(f"models.{kind}") for kind in model.kinds)))
        tells_more = fits and (fits[0].peak_bytes or fits[0].worked not in {plan.rung for plan in plans})
        lines = planned(plans) + ([memory_use(fits)] if tells_more else [])
        rows.append(("held", macro("lines", lines) if lines else say("models.held_untried")))
    return [(say(f"models.{name}"), value) for name, value in rows]


def planned(plans: Sequence[MemoryPlan]) -> list[str]:
    """How the memory policy will hold a model: a line for each group of devices with the same plan."""
    alike: dict[tuple[str, ...], list[MemoryPlan]] = {}
    for plan in plans:
        kind = plan.slot.rstrip(DIGITS)
        alike.setdefault((kind, plan.device, plan.rung, plan.blocks, str(plan.fits_memory)), []).append(plan)
    return [plan_line(kind, each) for (kind, *_), each in alike.items()]


def memory_notice(plans: Sequence[MemoryPlan]) -> str:
    """How the devices would hold the model and the other networks of a picture; "" without plans."""
    return notice("info", macro("lines", planned(plans))) if plans else ""


def is_roomy(plan: MemoryPlan) -> bool:
    """Whether the picture should fit, and be made at full pace."""
    return plan.fits_memory and plan.rung in ("resident", "vae_tiling")


def plan_line(kind: str, plans: Sequence[MemoryPlan]) -> str:
    plan, numbers = plans[0], ", ".join(each.slot.lstrip(LETTERS) for each in plans)
    device = say(f"models.on_{kind}", numbers=numbers) if is_known(f"models.on_{kind}") else plan.slot
    takes, total, free = map(format_size, (plan.takes_bytes, plan.total_bytes, plan.free_bytes))
    key = "models.planned" if plan.fits_memory else "models.planned_tight"
    rung = rung_words(plan.rung)
    if plan.blocks:
        rung = say("models.blocks_stay", rung=rung, blocks=plan.blocks)
    line = say(key, device=device, rung=rung, takes=takes, total=total, free=free)
    more = [say("models.planned_for", name=name, size=format_size(size)) for name, size in plan.additions.items()]
    return " · ".join([line, *more])


def rung_words(rung: str) -> str:
    return say(f"models.{rung}") if is_known(f"models.{rung}") else rung.replace("_", " ")


def memory_use(fits: Sequence[Fit]) -> str:
    """How the memory policy held a model for its latest picture on this machine, and the peak of memory."""
    fit = fits[0]
    size = f"{fit.width}×{fit.height}"
    peak = f", {say('models.held_peak', peak=format_size(fit.peak_bytes))}" if fit.peak_bytes else ""
    return say("models.held_as", rung=rung_words(fit.worked), size=size) + peak


# -- downloads ------------------------------------------------------------------------------------------------------


def without_earlier_tries(downloads: Sequence[Download]) -> list[Download]:
    """Drop ended downloads of a source that has a newer one. ``downloads`` and the result: newest first."""
    newest = {(each.repo, each.file): each.id for each in reversed(downloads)}
    return [each for each in downloads if not each.final or newest[each.repo, each.file] == each.id]


def loading(downloads: Sequence[Download]) -> list[dict[str, Any]]:
    """Downloads without a card: the active ones, then the ``SHOWN_ENDED`` latest of the ended ones."""
    going = [each for each in downloads if not each.final]
    ended = [each for each in downloads if each.final][:SHOWN_ENDED]
    return [{"download": each, "words": download_words(each)} for each in [*going, *ended]]


def download_words(download: Download) -> str:
    """The state of a download in words, with its progress, SHA-256 or error."""
    state = "stopping" if download.cancel_requested and not download.final else str(download.state)
    words = say("models.cancelled_state" if state == "cancelled" else f"models.{state}")
    if download.state is DownloadState.RUNNING and download.bytes_total:
        done, total = format_size(download.bytes_done), format_size(download.bytes_total)
        words += " · " + say("models.of", done=done, total=total)
    if download.state is DownloadState.DONE and download.digest:
        words += f" · SHA-256 {download.digest}"
    if download.state is DownloadState.FAILED:
        words += f" · {translated(download.error_message)}"
    return words


# -- models of the hub ----------------------------------------------------------------------------------------------


def known_card(model: CuratedModel, room: DeviceMemory, download: Download | None) -> Card:
    tight = larger(model, room)
    memory = say("models.needs_memory", size=f"{model.memory_gb:g} GB")
    notes = [say(f"models.larger_{room.type}")] if tight else []
    return Card(
        key=model.id,
        section="hub",
        title=model.title,
        family=families.title_of(model.architecture),
        size=int(model.disk_gb * 1e9),
        tags=(*tags(model.steps, max(model.width, model.height)), *([say("models.gated")] if model.gated else [])),
        facts=[(say("models.id"), model.id), (say("models.licence"), model.licence)],
        needs=[memory, *notes],
        room="" if not room.bytes else "tight" if tight else "good",
        about=model.about_zh if language() == "zh" and model.about_zh else model.about,
        download=download,
        action="download_model",
    )


def larger(model: CuratedModel, room: DeviceMemory) -> bool:
    """Whether a model exceeds the memory of the largest device.

    Its size is given for half precision and doubles on a CPU that does not support bfloat16.
    """
    numbers = 1 if room.type == "cuda" or room.bf16 else 2
    return bool(room.bytes) and model.memory_gb * 1e9 * numbers > room.bytes


@dataclass(frozen=True, slots=True)
class Offer:
    """The model recommended as the first download, and its download if that is active or failed."""

    model: CuratedModel
    download: Download | None = None

    @property
    def words(self) -> str:
        return download_words(self.download) if self.download else ""


def offer(known: Sequence[CuratedModel], room: DeviceMemory, downloads: Sequence[Download]) -> Offer | None:
    """The recommended first download for this machine, or None if nothing fits. ``downloads``: newest first."""
    model = suited(known, room)
    if model is None:
        return None
    own = (each for each in downloads if each.repo.lower() == model.id.lower() and not each.file)
    newest = next(own, None)
    relevant = newest and (not newest.final or newest.state is DownloadState.FAILED)
    return Offer(model, newest if relevant else None)


def suited(known: Sequence[CuratedModel], room: DeviceMemory) -> CuratedModel | None:
    """The largest ungated model that fits a CUDA device; on other, slower devices the smallest that needs few steps."""
    fitting = [each for each in known if not each.gated and not larger(each, room)]
    if room.type != "cuda":
        quick = [each for each in fitting if each.steps <= FAST_STEPS]
        return min(quick or fitting, key=lambda each: each.memory_gb, default=None)
    return max(fitting, key=lambda each: each.memory_gb, default=None)


# -- adapters -------------------------------------------------------------------------------------------------------


def adapter_card(folder: str, adapter: Adapter, previews: Mapping[tuple[str, str], str]) -> Card:
    fits = title_of(adapter.architecture) if adapter.architecture else ""
    rows = [("file", adapter.path.name)]
    if adapter.precision:
        rows.append(("precision", adapter.precision))
    return Card(
        key=adapter.name,
        section=folder,
        title=adapter.title or adapter.name,
        family=fits,
        size=adapter.size_bytes,
        state=adapter.state,
        problem=translated(adapter.problem),
        words=adapter.words[:SHOWN_WORDS],
        facts=[(say(f"models.{name}"), value) for name, value in rows],
        about=adapter.about,
        preview=previews.get((folder, adapter.name), ""),
        precision=adapter.precision,
        action="use_lora" if folder == "loras" and adapter.ready else "",
    )
