"""`list` and `export`: what they print for people and for programs, and how they refuse."""

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from diffusion_local.compose import Services
from diffusion_local.domain import Lane
from tests.cli.test_cli import Run, answer, run  # noqa: F401  # a fixture
from tests.conftest import StartWorker


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "night.txt"
    path.write_text("# night\na {red|blue} castle --seed 7 --count 2\na car --steps 3\n", encoding="utf-8")
    return path


def stdin(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))


def jobs(services: Services) -> list[Any]:
    return sorted(services.studio.jobs(limit=100), key=lambda job: job.index)


def test_a_list_is_one_batch_with_defaults_for_what_lines_do_not_say(services: Services, run: Run, file: Path) -> None:  # noqa: F811
    content = answer(
        run, "list", file, "--steps", 9, "--size", "128x256", "--negative", "ugly", "--guidance", 3, "--sampler",
        "ddim", "--model", "starter", "--priority", 4, "--idempotency-key", "k",
    )  # fmt: skip
    found = jobs(services)
    assert (content["count"], content["job_ids"]) == (3, [job.id for job in found])
    assert [job.params.steps for job in found] == [9, 9, 3]
    assert {(job.params.width, job.params.height, job.params.negative, job.lane, job.priority) for job in found} == {
        (128, 256, "ugly", Lane.BATCH, 4)
    }
    assert services.studio.batch(content["batch_id"])[0].name == "night"
    status, output, _ = run("list", file, "--name", "mine", "--count", 2)
    assert (status, output.startswith("queued 4 pictures as batch ")) == (0, True)


def test_standard_input_is_read_in_any_format(services: Services, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    stdin(monkeypatch, "a castle\r\n".encode("utf-16"))
    assert answer(run, "list", "-")["count"] == 1
    stdin(monkeypatch, b'{"prompt": "a car", "seed": 7}')
    assert answer(run, "list", "-", "--format", "jsonl")["count"] == 1
    assert {job.params.prompt for job in jobs(services)} == {"a castle", "a car"}


def test_a_dry_run_says_what_would_be_made(services: Services, run: Run, file: Path) -> None:  # noqa: F811
    status, output, _ = run("list", file, "--dry-run", "--combinatorial")
    assert status == 0
    assert "pictures  5 from 2 lines" in output
    assert "model     starter: 5" in output
    assert "time      not known yet" in output
    assert "first     a red castle" in output
    assert "first     a car" in output
    with file.open("a", encoding="utf-8") as more:
        more.write("x --mood 3\n" * 30)
    status, output, _ = run("list", file, "--dry-run")
    assert status == 1
    assert "bad       line 4: --mood: is not a flag" in output
    assert "bad       and 10 more bad lines" in output
    status, output, _ = run("list", file, "--dry-run", "--json")
    assert (status, json.loads(output)["bad_count"]) == (1, 30)
    assert jobs(services) == []


def test_bad_lines_refuse_the_list_or_are_skipped_and_told(services: Services, run: Run, file: Path) -> None:  # noqa: F811
    with file.open("a", encoding="utf-8") as more:
        more.write("x --mood 3\n")
    status, output, errors = run("list", file)
    assert (status, output) == (2, "")
    assert "list: has 1 bad line, so nothing was enqueued" in errors
    assert "Line 4: --mood: is not a flag" in errors
    assert jobs(services) == []
    status, _, errors = run("list", file, "--skip-bad-lines", "--literal")
    assert (status, len(jobs(services))) == (0, 3)
    assert "note: line 4: --mood: is not a flag" in errors
    assert jobs(services)[0].params.prompt == "a {red|blue} castle"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["list", "nobody.txt"], "list: cannot be read"),
        (["list", "nobody.txt", "--combinatorial", "--literal"], "literal: must be left out"),
        (["list", "nobody.txt", "--timeout", "-1"], "timeout: must be from 0"),
        (["list", "nobody.txt", "--size", "huge"], "size: must be WIDTHxHEIGHT"),
        (["export"], "BATCH: name a batch, or --waiting"),
        (["export", "x", "--waiting"], "BATCH: name a batch, or --waiting"),
        (["export", "nobody"], "no batch 'nobody'"),
        (["export", "--waiting", "--format", "xml"], "format: must be one of csv, jsonl"),
        (["export", "--waiting", "--output", "/nobody/nowhere/x.csv"], "output: cannot be written"),
    ],
)
def test_what_is_refused(run: Run, arguments: list[str], words: str) -> None:  # noqa: F811
    status, output, errors = run(*arguments)
    assert (status, output) == (2, "")
    assert words in errors


def test_an_export_can_be_given_to_list_again(services: Services, run: Run, file: Path, tmp_path: Path) -> None:  # noqa: F811
    content = answer(run, "list", file)
    status, output, _ = run("export", content["batch_id"])
    assert status == 0
    assert len(output.splitlines()) == 4
    copy = tmp_path / "copy.jsonl"
    assert run("export", "--waiting", "--format", "jsonl", "--output", copy)[0] == 0
    again = answer(run, "list", copy)
    first, second = (
        [job.params for job in services.studio.jobs_of_batches([batch_id])]
        for batch_id in (content["batch_id"], again["batch_id"])
    )
    assert first == second


def test_wait_stays_until_all_are_made(services: Services, run: Run, file: Path, worker_process: StartWorker) -> None:  # noqa: F811
    worker_process()
    content = answer(run, "list", file, "--wait", "--size", "128x128", "--timeout", 60)
    assert content["counts"]["done"] == 3
    status, output, _ = run("list", file, "--wait", "--steps", 100, "--timeout", 0)
    assert status == 1
    assert "queued" in output
