"""The fields of a list line: their names and aliases, Entry and BadLine, and the export of lists."""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import PurePath
from typing import Any

from diffusion_local.domain import Job
from diffusion_local.errors import InvalidParams, echo
from diffusion_local.messages import message
from diffusion_local.options.table import OPTIONS, RECORDS, SETTINGS, Params
from diffusion_local.options.types import Kind
from diffusion_local.options.values import check_choice

#: How wildcards and choices expand: one random draw per picture, every combination, or not at all.
EXPANSIONS = ("random", "all", "no")
#: Fields besides those of Params.
LIST_EXTRAS = ("size", "count", "expand")
LIST_OPTIONS = ("prompt", *SETTINGS, *LIST_EXTRAS)
#: Columns added by an export; ignored when the list is read again.
RESULTS = ("batch_id", "job_id", "state", "error", "file")
#: Our field by names of other tools (A1111's "prompts from file", InvokeAI, Midjourney).
OPTION_SPELLINGS = {spelling: name for name, option in OPTIONS.items() for spelling in option.spellings}
OPTION_SPELLINGS |= dict.fromkeys(("n", "n_iter", "batch_size"), "count")
OPTION_SPELLINGS |= {"sd_model": "model", "subseed": "variation_seed", "subseed_strength": "variation_strength"}


SIZE_TEXT = re.compile(r"\s{0,9}(\d{1,6})\s{0,9}[xX×*]\s{0,9}(\d{1,6})\s{0,9}", re.ASCII)
EXPORTS = ("csv", "jsonl")


@dataclass(frozen=True, slots=True)
class Entry:
    """A line's options, not validated against a model; absent ones are not set."""

    line: int
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that makes no picture, with the reason; ``text``: its start."""

    line: int
    reason: str
    text: str


def field_name(name: str) -> str:
    """The field of a flag or column name; the normalised name itself if there is none."""
    plain = name.strip().lower().replace("-", "_").replace(" ", "_")
    return OPTION_SPELLINGS.get(plain, plain)


def is_known(name: str) -> bool:
    return name in LIST_OPTIONS or name in RESULTS


def make_entry(line: int, named_values: Mapping[str, Any]) -> Entry:
    """An Entry of named values; blank ones are ignored. Raises InvalidParams for an invalid size, kind or expansion."""
    values = {name: value for name, value in named_values.items() if name in LIST_OPTIONS and value is not None}
    values = {name: value for name, value in values.items() if not (isinstance(value, str) and not value.strip())}
    if "size" in values:
        if "width" in values or "height" in values:
            raise InvalidParams("size", message("size_twice"))
        values["width"], values["height"] = parse_size(values.pop("size"))
    if "kind" in values:
        values["kind"] = check_choice("kind", values["kind"], tuple(Kind))
    if values.get("expand", EXPANSIONS[0]) not in EXPANSIONS:
        raise InvalidParams("expand", message("one_of", known=list(EXPANSIONS), got=echo(values["expand"])))
    return Entry(line, values)


def parse_size(size: Any) -> tuple[int, int]:
    """(width, height). Raises InvalidParams."""
    found = SIZE_TEXT.fullmatch(size) if isinstance(size, str) else None
    if not found:
        raise InvalidParams("size", message("size_form", got=echo(size)))
    return int(found[1]), int(found[2])


#: ``expand``: choices in an exported prompt have been drawn; braces are literal.
COLUMNS = (*(field.name for field in fields(Params)), "expand", *RESULTS)


def export_lines(results: Iterable[tuple[Job, PurePath | None]], form: str) -> Iterator[str]:
    """The list's lines, with line ends, from jobs and their pictures' files. Raises InvalidParams."""
    if form not in EXPORTS:
        raise InvalidParams("format", message("one_of", known=list(EXPORTS), got=echo(form)))
    return csv_lines(results) if form == "csv" else jsonl_lines(results)


def csv_lines(results: Iterable[tuple[Job, PurePath | None]]) -> Iterator[str]:
    page = io.StringIO(newline="")
    plain, quoting = csv.DictWriter(page, COLUMNS), csv.DictWriter(page, COLUMNS, quoting=csv.QUOTE_ALL)
    plain.writeheader()
    yield take_text(page)
    for job, file in results:
        commented = job.params.prompt.lstrip().startswith("#")  # unquoted it would be a comment
        (quoting if commented else plain).writerow(export_row(job, file))
        yield take_text(page)


def take_text(page: io.StringIO) -> str:
    text = page.getvalue()
    page.seek(0)
    page.truncate()
    return text


def jsonl_lines(results: Iterable[tuple[Job, PurePath | None]]) -> Iterator[str]:
    for job, file in results:
        yield json.dumps(export_row(job, file), ensure_ascii=False) + "\n"


def export_row(job: Job, file: PurePath | None) -> dict[str, Any]:
    """A job as named values; defaults are left out."""
    return job.params.to_dict() | {
        "kind": str(job.params.kind),
        "loras": ", ".join(map(str, job.params.loras)),
        **{name: ", ".join(map(str, getattr(job.params, name))) for name in RECORDS},
        "expand": "no",
        "batch_id": job.batch_id,
        "job_id": job.id,
        "state": str(job.state),
        "error": f"{job.failure.kind}: {job.failure.message}" if job.failure else "",
        "file": file.as_posix() if file else "",
    }
