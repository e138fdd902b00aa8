"""What a person can do with a list, over the real database: all or nothing, checked before, exact when read again."""

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from diffusion_local.compose import Services, open_services
from diffusion_local.domain import Job, Lane, State
from diffusion_local.engine.fake import FakeEngine
from diffusion_local.errors import Conflict, InvalidParams, NotFound, QueueFull, UserError
from diffusion_local.lists.entries import BadLine
from diffusion_local.lists.plan import MAX_BAD_LINES
from diffusion_local.lists.service import PromptLists
from diffusion_local.options.values import MAX_SEED
from diffusion_local.studio import Studio
from diffusion_local.worker.stopping import Stop
from tests.support import FAILURE, claimed, run_python, sql, tiers
from tests.workers import open_runner

SMALL: dict[str, Any] = {"width": 128, "height": 128, "steps": 2}


@pytest.fixture
def lists(studio: Studio) -> PromptLists:
    return studio.lists


def nothing_is_there(services: Services) -> bool:
    with sql(services.settings) as db:
        rows = [
            db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("jobs", "batches", "job_events")
        ]
    return rows == [0, 0, 0] and services.queue.pending() == 0


def jobs_of(services: Services, batch_id: str) -> list[Job]:
    return services.studio.jobs_of_batches([batch_id])


def wildcard(services: Services, name: str, *options: str) -> None:
    (services.settings.wildcards / f"{name}.txt").write_text("\n".join(options), encoding="utf-8")


# -- submit --------------------------------------------------------------------------------------------------------


def test_a_list_becomes_one_batch_in_the_batch_lane(services: Services, lists: PromptLists) -> None:
    text = "# night\na castle --seed 7 --count 2 --steps 3\n\na car --size 128x256 --neg ugly --sampler ddim\n"
    receipt = lists.submit(text, name="night", owner="me", priority=3, guidance=4, steps=9)
    jobs = jobs_of(services, receipt.batch_id)
    assert [(job.params.prompt, job.params.seed, job.params.steps) for job in jobs[:2]] == [
        ("a castle", 7, 3), ("a castle", 8, 3),
    ]  # fmt: skip
    last = jobs[2].params
    assert (last.prompt, last.width, last.height, last.steps, last.negative, last.sampler) == (
        "a car", 128, 256, 9, "ugly", "DDIM",
    )  # fmt: skip
    assert {(job.lane, job.owner, job.priority, job.state, job.params.guidance) for job in jobs} == {
        (Lane.BATCH, "me", 3, State.QUEUED, 4.0)
    }
    assert [job.index for job in jobs] == [0, 1, 2]
    assert [job.id for job in jobs] == receipt.job_ids
    batch, counts = services.studio.batch(receipt.batch_id)
    assert (batch.name, batch.count, receipt.count, counts[State.QUEUED]) == ("night", 3, 3, 3)
    assert services.queue.pending() > 0


def test_a_list_waits_behind_what_somebody_waits_for(services: Services, lists: PromptLists) -> None:
    lists.submit("a\nb", priority=100)
    single = services.studio.submit("now")
    assert claimed(services.jobs).id == single.job_ids[0]


