"""A report as data, accumulated one job at a time."""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from statistics import median
from typing import Any

from diffusion_local.domain import FINAL, Image, State
from diffusion_local.messages import from_json

MAX_PICTURES = 64  # pictures in a report's contact sheet
MAX_LISTED_JOBS = 100  # ids listed per group of failed jobs
#: Rungs on a device with enough memory; any other rung counts as a step down.
FIRST_RUNGS = ("", "resident")


@dataclass(slots=True)
class Reason:
    """Failed jobs whose errors differ only in names and numbers. ``job_ids``: the first MAX_LISTED_JOBS of them."""

    id: str
    kind: str
    message: str
    count: int = 0
    job_ids: list[str] = field(default_factory=list)


@dataclass(slots=True)
class ModelLine:
    """A model's share of a report; times in seconds."""

    model: str
    done: int = 0
    seconds: float = 0.0
    loads: int = 0
    load_seconds: float = 0.0


@dataclass(slots=True)
class BatchLine:
    """A batch's share of a report: job counts by state."""

    id: str
    name: str = ""
    lane: str = ""
    counts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Estimate:
    """Accuracy of the time estimates made when jobs started; seconds are totals over all jobs with an estimate.

    ``error``: median of each job's error relative to its actual time.
    """

    jobs: int
    expected_seconds: float
    actual_seconds: float
    error: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """A list's remaining time when its first ``pictures`` were done: estimated (``told_seconds``) and actual
    (``took_seconds``). ``error``: relative difference.
    """

    pictures: int
    told_seconds: float
    took_seconds: float
    error: float


@dataclass(slots=True)
class Report:
    """A report; times are UTC. ``seconds``: from first start to last end; ``busy_seconds``: sum over all jobs."""

    title: str
    batch_id: str | None
    since: str | None
    until: str | None
    counts: dict[str, int]
    seconds: float
    busy_seconds: float
    per_hour: float | None
    models: list[ModelLine]
    loads: int
    load_seconds: float
    steps_down: dict[str, int]
    estimate: Estimate | None
    reasons: list[Reason]
    batches: list[BatchLine]
    pictures: list[Image] = field(default_factory=list)
    #: Counts of flagged pictures by flag; they also count as done.
    flagged: dict[str, int] = field(default_factory=dict)
    #: Only for a batch that has ended, if its end was estimated.
    forecast: Forecast | None = None

    @property
    def open(self) -> int:
        """Number of jobs that have not ended."""
        return sum(count for state, count in self.counts.items() if State(state) not in FINAL)

    def to_dict(self) -> dict[str, Any]:
        """JSON-compatible data, with pictures as id, prompt, seed and flag."""
        values = asdict(self) | {"open": self.open}
        values["pictures"] = [
            {
                "id": each.id,
                "job_id": each.job_id,
                "prompt": each.params.prompt[:200],
                "seed": each.params.seed,
                "flag": each.flag,
            }
            for each in self.pictures
        ]
        return values


