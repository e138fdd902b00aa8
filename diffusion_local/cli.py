"""The command line. It works with or without a running server, since the jobs table is the truth."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from diffusion_local import __version__, shapes
from diffusion_local.compose import open_studio
from diffusion_local.doctor import back_up, examine, rebuild_gallery
from diffusion_local.domain import State
from diffusion_local.engine import inventory
from diffusion_local.errors import InvalidParams, UserError
from diffusion_local.logs import read as read_logs
from diffusion_local.logs import start as start_log
from diffusion_local.settings import Settings
from diffusion_local.terminal import job_line, parse_size, tell, tell_receipt

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

JobIds = Annotated[list[str] | None, typer.Argument(help="Job ids.")]
OfBatch = Annotated[str | None, typer.Option(help="Every job of this batch.")]
Home = Annotated[Path | None, typer.Option(help="Folder that holds everything.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a program.")]
REFUSED = 2  # exit status of a UserError


def main() -> None:
    try:
        app()
    except UserError as error:
        print(f"diffusion-local: {error}", file=sys.stderr)
        sys.exit(REFUSED)
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@app.command()
def serve(
    home: Home = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one.", show_default="7860")] = None,
    engine: Annotated[str | None, typer.Option(help="diffusers, or fake for test cards.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cuda, mps or cpu.")] = None,
    no_worker: Annotated[bool, typer.Option("--no-worker", help="Only the page; start workers yourself.")] = False,
) -> None:
    """Start the page and one worker per device; Ctrl-C stops them, and nothing is lost."""
    from diffusion_local.supervisor import Supervisor

    settings = Settings.load(home=home, host=host, port=port, engine=engine, device=device)
    start_log(settings, "supervisor")
    Supervisor(settings, not no_worker, say=lambda text: print(text, flush=True)).run()


@app.command()
def worker(
    slot: Annotated[str, typer.Option(help="gpu0, gpu1, mps0 or cpu0.")] = "",
    home: Home = None,
    engine: Annotated[str | None, typer.Option(help="diffusers, or fake for test cards.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cuda, mps or cpu.")] = None,
) -> None:
    """Run one worker, without the page."""
    settings = Settings.load(home=home, engine=engine, device=device)
    command = [sys.executable, "-m", "diffusion_local.worker", "--slot", slot or inventory.devices(settings)[0]["slot"]]
    if os.name == "nt":
        sys.exit(subprocess.run(command, env=settings.child_environ()).returncode)
    os.execve(sys.executable, command, settings.child_environ())


@app.command()
def submit(
    prompt: str,
    count: Annotated[int, typer.Option(help="Pictures to make.")] = 1,
    seed: Annotated[int | None, typer.Option(help="First seed; each further picture takes the next.")] = None,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT in pixels, as 256x256.")] = None,
    steps: int | None = None,
    guidance: Annotated[float | None, typer.Option(help="Classifier-free guidance scale.")] = None,
    sampler: str | None = None,
    negative: Annotated[str | None, typer.Option(help="What the picture should not show.")] = None,
    model: str | None = None,
    name: Annotated[str, typer.Option(help="Name of the batch.")] = "",
    priority: Annotated[int, typer.Option(help="Higher runs first, from -100 to 100.")] = 0,
    idempotency_key: Annotated[
        str | None, typer.Option(help="A second submit with this key makes nothing new.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until the pictures are made.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds that --wait stays.")] = 3600,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Put pictures of a prompt into the queue."""
    width, height = parse_size(size)
    studio = open_studio(Settings.load(home=home))
    receipt = studio.submit(
        prompt,
        count=count,
        seed=seed,
        name=name,
        priority=priority,
        idempotency_key=idempotency_key,
        negative=negative,
        model=model,
        width=width,
        height=height,
        steps=steps,
        guidance=guidance,
        sampler=sampler,
    )
    for warning in receipt.warnings:
        print(f"note: {warning}", file=sys.stderr)
    tell_receipt(studio, receipt, wait, timeout, as_json)


