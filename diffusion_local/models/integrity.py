"""Checks, without loading weights, that a model's files are complete. Errors name the file."""

import json
from pathlib import Path
from typing import Any

from diffusion_local.errors import ModelUnavailable
from diffusion_local.messages import message
from diffusion_local.models.file_formats import POINTER, open_header
from diffusion_local.models.tokenizers import SENTENCEPIECE_FILES

#: Parts that are never loaded, so they may be missing.
UNUSED = ("safety_checker", "feature_extractor", "image_encoder", "pe", "pe_tokenizer")


def check(path: Path) -> None:
    """Check a model folder, a part's folder, or a file.

    Raises ModelUnavailable for the first file that is missing, truncated or of another format than its name says.
    """
    if not path.is_dir():
        open_header(path)
    elif (path / "config.json").exists() and not (path / "model_index.json").exists():
        _check_weights(path.parent, path)
    else:
        check_folder(path)


def check_folder(folder: Path) -> None:
    for name, spec in _read_json(folder, folder / "model_index.json").items():
        if not is_component(spec) or name in UNUSED:
            continue
        part = folder / name
        if not part.is_dir():
            raise ModelUnavailable(message("model_part_missing", name=f"{folder.name}/{name}"))
        for path in sorted(part.glob("*.json")):
            _read_json(folder, path)
        if name.startswith("tokenizer"):
            _check_tokenizer(folder, part)
        elif name in ("processor", "siglip_processor"):
            _must_exist(folder, part / "preprocessor_config.json")
        elif name == "scheduler":
            _must_exist(folder, part / "scheduler_config.json")
        elif name.endswith("guider"):  # guidance settings, without weights
            _must_exist(folder, part / "guider_config.json")
        else:
            _must_exist(folder, part / "config.json")
            _check_weights(folder, part)


def is_component(spec: Any) -> bool:
    """Whether an entry of model_index.json describes a component that is present, as [library, class]."""
    return isinstance(spec, list) and len(spec) == 2 and all(isinstance(each, str) for each in spec)


def _check_tokenizer(folder: Path, part: Path) -> None:
    pieces = [part / name for name in SENTENCEPIECE_FILES if (part / name).exists()]
    for path in pieces:
        with path.open("rb") as file:
            if file.read(len(POINTER)) == POINTER:
                raise ModelUnavailable(message("file_pointer", name=_name(folder, path)))
    if not (part / "tokenizer.json").exists() and not pieces:
        for name in ("vocab.json", "merges.txt"):
            _must_exist(folder, part / name)


def _check_weights(folder: Path, part: Path) -> None:
    files = sorted(part.glob("*.safetensors"))
    if not files and any(part.glob("*.bin")):
        raise ModelUnavailable(message("pickle_weights", name=f"{folder.name}/{part.name}"))
    shards = [
        shard
        for index in part.glob("*.safetensors.index*.json")
        for shard in set(_read_json(folder, index)["weight_map"].values())
    ]
    if not files and not shards:
        raise ModelUnavailable(message("no_weights", name=f"{folder.name}/{part.name}"))
    for path in sorted({*files, *(part / shard for shard in shards)}):
        open_header(path, _name(folder, path))


def _read_json(folder: Path, path: Path) -> dict[str, Any]:
    _must_exist(folder, path)
    try:
        data = path.read_bytes()
        if data.startswith(POINTER):
            raise ModelUnavailable(message("file_pointer", name=_name(folder, path)))
        content = json.loads(data.decode())
    except OSError as error:
        raise ModelUnavailable(message("file_unreadable", name=_name(folder, path), error=error.strerror)) from None
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise ModelUnavailable(message("json_damaged", name=_name(folder, path)))
    return content


def _must_exist(folder: Path, path: Path) -> None:
    if not path.exists():
        raise ModelUnavailable(message("model_file_missing", name=_name(folder, path)))


def _name(folder: Path, path: Path) -> str:
    return f"{folder.name}/{path.relative_to(folder).as_posix()}"
