"""Shared by all commands: common options, text or JSON output, progress display."""

import functools
import inspect
import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.models import ArgumentInfo, OptionInfo

from diffusion_local import serializers
from diffusion_local.compose import open_studio
from diffusion_local.domain import Job, Receipt, State
from diffusion_local.errors import InvalidParams, NotFound, UserError, echo
from diffusion_local.gallery.sources import provisional
from diffusion_local.lists import entries
from diffusion_local.messages import message, translate
from diffusion_local.operations import answers
from diffusion_local.options.option import Option
from diffusion_local.options.signature import with_options
from diffusion_local.options.table import LONG_NAMES, OPTIONS
from diffusion_local.options.validate import with_pictures
from diffusion_local.options.values import SOURCE_ID
from diffusion_local.remote.studio import RemoteStudio
from diffusion_local.settings import Settings, terminal_language
from diffusion_local.studio import Studio

AnyStudio = Studio | RemoteStudio
Home = Annotated[Path | None, typer.Option(help="Home folder of the studio.", show_default=False)]
Server = Annotated[
    str | None,
    typer.Option(help="Address of a studio, such as http://studio:7860, instead of a home.", show_default=False),
]
Token = Annotated[
    str | None,
    typer.Option(help="Your token for that studio; DIFFUSION_LOCAL_TOKEN keeps it off the screen.", show_default=False),
]
STUDIO_OPTIONS = {"home": Home, "server": Server, "token": Token}
FAILED = 1  # exit status of `submit --wait` if a picture was not made
POLL_SECONDS = 0.2
MOST_MB = 500  # of a picture that a command reads


def with_studio(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the command's first parameter, the studio, from the options --home, --server and --token."""
    parameters = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    where = [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=kind)
        for name, kind in STUDIO_OPTIONS.items()
    ]
    ordered = [*parameters[:-1], *where, *parameters[-1:]]  # --json stays last

    names = names_on_command_line(ordered)

    @functools.wraps(command)
    def call(**arguments: Any) -> Any:
        try:
            reached = connect(**{name: arguments.pop(name) for name in STUDIO_OPTIONS})
            with provisional(reached.sources):
                return command(reached, **arguments)
        except InvalidParams as error:
            raise with_typed_name(error, names) from error

    call.__signature__ = inspect.Signature(ordered)  # type: ignore[attr-defined]
    call.__annotations__ = {each.name: each.annotation for each in ordered}
    return call


def names_on_command_line(parameters: Iterable[inspect.Parameter]) -> dict[str, str]:
    """How the parameters of a command are written: ``--hires-scale``, ``PROMPT``; width and height are ``--size``."""
    found = {}
    for each in parameters:
        info = next(iter(getattr(each.annotation, "__metadata__", ())), None)
        declared = (info.default, *(info.param_decls or ())) if isinstance(info, OptionInfo) else ()
        own = (word for word in declared if isinstance(word, str) and word.startswith("--"))
        is_argument = isinstance(info, ArgumentInfo) or (each.default is each.empty and not declared)
        shown = (info.metavar if isinstance(info, ArgumentInfo) else None) or each.name.upper()
        found[each.name] = shown if is_argument else next(own, f"--{each.name.replace('_', '-')}")
    return found | (dict.fromkeys(("width", "height"), found["size"]) if "size" in found else {})


class InvalidFlag(InvalidParams):
    """With the field as it is written on the command line."""


def with_typed_name(error: InvalidParams, names: Mapping[str, str]) -> InvalidParams:
    """The error with its field as it is written on the command line; an entry of a repeatable flag by its place and
    field: ``--control 2, type``.
    """
    if error.option not in names:
        return error
    place, _, part = error.field.removeprefix(error.option).lstrip("[").partition("]")
    field = names[error.option] + (f" {int(place) + 1}" if place.isdecimal() else "")
    field += f", {part.lstrip('.')}" if part else ""
    typed = (InvalidFlag if error.option in OPTIONS else InvalidParams)(field, error.problem)
    typed.also = tuple(with_typed_name(each, names) for each in error.also)
    return typed


def describe_error(error: UserError) -> str:
    """The message of an error, and of further ones of the same request, in the language of the terminal."""
    errors: list[UserError] = [error, *(error.also if isinstance(error, InvalidParams) else ())]
    texts = [translate(terminal_language(), each.message) for each in errors]
    if isinstance(error, InvalidFlag):  # which may mention other options
        texts = [LONG_NAMES.sub(lambda found: f"--{found[0].replace('_', '-')}", text) for text in texts]
    return "\n".join(texts)


def connect(home: Path | None = None, server: str | None = None, token: str | None = None) -> AnyStudio:
    """The studio to use: a given home takes precedence over a server from the settings. Raises UserError."""
    settings = Settings.load(home=home, server=server, token=token)
    if settings.server and (server or home is None):
        return RemoteStudio(settings.server, settings.token)
    return open_studio(settings)


JobIds = Annotated[list[str] | None, typer.Argument(help="Job ids.")]
OfBatch = Annotated[str | None, typer.Option(help="Every job of this batch.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a program.")]


