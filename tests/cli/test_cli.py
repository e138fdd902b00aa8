"""The command line: what each command prints for people and for programs, and how it refuses."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PIL
from PIL.PngImagePlugin import PngInfo
from typer.main import get_command

from diffusion_local import __version__
from diffusion_local.cli import app, main, terminal
from diffusion_local.compose import Services
from diffusion_local.db import upkeep
from diffusion_local.domain import State
from diffusion_local.engine import inventory
from diffusion_local.engine.fake import FakeEngine
from diffusion_local.settings import LOCALE_VARIABLES
from diffusion_local.worker.stopping import Stop
from tests.conftest import StartWorker
from tests.support import FAILURE, claimed, sql, start_python
from tests.workers import open_runner

COMMANDS: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]
WITHOUT_HOME = {"version", "help"}
WITHOUT_JSON = {
    "version",
    "help",
    "serve",
    "worker",
    "mcp",
    "export",
    "export-queue",
    "report",
}  # the last three write a file

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """(exit status, standard output, standard error) of a command in this process, through ``main``."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["diffusion-local", *map(str, arguments)])
        try:
            main()
            status = 0
        except SystemExit as left:
            status = int(left.code or 0)
        output, errors = capsys.readouterr()
        return status, output, errors

    return run


def made(services: Services, count: int = 1) -> list[str]:
    ids = services.studio.submit("a red apple", count=count, width=128, height=128, steps=2).job_ids
    runner = open_runner(services, "cpu0", FakeEngine(0), Stop())
    runner.run_due_jobs()
    runner.close()
    return ids


def answer(run: Run, *arguments: object) -> Any:
    status, output, errors = run(*arguments, "--json")
    assert status == 0, errors
    return json.loads(output)


GROUPS = {name for name in COMMANDS if hasattr(COMMANDS[name], "commands")}


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - GROUPS))
def test_every_command_has_help_and_takes_home_and_json(name: str, run: Run) -> None:
    options = {option for parameter in COMMANDS[name].params for option in parameter.opts}
    assert ("--home" in options) == (name not in WITHOUT_HOME)
    assert ("--json" in options) == (name not in WITHOUT_JSON)
    status, output, _ = run(name, "--help")
    assert status == 0
    assert COMMANDS[name].help.split(".")[0].split("\n")[0][:40] in output


def test_submit_enqueues_and_says_so(services: Services, run: Run) -> None:
    content = answer(run, "submit", "a red apple", "--count", 2, "--seed", 7, "--size", "128x256", "--steps", 3)
    jobs = [services.studio.job(job_id) for job_id in content["job_ids"]]
    assert [(job.params.seed, job.params.width, job.params.height, job.params.steps) for job in jobs] == [
        (7, 128, 256, 3),
        (8, 128, 256, 3),
    ]
    status, output, errors = run("submit", "a red apple")
    assert (status, output.startswith("queued ")) == (0, True)
    assert "no worker is running" in errors


def test_submit_takes_every_setting(services: Services, run: Run) -> None:
    content = answer(
        run, "submit", "x", "--negative", "y", "--guidance", 3.5, "--sampler", "euler a", "--model", "starter",
        "--name", "n", "--priority", 5, "--idempotency-key", "k",
    )  # fmt: skip
    job = services.studio.job(content["job_ids"][0])
    assert (job.params.negative, job.params.guidance, job.params.sampler, job.priority) == ("y", 3.5, "Euler a", 5)
    assert answer(run, "submit", "x", "--negative", "y", "--guidance", 3.5, "--sampler", "euler a", "--model",
                  "starter", "--idempotency-key", "k")["job_ids"] == content["job_ids"]  # fmt: skip


