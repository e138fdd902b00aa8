"""The waiting queue as a file: what it keeps on the way to another machine, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest

from diffusion_local.compose import Services, open_services
from diffusion_local.domain import Lane
from diffusion_local.errors import Conflict, InvalidParams, QueueFull
from diffusion_local.settings import Settings
from tests.support import claimed

HEAD = '{"batch": "b", "version": 1, "name": "", "lane": "batch"'
JOB = '\n{"job": {"prompt": "x", "seed": 1}'


@pytest.fixture
def other(tmp_path: Path) -> Services:
    return open_services(Settings.load(home=tmp_path / "other", engine="fake", database=""))


def told(services: Services) -> list[tuple[Any, ...]]:
    jobs = sorted(services.studio.jobs("queued"), key=lambda job: (job.batch_id, job.index))
    return [(job.params, job.lane, job.priority, services.studio.batch(job.batch_id)[0].name) for job in jobs]


def filled(services: Services) -> str:
    studio = services.studio
    studio.lists.submit("a cat --seed 1\na dög --seed 2", name="night", priority=4, window="23:00-07:00")
    studio.submit("a fox", seed=3, name="now", count=2)
    return "".join(studio.queue_file.export())


def test_a_queue_is_the_same_on_another_machine(services: Services, other: Services) -> None:
    text = filled(services)
    receipt = other.studio.queue_file.take(text)
    assert receipt.count == 4
    assert list(receipt.batches.values()) == ["night", "now"]
    assert told(other) == told(services)
    night = next(each.batch for each in other.studio.batches.page() if each.batch.name == "night")
    assert (night.lane, night.window) == (Lane.BATCH, "23:00-07:00")
    assert "".join(other.studio.queue_file.export()).count("\n") == text.count("\n")


def test_read_twice_it_makes_nothing_twice(services: Services, other: Services) -> None:
    text = filled(services)
    first = other.studio.queue_file.take(text)
    assert other.studio.queue_file.take(text.encode()) == first
    assert len(other.studio.jobs("queued")) == 4
    with pytest.raises(Conflict):
        other.studio.queue_file.take(text.replace("a fox", "a wolf"))
    assert len(other.studio.jobs("queued")) == 4


def test_what_runs_stays_where_it_is(services: Services, other: Services) -> None:
    filled(services)
    claimed(services.jobs)
    assert other.studio.queue_file.take("".join(services.studio.queue_file.export())).count == 3


def test_a_model_that_is_not_here_refuses_it_all_or_is_left_out(services: Services, other: Services) -> None:
    lines = filled(services).splitlines()
    found = json.loads(lines[1])
    found["job"]["model"] = "sdxl-of-theirs"
    lines[1] = json.dumps(found)
    with pytest.raises(InvalidParams, match=r"1 bad lines.*Line 2: model: There is no model 'sdxl-of-theirs'"):
        other.studio.queue_file.take("\n".join(lines))
    assert other.studio.jobs() == []
    receipt = other.studio.queue_file.take("\n".join(lines), skip_bad_lines=True)
    assert (receipt.count, receipt.bad_count) == (3, 1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a castle",
        "[1]",
        '{"job": {"prompt": "x", "seed": 1}}',
        '{"batch": "b", "version": 99, "name": "", "lane": "batch"}',
        '{"batch": "b", "version": 1, "name": "", "lane": "fast"}',
        '{"batch": 3, "version": 1, "name": "", "lane": "batch"}',
        HEAD + ', "window": "never"}',
        HEAD + '}\n{"job": {"prompt": "x"}}',
        HEAD + '}\n{"job": {"prompt": "x", "seed": -1}}',
        HEAD + "}" + JOB + ', "priority": 999}',
        HEAD + ', "start_at": "soon"}' + JOB + "}",
        HEAD + ', "grid": "{"}' + JOB + "}",
    ],
)
def test_what_is_no_queue_is_refused_and_nothing_is_enqueued(services: Services, text: str) -> None:
    with pytest.raises(InvalidParams):
        services.studio.queue_file.take(text)
    assert services.studio.jobs() == []


def test_several_batches_fit_together_or_none_does(services: Services, tmp_path: Path) -> None:
    text = filled(services)
    small = open_services(Settings.load(home=tmp_path / "small", engine="fake", database="", max_queued=3))
    with pytest.raises(QueueFull):
        small.studio.queue_file.take(text)
    assert small.studio.jobs() == []
    assert small.studio.batches.page() == []
