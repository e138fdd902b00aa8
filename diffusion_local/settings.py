"""Settings of one installation, read once and passed down. The only module that reads the environment.

Precedence: command line, then ``DIFFUSION_LOCAL_*``, then ``config.toml`` in the home, then the default.
"""

import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from pathlib import Path
from typing import Any, Self
from zoneinfo import ZoneInfo

import platformdirs

from diffusion_local.errors import InvalidParams, echo
from diffusion_local.messages import DEFAULT_LANGUAGE, LANGUAGES, message
from diffusion_local.options.types import RUNGS
from diffusion_local.paths import Folders, expanded
from diffusion_local.variables import refuse_misspelt

ENVIRONMENT_PREFIX = "DIFFUSION_LOCAL_"
ORIGINS = ENVIRONMENT_PREFIX + "ORIGINS"  # from a parent process to its child
#: Variables that name the locale of a terminal, in the order in which they count.
LOCALE_VARIABLES = ("LC_ALL", "LC_MESSAGES", "LANG")
ENGINES = ("diffusers", "fake")
DEVICES = ("auto", "cuda", "mps", "cpu")
ON_STOP = ("give_back", "finish")
SPEEDS = ("exact", "fast", "fastest")
PRECISIONS = ("auto", "stored", "fp32", "bf16", "fp16", "fp8", "int8", "nf4")
IMAGE_FORMATS = ("png", "webp", "jpeg")
AUTH = ("accounts", "none")
SHARE = ("shared", "own")
LOG_LEVELS = ("debug", "info", "warning", "error")


def setting(default: Any, doc: str, choices: tuple[str, ...] = (), file_only: bool = False) -> Any:
    """Declare a setting. ``file_only``: it runs commands or is secret, and is therefore read only from config.toml."""
    return field(default=default, metadata={"doc": doc, "choices": choices, "file_only": file_only})


def hook(when: str) -> Any:
    """Declare a command setting, a list of arguments; see ``notify.hooks``."""
    return setting((), f"command to run {when}", file_only=True)


