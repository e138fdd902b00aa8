"""The command line says the same to a server as to a home, and hears the same."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from typer.main import get_command

from diffusion_local.cli import app
from diffusion_local.compose import Services
from diffusion_local.domain import DeviceMemory, State
from tests.remote.conftest import Run, serving
from tests.support import FAILURE, claimed, every
from tests.web.conftest import drawn, made, services_of

Ask = Callable[..., Any]
OF_THIS_MACHINE = {
    "doctor",
    "help",
    "logs",
    "relocate",
    "serve",
    "tls",
    "token",
    "user",
    "version",
    "webhook secret",
    "worker",
}


COMMANDS: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]
for group in ("batch", "machine", "models", "webhook"):
    COMMANDS |= {f"{group} {name}": command for name, command in COMMANDS[group].commands.items()}
for group in ("batch", "machine", "webhook"):  # `models` alone is a command too
    del COMMANDS[group]
LOCAL = ("eta", "done_at", "file", "path", "moved_to")
SMALL = ("--size", "128x128", "--steps", 4)


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - OF_THIS_MACHINE))
def test_a_command_takes_a_server(name: str) -> None:
    options = {option for parameter in COMMANDS[name].params for option in parameter.opts}
    assert {"--home", "--server", "--token"} <= options


@pytest.fixture
def busy(services: Services) -> dict[str, str]:
    """One job in each state, by state."""
    done = made(services).job_id
    services.studio.submit("broken", width=128, height=128)
    failed = claimed(services.jobs)
    services.jobs.fail(failed.claim, FAILURE)
    [cancelled] = services.studio.submit("unwanted").job_ids
    services.studio.queue.cancel([cancelled])
    services.studio.submit("a cat", seed=1, name="animals", width=128, height=128)
    running = claimed(services.jobs)
    services.jobs.report(running.claim, 3, "denoising")
    [queued] = services.studio.submit("a dog", seed=2, priority=4).job_ids
    services.workers.register("cpu0", 1, "CPU", DeviceMemory("cpu", 8 * 1024**3))
    services.workers.update("cpu0", "idle", free=6 * 1024**3)
    return {"done": done, "failed": failed.id, "cancelled": cancelled, "running": running.id, "queued": queued}


def without_moments(told: Any) -> Any:
    """Estimates differ, as time passes between two questions; and files: a picture there is an address."""
    if isinstance(told, dict):
        return {name: without_moments(each) for name, each in told.items() if name not in LOCAL}
    return [without_moments(each) for each in told] if isinstance(told, list) else told


QUESTIONS = ("jobs", "queue", "gallery", "models", "models scan", "models known", "models info starter", "batch list")


def test_both_tell_the_same(busy: dict[str, str], here: Ask, there: Ask) -> None:
    answers = {
        each: (without_moments(there(*each.split())), without_moments(here(*each.split()))) for each in QUESTIONS
    }
    assert {question: both for question, both in answers.items() if both[0] != both[1] or not both[0]} == {}


def test_both_tell_the_same_of_a_job(busy: dict[str, str], here: Ask, there: Ask) -> None:
    answers = {state: (there("job", busy[state]), here("job", busy[state])) for state in State}
    assert {state: there["state"] for state, (there, _) in answers.items()} == {state: state for state in State}
    assert {
        state: both for state, both in answers.items() if without_moments(both[0]) != without_moments(both[1])
    } == {}


def test_both_print_the_same_for_people(busy: dict[str, str], run: Run, server: str) -> None:
    for command in (["jobs"], ["queue"], ["models"]):
        assert run(*command, "--server", server) == run(*command)


def test_a_picture_is_told_by_its_address(services: Services, there: Ask, run: Run, server: str) -> None:
    image = made(services)
    [result] = there("gallery", "--search", "apple")
    assert result["file"] == f"{server}/images/{image.id}.png"
    assert result["file"] in run("gallery", "--server", server)[1]


def test_submit_with_every_setting(services: Services, there: Ask, here: Ask) -> None:
    arguments = [
        "a red apple", "--count", 2, "--seed", 7, *SMALL, "--negative", "blur", "--guidance", 3.5,
        "--sampler", "euler a", "--model", "starter", "--name", "n", "--priority", 5, "--idempotency-key", "k",
    ]  # fmt: skip
    result = there("submit", *arguments)
    assert here("submit", *arguments) == result
    first, second = (services.studio.job(job_id) for job_id in result["job_ids"])
    assert (first.params.seed, second.params.seed, first.params.width, first.priority) == (7, 8, 128, 5)
    assert there("submit", "apple " * 500)["warnings"]


def test_submit_and_wait(services: Services, run: Run, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusion_local.remote.studio import RemoteStudio

    def at_once(studio: RemoteStudio, *arguments: Any, **settings: Any) -> Any:
        receipt = studio.__getattr__("submit")(*arguments, **settings)
        drawn(services, claimed(services.jobs))
        return receipt

    monkeypatch.setattr(RemoteStudio, "submit", at_once, raising=False)
    status, output, errors = run("submit", "x", *SMALL, "--wait", "--server", server)
    assert (status, errors) == (0, "")
    assert output.startswith(f"{server}/images/")
    assert services.studio.jobs("done")


def test_a_wait_that_is_over_says_so(run: Run, server: str) -> None:
    status, output, errors = run("submit", "x", "--wait", "--timeout", 0.2, "--server", server, "--json")
    assert status == 1
    assert json.loads(output)["jobs"][0]["state"] == "queued"
    assert "the work goes on" in errors


def test_orders_reach_the_server(busy: dict[str, str], services: Services, there: Ask, run: Run, server: str) -> None:
    first, second, third = services.studio.submit("x", count=3).job_ids
    assert there("move", "top", third)["moved"] == [third]
    assert there("priority", 3, second)["changed"] == [second]
    assert there("cancel", first)["cancelled"] == [first]
    assert run("cancel", first, "--server", server)[0] == 2
    assert there("again", "--failed")["job_ids"]
    assert run("again", "--failed", "--server", server)[0] == 2
    assert {second, third} <= set(there("cancel", "--waiting")["cancelled"])
    assert len(there("again", first, second)["job_ids"]) == 2
    assert first in there("forget", "--ended")["forgotten"]
    batch_id = services.studio.submit("y").batch_id
    assert there("pause", "--batch", batch_id)["batch_id"] == batch_id
    assert there("pause")["paused"] is True
    assert there("queue")["paused"] is True
    there("resume")
    there("resume", "--batch", batch_id)
    assert len(there("cancel", "--batch", batch_id)["cancelled"]) == 1
    image = made(services)
    assert there("star", image.id)["starred"] is True
    assert there("trash", image.id)["trashed_at"]
    assert [each["id"] for each in there("gallery", "--trashed")] == [image.id]
    assert there("restore", image.id)["trashed_at"] is None


def test_reports_and_deliveries_are_read_from_there(
    busy: dict[str, str], services: Services, here: Ask, there: Ask, run: Run, server: str
) -> None:
    batch_id = services.studio.job(busy["failed"]).batch_id
    since = ("--since", "2020-01-01", "--until", "2100-01-01")
    for form in ("md", "html", "json"):
        for arguments in ((batch_id,), since):
            text = run("report", *arguments, "--format", form, "--server", server)
            assert text == run("report", *arguments, "--format", form)
            assert text[0] == 0
    assert run("report", "nobody", "--server", server) == run("report", "nobody")
    [delivery_id] = services.deliveries.add(services.notices.add_handled("test"), "{}", {"https://example.com/": 1})
    [text] = there("webhook", "list")
    assert text["id"] == delivery_id
    assert here("webhook", "list") == [text]
    services.deliveries.take(delivery_id)
    services.deliveries.settle(delivery_id, False, 500, "", "it answered 500", None)
    assert there("webhook", "resend", delivery_id)["state"] == "waiting"
    assert run("webhook", "test", "http://10.0.0.1/", "--server", server)[0] == 2


def test_a_recipe_is_read_by_id(services: Services, here: Ask, there: Ask) -> None:
    image = made(services)
    result = there("recipe", image.id)
    assert result == here("recipe", image.id)
    assert result["settings"]["prompt"] == image.params.prompt


def test_webhooks(services: Services, here: Ask, there: Ask, run: Run, server: str) -> None:
    sent = there("webhook", "test", "https://1.1.1.1/told")
    assert there("webhook", "list") == here("webhook", "list") == [sent]
    assert there("webhook", "list", "--state", "failed") == []
    assert there("webhook", "resend", sent["id"])["id"] == sent["id"]


def test_models_are_added_loaded_and_removed_there(services: Services, here: Ask, there: Ask, tmp_path: Path) -> None:
    elsewhere = tmp_path / "own"
    copytree(services.studio.library.model("starter").folder, elsewhere)
    [added] = there("models", "add", elsewhere)
    assert without_moments(here("models", "info", added["id"])) == there("models", "info", added["id"])
    assert "no longer looked into" in there("models", "remove", added["id"])["message"]
    loading = there("models", "download", "somebody/some-model")
    assert there("models", "downloads") == here("models", "downloads") == [loading]
    assert there("models", "cancel", loading["id"])["cancel_requested"] or here("models", "downloads")


def test_the_machine_there_stays_awake(services: Services, run: Run, server: str) -> None:
    assert run("stay-awake", "--server", server) == (0, "the machine stays awake\n", "")


def test_lists_go_there_and_come_back(
    services: Services, here: Ask, there: Ask, tmp_path: Path, run: Run, server: str
) -> None:
    file = tmp_path / "night.csv"
    file.write_text("prompt,seed\na {red|blue} car,1\nx,2\n", encoding="utf-8")
    check = ["list", file, "--dry-run", "--expansion-seed", 1, "--combinatorial", *SMALL]
    assert there(*check) == here(*check)
    result = there("list", file, "--priority", 3, *SMALL)
    batch, counts = services.studio.batch(result["batch_id"])
    assert (batch.name, counts[State.QUEUED], result["count"]) == ("night", 2, 2)
    for form in ("csv", "jsonl"):
        expected = run("export", result["batch_id"], "--format", form)
        assert run("export", result["batch_id"], "--format", form, "--server", server) == expected
    output = tmp_path / "waiting.csv"
    assert run("export", "--waiting", "--output", output, "--server", server)[0] == 0
    assert there("list", output, "--dry-run")["pictures"] == 2
    status, _, errors = run("list", tmp_path / "none.txt", "--server", server)
    assert (status, "list: cannot be read" in errors) == (2, True)


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Services, str]]:
    services = services_of(tmp_path_factory)
    with serving(services) as url:
        yield services, url
    services.database.close()


@pytest.fixture
def unchanged(shared_server: tuple[Services, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """Address of one server for all tests that change nothing; its home is also that of commands without a server."""
    services, url = shared_server
    monkeypatch.setenv("DIFFUSION_LOCAL_HOME", str(services.settings.home))
    return url


@pytest.mark.parametrize(
    ("arguments", "words"),
    every(
        4,
        [
            (["submit", ""], "PROMPT: must not be empty"),
            (["submit", "x", "--size", "260x256"], "--size: must be a multiple of 8"),
            (["submit", "x", "--model", "nobody"], "model: There is no model 'nobody'"),
            (["job", "nobody"], "no job 'nobody'"),
            (["cancel", "nobody"], "no job 'nobody'"),
            (["cancel", "--batch", "nobody"], "no batch 'nobody'"),
            (["pause", "--batch", "nobody"], "no batch 'nobody'"),
            (["again", "--failed"], "There is no failed job left"),
            (["jobs", "--state", "sleeping"], "state: must be one of"),
            (["jobs", "--limit", "0"], "limit: must be from 1"),
            (["star", "nobody"], "no picture 'nobody'"),
            (["export", "nobody"], "no batch 'nobody'"),
            (["report", "nobody"], "no batch 'nobody'"),
            (["report", "--since", "soon"], "since: must be a time"),
            (["recipe", "0" * 26], "no picture"),
            (["models", "info", "nobody"], "model 'nobody'"),
            (["models", "remove", "starter"], "is part of the program"),
            (["models", "add", "/nowhere/at/all"], "PATH: must be a file or folder"),
            (["models", "cancel", "nobody"], "no download 'nobody'"),
            (["webhook", "test", "http://127.0.0.1/"], "URL: "),
            (["webhook", "resend", "nobody"], "no delivery 'nobody'"),
        ],
    ),
)
def test_a_refusal_sounds_the_same(run: Run, unchanged: str, arguments: list[str], words: str) -> None:
    text = run(*arguments, "--server", unchanged)
    assert text == run(*arguments)
    assert (text[0], text[1], words in text[2]) == (2, "", True)


def test_where_a_command_goes(
    services: Services, run: Run, server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    [job_id] = services.studio.submit("x").job_ids
    elsewhere = tmp_path / "elsewhere"
    assert run("jobs", "--home", elsewhere)[1] == "no jobs\n"
    monkeypatch.setenv("DIFFUSION_LOCAL_SERVER", server.removeprefix("http://"))
    assert job_id in run("jobs")[1]  # by the environment
    assert run("jobs", "--home", elsewhere)[1] == "no jobs\n"  # a home that is named goes first
    assert job_id in run("jobs", "--home", elsewhere, "--server", server)[1]  # and a server that is named before that
