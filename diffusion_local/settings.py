"""Settings of one installation, read once and passed down. The only module that reads the environment.

Precedence: command line, then ``DIFFUSION_LOCAL_*``, then ``config.toml`` in the home, then the default.
"""

import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from pathlib import Path
from typing import Any, Self
from zoneinfo import ZoneInfo

import platformdirs

from diffusion_local.errors import InvalidParams
from diffusion_local.params import RUNGS

PREFIX = "DIFFUSION_LOCAL_"
ENGINES = ("diffusers", "fake")
DEVICES = ("auto", "cuda", "mps", "cpu")
ON_STOP = ("give_back", "finish")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
LOG_LEVELS = ("debug", "info", "warning", "error")


def setting(default: Any, doc: str, choices: tuple[str, ...] = ()) -> Any:
    return field(default=default, metadata={"doc": doc, "choices": choices})


@dataclass(frozen=True, slots=True)
class Settings:
    home: Path = field(metadata={"doc": "folder that holds everything: databases, gallery, models, logs"})
    host: str = setting("127.0.0.1", "address to listen on; 127.0.0.1 is this machine only")
    port: int = setting(7860, "port of the page and the API; 0 takes a free one")
    allowed_hosts: str = setting("", "further host names under which the page may be opened, comma separated")
    server: str = setting("", "address of a studio that the commands are for, instead of this machine's")
    token: str = setting("", "a person's own token for that studio")
    engine: str = setting("diffusers", "what makes the pictures; fake draws test cards without a model", ENGINES)
    device: str = setting("auto", "device of the worker", DEVICES)
    threads: int = setting(0, "CPU threads of a worker; 0 leaves it to torch")
    memory: str = setting("auto", "how models are held in memory: auto, or the rung to begin with", ("auto", *RUNGS))
    memory_limit_gb: float = setting(0.0, "most GPU memory that a worker may take, in GiB; 0 is all there is")
    precision: str = setting("auto", "numbers that models run in; auto chooses by device and model", PRECISIONS)
    max_count: int = setting(100, "most pictures in one submit")
    max_queued: int = setting(100_000, "most jobs waiting at once")
    model_streak: int = setting(16, "pictures for which a loaded model may go before others whose turn it is")
    timezone: str = setting("", "time zone of windows and times, as Europe/Berlin; empty is this machine's own")
    max_list_mb: int = setting(20, "megabytes that a prompt list may have")
    max_source_mb: int = setting(50, "megabytes that a source picture may have")
    max_source_megapixels: int = setting(64, "megapixels that a source picture may have")
    configs: str = setting("", "folder with configurations for checkpoints in one file; `configs` in the home if empty")
    step_timeout: int = setting(900, "seconds without progress after which a worker counts as hung")
    on_stop: str = setting("give_back", "what a stopping worker does with its running picture", ON_STOP)
    disk_reserve_mb: int = setting(500, "megabytes kept free on the disk; with less the queue waits")
    idle_unload: int = setting(600, "idle seconds after which a worker takes the model out of memory")
    keep_jobs_days: int = setting(90, "days that ended jobs stay in the list; 0 keeps them for ever")
    keep_trash_days: int = setting(30, "days that a picture stays in the trash; 0 keeps it for ever")
    stop_grace: float = setting(0.8, "seconds a stopping worker may take to reach the next step")
    fake_step_seconds: float = setting(0.02, "seconds a step of the fake engine takes")
    log_level: str = setting("info", "how much the logs tell", LOG_LEVELS)

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None, **overrides: Any) -> Self:
        """Read the settings; ``overrides`` come from the command line, None meaning not given.

        Raises InvalidParams naming the setting and where it was read.
        """
        environ = os.environ if environ is None else environ
        default_home = platformdirs.user_data_path("diffusion-local", appauthor=False)
        home = Path(overrides.get("home") or environ.get(PREFIX + "HOME") or default_home).expanduser().absolute()
        values: dict[str, Any] = {}
        sources = [
            (read_toml(home / "config.toml"), "config.toml: {}"),
            ({n: environ[PREFIX + n.upper()] for n in names() if PREFIX + n.upper() in environ}, PREFIX + "{upper}"),
            ({name: value for name, value in overrides.items() if value is not None}, "--{}"),
        ]
        for source, where in sources:
            for name, value in source.items():
                if name in values or name in names():
                    values[name] = parse(name, value, where.format(name, upper=name.upper()))
        local_zone(values.get("timezone", ""))  # a zone there is not is told now
        return cls(**values | {"home": home})

    def to_env(self) -> dict[str, str]:
        """The environment from which a child process loads equal settings."""
        return {PREFIX + name.upper(): str(getattr(self, name)) for name in names()}

    def child_environ(self) -> dict[str, str]:
        """This process's environment with these settings, for a child."""
        return {**os.environ, **self.to_env()}

    @property
    def zone(self) -> tzinfo:
        """The zone in which people's times are read. Raises InvalidParams."""
        return local_zone(self.timezone)

    @property
    def database(self) -> Path:
        return self.home / "app.db"

    @property
    def queue_database(self) -> Path:
        return self.home / "queue.db"

    @property
    def gallery(self) -> Path:
        return self.home / "gallery"

    @property
    def previews(self) -> Path:
        return self.home / "previews"

    @property
    def models(self) -> Path:
        return self.home / "models"

    @property
    def loras(self) -> Path:
        return self.home / "loras"

    @property
    def vae(self) -> Path:
        return self.home / "vae"

    @property
    def upscalers(self) -> Path:
        return self.home / "upscalers"

    @property
    def embeddings(self) -> Path:
        return self.home / "embeddings"

    @property
    def configs_folder(self) -> Path:
        return Path(self.configs).expanduser().absolute() if self.configs else self.home / "configs"

    @property
    def sources(self) -> Path:
        return self.home / "sources"

    @property
    def wildcards(self) -> Path:
        return self.home / "wildcards"

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def locks(self) -> Path:
        return self.home / "locks"

    @property
    def strays(self) -> Path:
        return self.home / "strays"

    @property
    def starter(self) -> Path:
        return assets() / "starter"

    def make_folders(self) -> None:
        data = (self.gallery, self.previews, self.sources, self.wildcards, self.logs, self.locks)
        for folder in (self.home, *data, self.models, self.loras, self.vae, self.upscalers, self.embeddings):
            folder.mkdir(parents=True, exist_ok=True)