@dataclass(frozen=True, slots=True)
class Settings(Folders):
    home: Path = field(metadata={"doc": "folder that holds everything: databases, gallery, models, logs"})
    host: str = setting("127.0.0.1", "address to listen on; 127.0.0.1 is this machine only")
    port: int = setting(7860, "port of the page and the API; 0 takes a free one")
    allowed_hosts: str = setting("", "further host names under which the page may be opened, comma-separated")
    public_url: str = setting("", "URL under which others reach the server, used in webhooks; host and port if empty")
    root_path: str = setting("", "path under which a reverse proxy serves the studio, such as /studio")
    trusted_proxies: str = setting("", "addresses or networks whose forwarded headers are trusted")
    tls_cert: str = setting("", "certificate file (PEM); together with its key it enables HTTPS")
    tls_key: str = setting("", "key file of the certificate (PEM)")
    cors_origins: str = setting("", "origins of other pages that may call the API with a token, comma-separated")
    writes_per_second: float = setting(20.0, "requests per second and address that may change something; 0: no limit")
    mdns: str = setting("off", "whether the server announces itself on the network by mDNS", ("off", "on"))
    server: str = setting("", "URL of a studio that commands use instead of this machine's")
    token: str = setting("", "your token for that studio")
    auth: str = setting(
        "accounts", "who may use the server: accounts, once there is one; none lets everyone do everything", AUTH
    )
    share: str = setting("shared", "whether accounts see the jobs and pictures of everyone, or only their own", SHARE)
    user_max_queued: int = setting(0, "jobs that an account may have waiting; 0: no limit")
    user_max_per_day: int = setting(0, "pictures that an account may submit a day (UTC); 0: no limit")
    user_max_pixels: int = setting(0, "largest picture of an account, width times height; 0: no limit")
    session_days: int = setting(30, "days without a visit after which a browser must sign in again")
    password_memory_kb: int = setting(65_536, "memory for checking a password (argon2id), in KiB")
    engine: str = setting("diffusers", "what makes the pictures; fake draws test cards without a model", ENGINES)
    device: str = setting("auto", "device of the worker", DEVICES)
    threads: int = setting(0, "CPU threads of a worker; 0 leaves it to torch")
    memory: str = setting(
        "auto",
        "how models are held in memory: auto, or the memory mode to start with",
        ("auto", *RUNGS),
    )
    memory_limit_gb: float = setting(0.0, "maximum GPU memory of a worker, in GiB; 0 is all of it")
    cuda_graphs: str = setting(
        "auto", "whether models use CUDA graphs on an NVIDIA GPU: faster, with somewhat more memory", ("auto", "off")
    )
    precision: str = setting(
        "auto",
        "number format of models: auto chooses by device and model, stored keeps that of the file, fp8, int8 and nf4"
        " store denoisers in 8 or 4 bits",
        PRECISIONS,
    )
    speed: str = setting(
        "fast",
        "exact: bit for bit as diffusers computes; fast: fused GPU kernels, which round differently; fastest: also"
        " 8-bit products for SDXL",
        SPEEDS,
    )
    share_gpus: str = setting(
        "off",
        "auto: an idle GPU computes half of each step of a long picture on an equal GPU of the same machine",
        ("auto", "off"),
    )
    share_gpus_seconds: float = setting(
        5.0, "seconds that a picture must be expected to take on one GPU for another one to help"
    )
    batch_size: str = setting(
        "auto",
        "maximum pictures of prompt lists in one pass of the model; auto uses what is measured to be faster on a GPU",
        ("auto", *map(str, range(1, 17))),
    )
    expand_prompts: str = setting(
        "random",
        "how {a|b} and __name__ in a prompt are expanded: random draws one, all makes each, no leaves them",
        ("random", "all", "no"),
    )
    model_aliases: str = setting(
        "dall-e-2, dall-e-3, gpt-image-1, gpt-image-1-mini, gpt-image-1.5, gpt-image-2, dall-e-*, gpt-image-*, "
        "chatgpt-image-*",
        "further names of models for programs, as name=model, comma-separated; a name alone means the default model",
    )
    fit: str = setting(
        "nearest",
        "what the OpenAI, A1111 and Replicate APIs do with sizes and samplers that a model lacks: nearest adapts them,"
        " strict refuses them",
        ("nearest", "strict"),
    )
    max_count: int = setting(100, "maximum pictures per submit")
    max_queued: int = setting(100_000, "maximum waiting jobs")
    database: str = setting(
        "", "database of the queue and the gallery, such as postgresql://user@host/name; app.db in the home if empty"
    )
    gallery: str = setting("", "bucket of the pictures, such as s3://bucket/prefix; folders of the home if empty")
    queue: str = setting(
        "", "URL of the queue that wakes workers, such as redis://host:6379/0; queue.db in the home if empty"
    )
    model_streak: int = setting(16, "pictures in a row from a loaded model before another model gets its turn")
    timezone: str = setting("", "time zone of windows and times, such as Europe/Berlin; empty is this machine's own")
    max_list_mb: int = setting(20, "maximum size of a prompt list, in megabytes")
    max_source_mb: int = setting(50, "maximum size of a source picture, in megabytes")
    max_source_megapixels: int = setting(64, "maximum size of a source picture, in megapixels")
    configs: str = setting("", "folder with configurations for checkpoints in one file; `configs` in the home if empty")
    hub_endpoint: str = setting("", "where models are downloaded from; HF_ENDPOINT or huggingface.co if empty")
    hub_token: str = setting("", "access token for gated models; HF_TOKEN or the one of `hf auth login` if empty")
    civitai_endpoint: str = setting("", "where versions on Civitai are downloaded from; https://civitai.com if empty")
    civitai_token: str = setting("", "API key for files on Civitai that are only for signed-in users")
    max_download_gb: int = setting(100, "maximum size of a file downloaded by URL, in gigabytes")
    download_allow_private: str = setting(
        "", "internal hosts and networks, such as 192.168.1.0/24, that files may be downloaded from"
    )
    image_format: str = setting("png", "file format of new pictures; PNG is lossless", IMAGE_FORMATS)
    preview_every: int = setting(1, "steps between two previews of a running picture; 0 draws none")
    preview_vae: str = setting(
        "auto",
        "whether a small VAE (TAESD) in the home draws the previews of models with its latents; auto does so on a GPU",
        ("auto", "on", "off"),
    )
    sidecar: str = setting("off", "whether each picture's settings are also saved beside it, as .json", ("off", "on"))
    step_timeout: int = setting(900, "seconds without progress after which a worker counts as hung")
    on_stop: str = setting("give_back", "what a stopping worker does with its running picture", ON_STOP)
    disk_reserve_mb: int = setting(500, "megabytes to keep free on the disk; with less the queue waits")
    idle_unload: int = setting(600, "idle seconds after which a worker unloads the model")
    lease_seconds: int = setting(30, "seconds of silence after which a worker on another machine counts as lost")
    share_models: str = setting(
        "off", "whether workers on other machines may fetch model files that they lack from this studio", ("off", "on")
    )
    spool_mb: int = setting(
        1000, "megabytes of finished pictures that a worker keeps while its studio on another machine is away"
    )
    keep_jobs_days: int = setting(90, "days that ended jobs stay in the list; 0 keeps them forever")
    keep_trash_days: int = setting(30, "days that a picture stays in the trash; 0 keeps it forever")
    keep_sources_days: int = setting(30, "days that an unused source picture is kept; 0 keeps it forever")
    prompt_helper_url: str = setting(
        "", "OpenAI-compatible address of a language model for prompts, such as http://localhost:11434/v1; off if empty"
    )
    prompt_helper_model: str = setting("", "model to use there, such as llama3.2")
    prompt_helper_key: str = setting("", "API key for that address", file_only=True)
    webhooks: str = setting("", "addresses that receive every event, separated by spaces or commas")
    webhook_events: str = setting("batch.done, job.failed, queue.idle, queue.paused", "the events that they receive")
    webhook_allow_private: str = setting(
        "", "internal hosts and networks, such as 192.168.1.0/24, that webhooks may reach"
    )
    webhook_secret: str = setting(
        "", "secret that signs webhooks; if empty, one is created in the home", file_only=True
    )
    on_batch_done: tuple[str, ...] = hook("when the last picture of a batch has ended")
    on_job_failed: tuple[str, ...] = hook("when a picture fails")
    on_queue_idle: tuple[str, ...] = hook("when the queue has become empty")
    on_queue_paused: tuple[str, ...] = hook("when the queue is paused or on hold")
    gpu_max_temp: int = setting(0, "GPU temperature in degrees Celsius above which prompt lists pause; 0 is no limit")
    gpu_share: str = setting("ignore", "what prompt lists do while another program uses a GPU", ("ignore", "wait"))
    gpu_share_mb: int = setting(
        1000,
        "megabytes of GPU memory that another program may use before it counts as using the GPU",
    )
    when_done: str = setting(
        "nothing", "what the machine does once its lists are done", ("nothing", "sleep", "shutdown")
    )
    when_done_minutes: int = setting(10, "minutes that the queue must be empty before that")
    report_at: str = setting("07:00", "local time of the nightly report; empty writes none")
    hook_timeout: int = setting(60, "maximum seconds for such a command")
    stop_grace: float = setting(0.8, "seconds a stopping worker may take to reach the next step")
    fake_step_seconds: float = setting(0.02, "seconds per step of the fake engine")
    log_level: str = setting("info", "how detailed the logs are", LOG_LEVELS)
    #: Where each given setting was read: ``file``, ``environment`` or ``command``. Not a setting itself.
    origins: dict[str, str] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None, **overrides: Any) -> Self:
        """Read the settings. ``overrides``: from the command line; None means not given.

        Raises InvalidParams naming the setting and where it was read.
        """
        environ = os.environ if environ is None else environ
        default_home = platformdirs.user_data_path("diffusion-local", appauthor=False)
        home = user_path("home", overrides.get("home") or environ.get(ENVIRONMENT_PREFIX + "HOME") or default_home)
        values: dict[str, Any] = {}
        origins: dict[str, str] = {}
        # A parent process passes all of its settings in the environment, together with their origins.
        inherited = dict(each.split("=", 1) for each in environ.get(ORIGINS, "").split() if "=" in each)
        refuse_misspelt(environ, ENVIRONMENT_PREFIX, names())
        sources = [
            (read_toml(home / "config.toml"), "config.toml: {}", "file"),
            (
                {
                    n: environ[ENVIRONMENT_PREFIX + n.upper()]
                    for n in names()
                    if ENVIRONMENT_PREFIX + n.upper() in environ
                },
                ENVIRONMENT_PREFIX + "{upper}",
                "environment",
            ),
            ({name: value for name, value in overrides.items() if value is not None}, "--{}", "command"),
        ]
        for source, where, origin in sources:
            for name, value in source.items():
                if name in names():
                    origin_text = where.format(name, upper=name.upper())
                    if spec_of(name).metadata.get("file_only") and source is not sources[0][0]:
                        raise InvalidParams(origin_text, message("setting_only_file"))
                    values[name] = parse(name, value, origin_text)
                    origins[name] = inherited.get(name, "") if origin == "environment" and inherited else origin
        local_zone(values.get("timezone", ""))  # report an unknown time zone now
        return cls(**values | {"home": home, "origins": {name: each for name, each in origins.items() if each}})

    def to_env(self) -> dict[str, str]:
        """Environment variables from which a child process loads equal settings. It also reads the same config.toml."""
        passed = [each.name for each in specs() if not each.metadata.get("file_only")]
        origins = " ".join(f"{name}={origin}" for name, origin in {"home": "environment", **self.origins}.items())
        return {ORIGINS: origins} | {ENVIRONMENT_PREFIX + name.upper(): str(getattr(self, name)) for name in passed}

    def child_environ(self) -> dict[str, str]:
        """This process's environment with these settings, for a child."""
        return {**os.environ, **self.to_env()}

    @property
    def zone(self) -> tzinfo:
        """The time zone of users' local times. Raises InvalidParams."""
        return local_zone(self.timezone)

    @property
    def configs_folder(self) -> Path:
        return user_path("configs", self.configs) if self.configs else self.home / "configs"


