"""The user's choices for individual models, stored in a small file in the home."""

import json
from pathlib import Path

from filelock import FileLock

from diffusion_local.disk import FILE, replace_file


class ModelChoices:
    """``path``: a JSON file, ``{"precision": {model id: value}}``; None: no choices.

    The file is reloaded when it changes, so that running workers use new choices.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._read_at: tuple[int, int] | None = None
        self._precisions: dict[str, str] = {}

    def precision(self, model_id: str) -> str:
        """The precision chosen for a model; "" if the setting ``precision`` applies."""
        self._read()
        return self._precisions.get(model_id, "")

    def set_precision(self, model_id: str, precision: str) -> None:
        """Store the choice for a model; "" removes it. Raises OSError if the home is not writable."""
        assert self._path is not None
        with FileLock(self._path.with_suffix(".lock"), mode=FILE):
            self._read()
            precisions = {name: value for name, value in self._precisions.items() if name != model_id}
            precisions |= {model_id: precision} if precision else {}
            replace_file(self._path, json.dumps({"precision": precisions}, indent=1) + "\n")

    def _read(self) -> None:
        if self._path is None:
            return
        try:
            state = self._path.stat()
            mark = (state.st_mtime_ns, state.st_ino)
            if mark != self._read_at:
                found = json.loads(self._path.read_text(encoding="utf-8"))["precision"]
                self._precisions = {str(name): str(value) for name, value in found.items()}
                self._read_at = mark
        except FileNotFoundError:
            self._precisions, self._read_at = {}, None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # a damaged file counts as no choices
            self._precisions = {}
