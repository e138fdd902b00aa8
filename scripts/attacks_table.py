"""Writes ``scripts/results/attacks.md``: what the attack tests try, the response, and the rule that produces it.

The rows are those that ``tests/web/attacks`` runs, so the table lists tested defences only.
"""

import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.web.attacks.table import ATTACKS, INSIDE, LONGER  # noqa: E402

TARGET = ROOT / "scripts" / "results" / "attacks.md"


def main() -> None:
    TARGET.write_text(table(), encoding="utf-8")


def table() -> str:
    groups: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for attack in ATTACKS:
        statuses = ", ".join(map(str, attack.refused))
        groups[attack.what, statuses, attack.how].append(attack.tried)
    groups["a webhook into the network", "refused", "every address it resolves to must be public"] = list(INSIDE)
    lines = [
        "# Attacks",
        "",
        "Run by `pytest tests/web/attacks`; this table is written by `scripts/attacks_table.py` from the same rows.",
        "",
        "| attack | tried | for example | answer | by |",
        "|---|---|---|---|---|",
    ]
    for (what, status, how), tried in groups.items():
        lines.append(f"| {what} | {len(tried)} | {code(tried[0])} | {status} | {how} |")
    for what, door, how in LONGER.values():
        lines.append(f"| {what} | several | {code(door)} | refused | {how} |")
    return "\n".join(lines) + "\n"


def code(text: str) -> str:
    return f"`{text.replace('|', '/').replace('`', '')}`"


if __name__ == "__main__":
    main()