class ReportBuilder:
    """Accumulates job rows, in bounded memory except for the ids of finished jobs."""

    def __init__(self) -> None:
        self.counts = {str(state): 0 for state in State}
        self.batches: dict[str, BatchLine] = {}
        self.done: list[str] = []
        self._models: dict[str, ModelLine] = {}
        self._reasons: dict[str, Reason] = {}
        self._steps_down: dict[str, int] = {}
        self._flagged: dict[str, int] = {}
        self._errors: list[tuple[float, float]] = []
        self._began: str | None = None
        self._ended: str | None = None
        self._busy = 0.0

    def add(self, row: dict[str, Any]) -> None:
        state = row["state"]
        self.counts[state] += 1
        batch = self.batches.setdefault(row["batch_id"], BatchLine(row["batch_id"]))
        batch.counts[state] = batch.counts.get(state, 0) + 1
        if row["started_at"]:
            self._began = min(self._began or row["started_at"], row["started_at"])
        if row["finished_at"] and row["started_at"]:
            self._ended = max(self._ended or row["finished_at"], row["finished_at"])
            self._busy += max(0.0, row["run_seconds"] or 0.0)
        if state == State.DONE:
            self._add_done(row)
        elif state == State.FAILED:
            reason = reason_of(row["error_kind"] or "", from_json(row["error_message"] or "", row["error_json"]))
            listed = self._reasons.setdefault(reason.id, reason)
            listed.count += 1
            if len(listed.job_ids) < MAX_LISTED_JOBS:
                listed.job_ids.append(row["id"])

    def _add_done(self, row: dict[str, Any]) -> None:
        self.done.append(row["id"])
        model = self._models.setdefault(row["model"], ModelLine(row["model"]))
        model.done += 1
        model.seconds += max(0.0, row["run_seconds"] or 0.0)
        if row["flag"]:
            self._flagged[row["flag"]] = self._flagged.get(row["flag"], 0) + 1
        if row["load_seconds"]:
            model.loads += 1
            model.load_seconds += row["load_seconds"]
        if row["rung"] not in FIRST_RUNGS:
            self._steps_down[row["rung"]] = self._steps_down.get(row["rung"], 0) + 1
        if row["expected_seconds"] and row["run_seconds"]:
            self._errors.append((row["expected_seconds"], row["run_seconds"]))

    def report(self, title: str, batch_id: str | None, since: str | None = None, until: str | None = None) -> Report:
        """Build the report. ``since`` and ``until`` default to the first start and the last end."""
        seconds = seconds_between(self._began, self._ended)
        done = self.counts[State.DONE]
        return Report(
            title=title,
            batch_id=batch_id,
            since=since or self._began,
            until=until or self._ended,
            counts=self.counts,
            seconds=seconds,
            busy_seconds=self._busy,
            per_hour=3600 * done / seconds if done and seconds else None,
            models=sorted(self._models.values(), key=lambda each: -each.done),
            loads=sum(each.loads for each in self._models.values()),
            load_seconds=sum(each.load_seconds for each in self._models.values()),
            steps_down=self._steps_down,
            estimate=estimate_of(self._errors),
            reasons=sorted(self._reasons.values(), key=lambda each: -each.count),
            batches=list(self.batches.values()),
            flagged=self._flagged,
        )


def reason_of(kind: str, message: str) -> Reason:
    """The group of an error, by its kind and its message without parts that differ between jobs."""
    shape = re.sub(r"""'[^']*'|"[^"]*"|\d+(?:[.,]\d+)*|\b[0-9A-HJKMNP-TV-Z]{26}\b""", "…", message)
    return Reason(hashlib.sha256(f"{kind}\n{shape}".encode()).hexdigest()[:12], kind, message)


def estimate_of(pairs: Sequence[tuple[float, float]]) -> Estimate | None:
    if not pairs:
        return None
    error = median(abs(expected - actual) / actual for expected, actual in pairs)
    return Estimate(len(pairs), sum(each for each, _ in pairs), sum(each for _, each in pairs), error)


def forecast_of(pictures: int, told_at: str, told_end: str, ended: str | None) -> Forecast | None:
    """The forecast of a list; None if its end is unknown. Times are UTC."""
    took = seconds_between(told_at, ended)
    if not took:
        return None
    estimated = seconds_between(told_at, told_end)
    return Forecast(pictures, estimated, took, abs(estimated - took) / took)


def seconds_between(began: str | None, ended: str | None) -> float:
    if not began or not ended:
        return 0.0
    return max(0.0, (datetime.fromisoformat(ended) - datetime.fromisoformat(began)).total_seconds())


def evenly_spaced(ids: Sequence[str], most: int = MAX_PICTURES) -> list[str]:
    """At most ``most`` ids, evenly spaced, first and last included."""
    if len(ids) <= most:
        return list(ids)
    return [ids[round(place * (len(ids) - 1) / (most - 1))] for place in range(most)]


def build(rows: Iterable[dict[str, Any]]) -> ReportBuilder:
    adder = ReportBuilder()
    for row in rows:
        adder.add(row)
    return adder
