"""Commands for whole batches, grids, and the queue file."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from diffusion_local import serializers
from diffusion_local.cli.terminal import (
    AnyStudio,
    AsJson,
    print_receipt,
    print_result,
    read_options,
    with_batch_flags,
    with_option_flags,
    with_studio,
)
from diffusion_local.disk import inherited_umask_restored
from diffusion_local.domain import State
from diffusion_local.errors import InvalidParams
from diffusion_local.lists.entries import BadLine
from diffusion_local.messages import message
from diffusion_local.options.table import BATCH_OPTIONS
from diffusion_local.queue.batches import BatchProgress

app = typer.Typer()
batch = typer.Typer(no_args_is_help=True, help="List, change, copy and export whole batches.")
app.add_typer(batch, name="batch")

BatchId = Annotated[str, typer.Argument(help="Id of a batch, as listed by `batch list`.")]
Output = Annotated[Path | None, typer.Option(help="File to write; by default named after the batch.")]


@batch.command("list")
@with_studio
def list_batches(
    studio: AnyStudio,
    limit: Annotated[int, typer.Option(help="Batches to list.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List batches, newest first, with progress and estimated completion."""
    found = studio.batches.page(limit)
    print_result(found, as_json, [format_progress(each) for each in found] or ["no batches"])


@batch.command()
@with_studio
def show(studio: AnyStudio, batch_id: BatchId, as_json: AsJson = False) -> None:
    """Show one batch."""
    shaped = serializers.progress(studio.batches.get(batch_id))
    facts = {name: value for name, value in shaped.items() if name != "counts" and not name.endswith("_url")}
    lines = [f"{name:>12}  {value}" for name, value in facts.items() if value not in (None, "", False)]
    lines += [f"{state:>12}  {count:,}" for state, count in shaped["counts"].items() if count]
    print_result(shaped, as_json, lines)


@batch.command()
@with_studio
def rename(studio: AnyStudio, batch_id: BatchId, name: str, as_json: AsJson = False) -> None:
    """Rename a batch."""
    progress = studio.batches.rename(batch_id, name)
    print_result(progress, as_json, [format_progress(progress)])


@batch.command()
@with_studio
@with_option_flags
def edit(
    studio: AnyStudio,
    batch_id: BatchId,
    prompt: Annotated[str | None, typer.Option(help="New prompt of every queued picture.")] = None,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT in pixels, such as 256x256.")] = None,
    as_json: AsJson = False,
    **settings: Any,
) -> None:
    """Change a batch's queued jobs: settings of pictures, and times. All or nothing."""
    edited = studio.batches.edit(batch_id, prompt=prompt, **read_options(studio, size, settings))
    for warning in edited.warnings:
        print(f"note: {warning}", file=sys.stderr)
    print_result(edited, as_json, [f"changed {edited.count:,} jobs"])


@batch.command()
@with_studio
@with_batch_flags
def duplicate(
    studio: AnyStudio,
    batch_id: BatchId,
    name: Annotated[str, typer.Option(help="Name of the copy.")] = "",
    as_json: AsJson = False,
    **times: Any,
) -> None:
    """Submit all pictures of a batch again, with the same seeds, as a new batch."""
    receipt = studio.batches.duplicate(batch_id, name, **times)
    count = len(receipt.job_ids)
    print_result(receipt, as_json, [f"queued {count:,} pictures as batch {receipt.batch_id}"])


@batch.command("zip")
@with_studio
def zip_batch(studio: AnyStudio, batch_id: BatchId, output: Output = None, as_json: AsJson = False) -> None:
    """Write a batch's pictures and result list as one ZIP file."""
    target = output or Path(f"{batch_id}.zip")
    write_file(target, studio.batches.zip(batch_id))
    print_result({"file": str(target)}, as_json, [str(target)])


@batch.command()
@with_studio
def sheet(studio: AnyStudio, batch_id: BatchId, output: Output = None, as_json: AsJson = False) -> None:
    """Write a batch's contact sheet: a WebP with all pictures, small and labelled; for a grid with its axes."""
    target = output or Path(f"{batch_id}.webp")
    write_file(target, iter([studio.batches.contact_sheet(batch_id).read_bytes()]))
    print_result({"file": str(target)}, as_json, [str(target)])