def print_result(value: Any, as_json: bool, lines: list[str], studio: AnyStudio | None = None) -> None:
    """Print a value as the JSON of the APIs, or as lines of text. Jobs need their ``studio``."""
    print(json.dumps(answers.as_json(studio, value), indent=2, ensure_ascii=False) if as_json else "\n".join(lines))


def print_receipt(studio: AnyStudio, receipt: Receipt, wait: bool, timeout: float, as_json: bool) -> None:
    shaped: dict[str, Any] = serializers.receipt(receipt)
    lines = [f"queued {job_id}" for job_id in receipt.job_ids]
    if wait:
        ended = wait_for_jobs(studio, receipt.job_ids, timeout, quiet=as_json)
        images = studio.images_of(ended)
        shaped["jobs"] = serializers.with_places(studio, ended)
        for each in shaped["jobs"]:
            if each["image"]:
                each["file"] = picture_path(studio, each["image"]["id"])
        lines = [(job.id in images and picture_path(studio, images[job.id].id)) or format_job(job) for job in ended]
        print_result(shaped, as_json, lines)
        if not all(job.final for job in ended):
            print(f"note: {timeout:g} s are over; the work goes on. `diffusion-local job ID` tells.", file=sys.stderr)
        if any(job.state is not State.DONE for job in ended):
            raise typer.Exit(FAILED)
        return
    if not any(worker.status != "stopped" for worker in studio.workers()):
        print("note: no worker is running; start one with `diffusion-local serve`.", file=sys.stderr)
    print_result(shaped, as_json, lines)


def wait_for_jobs(studio: AnyStudio, job_ids: list[str], timeout: float, quiet: bool) -> list[Job]:
    """Wait for jobs, with a progress line on terminals; returns them."""
    show = not quiet and sys.stderr.isatty()
    deadline = time.monotonic() + timeout
    while True:
        jobs = studio.wait(job_ids, min(POLL_SECONDS, max(0.0, deadline - time.monotonic())))
        if show:
            done = sum(job.final for job in jobs)
            running = next((job for job in jobs if job.state is State.RUNNING), None)
            step = f", step {running.step} of {running.params.total_steps}" if running else ""
            print(f"\r{done} of {len(jobs)}{step}\033[K", end="", file=sys.stderr, flush=True)
        if all(job.final for job in jobs) or time.monotonic() >= deadline:
            if show:
                print("\r\033[K", end="", file=sys.stderr)
            return jobs


def picture_path(studio: AnyStudio, image_id: str) -> str | None:
    """Path of a picture, or None if its file is missing."""
    try:
        return str(studio.picture_file(image_id))
    except NotFound:
        return None


def format_job(job: Job) -> str:
    line = f"{job.id}  {job.state:<9}"
    if job.state is State.RUNNING:
        line += f" step {job.step}/{job.params.total_steps} "
    if job.failure:
        line += f" {job.failure.kind}: {job.failure.message}"
    return f"{line} {job.params.prompt}"


def option_flag(option: Option) -> inspect.Parameter:
    """An option as a command-line flag: source pictures may be files, LoRAs are repeatable."""
    if option.name == "loras":
        kind: Any = Annotated[list[str] | None, typer.Option("--lora", help="name:weight; may be repeated.")]
    elif option.record:
        lead = option.record.lead
        first = "FILE_OR_ID" if lead in option.record.pictures else lead.upper()
        example = ":".join([first, *(f"{each.name}=" for each in fields(option.record) if each.name != lead)])
        flag_name = f"--{option.name.removesuffix('s')}"
        kind = Annotated[list[str] | None, typer.Option(flag_name, help=f"{example}; may be repeated.")]
    else:
        meaning = f"file, or {option.meaning}" if option.is_picture else option.meaning
        numeric = {int: "INTEGER", float: "FLOAT"}.get(option.type)  # checked by the Studio, which names the limits
        described = typer.Option(help=f"{meaning[0].upper()}{meaning[1:]}.", metavar=numeric)
        kind = Annotated[str | None if numeric else option.request_type | None, described]
    return inspect.Parameter(option.name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=kind)


#: For ``**options`` of commands; the size has its own flag.
with_option_flags = with_options(option_flag, without=("width", "height"), batch=True)
with_batch_flags = with_options(option_flag, picture=False, batch=True)


def read_options(studio: AnyStudio, size: str | None, options: dict[str, Any]) -> dict[str, Any]:
    """Options as the Studio takes them: files given as source pictures are uploaded first."""
    width, height = parse_size(size)

    def store_source(name: str, source: str) -> str:
        if SOURCE_ID.fullmatch(source):
            return source
        return str(studio.sources.add(read_file(source, name), name).id)

    return with_pictures(options, store_source) | {"width": width, "height": height}


def read_file(path: str, field: str) -> bytes:
    """The content of a picture's file. Raises InvalidParams if it cannot be read, or does not end (/dev/zero)."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(MOST_MB * 1_000_000 + 1)
    except OSError as error:
        raise InvalidParams(field, message("cannot_be_read", error=error)) from None
    if len(data) > MOST_MB * 1_000_000:
        raise InvalidParams(field, message("picture_file_bytes", file=echo(path), most=MOST_MB))
    return data


def parse_size(size: str | None) -> tuple[int | None, int | None]:
    if size is None:
        return None, None
    return entries.parse_size(size)