def test_submit_warns_of_a_long_prompt_on_standard_error(services: Services, run: Run) -> None:
    status, output, errors = run("submit", "apple " * 500, "--json")
    assert status == 0
    assert json.loads(output)["warnings"]
    assert "parts" in errors


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs a file without an end")
@pytest.mark.parametrize(
    ("arguments", "field"), [(["submit", "x", "--source"], "--source"), (["describe"], "PICTURE"), (["recipe"], "file")]
)
def test_a_file_that_does_not_end_is_refused(
    services: Services, run: Run, monkeypatch: pytest.MonkeyPatch, arguments: list[str], field: str
) -> None:
    monkeypatch.setattr(terminal, "MOST_MB", 1)
    status, _, errors = run(*arguments, "/dev/zero")
    assert (status, f"{field}: '/dev/zero': a picture's file has at most 1 MB" in errors) == (2, True), errors


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["submit", ""], "PROMPT: must not be empty"),
        (["submit", "x", "--size", "huge"], "size: must be WIDTHxHEIGHT"),
        (["submit", "x", "--size", "100x100"], "--size: must be from 128 to 512"),
        (["submit", "x", "--size", "260x256"], "--size: must be a multiple of 8"),
        (["submit", "x", "--steps", "0"], "--steps: must be from 1"),
        (["submit", "x", "--steps", "many"], "--steps: must be a number from 1 to 100 (got 'many')"),
        (["submit", "x", "--steps", "0", "--guidance", "99"], "\n--guidance: must be from 0 to 30"),
        (
            ["submit", "x", "--hires-scale", "8"],
            "--hires-scale: must not make more than 262,144 pixels with starter, unless --hires-tile makes it in tiles",
        ),
        (["submit", "x", "--region", "a fox", "--region", "a cat:x=2"], "--region 2, x: must be from 0 to 0.98"),
        (["submit", "x", "--lora", "ink:9"], "--lora: must be from -4 to 4"),
        (["submit", "x", "--control", "nofile.png:type=canny"], "--control 1, image: cannot be read"),
        (["grid", "x", "--x", "hires_scale: 1, 99"], "--hires-scale: must be from 0 to 8"),
        (["grid", "x", "--x", "mood: 1"], "Fields: prompt, size, lora, negative, model, width, height, steps"),
        (["submit", "x", "--count", "0"], "count: must be from 1"),
        (["submit", "x", "--model", "nobody"], "model: There is no model 'nobody'"),
        (["submit", "x", "--sampler", "nobody"], "sampler: must be one of"),
        (["submit", "x", "--seed", "-5"], "seed: must be"),
        (["submit", "\udcff"], "PROMPT: must be text"),
        (["job", "nobody"], "no job 'nobody'"),
        (["cancel", "nobody"], "no job 'nobody'"),
        (["cancel"], "JOB_IDS: name jobs"),
        (["cancel", "--batch", "nobody"], "no batch 'nobody'"),
        (["again", "nobody"], "no job 'nobody'"),
        (["again"], "JOB_IDS: name jobs"),
        (["again", "--failed"], "There is no failed job left"),
        (["move", "left", "x"], "TO: must be top, bottom, up or down"),
        (["priority", "500", "x"], "priority: must be from -100"),
        (["forget"], "JOB_IDS: name jobs"),
        (["pause", "--batch", "nobody"], "no batch 'nobody'"),
        (["jobs", "--state", "sleeping"], "state: must be one of"),
        (["jobs", "--limit", "0"], "limit: must be from 1"),
        (["gallery", "--limit", "0"], "limit: must be from 1"),
        (["gallery", "--sort", "ugliest"], "sort: must be one of"),
        (["serve", "--engine", "magic"], "--engine: must be one of diffusers, fake"),
        (["serve", "--device", "tpu"], "--device: must be one of"),
    ],
)
def test_what_is_refused_ends_with_2_and_words_on_standard_error(
    services: Services, run: Run, arguments: list[str], words: str
) -> None:
    status, output, errors = run(*arguments)
    assert (status, output) == (2, "")
    assert errors.startswith("diffusion-local: ")
    assert words in errors
    assert "Traceback" not in errors
    with sql(services.settings) as db:
        assert db.execute("SELECT count(*) FROM jobs").fetchone()[0] == 0