@app.command()
@with_studio
@with_option_flags
def grid(
    studio: AnyStudio,
    prompt: str,
    x: Annotated[str, typer.Option("--x", help='Columns, as "steps: 10,20,30" or "prompt: cat,dog" (replaces).')],
    y: Annotated[str, typer.Option("--y", help="Rows.")] = "",
    z: Annotated[str, typer.Option("--z", help="Separate grids, one below the other.")] = "",
    expand: Annotated[
        str | None,
        typer.Option(help="How {a|b} and __name__ are expanded: random, all or no; by default as in the settings."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be made.")] = False,
    name: Annotated[str, typer.Option(help="Name of the batch.")] = "",
    priority: Annotated[int, typer.Option(help="Higher runs first, from -100 to 100.")] = 0,
    idempotency_key: Annotated[
        str | None, typer.Option(help="Repeating a grid with the same key adds nothing.")
    ] = None,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT in pixels, such as 256x256.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the pictures are done.")] = False,
    timeout: Annotated[float, typer.Option(help="Maximum seconds for --wait.")] = 3600,
    as_json: AsJson = False,
    **settings: Any,
) -> None:
    """Submit an X/Y/Z grid: a picture for each combination; `batch sheet` draws it with its axes."""
    options = read_options(studio, size, settings) | {"expand": expand}
    if dry_run:
        for time in BATCH_OPTIONS:
            options.pop(time, None)
        check = studio.grids.check(prompt, x=x, y=y, z=z, **options)
        shaped = {"pictures": check.pictures, "columns": check.columns, "rows": check.rows, "seconds": check.seconds}
        lines = {name: ", ".join(value) if isinstance(value, list) else value for name, value in shaped.items()}
        print_result(shaped, as_json, [f"{name:<9} {value}" for name, value in lines.items() if value])
        return
    receipt = studio.grids.submit(
        prompt, x=x, y=y, z=z, name=name, priority=priority, idempotency_key=idempotency_key, **options
    )
    for warning in receipt.warnings:
        print(f"note: {warning}", file=sys.stderr)
    print_receipt(studio, receipt, wait, timeout, as_json)


@app.command("export-queue")
@with_studio
def export_queue(
    studio: AnyStudio,
    output: Annotated[Path | None, typer.Option(help="File to write, instead of standard output.")] = None,
) -> None:
    """Write all queued jobs to a file that `import` reads on another machine."""
    lines = studio.queue_file.export()
    if output is None:
        for line in lines:
            print(line.rstrip("\n"))
        return
    write_file(output, (line.encode() for line in lines))


@app.command("import")
@with_studio
def import_queue(
    studio: AnyStudio,
    file: Annotated[str, typer.Argument(help="File written by `export-queue`; - is standard input.")],
    skip_bad_lines: Annotated[bool, typer.Option("--skip-bad-lines", help="Enqueue the valid lines.")] = False,
    as_json: AsJson = False,
) -> None:
    """Add the queue of another machine to this one; importing it again adds nothing."""
    receipt = studio.queue_file.take(sys.stdin.buffer if file == "-" else Path(file), skip_bad_lines)
    for each in receipt.bad_lines:
        print(f"note: {format_bad_line(each)}", file=sys.stderr)
    shaped = {"batches": receipt.batches, "count": receipt.count, "bad_count": receipt.bad_count}
    print_result(shaped, as_json, [f"queued {receipt.count:,} pictures in {len(receipt.batches):,} batches"])


@app.command()
@with_studio
def window(
    studio: AnyStudio,
    hours: Annotated[str, typer.Argument(help="Such as 23:00-07:00 or mon-fri 22:00-06:00; empty: always.")] = "",
    as_json: AsJson = False,
) -> None:
    """Run overnight work (all batches) in this window only; interactive work runs at any time."""
    stored = studio.queue.set_window(hours)
    print_result(
        {"window": stored}, as_json, [f"overnight work runs {stored}" if stored else "overnight work runs at any time"]
    )


def write_file(target: Path, pieces: Iterator[bytes]) -> None:
    """Write a file in chunks. Raises InvalidParams."""
    try:
        with inherited_umask_restored(), target.open("wb") as file:
            file.writelines(pieces)
    except OSError as error:
        raise InvalidParams("output", message("cannot_be_written", error=error)) from None


def format_progress(progress: BatchProgress) -> str:
    ended = progress.counts[State.DONE]
    done = f"  done at {progress.done_at}" if progress.done_at else ""
    late = f"  {progress.warning}" if progress.warning else ""
    return f"{progress.batch.id}  {ended:,} of {progress.batch.count:,}  {progress.batch.name}{done}{late}"


def format_bad_line(bad_line: BadLine) -> str:
    return f"line {bad_line.line}: {bad_line.reason}"