def names() -> tuple[str, ...]:
    return tuple(f.name for f in fields(Settings))


def parse(name: str, value: Any, where: str) -> Any:
    """One setting's value in its own type. Raises InvalidParams naming where it was read."""
    spec = next(f for f in fields(Settings) if f.name == name)
    if spec.default is MISSING:
        return Path(value)
    try:
        parsed = type(spec.default)(value)
    except (TypeError, ValueError):
        raise InvalidParams(where, f"must be of type {type(spec.default).__name__} (got {value!r}).") from None
    choices = spec.metadata["choices"]
    if choices and parsed not in choices:
        raise InvalidParams(where, f"must be one of {', '.join(choices)} (got {value!r}).")
    if isinstance(parsed, int | float) and not 0 <= parsed < math.inf:
        raise InvalidParams(where, f"must not be negative or infinite (got {value!r}).")
    return parsed


def read_toml(path: Path) -> dict[str, Any]:
    """The settings of a config file; an unknown name is an error, as it is nearly always a slip of the pen."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidParams("config.toml", f"cannot be read: {error}") from None
    for name in values:
        if name not in names() or name == "home":
            raise InvalidParams(f"config.toml: {name}", f"is not a setting. Known: {', '.join(names()[1:])}.")
    return values


@lru_cache(maxsize=8)
def local_zone(name: str) -> tzinfo:
    """A zone by name, or this machine's with all its rules for daylight saving. Raises InvalidParams."""
    chosen = name or os.environ.get("TZ", "").removeprefix(":")
    try:
        if chosen:
            return ZoneInfo(chosen)
        with Path("/etc/localtime").open("rb") as file:
            return ZoneInfo.from_file(file)
    except (OSError, ValueError, KeyError):  # ZoneInfoNotFoundError is a KeyError
        if name:
            raise InvalidParams("timezone", f"must be a zone such as Europe/Berlin (got {name!r}).") from None
    return datetime.now().astimezone().tzinfo or UTC  # Windows: its offset of today


def assets() -> Path:
    """Starter model, icons and css: inside an installed package, beside it in a checkout."""
    package = Path(__file__).parent
    inside = package / "assets"
    return inside if inside.is_dir() else package.parent / "assets"


def hub_cache() -> Path:
    """Where Hugging Face's programs keep what they downloaded; only read."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache/huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or home / "hub")


def go_offline(home: Path) -> None:
    """Keep gradio and the hub libraries from calling out; call before they are imported.

    gradio reads these when it is imported and compares with the exact text ``False``.
    """
    os.environ.update(
        GRADIO_ANALYTICS_ENABLED="False",
        GRADIO_TEMP_DIR=str(home / "tmp"),
        HF_HUB_OFFLINE="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        DO_NOT_TRACK="1",
        TOKENIZERS_PARALLELISM="false",
    )
