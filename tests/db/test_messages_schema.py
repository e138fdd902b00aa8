"""Texts shown to people keep their id and parameters in the database; those of older versions stay as they are."""

import pytest

from diffusion_local.compose import Services
from diffusion_local.domain import Failure, State
from diffusion_local.messages import Message, message, translate
from tests.support import claimed, sql

UNSUPPORTED = Failure(
    "model_unavailable", message("model_cannot_load", model="a", problem=message("pipeline_class", name="'X'"))
)


@pytest.fixture
def job_id(services: Services) -> str:
    return services.studio.submit("a boat", width=128, height=128).job_ids[0]


def failed(services: Services, job_id: str) -> str:
    failure = services.studio.job(job_id).failure
    assert failure is not None
    return failure.message


def test_a_failure_is_read_as_the_message_it_was(services: Services, job_id: str) -> None:
    services.jobs.fail(claimed(services.jobs).claim, UNSUPPORTED)
    result = failed(services, job_id)
    assert result == UNSUPPORTED.message == "Model 'a' cannot be loaded. Its pipeline class 'X' is not supported."
    assert translate("zh", result) == translate("zh", UNSUPPORTED.message)
    assert translate("zh", result).startswith("无法加载模型")


@pytest.mark.parametrize("kept", [None, "", "{", "[]", '{"id": "no such id", "params": {}}', "[" * 100_000])
def test_a_failure_of_an_older_or_newer_version_is_shown_as_it_is(
    services: Services, job_id: str, kept: str | None
) -> None:
    services.jobs.fail(claimed(services.jobs).claim, UNSUPPORTED)
    with sql(services.settings) as db:
        db.execute("UPDATE jobs SET error_message = 'It went wrong.', error_json = ?", [kept])
        db.commit()
    assert failed(services, job_id) == translate("zh", failed(services, job_id)) == "It went wrong."


def test_a_phase_and_an_event_keep_their_messages(services: Services, job_id: str) -> None:
    job = claimed(services.jobs)
    services.jobs.report(job.claim, 0, message("phase_loading", model="sdxl", share=0.5))
    assert translate("zh", services.studio.job(job_id).phase) == "正在加载 sdxl，50%"
    services.jobs.report(job.claim, 1)
    assert services.studio.job(job_id).phase == ""
    services.jobs.requeue(job.claim, message("event_given_back", reason="shutdown"))
    event = services.studio.events(job_id)[-1]
    assert (event.state, event.note) == (State.QUEUED, "returned to the queue: shutdown")
    assert translate("zh", event.note) == "已重新排队：shutdown"
    again = claimed(services.jobs)
    assert services.studio.events(job_id)[-1].note == ""
    services.jobs.recover(again.worker or "", UNSUPPORTED)
    assert services.studio.events(job_id)[-1].note == "model unavailable"


def test_why_the_queue_waits_or_rests_keeps_its_message(services: Services) -> None:
    services.control.block(message("storage_silent"))
    services.control.set_rest(message("gpu_shared", gpus=["gpu0"]))
    snapshot = services.studio.snapshot()
    assert translate("zh", snapshot.reason) == translate("zh", message("storage_silent")) != snapshot.reason
    assert translate("zh", snapshot.resting) == "另一个程序正在使用 gpu0（gpu_share）。"
    assert isinstance(services.control.blocked_reason(), Message)
    services.control.block("")
    services.control.set_rest("")
    assert (services.studio.snapshot().reason, services.studio.snapshot().resting) == ("", "")


def test_a_failed_download_keeps_its_message(services: Services) -> None:
    added, _ = services.downloads.add("a/b", "main", "", "models", "b", "")
    services.downloads.claim()
    services.downloads.fail(added.id, "gated", message("hub_token", repo="a/b"))
    result = services.downloads.get(added.id).error_message
    assert result == "The hub does not accept the access token for a/b. Check `hub_token`."
    assert translate("zh", result).startswith("Hub 不接受")
