"""The waiting queue as a file: written on one machine, read on another. Batches keep name, lane, priority and times.

A line of JSON for each batch, before the lines of its jobs. Where an idempotency key is what makes a batch unique here,
the batch's id does there: the same file read twice makes nothing twice, also if the first time was cut off.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from diffusion_local.catalog import Catalog
from diffusion_local.domain import PRIORITIES, Batch, Job, Lane, Params, new_id, new_job, utc_now
from diffusion_local.errors import InvalidParams, QueueFull
from diffusion_local.lists.encoding import lines
from diffusion_local.lists.fields import BadLine
from diffusion_local.lists.formats import MAX_ROW_CHARS, bad
from diffusion_local.lists.grid import Grid
from diffusion_local.lists.plan import MOST_BAD, CatalogOfNow
from diffusion_local.messages import message
from diffusion_local.options.table import BATCH_OPTIONS
from diffusion_local.options.values import check_prompt, whole_number
from diffusion_local.timing import checked_url
from diffusion_local.when import parse_window

VERSION = 1
#: Fields of a batch that its line carries where they are set.
KEPT = (*BATCH_OPTIONS, "grid")


@dataclass(slots=True)
class Parcel:
    """A batch as it came, with its jobs still to be given an id: (Params, priority)."""

    key: str
    batch: dict[str, Any]
    jobs: list[tuple[Params, int]] = field(default_factory=list)

    def made(self, owner: str) -> tuple[Batch, Iterator[Job]]:
        batch = Batch(new_id(), created_at=utc_now(), count=len(self.jobs), owner=owner, **self.batch)
        each = (new_job(batch, index, params, priority) for index, (params, priority) in enumerate(self.jobs))
        return batch, each


def packed(waiting: Iterable[tuple[Batch, Job]]) -> Iterator[str]:
    """The file's lines, from jobs that come batch by batch."""
    last = ""
    for batch, job in waiting:
        if batch.id != last:
            last = batch.id
            told = {"batch": batch.id, "version": VERSION, "name": batch.name, "lane": str(batch.lane)}
            yield json.dumps(told | {name: getattr(batch, name) for name in KEPT if getattr(batch, name)}) + "\n"
        yield json.dumps({"job": job.params.to_dict(), "priority": job.priority}, ensure_ascii=False) + "\n"


def unpacked(data: bytes, catalog: Catalog, most: int) -> tuple[list[Parcel], list[BadLine], int]:
    """(batches, the first bad lines, how many there are). Raises QueueFull for more than ``most`` jobs."""
    now = CatalogOfNow(catalog)
    parcels: list[Parcel] = []
    wrong: list[BadLine] = []
    count = wrongs = 0
    for number, line, problem in lines(data, MAX_ROW_CHARS):
        if not line.strip() and not problem:
            continue
        try:
            if problem:
                raise InvalidParams("line", problem)
            found = read_object(line)
            if "batch" in found:
                parcels.append(parcel(found))
            elif parcels:
                parcels[-1].jobs.append(read_job(found, now))
                count += 1
            else:
                raise InvalidParams("line", message("queue_order"))
        except InvalidParams as error:
            wrongs += 1
            if len(wrong) < MOST_BAD:
                wrong.append(bad(number, error.message, line))
        if count > most:
            raise QueueFull(message("queue_many", most=most))
    return [each for each in parcels if each.jobs], wrong, wrongs


def read_object(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidParams("line", message("not_json", error=str(error)[:100])) from None
    if not isinstance(found, dict):
        raise InvalidParams("line", message("queue_line"))
    return found


def parcel(found: dict[str, Any]) -> Parcel:
    if found.get("version") != VERSION:
        raise InvalidParams("version", message("queue_format", format=VERSION))
    for name in ("batch", "name", *KEPT):
        check_prompt(name, found.get(name) or "")
    if not found["batch"] or found.get("lane") not in tuple(Lane):
        raise InvalidParams("lane", message("queue_kind", known=list(Lane)))
    check_times(found)
    kept = {name: found[name] for name in KEPT if found.get(name)}
    return Parcel(found["batch"], {"name": found.get("name") or "", "lane": Lane(found["lane"])} | kept)


def check_times(found: dict[str, Any]) -> None:
    """They are moments by now, and may be past: what should have begun then begins at once."""
    if found.get("window"):
        parse_window(found["window"])
    checked_url(found.get("webhook"))
    try:
        for name in ("start_at", "finish_by"):
            if found.get(name) and datetime.fromisoformat(found[name]).tzinfo is None:
                raise ValueError(f"{name} without an offset")
        if found.get("grid"):
            Grid.from_json(found["grid"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidParams("batch", message("queue_times", error=error)) from None


def read_job(found: dict[str, Any], catalog: Catalog) -> tuple[Params, int]:
    values = found.get("job")
    if not isinstance(values, dict) or not isinstance(values.get("prompt"), str) or "seed" not in values:
        raise InvalidParams("job", message("queue_params"))
    params = catalog.complete(values["prompt"], {name: value for name, value in values.items() if name != "prompt"})
    model = catalog.get(params.model)
    if not model.ready:
        raise InvalidParams("model", message("not_ready", model=model.id, problem=model.problem))
    return params, whole_number("priority", found.get("priority", 0), *PRIORITIES)
