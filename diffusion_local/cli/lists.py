"""Commands for prompt lists."""

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

from diffusion_local.cli.terminal import (
    FAILED,
    AnyStudio,
    AsJson,
    print_result,
    read_options,
    with_option_flags,
    with_studio,
)
from diffusion_local.disk import inherited_umask_restored
from diffusion_local.domain import FINAL, State
from diffusion_local.errors import InvalidParams
from diffusion_local.lists.entries import EXPORTS, BadLine
from diffusion_local.lists.list_formats import LIST_PARSERS
from diffusion_local.lists.plan import ListCheck
from diffusion_local.messages import message
from diffusion_local.options.table import BATCH_OPTIONS
from diffusion_local.options.values import check_number
from diffusion_local.studio import MAX_WAIT

app = typer.Typer()
POLL_SECONDS = 1.0
SHOWN_BAD = 20


@app.command("list")
@with_studio
@with_option_flags
def submit_list(
    studio: AnyStudio,
    file: Annotated[str, typer.Argument(help="Text, .csv, .tsv, .jsonl or .json; - is standard input.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what the list would make.")] = False,
    skip_bad_lines: Annotated[bool, typer.Option("--skip-bad-lines", help="Enqueue the valid lines.")] = False,
    form: Annotated[
        str, typer.Option("--format", help=f"{', '.join(LIST_PARSERS)}; by default from the file's name.")
    ] = "",
    name: Annotated[str, typer.Option(help="Name of the batch.")] = "",
    priority: Annotated[int, typer.Option(help="Higher runs first, from -100 to 100.")] = 0,
    idempotency_key: Annotated[
        str | None, typer.Option(help="Repeating a list with the same key adds nothing.")
    ] = None,
    combinatorial: Annotated[
        bool, typer.Option("--combinatorial", help="Make all combinations, instead of a random one.")
    ] = False,
    literal: Annotated[bool, typer.Option("--literal", help="Leave {a|b} and __name__ as written.")] = False,
    expansion_seed: Annotated[int | None, typer.Option(help="Seed that repeats the same choices and seeds.")] = None,
    count: Annotated[int | None, typer.Option(help="Pictures per line, unless the line sets its own.")] = None,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT in pixels, such as 256x256.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the pictures are done.")] = False,
    timeout: Annotated[float, typer.Option(help="Maximum seconds for --wait.")] = 3600,
    as_json: AsJson = False,
    **settings: Any,
) -> None:
    """Submit a list of prompts as one batch, behind all interactive work."""
    if combinatorial and literal:
        raise InvalidParams("literal", message("without_combinatorial"))
    check_number("timeout", timeout, 0, MAX_WAIT)
    source: Path | BinaryIO = sys.stdin.buffer if file == "-" else Path(file)
    options = read_options(studio, size, settings) | {
        "expand": "all" if combinatorial else "no" if literal else None,
        "expansion_seed": expansion_seed,
        "count": count,
    }
    if dry_run:
        of_pictures = {name: value for name, value in options.items() if name not in BATCH_OPTIONS}
        check = studio.lists.check(source, form, **of_pictures)
        print_result(check, as_json, format_check(check))
        if check.bad_count or not check.pictures:
            raise typer.Exit(FAILED)
        return
    receipt = studio.lists.submit(
        source,
        form,
        skip_bad_lines=skip_bad_lines,
        name=name,
        priority=priority,
        idempotency_key=idempotency_key,
        **options,
    )
    for warning in [*format_bad_lines(receipt.bad_lines, receipt.bad_count), *receipt.warnings]:
        print(f"note: {warning}", file=sys.stderr)
    shaped = asdict(receipt)
    lines = [f"queued {receipt.count:,} pictures as batch {receipt.batch_id}"]
    if wait:
        counts = wait_for_batch(studio, receipt.batch_id, timeout, quiet=as_json)
        shaped["counts"] = {str(state): count for state, count in counts.items()}
        lines += [f"{count:>6} {state}" for state, count in counts.items() if count]
    print_result(shaped, as_json, lines)
    if wait and counts[State.DONE] < receipt.count:
        raise typer.Exit(FAILED)


@app.command()
@with_studio
def export(
    studio: AnyStudio,
    batch: Annotated[str | None, typer.Argument(help="Id of a batch.")] = None,
    waiting: Annotated[bool, typer.Option("--waiting", help="Every queued job, instead of a batch.")] = False,
    form: Annotated[str, typer.Option("--format", help=", ".join(EXPORTS))] = "csv",
    output: Annotated[Path | None, typer.Option(help="File to write, instead of standard output.")] = None,
) -> None:
    """Write a batch with its results, or all queued jobs, as a list that `list` reads again."""
    if bool(batch) == waiting:
        raise InvalidParams("batch", message("name_batch_waiting"))
    lines = studio.lists.export(batch, form)
    if output is None:
        for line in lines:
            print(line.rstrip("\r\n"))
        return
    try:
        with inherited_umask_restored(), output.open("w", encoding="utf-8", newline="") as file:
            file.writelines(lines)
    except OSError as error:
        raise InvalidParams("output", message("cannot_be_written", error=error)) from None


def wait_for_batch(studio: AnyStudio, batch_id: str, timeout: float, quiet: bool) -> dict[State, int]:
    """Wait for a batch; returns its job counts by state once all jobs have ended or time is up."""
    show = not quiet and sys.stderr.isatty()
    deadline = time.monotonic() + timeout
    while True:
        batch, counts = studio.batch(batch_id)
        ended = sum(counts[state] for state in FINAL)
        if show:
            print(f"\r{ended:,} of {batch.count:,}\033[K", end="", file=sys.stderr, flush=True)
        if ended == sum(counts.values()) or time.monotonic() >= deadline:
            if show:
                print("\r\033[K", end="", file=sys.stderr)
            return counts
        time.sleep(min(POLL_SECONDS, max(0.0, deadline - time.monotonic())))


def format_check(check: ListCheck) -> list[str]:
    seconds = "not known yet" if check.seconds is None else f"about {format_duration(check.seconds)}"
    size = "not known yet" if check.bytes is None else f"about {check.bytes / 1e6:,.1f} MB"
    return [
        f"pictures  {check.pictures:,} from {check.lines:,} lines",
        *(f"model     {model}: {count:,}" for model, count in check.models.items()),
        f"time      {seconds}",
        f"disk      {size}",
        *(f"first     {prompt}" for prompt in check.first),
        *(f"last      {prompt}" for prompt in check.last),
        *(f"note      {warning}" for warning in check.warnings),
        *(f"bad       {line}" for line in format_bad_lines(check.bad_lines, check.bad_count)),
        f"draw the same again with --expansion-seed {check.expansion_seed}",
    ]


def format_bad_lines(bad_lines: list[BadLine], count: int) -> list[str]:
    lines = [f"line {each.line}: {each.reason}" for each in bad_lines[:SHOWN_BAD]]
    return [*lines, f"and {count - len(lines):,} more bad lines"] if count > len(lines) else lines


def format_duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
