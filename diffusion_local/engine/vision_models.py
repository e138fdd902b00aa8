"""Vision models (depth, pose, detection, captions), run by `vision` in a separate process. Torch-free."""

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
from typing import IO

from PIL import Image as PIL

from diffusion_local.errors import InvalidParams, Overloaded, echo
from diffusion_local.messages import message

#: Suggested models by task and subfolder of the task's folder: Hugging Face repositories, or names of architectures.
SUGGESTED = {
    "depth": {"": "depth-anything/Depth-Anything-V2-Small-hf"},
    "normal": {"": "depth-anything/Depth-Anything-V2-Small-hf"},
    "openpose": {"detector": "PekingU/rtdetr_r50vd_coco_o365", "pose": "usyd-community/vitpose-base-simple"},
    "segment": {"": "openmmlab/upernet-convnext-small"},
    "detect": {"": "IDEA-Research/grounding-dino-tiny"},
    "caption": {"": "Salesforce/blip-image-captioning-base"},
    "background": {"": "U²-Net or IS-Net"},
}
#: Folders of tasks that are not named after the task.
FOLDER_BY_TASK = {"normal": "depth", "detect": "detector"}
#: Tasks whose model is a single file of any name with one of these suffixes.
BY_SUFFIX = {"background": (".safetensors", ".pth", ".pt")}
#: Types of open-vocabulary detectors. Others detect only the classes listed in their configuration.
OPEN_VOCABULARY = ("owlvit", "owlv2", "grounding-dino", "mm-grounding-dino")
#: Maximum number of classes listed in an error.
MAX_NAMED = 20
#: Files whose times and sizes identify the version of a model.
MODEL_FILES = ("config.json", "model.safetensors", "model.safetensors.index.json", "preprocessor_config.json")
#: Maximum seconds for one picture including loading the model, and for waiting for its turn.
TIMEOUT_SECONDS, WAIT_SECONDS = 300.0, 120.0
#: Seconds between two calls of ``check``.
CHECK_SECONDS = 0.25
#: Maximum length of a reported error in characters.
MAX_ERROR_CHARS = 300
#: Maximum number of threads waiting for their turn.
MAX_WAITING = 8
#: Called periodically while a model runs. An exception that it raises stops the model.
Check = Callable[[], None]
_exclusive = threading.RLock()
_waiting = threading.BoundedSemaphore(MAX_WAITING)


def unchecked() -> None:
    """A check that never stops the model."""


@dataclass(frozen=True, slots=True)
class VisionModel:
    """The model of a task. ``version``: modification time (ns) and size in bytes of each of its files."""

    kind: str
    folder: Path
    version: tuple[tuple[int, int], ...]


def find_model(kind: str, folders: Path, field: str) -> VisionModel:
    """Find the model of a task below ``folders``. Raises InvalidParams for ``field``, naming the missing files."""
    folder = folders / FOLDER_BY_TASK.get(kind, kind)
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
    """Tasks for which there is a model below ``folders``."""
    tasks = []
    for kind in SUGGESTED:
        with suppress(InvalidParams):
            find_model(kind, folders, kind)
            tasks.append(kind)
    return tasks


def check_model(folders: Path, kind: str, field: str, word: str) -> None:
    """Raise InvalidParams for ``field`` unless the task has a model, which can detect ``word`` if that is not empty."""
    model = find_model(kind, folders, field)
    classes = classes_of(model) if word else ()
    if classes and not any(names_class(word, each) for each in classes):
        raise InvalidParams(field, message("detector_word", known=list(classes[:MAX_NAMED]), got=echo(word)))


@lru_cache(maxsize=16)
def classes_of(model: VisionModel) -> tuple[str, ...]:
    """A detector's classes in lower case, sorted. Empty for an open vocabulary, or if the file cannot be read."""
    try:
        config = json.loads((model.folder / MODEL_FILES[0]).read_text(encoding="utf-8"))
        names = () if config.get("model_type") in OPEN_VOCABULARY else config["id2label"].values()
        return tuple(sorted({str(each).lower() for each in names}))
    except (OSError, ValueError, KeyError, AttributeError, RecursionError):
        return ()


def names_class(word: str, label: str) -> bool:
    """Whether a word is the name of a class, or one word of it, in the singular or plural."""
    target, known = word.lower().strip(), label.strip()
    return target in (known, f"{known}s", *known.replace("_", " ").split()) or f"{target}s" == known


