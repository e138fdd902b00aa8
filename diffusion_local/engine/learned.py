"""Preprocessors whose weights are a model: `vision` runs in a process of its own, so that this one needs no torch."""

import io
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from PIL import Image as PIL

from diffusion_local.errors import InvalidParams, Overloaded
from diffusion_local.messages import message

#: Models that fit, by type and part of the type's folder: repositories of the Hugging Face hub.
SUGGESTED = {
    "depth": {"": "depth-anything/Depth-Anything-V2-Small-hf"},
    "openpose": {"detector": "PekingU/rtdetr_r50vd_coco_o365", "pose": "usyd-community/vitpose-base-simple"},
}
#: Files of a model by which a change is noticed.
FILES = ("config.json", "model.safetensors", "model.safetensors.index.json", "preprocessor_config.json")
#: Seconds for one picture, with loading the model, and seconds of waiting for the picture before.
MOST_SECONDS, PATIENCE = 300.0, 120.0
#: Its errors are shortened to so many characters.
MOST_WORDS = 300
_turn = threading.Lock()


@dataclass(frozen=True, slots=True)
class LearnedPreprocessor:
    """The model of a type. ``version``: modification times (ns) and sizes of its files."""

    kind: str
    folder: Path
    version: tuple[tuple[int, int], ...]


def model_of(kind: str, folders: Path, field: str) -> LearnedPreprocessor:
    """The model of a type below ``folders``. Raises InvalidParams for ``field`` with what is missing."""
    folder = folders / kind
    for part, example in SUGGESTED[kind].items():
        if not (folder / part / FILES[0]).is_file():
            place = f"{place_of(kind)}/{part}".removesuffix("/")
            raise InvalidParams(field, message("preprocessor_model", type=str(kind), folder=place, example=example))
    paths = [folder / part / name for part in SUGGESTED[kind] for name in FILES]
    found = [path.stat() for path in paths if path.is_file()]
    return LearnedPreprocessor(str(kind), folder, tuple((each.st_mtime_ns, each.st_size) for each in found))


def place_of(kind: str) -> str:
    """The folder of a type's model, below the home."""
    return f"preprocessors/{kind}"


def preprocess(picture: PIL.Image, model: LearnedPreprocessor, field: str) -> PIL.Image:
    """The control picture of an RGB picture: RGB, same size.

    One is made at a time, on the CPU. Raises InvalidParams for ``field`` if the model fails, and Overloaded.
    """
    sent = io.BytesIO()
    picture.save(sent, "PNG", compress_level=1)
    if not _turn.acquire(timeout=PATIENCE):
        raise Overloaded(message("preprocessor_busy"))
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "diffusion_local.engine.vision", model.kind, str(model.folder)],
            input=sent.getvalue(),
            capture_output=True,
            timeout=MOST_SECONDS,
        )
        answer, problem = ended.stdout, ended.stderr.decode(errors="replace").strip()
        failed = ended.returncode != 0
    except subprocess.TimeoutExpired:
        answer, failed, problem = b"", True, f"more than {MOST_SECONDS:.0f} s"
    finally:
        _turn.release()
    if failed:
        last = problem.replace(str(model.folder), place_of(model.kind)).rpartition("\n")[2][:MOST_WORDS]
        raise InvalidParams(
            field, message("preprocessor_failed", type=model.kind, folder=place_of(model.kind), problem=last)
        )
    with PIL.open(io.BytesIO(answer), formats=("PNG",)) as made:
        made.load()
        return made
