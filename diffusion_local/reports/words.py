"""The facts of a report as sentences, the same in every form."""

from datetime import datetime

from diffusion_local.reports.report import Report


def facts(report: Report) -> list[tuple[str, str]]:
    """(what, how much) in the order of interest; what does not apply is left out."""
    counts = report.counts
    found = [("Done", f"{counts['done']:,}"), ("Failed", f"{counts['failed']:,}")]
    if counts["cancelled"]:
        found.append(("Cancelled", f"{counts['cancelled']:,}"))
    if report.open:
        found.append(("Still to come", f"{report.open:,}"))
    if report.since and report.until:
        found.append(("From", when(report.since)))
        found.append(("To", when(report.until)))
    if report.seconds:
        found.append(("Time", duration(report.seconds)))
    if report.per_hour is not None:
        found.append(
            ("Pictures per hour", f"{report.per_hour:,.0f}" if report.per_hour >= 10 else f"{report.per_hour:.1f}")
        )
    if report.loads:
        found.append(("Model loads", f"{report.loads:,}, {duration(report.load_seconds)} in all"))
    if report.steps_down:
        total = sum(report.steps_down.values())
        ways = ", ".join(f"{rung.replace('_', ' ')} {count:,}" for rung, count in sorted(report.steps_down.items()))
        found.append(("Made with less memory", f"{total:,} ({ways})"))
    if report.estimate:
        made = report.estimate
        found.append(
            (
                "Estimate",
                f"{duration(made.expected_seconds)} expected, {duration(made.actual_seconds)} taken; "
                f"a picture's estimate was off by {made.error:.0%} (median of {made.jobs:,})",
            )
        )
    return found


def when(text: str) -> str:
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M")


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {left} s"