@pytest.mark.parametrize(("variable", "value"), [("LC_ALL", "zh_CN.UTF-8"), ("LANG", "zh_TW")])
def test_what_is_refused_is_told_in_the_language_of_the_terminal(
    services: Services, run: Run, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    for name in LOCALE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, value)
    assert (
        run("submit", "x", "--hires-scale", "9")[2]
        == "diffusion-local: --hires-scale：必须在 0 到 8 之间（输入为 '9'）。\n"
    )
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    assert "must be from 0 to 8" in run("submit", "x", "--hires-scale", "9")[2]


def test_a_damaged_database_is_refused_by_every_command(services: Services, run: Run) -> None:
    services.database.close()
    services.settings.database_file.write_bytes(b"no database " * 1000)
    for command in (["jobs"], ["submit", "x"], ["queue"], ["gallery"], ["pause"]):
        status, output, errors = run(*command)
        assert (status, output) == (2, "")
        assert "damaged" in errors
        assert "doctor" in errors


def test_jobs_and_job_tell_what_happened(services: Services, run: Run) -> None:
    [done] = made(services)
    [waiting] = services.studio.submit("a blue heart").job_ids
    assert [job["id"] for job in answer(run, "jobs")] == [waiting, done]
    assert [job["id"] for job in answer(run, "jobs", "--state", "done", "--limit", 5)] == [done]
    assert "a blue heart" in run("jobs")[1]
    content = answer(run, "job", done)
    assert [event["state"] for event in content["events"]] == ["queued", "running", "done"]
    assert Path(content["file"]).is_file()
    assert "seed" in run("job", done)[1]
    assert run("jobs", "--state", "failed")[1] == "no jobs\n"
    assert answer(run, "jobs", "--state", "failed") == []


def test_gallery_lists_files_that_are_there(services: Services, run: Run) -> None:
    assert run("gallery")[1] == "no pictures yet\n"
    ids = made(services, 2)
    content = answer(run, "gallery", "--search", "RED")
    assert [image["id"] for image in content] == ids[::-1]
    assert all(Path(image["file"]).is_file() for image in content)
    assert run("gallery", "--limit", 1)[1].count("\n") == 1


def test_one_lost_file_does_not_hide_the_others(services: Services, run: Run) -> None:
    kept, lost = made(services, 2)
    services.studio.picture_file(lost).delete()
    status, output, _ = run("gallery")
    assert status == 0
    assert kept in output
    assert {image["id"] for image in answer(run, "gallery")} == {kept, lost}
    assert answer(run, "job", lost)["state"] == "done"


def test_cancel_again_move_priority_and_forget(services: Services, run: Run) -> None:
    first, second, third = services.studio.submit("x", count=3).job_ids
    assert answer(run, "move", "top", third)["moved"] == [third]
    assert answer(run, "priority", 3, second)["changed"] == [second]
    assert answer(run, "cancel", first)["cancelled"] == [first]
    assert run("cancel", first)[0] == 2
    assert sorted(answer(run, "cancel", "--waiting")["cancelled"]) == sorted([second, third])
    assert run("cancel", "--waiting")[1] == "nothing left to cancel\n"
    assert len(answer(run, "again", first, second)["job_ids"]) == 2
    services.jobs.fail(claimed(services.jobs).claim, FAILURE)
    assert len(answer(run, "again", "--failed")["job_ids"]) == 1
    assert len(answer(run, "forget", "--ended")["forgotten"]) == 4


def test_pause_queue_and_resume(services: Services, run: Run) -> None:
    assert answer(run, "pause")["paused"] is True
    assert answer(run, "queue")["paused"] is True
    assert run("queue")[1].startswith("paused")
    assert answer(run, "resume")["paused"] is False
    assert run("queue")[1].startswith("open")
    batch_id = services.studio.submit("x").batch_id
    assert answer(run, "pause", "--batch", batch_id)["batch_id"] == batch_id
    assert services.jobs.claim_next("cpu0") is None


