"""`batch`, `grid`, `window`, `export-queue` and `import`: what they print, and how they refuse."""

import zipfile
from pathlib import Path

import pytest

from diffusion_local.compose import Services
from diffusion_local.domain import State
from tests.batches.conftest import Work, work  # noqa: F401  # a fixture
from tests.cli.test_cli import Run, answer, run  # noqa: F401  # a fixture

SMALL = ("--size", "128x128", "--steps", 4)


def make_list(services: Services, text: str = "a cat\na dog") -> str:
    return services.studio.lists.submit(text, width=128, height=128, steps=4, name="pets").batch_id


def test_batches_are_listed_and_shown(services: Services, run: Run) -> None:  # noqa: F811
    batch_id = make_list(services)
    assert [each["id"] for each in answer(run, "batch", "list")] == [batch_id]
    _, output, _ = run("batch", "list")
    assert output.startswith(f"{batch_id}  0 of 2  pets")
    assert answer(run, "batch", "show", batch_id)["counts"]["queued"] == 2
    assert "queued  2" in run("batch", "show", batch_id)[1]
    assert run("batch", "show", "nobody")[0] == 2


def test_a_batch_is_renamed_edited_and_copied(services: Services, run: Run) -> None:  # noqa: F811
    batch_id = make_list(services)
    assert answer(run, "batch", "rename", batch_id, "owls")["name"] == "owls"
    assert answer(run, "batch", "edit", batch_id, "--steps", 9, "--window", "23:00-07:00")["changed"] == 2
    assert services.studio.batch(batch_id)[0].window == "23:00-07:00"
    copy = answer(run, "batch", "duplicate", batch_id, "--name", "more")
    assert services.studio.batch(copy["batch_id"])[0].name == "more"
    status, _, errors = run("batch", "edit", batch_id, "--steps", 900)
    assert (status, "steps: must be" in errors) == (2, True)


def test_a_zip_and_a_sheet_are_written(services: Services, run: Run, work: Work, tmp_path: Path) -> None:  # noqa: F811
    batch_id = make_list(services)
    work()
    content = answer(run, "batch", "zip", batch_id, "--output", tmp_path / "pets.zip")
    assert len(zipfile.ZipFile(content["file"]).namelist()) == 3
    content = answer(run, "batch", "sheet", batch_id, "--output", tmp_path / "pets.webp")
    assert Path(content["file"]).read_bytes()[8:12] == b"WEBP"
    status, _, errors = run("batch", "sheet", batch_id, "--output", tmp_path / "no" / "pets.webp")
    assert (status, "output: cannot be written" in errors) == (2, True)


def test_a_grid_is_looked_at_and_submitted(services: Services, run: Run) -> None:  # noqa: F811
    options = ("grid", "a cat", "--x", "steps: 2,3", "--y", "prompt: cat,dog", "--size", "128x128")
    assert answer(run, *options, "--dry-run", "--window", "23:00-07:00")["pictures"] == 4
    assert services.studio.jobs() == []
    content = answer(run, *options, "--window", "23:00-07:00")
    assert len(content["job_ids"]) == 4
    assert services.studio.batch(content["batch_id"])[0].window == "23:00-07:00"


def test_a_queue_is_written_and_read(services: Services, run: Run, tmp_path: Path) -> None:  # noqa: F811
    make_list(services)
    file = tmp_path / "queue.jsonl"
    run("export-queue", "--output", file)
    assert run("export-queue")[1] == file.read_text(encoding="utf-8")
    content = answer(run, "import", file)  # on this machine too it makes a batch of its own, once
    assert (content["count"], answer(run, "import", file)["batches"]) == (2, content["batches"])
    assert len(services.studio.jobs(str(State.QUEUED))) == 4


@pytest.mark.parametrize(("hours", "kept"), [("23:00-07:00", "23:00-07:00"), ("", "")])
def test_the_window_is_set(services: Services, run: Run, hours: str, kept: str) -> None:  # noqa: F811
    assert answer(run, "window", hours)["window"] == kept
    assert services.studio.snapshot().window == kept
    assert run("window", "never")[0] == 2


def test_a_list_takes_times(services: Services, run: Run, tmp_path: Path) -> None:  # noqa: F811
    file = tmp_path / "night.txt"
    file.write_text("a cat\n", encoding="utf-8")
    content = answer(run, "list", file, *SMALL, "--window", "23:00-07:00", "--start-at", "tomorrow 01:00")
    batch = services.studio.batch(content["batch_id"])[0]
    assert batch.window == "23:00-07:00"
    assert batch.start_at
    assert run("list", file, *SMALL, "--dry-run", "--window", "23:00-07:00")[0] == 0
    assert run("list", file, "--start-at", "soon")[0] == 2