def test_a_file_is_read_by_its_name_and_names_its_batch(services: Services, lists: PromptLists, tmp_path: Path) -> None:
    path = tmp_path / "animals.csv"
    path.write_bytes("prompt,seed\na cat,7\n".encode("utf-16"))
    receipt = lists.submit(path)
    assert services.studio.batch(receipt.batch_id)[0].name == "animals"
    assert jobs_of(services, receipt.batch_id)[0].params.seed == 7
    with path.open("rb") as stream:
        assert lists.submit(stream, "csv").count == 1


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("--seed 7", "prompt: must not be empty"),
        ("x --steps 0", "steps: must be from 1 to 100 (got '0')"),
        ("x --steps many", "steps: must be a number from 1"),
        ("x --size 100x128", "width: must be from 128 to 512"),
        ("x --size 132x128", "width: must be a multiple of 8 (got 132; try 128 or 136)"),
        ("x --model nobody", "model: There is no model 'nobody'"),
        ("x --model broken", "model: broken is not ready: model_index.json is missing"),
        ("x --sampler magic", "sampler: must be one of"),
        ("x --guidance 99", "guidance: must be from 0 to 30"),
        (f"x --seed {MAX_SEED + 1}", "seed: must be from 0"),
        (f"x --seed {MAX_SEED} --count 2", f"seed: must be at most {MAX_SEED - 1} for 2 pictures"),
        ("x --count 0", "count: must be from 1"),
        ("x --count 1.5", "count: must be a whole number"),
        ("x --mood 3", "--mood: is not a flag"),
        ("a {b", "prompt: has a { without its }"),
        ("__nobody__", "prompt: uses the wildcard __nobody__, but there is no wildcards/nobody.txt in the home"),
        ("{ | }", "prompt: must not be empty"),
        ("{ | } --expand all", "prompt: must not be empty"),
        ("y" * 10_001, "has 10,001 characters"),
    ],
)
def test_a_bad_line_refuses_the_list_or_is_left_out(
    services: Services, lists: PromptLists, line: str, reason: str
) -> None:
    (services.settings.models / "broken").mkdir()
    text = f"first\n{line}\nlast"
    check = lists.check(text)
    assert (check.bad_count, check.lines, check.pictures) == (1, 2, 2)
    assert check.bad_lines[0].line == 2
    assert reason in check.bad_lines[0].reason
    with pytest.raises(InvalidParams) as refused:
        lists.submit(text)
    assert refused.value.field == "list"
    assert f"1 bad line, so nothing was enqueued; correct them or skip bad lines. Line 2: {reason}" in (
        refused.value.message
    )
    assert nothing_is_there(services)
    receipt = lists.submit(text, skip_bad_lines=True)
    assert (receipt.count, receipt.bad_count, receipt.bad_lines) == (2, 1, check.bad_lines)
    assert [job.params.prompt for job in jobs_of(services, receipt.batch_id)] == ["first", "last"]


@pytest.mark.parametrize(
    "messages",
    [
        {"prompt": 5}, {"prompt": ["x"]}, {"prompt": "\ud800"}, {"prompt": "x", "\ud800": 1}, {"model": ["sdxl"]},
        {"model": "\ud800"}, {"width": {}}, {"width": True}, {"height": "9" * 4000}, {"size": [128, 128]},
        {"steps": [4]}, {"seed": "\ud800"}, {"seed": 1e400}, {"guidance": float("nan")}, {"sampler": 7},
        {"count": [2]}, {"count": "many"}, {"count": 1e30}, {"expand": []}, {"kind": {}}, {"negative": 3},
    ],
)  # fmt: skip
def test_no_value_of_json_breaks_a_list(lists: PromptLists, messages: dict[str, Any]) -> None:
    check = lists.check(json.dumps({"prompt": "x"} | messages), "jsonl")
    [bad] = check.bad_lines
    assert (check.pictures, len(bad.reason) <= 500, len(bad.text) <= 80) == (0, True, True)
    assert f"{bad.reason}{bad.text}".encode()
    with pytest.raises(InvalidParams):
        lists.submit(json.dumps({"prompt": "x"} | messages), "jsonl")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"list": ""}, "list: has no prompt"),
        ({"list": "# only\n\n"}, "list: has no prompt"),
        ({"list": "--seed 1", "skip_bad_lines": True}, "list: has no prompt"),
        ({"list": "\ud800"}, "list: must be text"),
        ({"list": b"\x89PNG\0\0"}, "list: is a binary file"),
        ({"list": "x" * 2_000_000}, "list: must be at most 1 MB"),
        ({"list": Path("nobody.txt")}, "list: cannot be read"),
        ({"format": "xml"}, "format: must be one of text, csv, jsonl"),
        ({"expand": "maybe"}, "expand: must be one of random, all, no"),
        ({"expansion_seed": -1}, "expansion_seed: must be from 0"),
        ({"priority": 101}, "priority: must be from -100 to 100"),
        ({"name": "\ud800"}, "name: must be text"),
        ({"mood": 3}, "mood: is not a field of a list"),
        ({"prompt": "x"}, "prompt: is not a field of a list"),
        ({"size": "huge"}, "size: must be WIDTHxHEIGHT"),
        ({"list": "nothing\n", "format": "csv"}, "list: must have a column named prompt"),
    ],
)
def test_bad_input_is_one_sentence_and_enqueues_nothing(services: Services, given: dict[str, Any], words: str) -> None:
    small = open_services(replace(services.settings, max_list_mb=1))
    with pytest.raises(InvalidParams) as refused:
        small.studio.lists.submit(given.pop("list", "x"), **given)
    assert words in refused.value.message
    assert nothing_is_there(services)