def user_path(name: str, path: str | Path) -> Path:
    """The absolute path of a setting, with ``~`` expanded. Raises InvalidParams for an unknown user's home."""
    found = expanded(path)
    if found.parts[:1] and found.parts[0].startswith("~"):
        raise InvalidParams(name, message("unknown_user", path=str(path)))
    return found.absolute()


def terminal_language() -> str:
    """Code of the language in the terminal's locale; the first one of the messages if it is none of theirs."""
    locale = next((value for name in LOCALE_VARIABLES if (value := os.environ.get(name))), "")
    return next((each for each in LANGUAGES if locale.lower().startswith(each)), DEFAULT_LANGUAGE)


def specs() -> list[Field[Any]]:
    """The fields that are settings, in order."""
    return [each for each in fields(Settings) if each.name != "origins"]


def names() -> tuple[str, ...]:
    return tuple(each.name for each in specs())


def spec_of(name: str) -> Field[Any]:
    return next(each for each in specs() if each.name == name)


def parse(name: str, value: Any, where: str) -> Any:
    """Convert one setting's value to its type. Raises InvalidParams naming where it was read."""
    spec = spec_of(name)
    if spec.default is MISSING:
        return Path(value)
    if isinstance(spec.default, tuple):
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise InvalidParams(where, message("setting_texts", example='["program", "an argument"]', got=echo(value)))
        return tuple(value)
    try:
        parsed = type(spec.default)(value)
        if isinstance(value, bool | list | dict) or (isinstance(parsed, int) and parsed != float(value)):
            raise TypeError  # the last has a fraction
    except (TypeError, ValueError, OverflowError):
        raise InvalidParams(where, message("setting_type", type=type(spec.default).__name__, got=echo(value))) from None
    choices = spec.metadata["choices"]
    if choices and parsed not in choices:
        raise InvalidParams(where, message("one_of", known=list(choices), got=echo(value)))
    if isinstance(parsed, int | float) and not 0 <= parsed < math.inf:
        raise InvalidParams(where, message("setting_negative", got=echo(value)))
    return parsed