def folder_of(kind: str) -> str:
    """The folder of a task's model, relative to the home folder."""
    return f"preprocessors/{FOLDER_BY_TASK.get(kind, kind)}"


def preprocess(picture: PIL.Image, model: VisionModel, field: str, check: Check = unchecked) -> PIL.Image:
    """Run a model that turns an RGB picture into another of the same size. Raises the errors of `run_model`."""
    with PIL.open(io.BytesIO(run_model(picture, model, field, check=check)), formats=("PNG",)) as made:
        made.load()
        return made


@dataclass(frozen=True, slots=True)
class Detection:
    """An object in a picture: its box (left, top, right, bottom in pixels) and the detector's confidence (0 to 1)."""

    box: tuple[int, int, int, int]
    score: float


def detect(
    picture: PIL.Image, model: VisionModel, field: str, word: str, least: float, check: Check = unchecked
) -> list[Detection]:
    """Objects in an RGB picture that a word names, the highest score first. ``least``: minimum score.

    Raises the errors of `run_model`.
    """
    answer = json.loads(run_model(picture, model, field, str(least), word, check=check))
    return [Detection(tuple(each["box"]), each["score"]) for each in answer]


def describe(picture: PIL.Image, model: VisionModel, field: str, check: Check = unchecked) -> str:
    """Describe an RGB picture in words. Raises the errors of `run_model`."""
    return str(json.loads(run_model(picture, model, field, check=check)))


@contextmanager
def exclusive(check: Check = unchecked) -> Iterator[None]:
    """Wait until no other thread runs a vision model. Reentrant.

    Raises Overloaded after WAIT_SECONDS, or at once if MAX_WAITING threads wait already, because waiting threads serve
    no other requests. ``check`` is called while waiting; its exceptions are passed on.
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
    """Count this thread as waiting. Raises Overloaded if MAX_WAITING threads wait already."""
    if not _waiting.acquire(blocking=False):
        raise Overloaded(message("preprocessor_busy"))
    try:
        yield
    finally:
        _waiting.release()


def run_model(picture: PIL.Image, model: VisionModel, field: str, *words: str, check: Check = unchecked) -> bytes:
    """Run a model on a picture and return the bytes it writes. One model runs at a time, on the CPU.

    ``check`` is called every CHECK_SECONDS; its exceptions end the model's process and are passed on. A process that
    is killed from outside, for example by the OOM killer, is restarted once. Raises InvalidParams for ``field`` if the
    model fails, and Overloaded if too many wait.
    """
    sent = io.BytesIO()
    picture.save(sent, "PNG", compress_level=1)
    command = [sys.executable, "-m", "diffusion_local.engine.vision", model.kind, str(model.folder), *words]
    with exclusive(check):
        ended = run_child(command, sent.getvalue(), check)
        if ended.returncode < 0:
            ended = run_child(command, sent.getvalue(), check)
    if ended.returncode != 0:
        error_text = ended.stderr.decode(errors="replace").strip().replace(str(model.folder), folder_of(model.kind))
        last = error_text.rpartition("\n")[2][:MAX_ERROR_CHARS]
        if ended.returncode < 0:
            last = f"its process was killed by signal {-ended.returncode}"
        raise InvalidParams(
            field, message("preprocessor_failed", type=model.kind, folder=folder_of(model.kind), problem=last)
        )
    return ended.stdout


def run_child(command: list[str], sent: bytes, check: Check) -> subprocess.CompletedProcess[bytes]:
    """Run a command with ``sent`` as its standard input, for at most TIMEOUT_SECONDS. Kill it if ``check`` raises."""
    until = time.monotonic() + TIMEOUT_SECONDS
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        # ``communicate`` sends no further input after a timeout (Python 3.11), so a thread sends it.
        pipe, process.stdin = process.stdin, None
        threading.Thread(target=write_and_close, args=(pipe, sent), name="vision input", daemon=True).start()
        try:
            while True:
                try:
                    output, problem = process.communicate(timeout=CHECK_SECONDS)
                    return subprocess.CompletedProcess(command, process.returncode, output, problem)
                except subprocess.TimeoutExpired:
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


def write_and_close(pipe: IO[bytes] | None, content: bytes) -> None:
    """Write to a process that may end before it has read everything."""
    assert pipe is not None
    with suppress(BrokenPipeError), pipe:
        pipe.write(content)