def test_models_logs_doctor_and_version(services: Services, run: Run) -> None:
    assert answer(run, "models")[0]["id"] == "starter"
    assert "ready" in run("models")[1]
    assert run("logs")[1] == "nothing logged\n"
    services.settings.logs.joinpath("web.log").write_text(
        json.dumps({"at": "1", "level": "info", "process": "web", "event": "hello", "job": "j"}) + "\n"
    )
    assert answer(run, "logs", "--job", "j")[0]["event"] == "hello"
    assert "hello" in run("logs")[1]
    assert run("version")[1] == f"{__version__}\n"


def test_doctor_says_by_its_status_whether_something_is_wrong(
    services: Services, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIFFUSION_LOCAL_ENGINE", "fake")
    assert all(finding["ok"] for finding in answer(run, "doctor"))
    (services.settings.models / "broken").mkdir()
    status, output, _ = run("doctor")
    assert status == 1
    assert "BAD  model broken" in output
    assert "->" in output


def test_doctor_backs_up_and_rebuilds(services: Services, run: Run, tmp_path: Path) -> None:
    made(services, 2)
    assert answer(run, "doctor", "--backup", tmp_path / "copy.db")["backup"] == str(tmp_path / "copy.db")
    assert run("doctor", "--backup", tmp_path / "copy.db")[0] == 2
    with sql(services.settings) as db:
        db.execute("DELETE FROM images")
    assert answer(run, "doctor", "--rebuild") == {"rebuilt": 2}


@pytest.mark.skipif(os.name == "nt", reason="POSIX modes")
def test_doctor_closes_the_home_and_gives_space_back(
    services: Services, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inventory, "inspect_devices", lambda settings: ([], ""))  # by a child that imports torch
    services.studio.submit("an apple on a table " * 100, count=100, width=128, height=128)
    services.studio.queue.cancel(waiting=True)
    services.studio.queue.forget(ended=True)
    before = upkeep.measure(services.database).size
    services.settings.home.chmod(0o755)
    assert "others may read home" in run("doctor")[1]
    content = answer(run, "doctor", "--fix")
    assert content["closed"] == [f"{services.settings.home}: 0755 -> 0700"]
    assert content["app_db"] == before - upkeep.measure(services.database).size > 100_000
    assert services.settings.home.stat().st_mode & 0o777 == 0o700
    assert answer(run, "doctor", "--fix")["closed"] == []
    assert run("doctor", "--fix", "--home", services.settings.home / "none")[0] == 2


def test_home_is_taken_by_the_commands(run: Run, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    job_ids = answer(run, "submit", "x", "--home", elsewhere)["job_ids"]
    assert answer(run, "jobs") == []
    assert [job["id"] for job in answer(run, "jobs", "--home", elsewhere)] == job_ids
    assert (elsewhere / "app.db").is_file()


# -- with a worker ---------------------------------------------------------------------------------------------------


def test_submit_and_wait_prints_the_file(services: Services, run: Run, worker_process: StartWorker) -> None:
    worker_process()
    status, output, errors = run("submit", "a red apple", "--size", "128x128", "--steps", 2, "--wait")
    assert (status, errors) == (0, "")
    assert Path(output.strip()).is_file()
    content = answer(run, "submit", "a red apple", "--size", "128x128", "--steps", 2, "--count", 2, "--wait")
    assert [job["state"] for job in content["jobs"]] == ["done", "done"]
    assert all(Path(job["file"]).is_file() for job in content["jobs"])


def test_submit_and_wait_fails_with_the_job_and_with_its_timeout(
    services: Services, run: Run, worker_process: StartWorker
) -> None:
    worker_process()
    status, output, _ = run("submit", "[fail]", "--wait")
    assert status == 1
    assert "engine_error" in output
    status, output, _ = run("submit", "[slow:30]", "--wait", "--timeout", 0.5, "--json")
    assert status == 1
    assert json.loads(output)["jobs"][0]["state"] in ("queued", "running")


@pytest.mark.slow
def test_the_package_runs_by_its_name_and_calls_itself_as_people_type_it() -> None:
    child = start_python("import runpy; runpy.run_module('diffusion_local', run_name='__main__')", "version")
    result, errors = child.communicate(timeout=60)
    assert (child.returncode, result.split()[-1]) == (0, __version__), errors
    child = start_python("import runpy; runpy.run_module('diffusion_local', run_name='__main__')", "jobs", "--help")
    assert "Usage: diffusion-local jobs" in child.communicate(timeout=60)[0]


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes")
@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_fault(services: Services) -> None:
    services.studio.submit("x" * 5000, count=100)
    child = start_python(
        "import sys; sys.argv[1:] = ['jobs', '--limit', '100', '--json']; from diffusion_local.cli import main; main()"
    )
    assert child.stdout is not None
    child.stdout.readline()
    child.stdout.close()
    assert child.stderr is not None
    assert "Traceback" not in child.stderr.read()
    child.stderr.close()
    child.wait(30)


@pytest.mark.slow
def test_a_real_process_takes_home_engine_and_slot(services: Services, tmp_path: Path) -> None:
    """``worker`` becomes the worker process itself."""
    elsewhere = tmp_path / "elsewhere"
    child = start_python(
        "import sys; from diffusion_local.cli import main; main()",
        "worker", "--home", str(elsewhere), "--engine", "fake", "--slot", "cpu7",
    )  # fmt: skip
    try:
        from diffusion_local.compose import open_services
        from diffusion_local.settings import Settings
        from tests.support import eventually

        other = open_services(Settings.load({}, home=elsewhere, engine="fake"))
        [job_id] = other.studio.submit("x", width=128, height=128, steps=2).job_ids
        eventually(lambda: other.studio.job(job_id).state is State.DONE, 30)
        assert [(worker.slot, worker.pid) for worker in other.workers.list_all()] == [("cpu7", child.pid)]
    finally:
        child.terminate()
        child.communicate(timeout=10)
    assert child.returncode == 0


def test_a_picture_is_starred_goes_to_the_trash_and_comes_back(run: Any, services: Services) -> None:
    (job_id,) = services.studio.submit("x").job_ids
    runner = open_runner(services, "cpu0", FakeEngine(0), Stop())
    runner.run_due_jobs()
    runner.close()
    assert answer(run, "star", job_id)["starred"]
    assert not answer(run, "star", job_id, "--off")["starred"]
    assert answer(run, "trash", job_id)["trashed_at"]
    assert answer(run, "gallery") == []
    assert [each["id"] for each in answer(run, "gallery", "--trashed")] == [job_id]
    assert answer(run, "restore", job_id)["trashed_at"] is None


def test_recipe_reads_a_picture_and_refuses_one_that_has_none(run: Run, tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("parameters", "a cat\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 5, Size: 512x512")
    PIL.new("RGB", (8, 8)).save(tmp_path / "cat.png", pnginfo=info)
    content = answer(run, "recipe", tmp_path / "cat.png")
    assert (content["settings"]["prompt"], content["settings"]["seed"]) == ("a cat", 5)
    assert "Euler a" in run("recipe", tmp_path / "cat.png")[1]
    PIL.new("RGB", (8, 8)).save(tmp_path / "bare.png")
    for name, words in (("bare.png", "has no readable recipe"), ("none.png", "cannot be read")):
        status, _, errors = run("recipe", tmp_path / name)
        assert status != 0
        assert words in errors


def test_a_refused_submit_leaves_no_picture(run: Run, services: Services, tmp_path: Path) -> None:
    picture = tmp_path / "photo.png"
    PIL.new("RGB", (64, 64), "red").save(picture)
    status, _, errors = run("submit", "a boat", "--source", picture, "--strength", 7, "--home", services.settings.home)
    assert (status, list(services.files.sources())) == (2, []), errors
    status, _, errors = run("submit", "a boat", "--source", picture, "--home", services.settings.home)
    assert (status, len(list(services.files.sources()))) == (0, 1), errors
