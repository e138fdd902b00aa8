"""A report as Markdown, for a file or a message. Text of others is escaped: it cannot become a link or a tag."""

import re
from collections.abc import Sequence

from diffusion_local.reports.report import Report
from diffusion_local.reports.words import duration, facts


def written(report: Report) -> str:
    lines = [f"# {escaped(report.title)}", "", *table(("", ""), facts(report))]
    if report.reasons:
        lines += ["", "## Failed", ""]
        for reason in report.reasons:
            lines.append(f"- **{reason.count:,} × {escaped(reason.kind)}**: {escaped(reason.message)}")
            shown = ", ".join(f"`{each}`" for each in reason.job_ids[:5])
            lines.append(f"  - reason `{reason.id}`: {shown}{' …' if reason.count > 5 else ''}")
    if len(report.batches) > 1:
        lines += ["", "## Batches", ""]
        parts = [
            (escaped(each.name or each.id), *(f"{each.counts.get(s, 0):,}" for s in ("done", "failed", "cancelled")))
            for each in report.batches
        ]
        lines += table(("batch", "done", "failed", "cancelled"), parts)
    if report.models:
        lines += ["", "## Models", ""]
        models = [(escaped(each.model), f"{each.done:,}", duration(each.seconds)) for each in report.models]
        lines += table(("model", "pictures", "time"), models)
    return "\n".join(lines) + "\n"


def table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    return [
        f"| {' | '.join(heads)} |",
        f"|{'|'.join('---' for _ in heads)}|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def escaped(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>()#+|!~])", r"\\\1", " ".join(text.split()))
