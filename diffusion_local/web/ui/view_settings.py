"""Settings and health as HTML. Pure, like ``view``."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from diffusion_local.domain import Worker
from diffusion_local.health.doctor import PACKAGES, Finding
from diffusion_local.health.service import HealthStatus
from diffusion_local.models.service import format_size
from diffusion_local.preferences import EDITABLE, PATHS, Preference
from diffusion_local.queue.workers import is_silent
from diffusion_local.settings import Settings
from diffusion_local.system.gpus import Gpu
from diffusion_local.web.ui.icons import icon
from diffusion_local.web.ui.view import button, manual_link, moment, text
from diffusion_local.web.ui.words import LANGUAGES, TAGS, known, language, say, translated

FOLDERS = ("home", "gallery", "models", "loras", "vae", "upscalers", "embeddings", "wildcards", "reports", "logs")
THEMES = {"system": "", "light": "light", "dark": "dark"}


def section(name: str, body: str, act: str = "", hint: str = "") -> str:
    how = f'<p class="quiet">{hint}</p>' if hint else ""
    head = f'<header class="head"><h2>{say(f"settings.{name}")}</h2>{act}</header>'
    return f'<section data-key="{name}"><div class="lead">{head}{how}</div><div class="body">{body}</div></section>'


def rows(items: Sequence[str]) -> str:
    return f'<ul class="rows">{"".join(items)}</ul>'


def row(key: str, title: str, told: str, control: str = "", dot: str = "") -> str:
    """A line of a list. All but ``key`` and ``dot`` are HTML."""
    sign = f'<i class="dot {dot}"></i>' if dot else ""
    about = f'<p class="quiet">{told}</p>' if told else ""
    return f'<li class="row" data-key="{text(key)}">{sign}<div><b>{title}</b>{about}</div>{control}</li>'


# -- how it looks: of this browser alone ------------------------------------------------------------------------------


def look() -> str:
    themes = "".join(
        f'<option value="{value}">{say(f"settings.theme_{name}")}</option>' for name, value in THEMES.items()
    )
    tongues = "".join(
        f'<option value="{code}" lang="{TAGS[code]}"{" selected" if code == language() else ""}>{name}</option>'
        for code, name in LANGUAGES.items()
    )
    theme, tongue, bell = say("settings.theme"), say("page.language"), say("page.bell")
    ring = (
        f'<button type="button" class="act small" data-bell hidden aria-pressed="false" aria-label="{bell}">'
        f"{icon('bell', 18)}</button>"
    )
    return section(
        "look",
        rows(
            [
                row("theme", theme, "", f'<select data-theme aria-label="{theme}">{themes}</select>'),
                row("language", tongue, "", f'<select data-language aria-label="{tongue}">{tongues}</select>'),
                row("bell", bell, say("settings.bell_how"), ring),
            ]
        ),
        hint=say("settings.look_how"),
    )


# -- health ----------------------------------------------------------------------------------------------------------


def findings(found: Sequence[Finding], looking: bool, admin: bool, paths: bool) -> str:
    """``admin`` is told what is wrong and what to do; the others whether something is."""
    hidden = {each.name for each in found} & ({"home"} if not paths else set())
    shown = [each for each in found if not each.name.startswith("worker ") and not (each.ok and plain(each))]
    again = manual_link("trouble")
    again += button(say("settings.check"), "check_health", kind="small") if admin and not looking else ""
    hint = say("settings.looking") if looking or not found else say(f"settings.verdict_{verdict(found)}")
    items = []
    for each in sorted(shown, key=lambda one: (one.ok, not one.grave)):
        told = text(translated(each.text)) if admin and each.name not in hidden else say(f"settings.is_{state(each)}")
        if admin and not each.ok:
            told += f'<br><span class="mend">{text(translated(each.mend))}</span>'
        items.append(row(each.name, title_of(each), told, badge(state(each)), state(each)))
    return section("health", rows(items) if items else "", again, hint)


def plain(finding: Finding) -> bool:
    """Versions of what is well are in a list of their own."""
    return finding.name in ("diffusion-local", *PACKAGES)


def title_of(finding: Finding) -> str:
    """``model sdxl`` is a kind, and a name of that kind."""
    kind, _, name = finding.name.partition(" ")
    key = f"settings.find_{kind.lower()}"
    return text(f"{say(key)} {name}".strip() if known(key) else finding.name)


def state(finding: Finding) -> str:
    return "good" if finding.ok else "bad" if finding.grave else "warn"


def verdict(found: Sequence[Finding]) -> str:
    states = {state(each) for each in found}
    return "bad" if "bad" in states else "warn" if "warn" in states else "good"


def badge(name: str) -> str:
    return f'<span class="badge {name}">{say(f"settings.badge_{name}")}</span>'


# -- the machine -----------------------------------------------------------------------------------------------------


def machine(workers: Sequence[Worker], vitals: HealthStatus, settings: Settings, now: datetime) -> str:
    items = [worker_row(each, now) for each in workers] or [row("none", say("settings.no_worker"), "")]
    items += [gpu_row(each, settings.gpu_max_temp) for each in vitals.gpus]
    if vitals.memory[1]:
        items.append(memory_row(*vitals.memory))
    used = 100 * (1 - vitals.free / vitals.total) if vitals.total else 0
    told = say(
        "settings.disk_told",
        free=format_size(vitals.free),
        total=format_size(vitals.total),
        reserve=format_size(settings.disk_reserve_mb * 10**6),
        gallery=format_size(vitals.gallery),
    )
    items.append(row("disk", say("settings.find_disk"), told + meter(say("settings.find_disk"), used)))
    return section("machine", rows(items), hint=say("settings.restart_how"))


def memory_row(used: int, total: int) -> str:
    name = say("settings.main_memory")
    told = say("settings.gpu_memory", used=format_size(used), total=format_size(total))
    return row("main_memory", name, told + meter(name, 100 * used / total))


def worker_row(worker: Worker, now: datetime) -> str:
    told = [say("settings.worker_since", time=moment(worker.started_at))]
    if worker.model:
        told.insert(0, say("settings.worker_holds", model=text(worker.model)))
    status, dot = worker.status, "good"
    if is_silent(worker, now):
        status, dot = "silent", "bad"
        told.append(say("settings.worker_seen", time=moment(worker.seen_at, exact=True)))
    elif status in ("stopped", "starting"):
        dot = "warn"
    key = f"settings.status_{status}"
    title = f"{text(worker.slot)} · {text(worker.device)}"
    sign = f'<span class="badge {dot}">{say(key) if known(key) else text(status)}</span>'
    return row(worker.slot, title, " · ".join(told), sign, dot)


def gpu_row(gpu: Gpu, limit: int) -> str:
    told = [say("settings.gpu_memory", used=format_size(gpu.used), total=format_size(gpu.total))]
    if gpu.temperature is not None:
        told.append(f"{gpu.temperature} °C")
    if gpu.busy is not None:
        told.append(say("settings.gpu_busy", n=round(100 * gpu.busy)))
    if gpu.power is not None:
        told.append(f"{gpu.power:.0f} W")
    hot = gpu.temperature is not None and 0 < limit < gpu.temperature
    used = 100 * gpu.used / gpu.total if gpu.total else 0
    return row(
        f"nvidia{gpu.index}", text(gpu.name), " · ".join(told) + meter(gpu.name, used), dot="warn" if hot else ""
    )


def meter(what: str, percent: float) -> str:
    return (
        f'<span class="bar" role="meter" aria-label="{text(what)}" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{percent:.0f}"><i style="width:{percent:.1f}%"></i></span>'
    )


# -- settings --------------------------------------------------------------------------------------------------------


def preferences(found: Sequence[Preference], paths: bool) -> str:
    """What can be changed is in sight, the rest folded away."""
    own = [each for each in found if each.name in EDITABLE]
    rest = [each for each in found if each not in own]
    fold = (
        f'<details data-key="rest"><summary>{say("settings.rest", n=len(rest))}</summary>'
        f'<p class="quiet">{say("settings.rest_how")}</p>{rows([preference(each, paths) for each in rest])}</details>'
    )
    return section("own", rows([preference(each, paths) for each in own]) + fold, hint=say("settings.own_how"))


def preference(each: Preference, paths: bool) -> str:
    key = f"meanings.{each.name}"
    doc = text(say(key) if known(key) else each.doc)
    told = [f'<span class="origin {each.origin}">{say(f"settings.from_{each.origin}")}</span>']
    if not each.secret and each.origin != "default" and (paths or each.name not in PATHS):
        told.append(say("settings.default_is", value=shown(each.default)))
    line = f'<span class="where"><code>{each.name}</code> · {" · ".join(told)}</span>'
    if each.later is not None:
        line += f'<span class="later">{say("settings.later", value=shown(each.later), now=shown(each.value))}</span>'
    if each.editable:
        value = control(each)
        if each.in_file:
            name = say("settings.reset")
            value = (
                button("↺", "reset_setting", each.name, "small icon", title=name, extra=f' aria-label="{name}"') + value
            )
    else:
        value = f'<span class="value">{fixed(each, paths)}</span>'
    return row(each.name, f"{doc[:1].upper()}{doc[1:]}", line, f'<span class="control">{value}</span>')


def fixed(each: Preference, paths: bool) -> str:
    if each.secret:
        return say("settings.secret_set" if each.value else "settings.secret_unset")
    if each.name in PATHS and not paths and each.value:
        return say("settings.hidden")
    return shown(each.value)


def shown(value: Any) -> str:
    if value in ("", ()):
        return say("settings.nothing")
    return f"<code>{text(value)}</code>"


def control(each: Preference) -> str:
    value = each.value if each.later is None else each.later
    common = f'data-set="change_setting" data-id="{each.name}" aria-label="{each.name}"'
    if each.choices:
        options = "".join(
            f'<option value="{choice}"{" selected" if choice == value else ""}>{choice}</option>'
            for choice in each.choices
        )
        return f"<select {common}>{options}</select>"
    if each.bounds:
        low, high = each.bounds
        step = "any" if isinstance(each.default, float) else 1
        return f'<input type="number" {common} value="{value}" min="{low:g}" max="{high:.0f}" step="{step}" required>'
    return f'<input type="text" {common} value="{text(value)}" maxlength="200" placeholder="{say("settings.nothing")}">'


# -- folders and versions --------------------------------------------------------------------------------------------


def folders(settings: Settings) -> str:
    items = [
        row(name, say(f"settings.folder_{name}"), f"<code>{text(getattr(settings, name))}</code>") for name in FOLDERS
    ]
    return section(
        "folders",
        f'<details data-key="folders"><summary>{say("settings.folders_show")}</summary>{rows(items)}</details>',
    )


def versions(found: Sequence[Finding]) -> str:
    lines = "".join(f"<dt>{text(each.name)}</dt><dd>{text(each.text)}</dd>" for each in found)
    return section("versions", f'<dl class="versions">{lines}</dl>')
