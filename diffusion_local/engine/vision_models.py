"""Models that look at pictures, run by `vision` in a process of its own, so that this one needs no torch."""

import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image as PIL

from diffusion_local.errors import InvalidParams, Overloaded, echo
from diffusion_local.messages import message

#: Models that fit, by task and part of the task's folder: repositories of the Hugging Face hub, or what it is.
SUGGESTED = {
    "depth": {"": "depth-anything/Depth-Anything-V2-Small-hf"},
    "normal": {"": "depth-anything/Depth-Anything-V2-Small-hf"},
    "openpose": {"detector": "PekingU/rtdetr_r50vd_coco_o365", "pose": "usyd-community/vitpose-base-simple"},
    "segment": {"": "openmmlab/upernet-convnext-small"},
    "detect": {"": "IDEA-Research/grounding-dino-tiny"},
    "caption": {"": "Salesforce/blip-image-captioning-base"},
    "background": {"": "U²-Net or IS-Net"},
}
#: Folders that are not named like the task.
FOLDERS = {"normal": "depth", "detect": "detector"}
#: Tasks whose model is a file of any name, by its suffix.
BY_SUFFIX = {"background": (".safetensors", ".pth", ".pt")}
#: Kinds of detectors that find anything that words name; others find the classes of their configuration.
OPEN_VOCABULARY = ("owlvit", "owlv2", "grounding-dino", "mm-grounding-dino")
#: Classes that an error names.
MAX_NAMED = 20
#: Files of a model by which a change is noticed.
MODEL_FILES = ("config.json", "model.safetensors", "model.safetensors.index.json", "preprocessor_config.json")
#: Seconds for one picture, with loading the model, and seconds of waiting for the picture before.
TIMEOUT_SECONDS, WAIT_SECONDS = 300.0, 120.0
#: Seconds between two calls of what may end a look at a picture.
CHECK_SECONDS = 0.25
#: Its errors are shortened to so many characters.
MAX_ERROR_CHARS = 300
#: Threads that may wait for their turn.
MAX_WAITING = 8
#: Called now and then during a look at a picture; what it raises ends the look.
Check = Callable[[], None]
_exclusive = threading.RLock()
_waiting = threading.BoundedSemaphore(MAX_WAITING)


def unchecked() -> None:
    """A look that nobody ends."""


@dataclass(frozen=True, slots=True)
class VisionModel:
    """The model of a task. ``version``: modification times (ns) and sizes of its files."""

    kind: str
    folder: Path
    version: tuple[tuple[int, int], ...]


def find_model(kind: str, folders: Path, field: str) -> VisionModel:
    """The model of a task below ``folders``. Raises InvalidParams for ``field`` with what is missing."""
    folder = folders / FOLDERS.get(kind, kind)
    if suffixes := BY_SUFFIX.get(kind):
        paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in suffixes)[:1]
        if not paths:
            raise InvalidParams(field, message("weights_missing", type=str(kind), folder=folder_of(kind)))
    else:
        paths = [folder / part / name for part in SUGGESTED[kind] for name in MODEL_FILES]
    for part, example in SUGGESTED[kind].items() if not suffixes else ():
        if not (folder / part / MODEL_FILES[0]).is_file():
            place = f"{folder_of(kind)}/{part}".removesuffix("/")
            raise InvalidParams(field, message("preprocessor_model", type=str(kind), folder=place, example=example))
    found = [path.stat() for path in paths if path.is_file()]
    return VisionModel(str(kind), folder, tuple((each.st_mtime_ns, each.st_size) for each in found))


def available(folders: Path) -> list[str]:
    """Tasks that have a model below ``folders``."""
    found = []
    for kind in SUGGESTED:
        with suppress(InvalidParams):
            find_model(kind, folders, kind)
            found.append(kind)
    return found


def check_model(folders: Path, kind: str, field: str, word: str) -> None:
    """Raise InvalidParams for ``field`` unless there is a model for a task, which finds the word if it is not empty."""
    model = find_model(kind, folders, field)
    classes = classes_of(model) if word else ()
    if classes and not any(names_class(word, each) for each in classes):
        raise InvalidParams(field, message("detector_word", known=list(classes[:MAX_NAMED]), got=echo(word)))


@lru_cache(maxsize=16)
def classes_of(model: VisionModel) -> tuple[str, ...]:
    """The classes of a detector in lower case, sorted; none if it finds any word, or if its file cannot be read."""
    try:
        config = json.loads((model.folder / MODEL_FILES[0]).read_text(encoding="utf-8"))
        names = () if config.get("model_type") in OPEN_VOCABULARY else config["id2label"].values()
        return tuple(sorted({str(each).lower() for each in names}))
    except (OSError, ValueError, KeyError, AttributeError, RecursionError):
        return ()


