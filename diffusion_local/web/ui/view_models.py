"""Models as HTML: cards, downloads, what the hub has, and what goes with models. Pure, like ``view``."""

import re
import string
from collections.abc import Mapping, Sequence

from diffusion_local import families, serializers
from diffusion_local.domain import DeviceMemory, Fit, Image
from diffusion_local.engine.memory import GIB
from diffusion_local.engine.planning import MemoryPlan
from diffusion_local.hub.downloads import Download, DownloadState
from diffusion_local.models.adapters import Adapter
from diffusion_local.models.catalog import STARTER, Model
from diffusion_local.models.curated import CuratedModel
from diffusion_local.models.service import format_size
from diffusion_local.web.ui.view import button, manual_link, text
from diffusion_local.web.ui.words import known as is_known
from diffusion_local.web.ui.words import say, translated

SHOWN_ENDED = 3  # downloads that have ended
SHOWN_WORDS = 6
DIGITS, LETTERS = string.digits, string.ascii_lowercase  # of which a slot's name is made: gpu0


def library(
    models: Sequence[Model],
    samples: Mapping[str, Image],
    fits: Mapping[str, Sequence[Fit]],
    plans: Mapping[str, Sequence[MemoryPlan]],
    downloads: Sequence[Download],
    known: Sequence[CuratedModel],
    room: DeviceMemory,
    adapters: Mapping[str, Sequence[Adapter]],
) -> str:
    there = {model.hub_id.lower() for model in models} | {each.repo.lower() for each in downloads if not each.final}
    offered = [each for each in known if each.id.lower() not in there]
    hint = f'<p class="quiet">{say("models.only_starter")}</p>' if len(models) == 1 else ""
    again = button(say("models.again"), "scan", kind="small")
    cards = "".join(
        card(model, samples.get(model.id), fits.get(model.id, ()), plans.get(model.id, ())) for model in models
    )
    return (
        f"{loading(downloads)}"
        f'<section><header class="head"><h2>{say("models.here")}</h2>{manual_link("models")}{again}</header>{hint}'
        f'<div class="models">{cards}</div></section>'
        f"{hub(offered, room)}"
        f"{''.join(shelf(folder, found) for folder, found in adapters.items())}"
    )


def card(model: Model, sample: Image | None, fits: Sequence[Fit], plans: Sequence[MemoryPlan]) -> str:
    """One model. Its picture opens in the viewer; where there is none a calm letter stands in."""
    name = text(model.name)
    if sample:
        alt = text(say("models.sample", name=model.name))
        picture = (
            f'<a class="open" href="{serializers.file_url(sample)}" data-do="open" data-id="{sample.id}">'
            f'<img src="{serializers.thumbnail_url(sample.id)}" alt="{alt}" loading="lazy" width="96" height="96"></a>'
        )
    else:
        title = text(say("models.no_sample"))
        picture = (
            f'<div class="letter" role="img" aria-label="{title}" title="{title}">{text(model.name[:1].upper())}</div>'
        )
    use = button(say("models.use"), "use_model", model.id, "small primary") if model.ready else ""
    sure = say("models.remove_sure")
    remove = button(say("models.remove"), "remove_model", model.id, "small", sure) if model.id != STARTER else ""
    problem = f'<p class="why">{sentence(translated(model.problem))}</p>' if model.problem else ""
    what = families.title_of(model.architecture)
    return (
        f'<article class="model" data-key="{text(model.id)}">{picture}<div class="about"><header><h3>{name}</h3>'
        f'<span class="badge {model.state}">{say(f"models.{model.state}")}</span></header>'
        f'<p class="quiet id">{text(" · ".join(each for each in (model.id, what) if each and each != model.name))}</p>'
        f'{problem}<dl>{facts(model, fits, plans)}</dl><div class="acts">{use}{remove}</div></div></article>'
    )


def facts(model: Model, fits: Sequence[Fit], plans: Sequence[MemoryPlan]) -> str:
    licence = model.licence if model.licence != "unknown" else say("models.licence_unknown")
    rows = [("licence", text(licence)), ("disk", format_size(model.size_bytes))]
    if model.precision:
        rows.append(("precision", text(model.precision)))
    if model.memory_bytes and not plans:  # which say more: the weights are a part of it
        rows.append(("memory", say("models.memory_about", size=format_size(model.memory_bytes))))
    if model.ready:
        rows.append(("does", ", ".join(say(f"models.{kind}") for kind in model.kinds)))
        tells_more = fits and (fits[0].peak_bytes or fits[0].worked not in {plan.rung for plan in plans})
        told = planned(plans) + ([held(fits)] if tells_more else [])
        rows.append(("held", "<br>".join(told) or say("models.held_untried")))
    return "".join(f"<dt>{say(f'models.{name}')}</dt><dd>{value}</dd>" for name, value in rows)


def planned(plans: Sequence[MemoryPlan]) -> list[str]:
    """What the memory policy will do with a model, a line for devices that are alike."""
    alike: dict[tuple[str, ...], list[MemoryPlan]] = {}
    for plan in plans:
        kind = plan.slot.rstrip(DIGITS)
        alike.setdefault((kind, plan.device, plan.rung, str(plan.fits)), []).append(plan)
    return [text(plan_line(kind, each)) for (kind, *_), each in alike.items()]


def plan_line(kind: str, plans: Sequence[MemoryPlan]) -> str:
    plan, numbers = plans[0], ", ".join(each.slot.lstrip(LETTERS) for each in plans)
    device = say(f"models.on_{kind}", numbers=numbers) if is_known(f"models.on_{kind}") else plan.slot
    takes, total, free = (f"{each / GIB:.1f}" for each in (plan.takes_bytes, plan.total_bytes, plan.free_bytes))
    key = "models.planned" if plan.fits else "models.planned_tight"
    return say(key, device=device, rung=rung_words(plan.rung), takes=takes, total=total, free=free)


