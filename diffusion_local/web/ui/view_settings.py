"""The Settings tab: settings, health, accounts and machines as groups of rows. Pure, like ``view``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from markupsafe import Markup

from diffusion_local.accounts.store import QUOTA_COLUMNS, Account
from diffusion_local.actor import Allowance, Role
from diffusion_local.domain import Worker
from diffusion_local.health.doctor import REPORTED_PACKAGES, Finding
from diffusion_local.health.service import HealthStatus
from diffusion_local.machines import PairingCode
from diffusion_local.models.service import format_size
from diffusion_local.preferences import EDITABLE, PATH_SETTINGS, Preference
from diffusion_local.queue.machines import Machine
from diffusion_local.queue.workers import is_silent
from diffusion_local.settings import Settings
from diffusion_local.system.gpus import Gpu
from diffusion_local.web.ui.templates import macro, render, say
from diffusion_local.web.ui.view import moment
from diffusion_local.web.ui.words import LANGUAGE_NAMES, LANGUAGE_TAGS, has_phrase, language, translated

SHOWN_FOLDERS = ("home", "gallery", "models", "loras", "vae", "upscalers", "embeddings", "wildcards", "reports", "logs")
THEMES = {"system": "", "light": "light", "dark": "dark"}
#: Settings that the page can change, by topic. An editable setting in none of these groups appears in "other".
SETTING_GROUPS = {
    "pictures": ("image_format", "sidecar", "preview_every", "preview_vae", "max_count"),
    "night": ("timezone", "report_at", "when_done", "when_done_minutes"),
    "keeping": ("keep_jobs_days", "keep_trash_days", "keep_sources_days", "disk_reserve_mb"),
    "hardware": ("memory", "memory_limit_gb", "precision", "idle_unload", "gpu_max_temp", "gpu_share", "gpu_share_mb"),
    "queueing": ("max_queued", "model_streak", "on_stop", "step_timeout", "lease_seconds"),
    "people": ("share", "user_max_queued", "user_max_per_day", "user_max_pixels", "session_days"),
}


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a group. ``text``: shown below the title; ``part``: the control to draw, which gets ``value``."""

    key: str
    title: str
    text: str = ""
    dot: str = ""
    badge: str = ""
    meter: float | None = None
    part: str = ""
    value: Any = None
    search: str = ""
    raw: str = ""  # its name in config.toml


def section(name: str, rows: Sequence[Row], hint: str = "", **more: Any) -> Markup:
    """A group of rows. In ``more``: ``folded``, rows behind a disclosure, and ``acts``, the button beside the title."""
    return render("settings_section.html", name=name, rows=rows, hint=hint, **({"acts": "", "folded": ()} | more))


def page(sections: Sequence[tuple[str, Markup]], pending: int, can_restart: bool) -> Markup:
    """The whole tab. ``sections``: (name, HTML) of each group; ``pending``: number of changes that need a restart."""
    return render("settings.html", sections=sections, pending=pending, can_restart=can_restart)


# -- appearance: stored in the browser --------------------------------------------------------------------------------


def appearance() -> Markup:
    themes = [(value, say(f"settings.theme_{name}")) for name, value in THEMES.items()]
    tongues = [(code, name, LANGUAGE_TAGS[code], code == language()) for code, name in LANGUAGE_NAMES.items()]
    rows = [
        Row("theme", say("settings.theme"), part="theme", value=themes),
        Row("language", say("page.language"), part="tongue", value=tongues),
        Row("enter", say("settings.enter"), part="enter"),
        Row("bell", say("page.bell"), say("settings.bell_how"), part="bell"),
    ]
    return section("look", rows, say("settings.look_how"))


# -- health ----------------------------------------------------------------------------------------------------------


