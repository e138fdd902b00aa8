"""Command hooks: run without a shell, with the facts; bounded in time and output; a bad one harms nothing."""

import json
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from diffusion_local.compose import Services
from diffusion_local.errors import InvalidParams
from diffusion_local.notify.deliveries import Delivery
from diffusion_local.notify.hooks import fill_arguments
from diffusion_local.settings import ENVIRONMENT_PREFIX, Settings
from tests.notify.conftest import OpenHouse
from tests.support import FAILURE, claimed, enqueue, eventually, image_of

WRITE = (
    "import json, os, sys; from pathlib import Path; "
    "Path(sys.argv[1]).write_text(json.dumps({'argv': sys.argv[2:], 'message': json.load(sys.stdin), "
    "'env': {name: value for name, value in os.environ.items() if name.startswith('DIFFUSION_LOCAL_')}}))"
)


def after_one(services: Services, name: str = "") -> Delivery:
    """The hook's delivery after a batch of one picture."""
    services.studio.submit("a red apple", name=name, width=128, height=128)
    job = claimed(services.jobs)
    services.jobs.finish(job.claim, image_of(job))
    rung = services.notifications.create_deliveries()
    assert services.notifications.deliver(rung[0], None)
    return services.deliveries.get(rung[0])


def hooked(telling: OpenHouse, *command: str, **changes: Any) -> Services:
    return telling(webhooks="", on_batch_done=command, **changes)


def test_it_gets_the_facts_in_three_ways(telling: OpenHouse, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    services = hooked(telling, sys.executable, "-c", WRITE, str(out), "{name}: {done} of {count}", "{unknown} {event}")
    done = after_one(services, "Apples; rm -rf $HOME `id`")
    assert (done.state, done.status) == ("delivered", 0)
    answer = json.loads(out.read_text())
    assert answer["argv"] == ["Apples; rm -rf $HOME `id`: 1 of 1", "{unknown} batch.done"]
    assert answer["message"]["data"]["summary"]["counts"]["done"] == 1
    assert answer["env"]["DIFFUSION_LOCAL_NAME"] == "Apples; rm -rf $HOME `id`"
    assert answer["env"]["DIFFUSION_LOCAL_EVENT"] == "batch.done"
    assert "DIFFUSION_LOCAL_HOME" not in answer["env"]


def test_a_name_never_becomes_an_option(telling: OpenHouse) -> None:
    assert fill_arguments(("notify-send", "{name}", "--icon={name}"), {"name": "--help"}, "x") == [
        "notify-send",
        " --help",
        "--icon=--help",
    ]
    assert fill_arguments(("{name}", "{name.__class__}", "{job_id}"), {"name": "evil"}, "x") == [
        "{name}",
        "{name.__class__}",
        "",
    ]


def test_a_batch_file_of_windows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffusion_local.notify.hooks.os.name", "nt")
    with pytest.raises(InvalidParams, match="on_batch_done"):
        fill_arguments(("notify.BAT", "{name}"), {}, "on_batch_done")


@pytest.mark.parametrize(
    ("code", "words", "status"),
    [
        ("raise SystemExit(3)", "it ended with status 3", 3),
        ("import os; os.kill(os.getpid(), 9)", "it ended with status -9", -9),
        ("import sys; sys.stdin.close(); print('x' * 10_000_000)", "", 0),
    ],
)
def test_how_it_ends_is_logged_and_it_is_never_tried_again(
    telling: OpenHouse, code: str, words: str, status: int
) -> None:
    services = hooked(telling, sys.executable, "-c", code)
    done = after_one(services)
    assert (done.error, done.status, done.attempts) == (words, status, 1)
    assert done.state == ("failed" if words else "delivered")
    assert len(done.answer) <= 500


def test_a_command_that_is_not_there_is_told(telling: OpenHouse) -> None:
    assert "cannot be run" in after_one(hooked(telling, "/nowhere/at-all")).error


def test_one_that_hangs_is_ended_with_all_it_started(telling: OpenHouse, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    code = (
        "import os, subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', 'import time; "
        f"time.sleep(60)']); open({str(pids)!r}, 'w').write(str(child.pid)); print('begun', flush=True); time.sleep(60)"
    )
    done = after_one(hooked(telling, sys.executable, "-c", code, hook_timeout=3))
    assert (done.state, "hook_timeout" in done.error) == ("failed", True)
    assert "begun" in done.answer
    child = int(pids.read_text())
    eventually(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)


def test_each_event_has_a_hook_of_its_own(telling: OpenHouse) -> None:
    true = (sys.executable, "-c", "")
    services = telling(webhooks="", on_job_failed=true, on_queue_paused=true)
    enqueue(services.jobs)
    services.jobs.fail(claimed(services.jobs).claim, FAILURE)
    services.studio.queue.pause()
    rung = services.notifications.create_deliveries()
    result = sorted(services.deliveries.get(each).receiver for each in rung)
    assert result == ["hook:on_job_failed", "hook:on_queue_paused"]


def test_a_hook_that_was_taken_out_of_the_file_is_not_run(telling: OpenHouse) -> None:
    services = hooked(telling, sys.executable, "-c", "")
    done = after_one(services)
    without = telling(webhooks="")
    again = without.studio.webhooks.resend(done.id)
    assert without.notifications.deliver(again.id, None)
    assert "has no command" in without.deliveries.get(again.id).error


def test_hooks_come_from_the_file_only(home: Path) -> None:
    home.mkdir(exist_ok=True)
    (home / "config.toml").write_text('on_batch_done = ["notify-send", "{name}"]\nwebhook_secret = "whsec_x"\n')
    loaded = Settings.load()
    assert loaded.on_batch_done == ("notify-send", "{name}")
    assert not {ENVIRONMENT_PREFIX + "ON_BATCH_DONE", ENVIRONMENT_PREFIX + "WEBHOOK_SECRET"} & set(loaded.to_env())
    with pytest.raises(InvalidParams, match=r"DIFFUSION_LOCAL_ON_BATCH_DONE: can only be set in config.toml"):
        Settings.load({"DIFFUSION_LOCAL_HOME": str(home), "DIFFUSION_LOCAL_ON_BATCH_DONE": "rm"})
    with pytest.raises(InvalidParams, match=r"webhook_secret: can only be set in config.toml"):
        Settings.load(webhook_secret="whsec_y")
    for wrong in ('"notify-send hello"', "[1, 2]", "{a = 1}", "7"):
        (home / "config.toml").write_text(f"on_batch_done = {wrong}\n")
        with pytest.raises(InvalidParams, match=r"config.toml: on_batch_done: must be a list of texts"):
            Settings.load()
    (home / "config.toml").write_text('webhooks = ["https://example.com"]\n')
    with pytest.raises(InvalidParams, match=r"config.toml: webhooks: must be of type str"):
        Settings.load()
