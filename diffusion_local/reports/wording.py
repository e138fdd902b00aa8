"""A report's facts as text, shared by all formats."""

import re
from collections.abc import Sequence
from datetime import datetime

from diffusion_local.gallery.quality import FLAGS
from diffusion_local.messages import Message, message
from diffusion_local.reports.report import Report


def facts(report: Report) -> list[tuple[Message, str]]:
    """(label, value) pairs in order of interest; facts that do not apply are left out."""
    counts = report.counts
    lines: list[tuple[Message, str]] = [
        (message("report_done"), f"{counts['done']:,}"),
        (message("report_failed"), f"{counts['failed']:,}"),
    ]
    if report.flagged:
        flags = [
            message("report_flag_count", flag=message(f"flag_{flag}") if flag in FLAGS else flag, count=count)
            for flag, count in sorted(report.flagged.items())
        ]
        total = sum(report.flagged.values())
        lines.append((message("report_flagged"), message("report_flagged_told", total=total, ways=flags)))
    if counts["cancelled"]:
        lines.append((message("report_cancelled"), f"{counts['cancelled']:,}"))
    if report.open:
        lines.append((message("report_to_come"), f"{report.open:,}"))
    if report.since and report.until:
        lines.append((message("report_from"), when(report.since)))
        lines.append((message("report_to"), when(report.until)))
    if report.seconds:
        lines.append((message("report_duration"), duration(report.seconds)))
    if report.per_hour is not None:
        lines.append(
            (
                message("report_per_hour"),
                f"{report.per_hour:,.0f}" if report.per_hour >= 10 else f"{report.per_hour:.1f}",
            )
        )
    if report.loads:
        text = message("report_loads_told", count=report.loads, time=duration(report.load_seconds))
        lines.append((message("report_loads"), text))
    if report.steps_down:
        total = sum(report.steps_down.values())
        ways = [
            message("report_rung_count", rung=rung.replace("_", " "), count=count)
            for rung, count in sorted(report.steps_down.items())
        ]
        lines.append((message("report_less_memory"), message("report_less_memory_told", total=total, ways=ways)))
    if report.estimate:
        made = report.estimate
        text = message(
            "report_estimate_told",
            expected=duration(made.expected_seconds),
            taken=duration(made.actual_seconds),
            error=made.error,
            jobs=made.jobs,
        )
        lines.append((message("report_estimate"), text))
    if report.forecast:
        end = report.forecast
        text = message(
            "report_forecast_told",
            count=end.pictures,
            told=duration(end.told_seconds),
            taken=duration(end.took_seconds),
            error=end.error,
        )
        lines.append((message("report_forecast"), text))
    return lines


def when(text: str) -> str:
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M")


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {left} s"


def render(report: Report) -> str:
    lines = [f"# {escape_markdown(report.title)}", "", *table(("", ""), facts(report))]
    if report.reasons:
        lines += ["", "## Failed", ""]
        for reason in report.reasons:
            lines.append(f"- **{reason.count:,} × {escape_markdown(reason.kind)}**: {escape_markdown(reason.message)}")
            ids = ", ".join(f"`{each}`" for each in reason.job_ids[:5])
            lines.append(f"  - reason `{reason.id}`: {ids}{' …' if reason.count > 5 else ''}")
    if len(report.batches) > 1:
        lines += ["", "## Batches", ""]
        parts = [
            (
                escape_markdown(each.name or each.id),
                *(f"{each.counts.get(s, 0):,}" for s in ("done", "failed", "cancelled")),
            )
            for each in report.batches
        ]
        lines += table(("batch", "done", "failed", "cancelled"), parts)
    if report.models:
        lines += ["", "## Models", ""]
        models = [(escape_markdown(each.model), f"{each.done:,}", duration(each.seconds)) for each in report.models]
        lines += table(("model", "pictures", "time"), models)
    return "\n".join(lines) + "\n"


def table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    return [
        f"| {' | '.join(heads)} |",
        f"|{'|'.join('---' for _ in heads)}|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def escape_markdown(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>()#+|!~])", r"\\\1", " ".join(text.split()))
