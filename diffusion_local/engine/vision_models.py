"""Models that look at pictures, run by `vision` in a process of its own, so that this one needs no torch."""

import io
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
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
#: Its errors are shortened to so many characters.
MAX_ERROR_CHARS = 300
#: Threads that may wait for their turn.
MAX_WAITING = 8
_exclusive = threading.RLock()
_waiting = threading.BoundedSemaphore(MAX_WAITING)


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


def preprocess(picture: PIL.Image, model: VisionModel, field: str) -> PIL.Image:
    """The picture that a model makes of an RGB picture: the same size. Raises as `answer`."""
    with PIL.open(io.BytesIO(run_model(picture, model, field)), formats=("PNG",)) as made:
        made.load()
        return made


@dataclass(frozen=True, slots=True)
class Detection:
    """Something in a picture: its box (left, top, right, bottom in pixels), and how sure the detector is, 0 to 1."""

    box: tuple[int, int, int, int]
    score: float


def detect(picture: PIL.Image, model: VisionModel, field: str, word: str, least: float) -> list[Detection]:
    """What a word names in an RGB picture, at least so sure, the surest first. Raises as `answer`."""
    told = json.loads(run_model(picture, model, field, str(least), word))
    return [Detection(tuple(each["box"]), each["score"]) for each in told]


def describe(picture: PIL.Image, model: VisionModel, field: str) -> str:
    """What an RGB picture shows, in words. Raises as `answer`."""
    return str(json.loads(run_model(picture, model, field)))


@contextmanager
def exclusive() -> Iterator[None]:
    """Hold the lock that allows one model run at a time; reentrant.

    Raises Overloaded after WAIT_SECONDS, and at once if MAX_WAITING threads wait already: the waiting threads are those
    that serve requests.
    """
    if not _exclusive.acquire(blocking=False):
        if not _waiting.acquire(blocking=False):
            raise Overloaded(message("preprocessor_busy"))
        try:
            if not _exclusive.acquire(timeout=WAIT_SECONDS):
                raise Overloaded(message("preprocessor_busy"))
        finally:
            _waiting.release()
    try:
        yield
    finally:
        _exclusive.release()


def run_model(picture: PIL.Image, model: VisionModel, field: str, *words: str) -> bytes:
    """What a model says of a picture. One looks at a time, on the CPU.

    Raises InvalidParams for ``field`` if the model fails, and Overloaded.
    """
    sent = io.BytesIO()
    picture.save(sent, "PNG", compress_level=1)
    try:
        with exclusive():
            ended = subprocess.run(
                [sys.executable, "-m", "diffusion_local.engine.vision", model.kind, str(model.folder), *words],
                input=sent.getvalue(),
                capture_output=True,
                timeout=TIMEOUT_SECONDS,
            )
        told, problem = ended.stdout, ended.stderr.decode(errors="replace").strip()
        failed = ended.returncode != 0
    except subprocess.TimeoutExpired:
        told, failed, problem = b"", True, f"more than {TIMEOUT_SECONDS:.0f} s"
    if failed:
        last = problem.replace(str(model.folder), folder_of(model.kind)).rpartition("\n")[2][:MAX_ERROR_CHARS]
        raise InvalidParams(
            field, message("preprocessor_failed", type=model.kind, folder=folder_of(model.kind), problem=last)
        )
    return told