def rung_words(rung: str) -> str:
    return say(f"models.{rung}") if is_known(f"models.{rung}") else rung.replace("_", " ")


def held(fits: Sequence[Fit]) -> str:
    """How the memory policy held a model on this machine, as its latest picture showed."""
    fit = fits[0]
    size = f"{fit.width}×{fit.height}"
    peak = f", {say('models.held_peak', peak=format_size(fit.peak_bytes))}" if fit.peak_bytes else ""
    return text(say("models.held_as", rung=rung_words(fit.worked), size=size) + peak)


# -- downloads ------------------------------------------------------------------------------------------------------


def loading(downloads: Sequence[Download]) -> str:
    going = [each for each in downloads if not each.final]
    ended = [each for each in downloads if each.final][:SHOWN_ENDED]
    if not going and not ended:
        return ""
    rows = "".join(map(download_row, [*going, *ended]))
    return f'<section><h2>{say("models.downloads")}</h2><ul class="rows">{rows}</ul></section>'


def download_row(download: Download) -> str:
    what = download.repo + (f"/{download.file}" if download.file else "")
    state = "stopping" if download.cancel_requested and not download.final else str(download.state)
    words = say("models.cancelled_state" if state == "cancelled" else f"models.{state}")
    progress, more = "", ""
    if download.state is DownloadState.RUNNING and download.bytes_total:
        percent = 100 * min(1.0, download.bytes_done / download.bytes_total)
        words += " · " + say(
            "models.of", done=format_size(download.bytes_done), total=format_size(download.bytes_total)
        )
        progress = bar(download.id, what, percent)
    if not download.final:
        more = button(say("common.cancel"), "cancel_download", download.id, "small")
    elif download.state is DownloadState.FAILED:
        words += f" · {translated(download.error_message)}"
        more = button(say("models.retry"), "retry_download", download.id, "small")
    kind = "why" if download.state is DownloadState.FAILED else "quiet"
    return row(download.id, f"<b>{text(what)}</b>", words, kind, progress, more)


def bar(key: str, what: str, percent: float) -> str:
    return (
        f'<div class="bar" data-key="bar-{key}" role="progressbar" aria-label="{text(what)}" aria-valuemin="0" '
        f'aria-valuemax="100" aria-valuenow="{percent:.0f}"><i style="width:{percent:.1f}%"></i></div>'
    )


def hub(known: Sequence[CuratedModel], room: DeviceMemory) -> str:
    if not known:
        return ""
    rows = "".join(known_row(each, room) for each in known)
    return (
        f'<section><h2>{say("models.known")}</h2><p class="quiet">{say("models.known_how")}</p>'
        f'<ul class="rows">{rows}</ul></section>'
    )


def known_row(model: CuratedModel, room: DeviceMemory) -> str:
    disk, memory = f"{model.disk_gb:g} GB", f"{model.memory_gb:g} GB"
    told = [model.licence, f"{say('models.disk')} {disk}", f"{say('models.memory')} {memory}"]
    told += [say("models.gated")] if model.gated else []
    told += [say(f"models.larger_{room.type}")] if larger(model, room) else []
    get = button(say("models.download"), "download_model", model.id, "small")
    title = f'<b>{text(model.title)}</b> <span class="quiet">{text(model.id)}</span>'
    return row(model.id, title, " · ".join(told), act=get)


def larger(model: CuratedModel, room: DeviceMemory) -> bool:
    """Whether it is more than the largest device holds at once. Memory is told in half precision, which not every CPU
    computes in."""
    numbers = 1 if room.type == "cuda" or room.bf16 else 2
    return bool(room.bytes) and model.memory_gb * 1e9 * numbers > room.bytes


# -- what goes with models ------------------------------------------------------------------------------------------


def shelf(folder: str, adapters: Sequence[Adapter]) -> str:
    if adapters:
        inside = f'<ul class="rows">{"".join(map(adapter_row, adapters))}</ul>'
    else:
        key = "models.none_upscalers" if folder == "upscalers" else "models.none_in"
        inside = f'<p class="quiet">{say(key, folder=folder)}</p>'
    return f"<section><h2>{say(f'models.{folder}')}</h2>{inside}</section>"


def row(key: str, title: str, told: str, kind: str = "quiet", more: str = "", act: str = "") -> str:
    """A line of a list; ``title`` and ``more`` are HTML, ``told`` is text."""
    about = f'<p class="{kind}">{sentence(told)}</p>{more}'
    return f'<li class="row" data-key="{text(key)}"><div>{title}{about}</div>{act}</li>'


def sentence(words: str) -> str:
    """Text in which `names` are set apart."""
    return re.sub(r"`([^`<>]+)`", r"<code>\1</code>", text(words))


def adapter_row(adapter: Adapter) -> str:
    if not adapter.ready:
        told, kind = translated(adapter.problem), "why"
    else:
        fits = families.title_of(adapter.architecture) or adapter.architecture
        parts = [say("models.fits", what=fits)] if fits else []
        told, kind = (
            " · ".join([*parts, format_size(adapter.size_bytes), ", ".join(adapter.words[:SHOWN_WORDS])]),
            "quiet",
        )
    title = f"<b>{text(adapter.title or adapter.name)}</b>"
    return row(adapter.kind + adapter.name, title, told.removesuffix(" · "), kind)
