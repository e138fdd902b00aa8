"""Commands for jobs: submit, show, and control the queue."""

import sys
from dataclasses import asdict
from typing import Annotated, Any

import typer

from diffusion_local import serializers
from diffusion_local.cli.terminal import (
    AnyStudio,
    AsJson,
    JobIds,
    OfBatch,
    format_job,
    picture_path,
    print_receipt,
    print_result,
    read_options,
    with_option_flags,
    with_studio,
)
from diffusion_local.domain import Preview, State
from diffusion_local.engine.planning import plan_words
from diffusion_local.errors import InvalidParams
from diffusion_local.messages import message
from diffusion_local.options.table import BATCH_OPTIONS

app = typer.Typer()


@app.command()
@with_studio
@with_option_flags
def submit(
    studio: AnyStudio,
    prompt: str,
    count: Annotated[int, typer.Option(help="Pictures to make.")] = 1,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT in pixels, such as 256x256.")] = None,
    expand: Annotated[
        str | None,
        typer.Option(help="How {a|b} and __name__ are expanded: random, all or no; by default as in the settings."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be made.")] = False,
    name: Annotated[str, typer.Option(help="Name of the batch.")] = "",
    priority: Annotated[int, typer.Option(help="Higher runs first, from -100 to 100.")] = 0,
    idempotency_key: Annotated[
        str | None, typer.Option(help="Repeating a submit with the same key adds nothing.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the pictures are done.")] = False,
    timeout: Annotated[float, typer.Option(help="Maximum seconds for --wait.")] = 3600,
    as_json: AsJson = False,
    **options: Any,
) -> None:
    """Submit pictures of a prompt to the queue."""
    settings = read_options(studio, size, options)
    if dry_run:
        of_pictures = {name: value for name, value in settings.items() if name not in BATCH_OPTIONS}
        preview = studio.prompts.preview(prompt, count=count, expand=expand, **of_pictures)
        print_result(asdict(preview), as_json, format_preview(preview))
        return
    receipt = studio.submit(
        prompt,
        count=count,
        name=name,
        priority=priority,
        idempotency_key=idempotency_key,
        expand=expand,
        **settings,
    )
    for warning in receipt.warnings:
        print(f"note: {warning}", file=sys.stderr)
    print_receipt(studio, receipt, wait, timeout, as_json)


def format_preview(preview: Preview) -> list[str]:
    lines = [f"{preview.pictures:,} pictures of {preview.combinations:,} combinations, with --seed {preview.seed}"]
    for prompt, negative in zip(preview.prompts, preview.negatives, strict=True):
        lines.append(f"  {prompt}" + (f" --negative {negative}" if negative else ""))
    lines += [f"  {plan_words(plan)}" for plan in preview.memory]
    return lines + [f"note: {warning}" for warning in preview.warnings]


@app.command("help-prompt")
@with_studio
def help_prompt(
    studio: AnyStudio,
    prompt: str,
    task: Annotated[str, typer.Option(help="rewrite, translate or vary.")] = "rewrite",
    language: Annotated[str, typer.Option(help="Language to translate the prompt into.")] = "English",
    count: Annotated[int, typer.Option(help="Number of variants.")] = 4,
    as_json: AsJson = False,
) -> None:
    """Have a language model rewrite, translate or vary a prompt (setting prompt_helper_url)."""
    found = studio.prompts.help(prompt, task=task, language=language, count=count)
    print_result(asdict(found), as_json, found.prompts)


@app.command()
@with_studio
def again(
    studio: AnyStudio,
    job_ids: JobIds = None,
    batch: Annotated[str | None, typer.Option(help="The failed jobs of this batch.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Every failed job.")] = False,
    exactly: Annotated[
        bool, typer.Option("--exactly", help="Make the same pixels; requires the same device and versions.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Submit jobs again, from the recipes of old ones."""
    if not job_ids and not batch and not failed:
        raise InvalidParams("job_ids", message("name_jobs_failed"))
    receipt = studio.queue.again(job_ids or [], batch, failed, exactly=exactly)
    print_receipt(studio, receipt, wait=False, timeout=0, as_json=as_json)


@app.command()
@with_studio
def cancel(
    studio: AnyStudio,
    job_ids: JobIds = None,
    batch: OfBatch = None,
    waiting: Annotated[bool, typer.Option("--waiting", help="Every queued job.")] = False,
    as_json: AsJson = False,
) -> None:
    """Cancel queued jobs, and stop running ones at their next step."""
    if not (job_ids or batch or waiting):
        raise InvalidParams("job_ids", message("name_jobs_waiting"))
    touched = studio.queue.cancel(job_ids or [], batch, waiting)
    print_result(
        {"cancelled": touched}, as_json, [f"cancelled {job_id}" for job_id in touched] or ["nothing left to cancel"]
    )


@app.command()
@with_studio
def move(
    studio: AnyStudio,
    to: Annotated[str, typer.Argument(help="top, bottom, up or down")],
    job_ids: JobIds = None,
    batch: OfBatch = None,
    as_json: AsJson = False,
) -> None:
    """Move queued jobs to the top or bottom of their lane, or one job up or down by one."""
    moved = studio.queue.move(to, job_ids or [], batch)
    print_result({"moved": moved}, as_json, [f"moved {job_id}" for job_id in moved] or ["none of them waits"])


@app.command()
@with_studio
def priority(
    studio: AnyStudio,
    value: Annotated[int, typer.Argument(help="From -100 to 100; higher runs first.")],
    job_ids: JobIds = None,
    batch: OfBatch = None,
    as_json: AsJson = False,
) -> None:
    """Set the priority of queued jobs."""
    reached = studio.queue.set_priority(value, job_ids or [], batch)
    print_result({"changed": reached}, as_json, [f"changed {job_id}" for job_id in reached] or ["none of them waits"])


@app.command()
@with_studio
def forget(
    studio: AnyStudio,
    job_ids: JobIds = None,
    batch: OfBatch = None,
    ended: Annotated[bool, typer.Option("--ended", help="Every job that has ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete ended jobs from the list; their pictures stay in the gallery."""
    if not (job_ids or batch or ended):
        raise InvalidParams("job_ids", message("name_jobs_ended"))
    gone = studio.queue.forget(job_ids or [], batch, ended)
    print_result({"forgotten": gone}, as_json, [f"forgot {len(gone)} jobs"])


@app.command()
@with_studio
def jobs(
    studio: AnyStudio,
    state: Annotated[str | None, typer.Option(help=", ".join(State))] = None,
    batch: OfBatch = None,
    limit: Annotated[int, typer.Option(help="Jobs to list.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    found = studio.jobs(state, batch, limit)
    print_result(found, as_json, [format_job(job) for job in found] or ["no jobs"], studio)


@app.command()
@with_studio
def job(studio: AnyStudio, job_id: str, as_json: AsJson = False) -> None:
    """Show one job: state, settings and history."""
    shaped = serializers.one_job(studio, job_id) | {
        "events": [serializers.event(event) for event in studio.events(job_id)]
    }
    if shaped["image"]:
        shaped["file"] = picture_path(studio, shaped["image"]["id"])
    facts = {name: value for name, value in shaped.items() if name not in ("events", "params", "image")}
    lines = [f"{name:>17}  {value}" for name, value in facts.items() if value not in (None, "", False)]
    lines += [f"{name:>17}  {value}" for name, value in shaped["params"].items()]
    lines += [f"{event['at']:>26}  {event['state']}  {event['note']}".rstrip() for event in shaped["events"]]
    print_result(shaped, as_json, lines)


@app.command()
@with_studio
def queue(studio: AnyStudio, as_json: AsJson = False) -> None:
    """Show the queue: running jobs, number of queued jobs, workers."""
    snapshot = studio.snapshot()
    lines = ["paused" + (f": {snapshot.reason}" if snapshot.reason else "") if snapshot.paused else "open"]
    lines += [f"{count:>6} {state}" for state, count in snapshot.counts.items()]
    lines += [f"worker {worker.slot}: {worker.status} ({worker.device})" for worker in snapshot.workers]
    print_result(snapshot, as_json, lines)


@app.command()
@with_studio
def pause(
    studio: AnyStudio,
    batch: Annotated[str | None, typer.Option(help="Only this batch.")] = None,
    give_back: Annotated[bool, typer.Option("--give-back", help="Stop the running picture and requeue it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Start no further pictures until `resume`; survives restarts."""
    if batch:
        studio.queue.pause_batch(batch, give_back)
    else:
        studio.queue.pause(give_back)
    running = "given back" if give_back else "finished"
    print_result({"paused": True, "batch_id": batch}, as_json, [f"paused; what runs is {running}"])


@app.command()
@with_studio
def resume(
    studio: AnyStudio,
    batch: Annotated[str | None, typer.Option(help="Only this batch.")] = None,
    as_json: AsJson = False,
) -> None:
    """Resume after `pause`."""
    if batch:
        studio.queue.resume_batch(batch)
    else:
        studio.queue.resume()
    print_result({"paused": False, "batch_id": batch}, as_json, ["resumed"])
