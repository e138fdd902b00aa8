"""Side files of other programs for a model or adapter: trigger words, base model and prediction type.

``name.json`` comes from A1111, ``name.civitai.info`` from its Civitai extension; ``name.yaml`` is a checkpoint's
configuration. Damaged, oversized or unrelated files are ignored.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusion_local.models.program_roots import read_yaml

MOST_BYTES = 2_000_000
SIDE_FILE_SUFFIXES = (".json", ".civitai.info")
#: Limits: number of words, characters of a word, characters of all text.
MOST_WORDS, MOST_WORD, MOST_TEXT = 24, 200, 2000
PREVIEW_SUFFIXES = (".preview.png", ".preview.jpg", ".preview.jpeg", ".preview.webp", ".png", ".jpg", ".jpeg", ".webp")
MOST_PICTURE_BYTES = 20_000_000


@dataclass(frozen=True, slots=True)
class SideNotes:
    words: tuple[str, ...] = ()
    title: str = ""
    about: str = ""


def picture(path: Path) -> Path | None:
    """The preview beside a file, as A1111 and Civitai's tools name it; None if there is none."""
    for suffix in PREVIEW_SUFFIXES:
        place = path.with_name(f"{path.stem}{suffix}")
        try:
            if place.is_file() and place.stat().st_size <= MOST_PICTURE_BYTES:
                return place
        except OSError:
            continue
    return None


def side_file_paths(path: Path) -> Iterator[Path]:
    for suffix in SIDE_FILE_SUFFIXES:
        yield path.with_name(f"{path.stem}{suffix}")


def stamp(path: Path, configuration: bool = False) -> tuple[int, ...]:
    """A value that changes with the side files of ``path``, or with ``configuration`` with its ``name.yaml``."""
    times = []
    for place in (path.with_suffix(".yaml"),) if configuration else side_file_paths(path):
        try:
            times.append(place.stat().st_mtime_ns)
        except OSError:
            times.append(0)
    return tuple(times)


def read(path: Path) -> SideNotes:
    """Read the side files of ``path``; A1111's, which may be hand-written, takes precedence."""
    words: list[str] = []
    titles: list[str] = []
    abouts: list[str] = []
    for place in side_file_paths(path):
        data = read_json(place)
        phrases = [data.get("activation text"), *as_list(data.get("trainedWords"))]
        words += [word for phrase in phrases if isinstance(phrase, str) for word in split_phrase(phrase)]
        model = data.get("model")
        titles += [each for each in (model.get("name") if isinstance(model, dict) else None,) if isinstance(each, str)]
        abouts += [each for each in (data.get("description"), data.get("notes")) if isinstance(each, str) and each]
    return SideNotes(
        tuple(dict.fromkeys(words))[:MOST_WORDS],
        next((each.strip()[:100] for each in titles if each.strip()), ""),
        next((each.strip()[:MOST_TEXT] for each in abouts if each.strip()), ""),
    )


def prediction(path: Path) -> str:
    """The prediction type in a checkpoint's ``name.yaml``, whose default is epsilon; "" if there is no such file."""
    section = read_yaml(path.with_suffix(".yaml"))
    for name in ("model", "params"):
        section = section.get(name) if isinstance(section, dict) else None
    if not isinstance(section, dict):
        return ""
    return {"eps": "epsilon", "v": "v_prediction"}.get(str(section.get("parameterization", "eps"))[:20], "")


def as_list(value: Any) -> list[Any]:
    return value[: MOST_WORDS * 4] if isinstance(value, list) else []


def split_phrase(phrase: str) -> list[str]:
    """Split a phrase at commas; a part of several words counts as one trigger word."""
    return [word for each in phrase[:MOST_TEXT].split(",") if (word := " ".join(each.split())[:MOST_WORD])]


def read_json(place: Path) -> dict[str, Any]:
    try:
        if place.stat().st_size > MOST_BYTES:
            return {}
        data = json.loads(place.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}
