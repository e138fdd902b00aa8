"""Settings for display (value, default, meaning, origin), and changes to them in config.toml.

Running processes keep the values read at startup; the page says that a change takes effect at the next start.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tomlkit

from diffusion_local import disk
from diffusion_local.authority import guarded
from diffusion_local.disk import FILE, replace_file
from diffusion_local.errors import Conflict, InvalidParams, echo
from diffusion_local.messages import message
from diffusion_local.notify.dispatcher import report_time
from diffusion_local.settings import Settings, local_zone, parse, read_toml, spec_of, specs

#: Never shown: credentials, and addresses and commands that often contain credentials.
SECRET = frozenset(
    {
        "token",
        "hub_token",
        "civitai_token",
        "webhook_secret",
        "prompt_helper_key",
        "webhooks",
        "tls_key",
        "database",
        "gallery",
        "queue",
    }
)
#: Shown only to those who may see paths of this machine.
PATH_SETTINGS = frozenset({"home", "tls_cert", "configs"})
NO_LIMIT = 1_000_000_000
MAX_DAYS = 36_500
#: Settings that can be changed on the page, with the bounds of numbers.
EDITABLE: dict[str, tuple[float, float] | None] = {
    "keep_jobs_days": (0, MAX_DAYS),
    "keep_trash_days": (0, MAX_DAYS),
    "keep_sources_days": (0, MAX_DAYS),
    "preview_every": (0, NO_LIMIT),
    "preview_vae": None,
    "disk_reserve_mb": (0, NO_LIMIT),
    "idle_unload": (0, NO_LIMIT),
    "lease_seconds": (5, 3600),
    "model_streak": (1, NO_LIMIT),
    "image_format": None,
    "sidecar": None,
    "max_count": (1, NO_LIMIT),
    "max_queued": (1, NO_LIMIT),
    "report_at": None,
    "timezone": None,
    "when_done": None,
    "when_done_minutes": (0, 1440),
    "gpu_max_temp": (0, 150),
    "gpu_share": None,
    "gpu_share_mb": (0, NO_LIMIT),
    "memory": None,
    "memory_limit_gb": (0, NO_LIMIT),
    "precision": None,
    "on_stop": None,
    "step_timeout": (1, NO_LIMIT),
    "share": None,
    "user_max_queued": (0, NO_LIMIT),
    "user_max_per_day": (0, NO_LIMIT),
    "user_max_pixels": (0, NO_LIMIT),
    "session_days": (1, MAX_DAYS),
    "log_level": None,
}


@dataclass(frozen=True, slots=True)
class Preference:
    """One setting. ``origin``: default, file, environment or command; ``later``: the value after a restart, if
    different.
    """

    name: str
    value: Any
    default: Any
    doc: str
    choices: tuple[str, ...]
    origin: str
    editable: bool
    later: Any = None
    in_file: bool = False
    secret: bool = False

    @property
    def bounds(self) -> tuple[float, float] | None:
        return EDITABLE.get(self.name)


def restart_file(settings: Settings) -> Path:
    """The file whose existence requests a restart from the supervisor, which removes it when that is done."""
    return settings.locks / "restart"


@guarded("preferences")
class Preferences:
    """Settings use cases, available as ``studio.preferences``. They require an admin."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._path = settings.home / "config.toml"
        self._writing = threading.Lock()

    @property
    def settings(self) -> Settings:
        return self._settings

    def all(self) -> list[Preference]:
        """Every setting, changeable ones first. Raises InvalidParams if config.toml is damaged."""
        file_values = read_toml(self._path)
        found = [self._preference(spec.name, file_values) for spec in specs() if spec.name != "home"]
        return sorted(found, key=lambda each: list(EDITABLE).index(each.name) if each.name in EDITABLE else NO_LIMIT)

    def mark(self) -> str:
        """A text that changes whenever config.toml does."""
        try:
            state = self._path.stat()
        except OSError:
            return ""
        return f"{state.st_mtime_ns}-{state.st_size}"

    def change(self, name: str, value: str) -> Preference:
        """Write a setting to the file. Raises Forbidden, InvalidParams and Conflict, leaving the file unchanged."""
        checked = parse_value(self._settings, name, value)

        def put(document: tomlkit.TOMLDocument) -> None:
            document[name] = checked

        return self._write(name, put)

    def reset(self, name: str) -> Preference:
        """Remove a setting from the file, so that its default applies. Raises like ``change``."""
        return self._write(name, lambda document: document.pop(name, None))

    def can_restart(self) -> bool:
        """Whether a supervisor is running that can restart the processes, rather than the web process alone."""
        return (self._settings.locks / "serve.json").exists()

    def restart(self) -> None:
        """Ask the supervisor to stop all processes in order and restart them with the current settings. Raises Conflict
        if no supervisor is running.
        """
        if not self.can_restart():
            raise Conflict(message("not_supervised"))
        restart_file(self._settings).touch(mode=disk.FILE)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _preference(self, name: str, file_values: dict[str, Any]) -> Preference:
        spec = spec_of(name)
        value, origin = getattr(self._settings, name), self._settings.origins.get(name, "default")
        fixed = origin in ("environment", "command")
        secret = name in SECRET or isinstance(spec.default, tuple)
        later = None
        if not fixed and not secret:
            value_in_file = (
                parse(name, file_values[name], f"config.toml: {name}") if name in file_values else spec.default
            )
            later = value_in_file if value_in_file != value else None
        if secret:
            value = bool(value)
        return Preference(
            name,
            value,
            None if secret else spec.default,
            spec.metadata["doc"],
            spec.metadata["choices"],
            origin,
            name in EDITABLE and not fixed,
            later,
            name in file_values,
            secret,
        )

    def _write(self, name: str, edit: Callable[[tomlkit.TOMLDocument], Any]) -> Preference:
        """Edit the file, keeping comments and order, and replace it atomically."""
        if name not in EDITABLE:
            raise InvalidParams(name, message("not_on_page"))
        if self._settings.origins.get(name) in ("environment", "command"):
            raise Conflict(message("set_elsewhere", name=name))
        with self._writing:
            read_toml(self._path)  # a damaged file is reported, not overwritten
            before = self._path.read_text(encoding="utf-8-sig") if self._path.exists() else ""
            document = tomlkit.parse(before)
            edit(document)
            replace_text(self._path, tomlkit.dumps(document))
        return self._preference(name, read_toml(self._path))


def parse_value(settings: Settings, name: str, value: str) -> Any:
    """Parse and validate a typed value. Raises InvalidParams."""
    if name not in EDITABLE:
        raise InvalidParams(name, message("not_on_page"))
    typed = value.strip()
    if not typed.isprintable() or len(typed) > 200:
        raise InvalidParams(name, message("setting_line"))
    parsed = parse(name, typed, name)
    bounds = EDITABLE[name]
    if bounds and not bounds[0] <= parsed <= bounds[1]:
        raise InvalidParams(name, message("range", low=bounds[0], high=bounds[1], got=echo(typed)))
    if name == "timezone":
        local_zone(typed)
    if name == "report_at":
        report_time(replace(settings, report_at=typed))
    return parsed


def replace_text(path: Path, text: str) -> None:
    """Replace a file atomically, keeping its mode; a new one is private. Raises Conflict."""
    try:
        replace_file(path, text, mode=path.stat().st_mode & 0o777 if path.exists() else FILE)
    except OSError as error:
        raise Conflict(message("config_written", error=error.strerror)) from None
