"""The ``Prefer`` header of RFC 7240: how long a caller would wait for the end of what it asked for."""

from dataclasses import dataclass

MOST_SECONDS = 600.0  # as long as most clients hold a connection open


@dataclass(frozen=True, slots=True)
class Preference:
    """``seconds`` to wait, and what ``Preference-Applied`` says of it; None where nothing was preferred."""

    seconds: float | None = None
    applied: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        return {"Preference-Applied": self.applied} if self.applied else {}


def read_prefer(header: str | None) -> Preference:
    """``respond-async`` never waits, also beside ``wait``; a value that is not understood is ignored (section 2)."""
    found: dict[str, str] = {}
    for each in (header or "").split(","):
        name, _, value = each.partition(";")[0].partition("=")
        found.setdefault(name.strip().lower(), value.strip().strip('"'))
    if "respond-async" in found:
        return Preference(0.0, "respond-async")
    wait = found.get("wait", "")
    if wait.isascii() and wait.isdigit():
        seconds = min(float(wait), MOST_SECONDS)
        return Preference(seconds, f"wait={seconds:.0f}")
    return Preference()