@app.command()
def again(
    job_ids: JobIds = None,
    batch: Annotated[str | None, typer.Option(help="The failed jobs of this batch.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Every failed job.")] = False,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Make new jobs from the recipes of old ones."""
    if not job_ids and not batch and not failed:
        raise InvalidParams("job_ids", "name jobs, a --batch, or --failed.")
    studio = open_studio(Settings.load(home=home))
    tell_receipt(studio, studio.again(job_ids or [], batch), wait=False, timeout=0, as_json=as_json)


@app.command()
def cancel(
    job_ids: JobIds = None,
    batch: OfBatch = None,
    waiting: Annotated[bool, typer.Option("--waiting", help="Every job that waits.")] = False,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Cancel jobs that wait, and stop those that run at their next step."""
    studio = open_studio(Settings.load(home=home))
    touched = studio.cancel_waiting() if waiting else studio.cancel(job_ids or [], batch)
    tell({"cancelled": touched}, as_json, [f"cancelled {job_id}" for job_id in touched] or ["nothing left to cancel"])


@app.command()
def move(
    to: Annotated[str, typer.Argument(help="top, up or down")],
    job_ids: JobIds = None,
    batch: OfBatch = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Move waiting jobs to the top of their lane, or one job up or down by a place."""
    moved = open_studio(Settings.load(home=home)).move(to, job_ids or [], batch)
    tell({"moved": moved}, as_json, [f"moved {job_id}" for job_id in moved] or ["none of them waits"])


@app.command()
def priority(
    value: Annotated[int, typer.Argument(help="From -100 to 100; higher runs first.")],
    job_ids: JobIds = None,
    batch: OfBatch = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Give waiting jobs another priority."""
    reached = open_studio(Settings.load(home=home)).set_priority(value, job_ids or [], batch)
    tell({"changed": reached}, as_json, [f"changed {job_id}" for job_id in reached] or ["none of them waits"])


@app.command()
def forget(
    job_ids: JobIds = None,
    batch: OfBatch = None,
    ended: Annotated[bool, typer.Option("--ended", help="Every job that has ended.")] = False,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Delete ended jobs from the list; their pictures stay in the gallery."""
    gone = open_studio(Settings.load(home=home)).forget(job_ids or [], batch, ended)
    tell({"forgotten": gone}, as_json, [f"forgot {len(gone)} jobs"])


@app.command()
def jobs(
    state: Annotated[str | None, typer.Option(help=", ".join(State))] = None,
    batch: str | None = None,
    limit: int = 20,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    studio = open_studio(Settings.load(home=home))
    found = studio.jobs(state, batch, limit)
    tell(
        shapes.with_places(studio, found) if as_json else None, as_json, [job_line(job) for job in found] or ["no jobs"]
    )


@app.command()
def job(job_id: str, home: Home = None, as_json: AsJson = False) -> None:
    """Show one job: its state, its settings and what happened to it."""
    studio = open_studio(Settings.load(home=home))
    shaped = shapes.one_job(studio, job_id) | {"events": [shapes.event(event) for event in studio.events(job_id)]}
    if shaped["image"]:
        shaped["file"] = str(studio.picture_file(shaped["image"]["id"]))
    lines = [f"{name:>17}  {value}" for name, value in shaped.items() if name not in ("events", "params", "image")]
    lines += [f"{name:>17}  {value}" for name, value in shaped["params"].items()]
    lines += [f"{event['at']:>26}  {event['state']}  {event['note']}".rstrip() for event in shaped["events"]]
    tell(shaped, as_json, lines)


@app.command()
def gallery(
    limit: int = 20,
    search: Annotated[str, typer.Option(help="Words of the prompt.")] = "",
    starred: bool = False,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """List pictures, newest first."""
    studio = open_studio(Settings.load(home=home))
    images = studio.gallery(limit, search=search, starred=starred)
    files = [str(studio.picture_file(image.id)) for image in images]
    shaped = [shapes.image(image) | {"file": file} for image, file in zip(images, files, strict=True)]
    lines = [f"{file}  {image.params.prompt}" for image, file in zip(images, files, strict=True)]
    tell(shaped, as_json, lines or ["no pictures yet"])


@app.command()
def models(home: Home = None, as_json: AsJson = False) -> None:
    """List models and whether they can be used."""
    found = open_studio(Settings.load(home=home)).models()
    lines = [f"{model.id:<24} {'ready' if model.ready else 'not ready: ' + model.problem}" for model in found]
    tell([shapes.model(model) for model in found], as_json, lines)


@app.command()
def queue(home: Home = None, as_json: AsJson = False) -> None:
    """Show the queue: what runs, how many wait, which workers are there."""
    snapshot = open_studio(Settings.load(home=home)).snapshot()
    lines = ["paused" + (f": {snapshot.reason}" if snapshot.reason else "") if snapshot.paused else "open"]
    lines += [f"{count:>6} {state}" for state, count in snapshot.counts.items()]
    lines += [f"worker {worker.slot}: {worker.status} ({worker.device})" for worker in snapshot.workers]
    tell(shapes.queue(snapshot), as_json, lines)


@app.command()
def pause(
    batch: Annotated[str | None, typer.Option(help="Only this batch.")] = None,
    give_back: Annotated[
        bool, typer.Option("--give-back", help="Put the running picture back into the queue.")
    ] = False,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Start no further picture until `resume`; kept over restarts."""
    open_studio(Settings.load(home=home)).pause(batch, give_back)
    running = "given back" if give_back else "finished"
    tell({"paused": True, "batch_id": batch}, as_json, [f"paused; what runs is {running}"])


@app.command()
def resume(
    batch: Annotated[str | None, typer.Option(help="Only this batch.")] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Go on after `pause`."""
    open_studio(Settings.load(home=home)).resume(batch)
    tell({"paused": False, "batch_id": batch}, as_json, ["resumed"])


@app.command()
def logs(
    job: Annotated[str, typer.Option(help="Only lines about this job.")] = "",
    lines: Annotated[int, typer.Option(help="Last lines to show.")] = 50,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show what the processes logged, oldest first."""
    found = read_logs(Settings.load(home=home), job)[-lines:]
    told = [f"{line['at']}  {line['process']:<12} {line['level']:<8} {line['event']}" for line in found]
    tell(found, as_json, told or ["nothing logged"])


@app.command()
def doctor(
    backup: Annotated[Path | None, typer.Option(help="Copy the database to this file, while it is in use.")] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Write gallery rows from the pictures' recipes.")] = False,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Say what is here, what is wrong and how to mend it; exit status 1 if something is wrong."""
    settings = Settings.load(home=home)
    if backup:
        back_up(settings, backup)
        tell({"backup": str(backup)}, as_json, [f"copied the database to {backup}"])
        return
    if rebuild:
        written = rebuild_gallery(settings)
        tell({"rebuilt": written}, as_json, [f"wrote {written} rows"])
        return
    findings = examine(settings)
    lines = []
    for finding in findings:
        lines.append(f"{'ok ' if finding.ok else 'BAD'}  {finding.name:<18} {finding.text}")
        if not finding.ok:
            lines.append(f"     {'':<18} -> {finding.mend}")
    tell([finding.to_dict() for finding in findings], as_json, lines)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)
