"""Jobs written as a list that can be read again: every field of Params, and what became of the job beside them."""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import PurePath
from typing import Any

from diffusion_local.domain import Job, Params
from diffusion_local.errors import InvalidParams, echo
from diffusion_local.lists.fields import RESULTS
from diffusion_local.messages import message

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
