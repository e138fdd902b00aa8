"""`report` and `webhook`: what they print, write and refuse."""

import json
from pathlib import Path

import pytest

from diffusion_local.compose import Services
from tests.cli.test_cli import Run, answer, run  # noqa: F401  # a fixture
from tests.support import FAILURE, claimed, enqueue, image_of


def batch_of_two(services: Services) -> str:
    [first, _] = enqueue(services.jobs, 2)
    job = claimed(services.jobs)
    services.jobs.finish(job.claim, image_of(job))
    services.jobs.fail(claimed(services.jobs).claim, FAILURE)
    return services.jobs.get(first).batch_id


def test_a_report_is_printed_or_written(services: Services, run: Run, tmp_path: Path) -> None:  # noqa: F811
    batch_id = batch_of_two(services)
    status, output, _ = run("report", batch_id)
    assert status == 0
    assert "| Done | 1 |" in output
    assert "**1 × engine\\_error**: it broke" in output
    assert json.loads(run("report", "--format", "json")[1])["counts"]["failed"] == 1
    path = tmp_path / "night.html"
    assert run("report", "--since", "2020-01-01", "--format", "html", "--output", path)[0] == 0
    assert path.read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nothing",), "There is no batch"),
        (("x", "--since", "2020-01-01"), "BATCH: must be left out"),
        (("--since", "tonight"), "since: must be a time"),
        (("--format", "pdf"), "format: must be one of"),
        (("--output", "/nowhere/at/all"), "output: cannot be written"),
    ],
)
def test_what_cannot_be_reported_is_refused(
    services: Services,
    run: Run,  # noqa: F811
    arguments: tuple[str, ...],
    words: str,
) -> None:
    status, _, errors = run("report", *arguments)
    assert status == 2
    assert words in errors


def test_webhooks_are_seen_and_tried(services: Services, run: Run) -> None:  # noqa: F811
    assert run("webhook", "list")[1] == "no deliveries yet\n"
    assert run("webhook", "secret")[1].strip() == services.studio.webhooks.secret()
    status, _, errors = run("webhook", "test", "http://10.0.0.1/")
    assert (status, "URL: 10.0.0.1 is an address" in errors) == (2, True)
    [delivery_id] = services.deliveries.add(services.notices.add_handled("test"), "{}", {"https://example.com/": 1})
    services.deliveries.take(delivery_id)
    services.deliveries.settle(delivery_id, False, 500, "", "it answered 500", None)
    assert "(it answered 500)" in run("webhook", "list", "--state", "failed")[1]
    assert answer(run, "webhook", "resend", delivery_id)["state"] == "waiting"
    assert answer(run, "webhook", "list")[0]["id"] == delivery_id
    assert run("webhook", "resend", "nothing")[0] == 2