def findings(results: Sequence[Finding], looking: bool, admin: bool, paths: bool) -> Markup:
    """The doctor's findings, worst first. Admins see details and fixes, others only the status.

    ``looking``: a check is in progress; ``paths``: whether paths of this machine may be shown.
    """
    hidden = {each.name for each in results} & ({"home"} if not paths else set())
    listed = [each for each in results if not each.name.startswith("worker ") and not (each.ok and plain(each))]
    hint = say("settings.looking") if looking or not results else say(f"settings.verdict_{verdict(results)}")
    rows = []
    for each in sorted(listed, key=lambda one: (one.ok, not one.grave)):
        texts = [translated(each.text) if admin and each.name not in hidden else say(f"settings.is_{state(each)}")]
        if admin and not each.ok:
            texts.append(translated(each.mend))
        badge = say(f"settings.badge_{state(each)}")
        rows.append(Row(each.name, title_of(each), macro("lines", texts), dot=state(each), badge=badge))
    return section("health", rows, hint, acts="check" if admin and not looking else "manual")


def plain(finding: Finding) -> bool:
    """Whether a finding only reports a version; healthy ones are listed under "versions" instead."""
    return finding.name in ("diffusion-local", *REPORTED_PACKAGES)


def title_of(finding: Finding) -> str:
    """The title of a finding, whose name is a kind, optionally followed by an object: ``model sdxl``."""
    kind, _, name = finding.name.partition(" ")
    key = f"settings.find_{kind.lower()}"
    return f"{say(key)} {name}".strip() if has_phrase(key) else finding.name


def state(finding: Finding) -> str:
    return "good" if finding.ok else "bad" if finding.grave else "warn"


def verdict(results: Sequence[Finding]) -> str:
    states = {state(each) for each in results}
    return "bad" if "bad" in states else "warn" if "warn" in states else "good"


# -- the machine -----------------------------------------------------------------------------------------------------


def machine(workers: Sequence[Worker], vitals: HealthStatus, settings: Settings, now: datetime) -> Markup:
    rows = [worker_row(each, now) for each in workers] or [Row("none", say("settings.no_worker"))]
    rows += [gpu_row(each, settings.gpu_max_temp) for each in vitals.gpus]
    if vitals.memory[1]:
        rows.append(memory_row(*vitals.memory))
    used = 100 * (1 - vitals.free / vitals.total) if vitals.total else 0
    text = say(
        "settings.disk_told",
        free=format_size(vitals.free),
        total=format_size(vitals.total),
        reserve=format_size(settings.disk_reserve_mb * 10**6),
        gallery=format_size(vitals.gallery),
    )
    rows.append(Row("disk", say("settings.find_disk"), text, meter=used))
    return section("machine", rows, say("settings.restart_how"))


def memory_row(used: int, total: int) -> Row:
    text = say("settings.gpu_memory", used=format_size(used), total=format_size(total))
    return Row("main_memory", say("settings.main_memory"), text, meter=100 * used / total)


def worker_row(worker: Worker, now: datetime) -> Row:
    texts = [say("settings.worker_since", time=moment(worker.started_at))]
    if worker.model:
        texts.insert(0, say("settings.worker_holds", model=worker.model))
    status, dot = worker.status, "good"
    if is_silent(worker, now):
        status, dot = "silent", "bad"
        texts.append(say("settings.worker_seen", time=moment(worker.seen_at, exact=True)))
    elif status in ("stopped", "starting"):
        dot = "warn"
    key = f"settings.status_{status}"
    sign = say(key) if has_phrase(key) else status
    return Row(worker.slot, f"{worker.slot} · {worker.device}", Markup(" · ").join(texts), dot=dot, badge=sign)


def gpu_row(gpu: Gpu, limit: int) -> Row:
    texts: list[str] = [say("settings.gpu_memory", used=format_size(gpu.used), total=format_size(gpu.total))]
    if gpu.temperature is not None:
        texts.append(f"{gpu.temperature} °C")
    if gpu.busy is not None:
        texts.append(say("settings.gpu_busy", n=round(100 * gpu.busy)))
    if gpu.power is not None:
        texts.append(f"{gpu.power:.0f} W")
    hot = gpu.temperature is not None and 0 < limit < gpu.temperature
    used = 100 * gpu.used / gpu.total if gpu.total else 0
    return Row(f"nvidia{gpu.index}", gpu.name, Markup(" · ").join(texts), dot="warn" if hot else "", meter=used)


