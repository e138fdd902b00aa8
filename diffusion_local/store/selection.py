"""Which jobs a person means, of those that it may change."""

from dataclasses import dataclass
from typing import Any

from diffusion_local.db.access import ruled
from diffusion_local.db.dialect import as_list, in_list


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
            return in_list("id"), {"ids": as_list(self.ids)}
        if self.batch_id:
            return "batch_id = :batch_id", {"batch_id": self.batch_id}
        return ("true", {}) if self.everything else ("false", {})
