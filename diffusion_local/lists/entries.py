"""What a line of a list may say: fields by the names people know, an Entry that says it, a BadLine that cannot."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import PurePath
from typing import Any

from diffusion_local.domain import Job, Kind, Params
from diffusion_local.errors import InvalidParams, echo
from diffusion_local.messages import message
from diffusion_local.options.table import OPTIONS, SETTINGS
from diffusion_local.options.values import one_of

#: What becomes of wildcards and choices: one drawn by lot for each picture, every combination, or left as written.
EXPANSIONS = ("random", "all", "no")
#: Beside the fields of Params.
EXTRA = ("size", "count", "expand")
FIELDS = ("prompt", *SETTINGS, *EXTRA)
#: Columns that an export adds; a list that is read again says nothing by them.
RESULTS = ("batch_id", "job_id", "state", "error", "file")
#: Our name by each name of other tools (A1111's "prompts from file", InvokeAI, Midjourney).
ALIASES = {spelling: name for name, option in OPTIONS.items() for spelling in option.spellings}
ALIASES |= dict.fromkeys(("n", "n_iter"), "count")


@dataclass(frozen=True, slots=True)
class Entry:
    """A line's options, not yet checked against a model. What it does not say is absent."""

    line: int
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that makes no picture, and why; ``text`` is its beginning."""

    line: int
    reason: str
    text: str


def field_name(name: str) -> str:
    """The field that a flag or a column means, or the name itself if there is none."""
    plain = name.strip().lower().replace("-", "_").replace(" ", "_")
    return ALIASES.get(plain, plain)


def known(name: str) -> bool:
    return name in FIELDS or name in RESULTS


def entry(line: int, given: Mapping[str, Any]) -> Entry:
    """An Entry of named values; blank ones say nothing. Raises InvalidParams for a size or kind there is not."""
    values = {name: value for name, value in given.items() if name in FIELDS and value is not None}
    values = {name: value for name, value in values.items() if not (isinstance(value, str) and not value.strip())}
    if "size" in values:
        if "width" in values or "height" in values:
            raise InvalidParams("size", message("size_twice"))
        values["width"], values["height"] = parse_size(values.pop("size"))
    if "kind" in values:
        values["kind"] = one_of("kind", values["kind"], tuple(Kind))
    if values.get("expand", EXPANSIONS[0]) not in EXPANSIONS:
        raise InvalidParams("expand", message("one_of", known=list(EXPANSIONS), got=echo(values["expand"])))
    return Entry(line, values)


def parse_size(size: Any) -> tuple[int, int]:
    """Width and height. Raises InvalidParams."""
    width, cross, height = str(size).lower().replace("×", "x").partition("x")
    digits = 6  # more is no size, and int() refuses thousands of digits in words of its own
    if not cross or not all(each.isascii() and each.isdecimal() and len(each) <= digits for each in (width, height)):
        raise InvalidParams("size", message("size_form", got=echo(size)))
    return int(width), int(height)


EXPORTS = ("csv", "jsonl")
#: ``expand``: a prompt that was made has its choices behind it; braces in it are braces.
COLUMNS = (*(field.name for field in fields(Params)), "expand", *RESULTS)


def written(results: Iterable[tuple[Job, PurePath | None]], form: str) -> Iterator[str]:
    """The list's lines with their ends, from jobs with their pictures' files. Raises InvalidParams."""
    if form not in EXPORTS:
        raise InvalidParams("format", message("one_of", known=list(EXPORTS), got=echo(form)))
    return csv_lines(results) if form == "csv" else jsonl_lines(results)


def csv_lines(results: Iterable[tuple[Job, PurePath | None]]) -> Iterator[str]:
    page = io.StringIO(newline="")
    plain, quoting = csv.DictWriter(page, COLUMNS), csv.DictWriter(page, COLUMNS, quoting=csv.QUOTE_ALL)
    plain.writeheader()
    yield taken(page)
    for job, file in results:
        commented = job.params.prompt.lstrip().startswith("#")  # unquoted it would be a comment
        (quoting if commented else plain).writerow(row(job, file))
        yield taken(page)


def taken(page: io.StringIO) -> str:
    text = page.getvalue()
    page.seek(0)
    page.truncate()
    return text


def jsonl_lines(results: Iterable[tuple[Job, PurePath | None]]) -> Iterator[str]:
    for job, file in results:
        yield json.dumps(row(job, file), ensure_ascii=False) + "\n"


def row(job: Job, file: PurePath | None) -> dict[str, Any]:
    """What says nothing is left out."""
    return job.params.to_dict() | {
        "kind": str(job.params.kind),
        "loras": ", ".join(map(str, job.params.loras)),
        "expand": "no",
        "batch_id": job.batch_id,
        "job_id": job.id,
        "state": str(job.state),
        "error": f"{job.failure.kind}: {job.failure.message}" if job.failure else "",
        "file": file.as_posix() if file else "",
    }
