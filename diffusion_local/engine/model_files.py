"""Whether the files of a diffusers folder are whole, told without loading them: one sentence that names the file."""

import json
from pathlib import Path
from typing import Any

from diffusion_local.errors import ModelUnavailable

#: Parts that are not loaded, so they may be missing.
UNUSED = ("safety_checker", "feature_extractor", "image_encoder")
_AGAIN = "Copy or download the model again."


def check(folder: Path) -> None:
    """Raises ModelUnavailable for the first file that is missing, truncated or not what its name says."""
    for name, spec in _read_json(folder, folder / "model_index.json").items():
        is_part = isinstance(spec, list) and len(spec) == 2 and spec[1] is not None
        if not is_part or name in UNUSED:
            continue
        part = folder / name
        if not part.is_dir():
            raise ModelUnavailable(f"The folder {folder.name}/{name} is missing. {_AGAIN}")
        for path in sorted(part.glob("*.json")):
            _read_json(folder, path)
        if name.startswith("tokenizer"):
            _check_tokenizer(folder, part)
        elif name == "scheduler":
            _must_exist(folder, part / "scheduler_config.json")
        else:
            _must_exist(folder, part / "config.json")
            _check_weights(folder, part)


def _check_tokenizer(folder: Path, part: Path) -> None:
    if not (part / "tokenizer.json").exists() and not (part / "spiece.model").exists():
        for name in ("vocab.json", "merges.txt"):
            _must_exist(folder, part / name)


def _check_weights(folder: Path, part: Path) -> None:
    found = sorted(part.glob("*.safetensors"))
    if not found and any(part.glob("*.bin")):
        raise ModelUnavailable(
            f"{folder.name}/{part.name} has its weights only as a pickle file (.bin). Pickle files are not loaded, as "
            "they can run code: get the model in .safetensors form."
        )
    shards = [
        shard
        for index in part.glob("*.safetensors.index*.json")
        for shard in set(_read_json(folder, index)["weight_map"].values())
    ]
    if not found and not shards:
        raise ModelUnavailable(f"{folder.name}/{part.name} has no weights (.safetensors). {_AGAIN}")
    for path in sorted({*found, *(part / shard for shard in shards)}):
        _must_exist(folder, path)
        _check_safetensors(folder, path)


def _check_safetensors(folder: Path, path: Path) -> None:
    """Layout: header length (8 bytes, little endian), header (JSON), then tensors at the offsets the header gives."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > size - 8:
                raise EOFError
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        needed = 8 + length + max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
    except EOFError:
        needed = size + 1
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ModelUnavailable(f"{_name(folder, path)} is damaged: it is not a safetensors file. {_AGAIN}") from None
    except OSError as error:
        raise ModelUnavailable(f"{_name(folder, path)} cannot be read: {error.strerror}.") from None
    if size < needed:
        raise ModelUnavailable(f"{_name(folder, path)} is cut short: it ends before its last tensor. {_AGAIN}")


def _read_json(folder: Path, path: Path) -> dict[str, Any]:
    _must_exist(folder, path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelUnavailable(f"{_name(folder, path)} cannot be read: {error.strerror}.") from None
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise ModelUnavailable(f"{_name(folder, path)} is damaged: it is not valid JSON. {_AGAIN}")
    return content


def _must_exist(folder: Path, path: Path) -> None:
    if not path.exists():
        raise ModelUnavailable(f"{_name(folder, path)} is missing. {_AGAIN}")


def _name(folder: Path, path: Path) -> str:
    return f"{folder.name}/{path.relative_to(folder).as_posix()}"