def read_toml(path: Path) -> dict[str, Any]:
    """Read the settings of a config file. Raises InvalidParams, also for an unknown name, which is usually a typo."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # Notepad writes a byte order mark
    except FileNotFoundError:
        return {}
    except NotADirectoryError:
        raise InvalidParams("home", message("home_is_file", path=path.parent)) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidParams("config.toml", message("cannot_be_read", error=error)) from None
    for name in values:
        if name not in names() or name == "home":
            raise InvalidParams(f"config.toml: {name}", message("setting_name", known=list(names()[1:])))
    return values


@lru_cache(maxsize=8)
def local_zone(name: str) -> tzinfo:
    """A time zone by name, or this machine's with its daylight-saving rules. Raises InvalidParams."""
    chosen = name or os.environ.get("TZ", "").removeprefix(":")
    try:
        if chosen:
            return ZoneInfo(chosen)
        with Path("/etc/localtime").open("rb") as file:
            return ZoneInfo.from_file(file)
    except (OSError, ValueError, KeyError):  # ZoneInfoNotFoundError is a KeyError
        if name:
            raise InvalidParams("timezone", message("zone", got=echo(name))) from None
    return datetime.now().astimezone().tzinfo or UTC  # Windows: only the current offset


def hub_cache() -> Path:
    """The download cache of Hugging Face's programs, which is only read."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache/huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or home / "hub")


def hub_endpoint(settings: Settings) -> str:
    return settings.hub_endpoint or os.environ.get("HF_ENDPOINT") or "https://huggingface.co"


def civitai_endpoint(settings: Settings) -> str:
    return settings.civitai_endpoint or "https://civitai.com"


def hub_token(settings: Settings) -> str:
    """The hub token: the setting, else the one of Hugging Face's programs, else "". Never log or show it."""
    token = settings.hub_token or os.environ.get("HF_TOKEN", "")
    if token:
        return token.strip()
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache/huggingface")
    try:
        return Path(os.environ.get("HF_TOKEN_PATH") or home / "token").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def go_offline(home: Path) -> None:
    """Keep gradio and the hub libraries off the network and silence their warnings; call before importing them.

    gradio reads these variables at import and compares them with the exact text ``False``.
    """
    os.environ.update(
        GRADIO_ANALYTICS_ENABLED="False",
        GRADIO_TEMP_DIR=str(home / "tmp"),
        HF_HUB_OFFLINE="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        DO_NOT_TRACK="1",
        TOKENIZERS_PARALLELISM="false",
        TRANSFORMERS_VERBOSITY="error",
    )


def keep_kernels(folder: Path) -> None:
    """Make Triton and torch cache compiled kernels in ``folder``, unless the environment names another one; call before
    importing them.
    """
    os.environ.setdefault("TRITON_CACHE_DIR", str(folder))
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder / "inductor"))


def inherited() -> dict[str, str]:
    """This process's environment without our own settings, for starting other programs."""
    return {name: value for name, value in os.environ.items() if not name.startswith(ENVIRONMENT_PREFIX)}