def test_a_key_sent_twice_is_one_batch_whatever_was_drawn_by_lot(services: Services, lists: PromptLists) -> None:
    wildcard(services, "animal", *"abcdefgh")
    text = "a __animal__ in {spring|summer|autumn|winter}\n" * 20
    first = lists.submit(text, idempotency_key="k")
    wildcard(services, "animal", "other")
    assert lists.submit(text, idempotency_key="k").batch_id == first.batch_id
    assert lists.submit(text, idempotency_key="k").job_ids == first.job_ids
    for changed in ({"list": text + "x"}, {"steps": 3}, {"expand": "no"}):
        with pytest.raises(Conflict, match="was already used for another request"):
            lists.submit(changed.pop("list", text), **{"idempotency_key": "k"} | changed)
    assert len(jobs_of(services, first.batch_id)) == 20
    assert lists.submit(text).batch_id != first.batch_id


def test_a_key_of_another_submit_is_refused(services: Services, lists: PromptLists) -> None:
    services.studio.submit("a castle", idempotency_key="k")
    with pytest.raises(Conflict):
        lists.submit("a castle", idempotency_key="k")


# -- limits --------------------------------------------------------------------------------------------------------


def test_the_queues_limit_holds_and_that_of_one_press_does_not(services: Services) -> None:
    small = open_services(replace(services.settings, max_count=2, max_queued=10)).studio
    assert small.lists.submit("x --count 5").count == 5
    with pytest.raises(QueueFull, match="room for 10 waiting jobs; 5 are waiting, and 6 more were requested"):
        small.lists.submit("x\n" * 6)
    with pytest.raises(QueueFull, match="makes more than 10 pictures"):
        small.lists.check("x\n" * 11)
    check = small.lists.check("{a|b|c} {d|e|f|g} --expand all\nx --count 11\n{a|b} --expand all --count 6")
    assert [each.reason for each in check.bad_lines] == [
        "prompt: has 12 combinations; at most 10 pictures can be made (max_queued).",
        "count: must be from 1 to 10 (got '11').",
        "prompt: has 2 combinations with 6 pictures each; at most 10 pictures can be made (max_queued).",
    ]
    assert (
        small.lists.check("{a|b}" * 900 + " --expand all")
        .bad_lines[0]
        .reason.startswith("prompt: has more than 1,000,000,000 combinations")
    )


MANY_LINES = "a {{red|blue}} castle number {number}, by the sea --seed {number}\n"


@pytest.mark.parametrize("count", tiers([1_000, 10_000], first=[1_000]))
def test_thousands_of_lines_are_one_transaction(services: Services, lists: PromptLists, count: int) -> None:
    receipt = lists.submit("".join(MANY_LINES.format(number=number) for number in range(count)).encode())
    assert (receipt.count, len(receipt.job_ids)) == (count, 10)
    with sql(services.settings) as db:
        rows = db.execute("SELECT idx, position, params FROM jobs ORDER BY idx").fetchall()
    assert [(row["idx"], row["position"], json.loads(row["params"])["seed"]) for row in rows] == [
        (number, number + 1, number) for number in range(count)
    ]


SUBMIT_TRACED = """
import sys, tracemalloc
from diffusion_local.actor import LOCAL, run_as
from diffusion_local.compose import open_studio
from diffusion_local.settings import Settings
run_as(LOCAL)
lists = open_studio(Settings.load(engine="fake")).lists
text = "".join(sys.argv[1].format(number=number) for number in range(10_000))
lists.check("warm up")
tracemalloc.start()
lists.submit(text.encode())
print(tracemalloc.get_traced_memory()[1])
"""


@pytest.mark.slow  # tracing makes it several times slower
@pytest.mark.timeout(600)
def test_ten_thousand_lines_take_bounded_memory() -> None:
    assert (
        int(run_python(SUBMIT_TRACED, MANY_LINES, timeout=500)) < 12_000_000
    )  # as jobs in memory they take 25 MB and more