def names_class(word: str, label: str) -> bool:
    """Whether a word names a class, in the singular or the plural."""
    wanted, known = word.lower().strip(), label.strip()
    return wanted in (known, f"{known}s", *known.replace("_", " ").split()) or f"{wanted}s" == known


def folder_of(kind: str) -> str:
    """The folder of a task's model, below the home."""
    return f"preprocessors/{FOLDERS.get(kind, kind)}"


def preprocess(picture: PIL.Image, model: VisionModel, field: str, check: Check = unchecked) -> PIL.Image:
    """The picture that a model makes of an RGB picture: the same size. Raises as `answer`."""
    with PIL.open(io.BytesIO(run_model(picture, model, field, check=check)), formats=("PNG",)) as made:
        made.load()
        return made


@dataclass(frozen=True, slots=True)
class Detection:
    """Something in a picture: its box (left, top, right, bottom in pixels), and how sure the detector is, 0 to 1."""

    box: tuple[int, int, int, int]
    score: float


def detect(
    picture: PIL.Image, model: VisionModel, field: str, word: str, least: float, check: Check = unchecked
) -> list[Detection]:
    """What a word names in an RGB picture, at least so sure, the surest first. Raises as `answer`."""
    told = json.loads(run_model(picture, model, field, str(least), word, check=check))
    return [Detection(tuple(each["box"]), each["score"]) for each in told]


def describe(picture: PIL.Image, model: VisionModel, field: str, check: Check = unchecked) -> str:
    """What an RGB picture shows, in words. Raises as `answer`."""
    return str(json.loads(run_model(picture, model, field, check=check)))


@contextmanager
def exclusive(check: Check = unchecked) -> Iterator[None]:
    """Wait until no other thread has a model look at a picture; a thread may enter again.

    Raises Overloaded after WAIT_SECONDS, and at once if MAX_WAITING threads wait: they are
    those that serve requests.
    Also raises what ``check`` raises, which is called meanwhile.
    """
    if not _exclusive.acquire(blocking=False):
        with waiting():
            until = time.monotonic() + WAIT_SECONDS
            while not _exclusive.acquire(timeout=CHECK_SECONDS):
                check()
                if time.monotonic() > until:
                    raise Overloaded(message("preprocessor_busy"))
    try:
        yield
    finally:
        _exclusive.release()


@contextmanager
def waiting() -> Iterator[None]:
    """Count as a thread that waits for a look. Raises Overloaded if MAX_WAITING wait."""
    if not _waiting.acquire(blocking=False):
        raise Overloaded(message("preprocessor_busy"))
    try:
        yield
    finally:
        _waiting.release()


def run_model(picture: PIL.Image, model: VisionModel, field: str, *words: str, check: Check = unchecked) -> bytes:
    """What a model says of a picture. One looks at a time, on the CPU.

    ``check`` is called every CHECK_SECONDS; what it raises ends the model's process and is raised. Raises InvalidParams
    for ``field`` if the model fails, and Overloaded. A process that is killed from outside, as for want of memory, is
    started once more.
    """
    sent = io.BytesIO()
    picture.save(sent, "PNG", compress_level=1)
    command = [sys.executable, "-m", "diffusion_local.engine.vision", model.kind, str(model.folder), *words]
    with exclusive(check):
        ended = look(command, sent.getvalue(), check)
        if ended.returncode < 0:
            ended = look(command, sent.getvalue(), check)
    if ended.returncode != 0:
        said = ended.stderr.decode(errors="replace").strip().replace(str(model.folder), folder_of(model.kind))
        last = said.rpartition("\n")[2][:MAX_ERROR_CHARS]
        if ended.returncode < 0:
            last = f"its process was killed by signal {-ended.returncode}"
        raise InvalidParams(
            field, message("preprocessor_failed", type=model.kind, folder=folder_of(model.kind), problem=last)
        )
    return ended.stdout


def look(command: list[str], sent: bytes, check: Check) -> subprocess.CompletedProcess[bytes]:
    """Run a command with bytes for its standard input, for at most TIMEOUT_SECONDS; ends it if ``check`` raises."""
    until = time.monotonic() + TIMEOUT_SECONDS
    given: bytes | None = sent
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            while True:
                try:
                    told, problem = process.communicate(given, timeout=CHECK_SECONDS)
                    return subprocess.CompletedProcess(command, process.returncode, told, problem)
                except subprocess.TimeoutExpired:
                    given = None  # the rest of it is sent by the next call
                    check()
                    if time.monotonic() > until:
                        process.kill()
                        process.communicate()
                        return subprocess.CompletedProcess(
                            command, 1, b"", f"more than {TIMEOUT_SECONDS:.0f} s".encode()
                        )
        except BaseException:
            process.kill()
            raise
