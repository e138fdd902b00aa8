"""Which jobs a person means, of those that it may change."""

import json
from dataclasses import dataclass
from typing import Any

from diffusion_local.store.ownership import ruled


@dataclass(frozen=True, slots=True)
class Selection:
    """Which jobs a person means: by id, by batch, or every one there is."""

    ids: tuple[str, ...] = ()
    batch_id: str | None = None
    everything: bool = False

    def where(self) -> tuple[str, dict[str, Any]]:
        """A literal WHERE and its values; what whoever acts may not change is left out."""
        which, values = self._named()
        return f"{which} AND {ruled()}", values

    def _named(self) -> tuple[str, dict[str, Any]]:
        if self.ids:
            return "id IN (SELECT value FROM json_each(:ids))", {"ids": json.dumps(self.ids)}
        if self.batch_id:
            return "batch_id = :batch_id", {"batch_id": self.batch_id}
        return ("1", {}) if self.everything else ("0", {})