# -- settings --------------------------------------------------------------------------------------------------------


def preferences(all_preferences: Sequence[Preference], paths: bool) -> list[tuple[str, Markup]]:
    """(name, HTML) of each group; the last also has, folded, the settings that the page cannot change."""
    by_name = {each.name: each for each in all_preferences}
    groups = {name: [by_name[each] for each in names if each in by_name] for name, names in SETTING_GROUPS.items()}
    placed = {each for names in SETTING_GROUPS.values() for each in names}
    groups["other"] = [each for each in all_preferences if each.name in EDITABLE and each.name not in placed]
    rest = [preference(each, paths) for each in all_preferences if each.name not in EDITABLE]
    return [
        (
            name,
            section(
                name,
                [preference(each, paths) for each in own],
                say("settings.after_restart"),
                folded=rest if name == "other" else (),
            ),
        )
        for name, own in groups.items()
    ]


def preference(each: Preference, paths: bool) -> Row:
    """The row of a setting: title, meaning, name in config.toml, origin of a changed value, and control."""
    meaning = str(say(f"meanings.{each.name}")) if has_phrase(f"meanings.{each.name}") else each.doc
    meaning = meaning[:1].upper() + meaning[1:]
    title = str(say(f"titles.{each.name}")) if has_phrase(f"titles.{each.name}") else meaning
    shows_default = not each.secret and each.origin != "default" and (paths or each.name not in PATH_SETTINGS)
    note = macro("setting_note", each, "" if title == meaning else meaning, shows_default)
    value = {
        "setting": each,
        "value": each.value if each.later is None else each.later,
        "shown": fixed(each, paths),
        "bounds": each.bounds,
        "step": "any" if isinstance(each.default, float) else 1,
        "choices": [(choice, choice_words(each.name, choice)) for choice in each.choices],
    }
    part = "setting" if each.editable else "fixed"
    search = f"{title} {meaning} {each.name}"
    return Row(each.name, title, note, part=part, value=value, raw=each.name, search=search)


def choice_words(name: str, choice: str) -> str:
    key = f"titles.{name}_{choice}"
    return say(key) if has_phrase(key) else choice


def fixed(each: Preference, paths: bool) -> str:
    if each.secret:
        return say("settings.secret_set" if each.value else "settings.secret_unset")
    if each.name in PATH_SETTINGS and not paths and each.value:
        return say("settings.hidden")
    return value_html(each.value)


def value_html(value: Any) -> Markup:
    return macro("setting_value", value)


# -- accounts --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Person:
    """An account as an admin sees it. ``allowance``: its effective limits; ``tokens``: (id, name) of each."""

    account: Account
    allowance: Allowance
    used_today: int
    sessions: int
    tokens: Sequence[tuple[str, str]]

    @property
    def limits(self) -> list[tuple[str, Any, int]]:
        """(name, the account's own limit or None, the effective limit)."""
        own: Mapping[str, int] = self.account.limits
        return [(name, own.get(name), getattr(self.allowance, name)) for name in QUOTA_COLUMNS]


def accounts(people: Sequence[Person], who: str) -> Markup:
    """The accounts with their limits, sessions and tokens. ``who``: the viewing admin, who cannot remove themselves."""
    return render("settings_accounts.html", people=people, who=who, roles=list(Role))


# -- folders and versions --------------------------------------------------------------------------------------------


def folders(settings: Settings) -> Markup:
    rows = []
    for each in SHOWN_FOLDERS:
        place = getattr(settings, each) or getattr(settings, f"{each}_folder")  # `gallery` is a bucket, if there is one
        rows.append(Row(each, say(f"settings.folder_{each}"), value_html(str(place))))
    return section("folders", rows)


def versions(results: Sequence[Finding]) -> Markup:
    return render("settings_section.html", name="versions", rows=(), hint="", acts="", folded=(), versions=results)


def machines(joined: Sequence[Machine]) -> Markup:
    return render("machines.html", machines=joined, size=format_size)


def invitation(made: PairingCode) -> Markup:
    """The dialog with a pairing code."""
    return render("machine_code.html", made=made)