def test_a_fault_in_the_middle_of_the_transaction_leaves_nothing(
    services: Services, lists: PromptLists, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusion_local.lists import service

    real = service.spooled_jobs

    def broken(*arguments: Any) -> Iterator[Job]:
        for place, job in enumerate(real(*arguments)):
            if place == 777:
                raise OSError("the spool is gone")
            yield job

    monkeypatch.setattr(service, "spooled_jobs", broken)
    with pytest.raises(OSError, match="the spool is gone"):
        lists.submit("x\n" * 1000)
    assert nothing_is_there(services)


def test_bad_lines_are_kept_up_to_a_number_and_counted_beyond(lists: PromptLists) -> None:
    check = lists.check("x --mood 1\n" * 500)
    assert (len(check.bad_lines), check.bad_count) == (MAX_BAD_LINES, 500)
    with pytest.raises(InvalidParams) as refused:
        lists.submit("x --mood 1\n" * 500)
    assert len(refused.value.message) < 4000


# -- expansion -----------------------------------------------------------------------------------------------------


def test_all_combinations_share_their_seeds(services: Services, lists: PromptLists) -> None:
    receipt = lists.submit("{red|blue} car --seed 7 --count 2", expand="all")
    assert [(job.params.prompt, job.params.seed) for job in jobs_of(services, receipt.batch_id)] == [
        ("red car", 7), ("red car", 8), ("blue car", 7), ("blue car", 8),
    ]  # fmt: skip


def test_a_random_draw_is_repeated_by_its_seed(services: Services, lists: PromptLists) -> None:
    wildcard(services, "animal", *(f"animal{number}" for number in range(50)))
    check = lists.check("a __animal__ --count 5\nanother __animal__")
    receipt = lists.submit("a __animal__ --count 5\nanother __animal__", expansion_seed=check.expansion_seed)
    jobs = jobs_of(services, receipt.batch_id)
    assert [job.params.prompt for job in jobs[:5]] == check.first
    assert check.last[-1] == jobs[5].params.prompt
    assert len({job.params.prompt for job in jobs}) > 1
    assert [job.params.seed - jobs[0].params.seed for job in jobs[:5]] == [0, 1, 2, 3, 4]
    assert lists.check("a __animal__ --count 5").first != check.first


def test_literal_prompts_keep_their_signs(services: Services, lists: PromptLists) -> None:
    receipt = lists.submit("{a|b} __c__ \\{", expand="no")
    assert jobs_of(services, receipt.batch_id)[0].params.prompt == "{a|b} __c__ \\{"


# -- dry run -------------------------------------------------------------------------------------------------------


def test_a_check_tells_what_the_list_would_make_and_enqueues_nothing(services: Services, lists: PromptLists) -> None:
    text = "".join(f"castle {number} --seed -1\n" for number in range(20)) + "x --mood 1\n"
    check = lists.check(text, count=2, **SMALL)
    assert (check.lines, check.pictures, check.models) == (20, 40, {"starter": 40})
    assert check.first == ["castle 0", "castle 0", "castle 1", "castle 1", "castle 2"]
    assert check.last == ["castle 17", "castle 18", "castle 18", "castle 19", "castle 19"]
    assert check.bad_lines[0] == BadLine(21, check.bad_lines[0].reason, "x --mood 1")
    assert (check.seconds, check.bytes, check.warnings) == (None, None, [])
    assert nothing_is_there(services)


def test_time_and_disk_come_from_this_machines_pictures(services: Services, lists: PromptLists) -> None:
    services.studio.submit("a red apple", count=4, **SMALL)
    runner = open_runner(services, "cpu0", FakeEngine(0.01), Stop())
    runner.run_due_jobs()
    runner.close()
    one, two, four = (lists.check("x", **SMALL | {"count": count}) for count in (1, 2, 4))
    assert one.seconds is not None
    assert two.seconds is not None
    assert one.bytes is not None
    picture, load = two.seconds - one.seconds, 2 * one.seconds - two.seconds
    assert picture > 0
    assert four.seconds == pytest.approx(load + 4 * picture)  # the model is loaded once
    with services.database.read() as db:
        assert load == pytest.approx(db.execute("SELECT max(load_seconds) FROM jobs").fetchone()[0] or 0)
    assert four.bytes == pytest.approx(4 * one.bytes, abs=4)
    sizes = [image.bytes for image in services.studio.gallery()]
    assert one.bytes == pytest.approx(sum(sizes) / len(sizes), abs=1)


def test_prompts_too_long_for_the_model_are_counted_by_sample(lists: PromptLists) -> None:
    check = lists.check(("apple " * 100 + "\n") * 3 + "short\n" * 100)
    [warning] = check.warnings
    assert warning.startswith("prompt: starter reads ")
    assert "; 3 prompts have more" in warning
    assert "at least 50 prompts" in lists.check(("apple " * 100 + "\n") * 60).warnings[0]


# -- export --------------------------------------------------------------------------------------------------------


def recipes(services: Services, batch_id: str) -> list[dict[str, Any]]:
    return [asdict(job.params) for job in jobs_of(services, batch_id)]


AWKWARD = [
    {"prompt": 'say "hello", {a|b} __c__ \\{ --seed 9'},
    {"prompt": "# no comment\nsecond line\r\nthird", "negative": "'tis; ugly,\tbad"},
    {"prompt": "苹果 🍎 = 1+1", "guidance": 1 / 3, "seed": MAX_SEED, "sampler": "Euler a"},
    {"prompt": "=cmd()", "width": 256, "height": 128, "steps": 3},
    {"prompt": "x" * 10_000, "negative": '"' * 10_000},
]


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_what_is_exported_is_read_again_exactly(services: Services, lists: PromptLists, form: str) -> None:
    source = "\n".join(json.dumps(each | {"expand": "no"}) for each in AWKWARD)
    first = lists.submit(source, "jsonl", guidance=2.5)
    text = "".join(lists.export(first.batch_id, form))
    second = lists.submit(text.encode(), form)
    assert recipes(services, second.batch_id) == recipes(services, first.batch_id)
    assert len(recipes(services, second.batch_id)) == len(AWKWARD)


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_waiting_jobs_go_to_another_machine(services: Services, lists: PromptLists, tmp_path: Path, form: str) -> None:
    lists.submit("night --count 3 --seed 5")
    services.studio.submit("now", seed=1)
    services.studio.submit("soon", seed=2, priority=9)
    claimed(services.jobs)  # what runs is not moved
    path = tmp_path / f"queue.{form}"
    path.write_bytes("".join(lists.export(None, form)).encode())
    other = open_services(replace(services.settings, home=tmp_path / "other"))
    moved = recipes(other, other.studio.lists.submit(path).batch_id)
    assert [(each["prompt"], each["seed"]) for each in moved] == [("now", 1), ("night", 5), ("night", 6), ("night", 7)]


def test_an_export_tells_what_became_of_each_job(services: Services, lists: PromptLists) -> None:
    receipt = lists.submit("a\nb\nc", **SMALL)
    services.jobs.fail(claimed(services.jobs).claim, FAILURE)
    runner = open_runner(services, "cpu0", FakeEngine(0), Stop())
    runner.run([claimed(services.jobs)])
    runner.close()
    rows = [json.loads(line) for line in lists.export(receipt.batch_id, "jsonl")]
    assert [(row["state"], row["error"]) for row in rows] == [
        ("failed", "engine_error: it broke"), ("done", ""), ("queued", ""),
    ]  # fmt: skip
    assert (services.settings.gallery_folder / rows[1]["file"]).is_file()
    assert (rows[0]["file"], rows[0]["batch_id"], rows[1]["job_id"]) == ("", receipt.batch_id, receipt.job_ids[1])


def test_an_export_of_nothing_is_a_header_and_of_nobody_an_error(lists: PromptLists) -> None:
    assert "".join(lists.export(None, "csv")).startswith("prompt,negative,model,width")
    assert list(lists.export(None, "jsonl")) == []
    with pytest.raises(NotFound, match="no batch 'nobody'"):
        lists.export("nobody")
    with pytest.raises(UserError, match="format: must be one of csv, jsonl"):
        lists.export(None, "xml")
