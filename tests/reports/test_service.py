"""Reports: right sums, failures by reason, again for these, in three forms that nothing of others can break."""

import html.parser
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PIL

from diffusion_local.actor import SCOPES, Actor, Role, acting
from diffusion_local.compose import Services
from diffusion_local.domain import Failure, Job, Lane, State, utc_text
from diffusion_local.errors import Conflict, InvalidParams, NotFound
from diffusion_local.reports.report import (
    MAX_LISTED_JOBS,
    MAX_PICTURES,
    estimate_of,
    evenly_spaced,
    reason_of,
    seconds_between,
)
from tests.support import claimed, image_of, refused, sql

EVIL = '<script>alert(1)</script> & "quoted" [link](http://x) `code` |'


def batch(services: Services, count: int, prompt: str = "a red apple", **options: Any) -> str:
    return services.studio.submit(prompt, count=count, seed=1, width=128, height=128, **options).batch_id


def done(services: Services, seconds: float = 2.0) -> Job:
    job = claimed(services.jobs)
    image = image_of(job)
    services.files.save(image.key, PIL.new("RGB", (128, 96), (200, 30, 30)), {})
    services.jobs.finish(job.claim, image)
    timed(services, job.id, seconds)
    return job


def timed(services: Services, job_id: str, seconds: float, **columns: Any) -> None:
    """As if the job had begun at a time of its own, and taken so long."""
    with sql(services.settings) as db:
        ended = db.execute("SELECT finished_at FROM jobs WHERE id = ?", [job_id]).fetchone()[0]
        began = utc_text(datetime.fromisoformat(ended) - timedelta(seconds=seconds))
        for name, value in ({"started_at": began} | columns).items():
            db.execute(f"UPDATE jobs SET {name} = ? WHERE id = ?", [value, job_id])


def failed(services: Services, message: str = "it broke", kind: str = "engine_error") -> str:
    job = claimed(services.jobs)
    services.jobs.fail(job.claim, Failure(kind, message))
    return job.id


def test_a_batch_is_added_up(services: Services) -> None:
    batch_id = batch(services, 6, name="Apples")
    first, second = done(services, 4.0), done(services, 2.0)
    timed(services, first.id, 4.0, run_seconds=4.0, load_seconds=1.5, expected_seconds=5.0)
    timed(services, second.id, 2.0, run_seconds=2.0, rung="group_offload", expected_seconds=2.0)
    one, two = (
        failed(services, "File 'a.safetensors' is missing (12 of 20)"),
        failed(services, "File 'b' is missing (3 of 4)"),
    )
    other = failed(services, "no memory", "out_of_memory")
    report = services.studio.reports.batch(batch_id)
    assert (report.title, report.batch_id, report.open) == ("Apples", batch_id, 1)
    assert report.counts == {"queued": 1, "running": 0, "done": 2, "failed": 3, "cancelled": 0}
    assert [(each.kind, each.count, each.job_ids) for each in report.reasons] == [
        ("engine_error", 2, [one, two]),
        ("out_of_memory", 1, [other]),
    ]
    assert [(each.model, each.done, each.seconds, each.loads, each.load_seconds) for each in report.models] == [
        ("starter", 2, 6.0, 1, 1.5)
    ]
    assert report.steps_down == {"group_offload": 1}
    assert report.estimate is not None
    assert (report.estimate.jobs, report.estimate.error) == (2, 0.125)
    assert report.per_hour == pytest.approx(3600 * 2 / report.seconds)
    assert 3.9 < report.seconds < 60
    assert [image.job_id for image in report.pictures] == [first.id, second.id]
    with pytest.raises(NotFound):
        services.studio.reports.batch("nothing")


def test_a_night_has_what_ended_in_it(services: Services) -> None:
    long_ago, yesterday, today = (
        batch(services, 1),
        batch(services, 1, name="Yesterday"),
        batch(services, 1, name="Today"),
    )
    now = datetime.now(UTC)
    for hours in (30, 5, 0):
        job = done(services)
        with sql(services.settings) as db:
            at = utc_text(now - timedelta(hours=hours, seconds=1))
            db.execute("UPDATE jobs SET finished_at = ?, started_at = ? WHERE id = ?", [at, at, job.id])
    night = services.studio.reports.night()
    assert {each.name for each in night.batches} == {"Yesterday", "Today"}
    assert night.counts["done"] == 2
    older = services.studio.reports.night(utc_text(now - timedelta(hours=40)), utc_text(now - timedelta(hours=20)))
    assert [each.id for each in older.batches] == [long_ago]
    assert {yesterday, today} == {each.id for each in night.batches}
    empty = services.studio.reports.night("2020-01-01T23:00", "2020-01-02T07:00")
    assert (empty.counts["done"], empty.per_hour, empty.seconds, empty.pictures) == (0, None, 0.0, [])
    assert "2020-01-01 23:00" in services.studio.reports.text(empty, "md")
    for wrong in (
        {"since": "yesterday"},
        {"until": "25:00"},
        {"since": "2999-01-01"},
        {"since": "2020-02-02", "until": "2020-01-01"},
    ):
        with pytest.raises(InvalidParams):
            services.studio.reports.night(**wrong)


def test_a_night_begins_at_a_time_of_the_clock(services: Services) -> None:
    batch(services, 1)
    done(services)
    begin = (datetime.now() - timedelta(minutes=2)).strftime("%H:%M")
    for since in (begin, f"yesterday {begin}"):
        assert services.studio.reports.night(since).counts["done"] == 1
    with refused(InvalidParams, "no_day", field="since"):
        services.studio.reports.night("tomorrow 23:00")


def test_what_failed_for_one_reason_is_made_again_and_only_once(services: Services) -> None:
    batch_id = batch(services, 4)
    ones = [failed(services, "File 'a' is missing"), failed(services, "File 'b' is missing")]
    failed(services, "another reason")
    done(services)
    reports = services.studio.reports
    reason = reports.batch(batch_id).reasons[0].id
    receipt = services.studio.queue.again_of_reason(reason, batch_id)
    assert {job.from_job for job in services.studio.jobs(batch_id=receipt.batch_id)} == set(ones)
    with pytest.raises(Conflict):
        services.studio.queue.again_of_reason(reason, batch_id)
    with pytest.raises(NotFound):
        services.studio.queue.again_of_reason("nothing", batch_id)
    other = reports.night().reasons[-1].id
    assert len(services.studio.queue.again_of_reason(other).job_ids) == 1


class Page(html.parser.HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


@pytest.mark.parametrize("form", ["md", "html"])
def test_text_of_others_is_text(services: Services, form: str) -> None:
    batch_id = batch(services, 2, EVIL, name=EVIL)
    done(services)
    failed(services, EVIL)
    text = services.studio.reports.text(services.studio.reports.batch(batch_id), form)
    assert "<script>" not in text.replace("\\<script\\>", "")
    if form == "html":
        page = Page(text)
        assert {tag for tag, _ in page.tags} <= {
            "html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "dl", "div", "dt", "dd", "p", "b",
            "small", "figure", "figcaption", "img", "br", "table", "thead", "tbody", "tr", "th", "td",
        }  # fmt: skip
        assert all(attrs["src"].startswith("data:image/webp;") for tag, attrs in page.tags if tag == "img")  # type: ignore[union-attr]
        assert not re.search(r"(href|src|url)\s*[=(]\s*[\"']?(https?:)?//", text)
    else:
        assert "](http" not in text


def test_the_page_in_the_app_leads_into_it(services: Services) -> None:
    batch_id = batch(services, 2)
    job = done(services)
    failed(services)
    report = services.studio.reports.batch(batch_id)
    tags = Page(services.studio.reports.page(report)).tags
    assert [attrs["href"] for tag, attrs in tags if tag == "a"] == ["/ui/lists", f"/images/{job.id}.png"]
    assert {attrs["name"]: attrs["value"] for tag, attrs in tags if tag == "input"} == {
        "reason": report.reasons[0].id,
        "batch_id": batch_id,
    }
    assert "form" not in {tag for tag, _ in Page(services.studio.reports.text(report, "html")).tags}


def test_a_picture_whose_file_is_gone_leaves_a_gap(services: Services) -> None:
    batch_id = batch(services, 1)
    job = done(services)
    services.files.discard(services.studio.image(job.id).key)
    text = services.studio.reports.text(services.studio.reports.batch(batch_id), "html")
    assert "data:image/gif" in text


def test_a_report_is_bounded(services: Services) -> None:
    batch_id = batch(services, 100)
    for _ in range(100):
        done(services)
    long = batch(services, MAX_LISTED_JOBS, name="bad")
    more = batch(services, 5)
    for _ in range(MAX_LISTED_JOBS + 5):
        failed(services)
    report = services.studio.reports.batch(batch_id)
    assert len(report.pictures) == MAX_PICTURES
    night = services.studio.reports.night()
    assert (night.reasons[0].count, len(night.reasons[0].job_ids)) == (MAX_LISTED_JOBS + 5, MAX_LISTED_JOBS)
    assert {long, more} <= {each.id for each in night.batches}
    assert f"Pictures ({MAX_PICTURES} of 100)" in services.studio.reports.text(report, "html")


def test_it_is_kept_as_two_files(services: Services, tmp_path: Path) -> None:
    report = services.studio.reports.batch(batch(services, 1))
    path = services.studio.reports.keep(report, "2026-11-22-x").local_path
    assert path is not None
    assert sorted(each.name for each in path.parent.iterdir()) == ["2026-11-22-x.html", "2026-11-22-x.md"]
    with refused(InvalidParams, "one_of", field="format"):
        services.studio.reports.text(report, "pdf")


def test_a_list_leaves_its_report_and_a_press_does_not(services: Services) -> None:
    batch(services, 1)
    [listed] = services.studio.lists.submit("a car", width=128, height=128).job_ids
    done(services)
    done(services)
    services.notifications.create_deliveries()
    batch_id = services.studio.job(listed).batch_id
    assert [path.name[11:] for path in sorted(services.settings.reports.iterdir())] == [
        f"{batch_id}.html",
        f"{batch_id}.md",
    ]


def test_the_morning_report_is_written_once_a_day_after_a_list(services: Services) -> None:
    noon = datetime.now().astimezone() + timedelta(days=1)
    noon = noon.replace(hour=12, minute=0)
    batch(services, 1)
    done(services)
    services.notifications.write_daily_report(noon)
    assert not services.settings.reports.exists()
    services.studio.lists.submit("a car", width=128, height=128)
    job = done(services)
    with sql(services.settings) as db:
        at = utc_text(noon - timedelta(hours=8))
        db.execute("UPDATE jobs SET finished_at = ?, started_at = ? WHERE id = ?", [at, at, job.id])
    services.notifications.write_daily_report(noon)  # it looked on this day already, and nothing was there then
    fresh = type(services.notifications)(
        services.settings,
        services.notices,
        services.deliveries,
        services.jobs,
        services.view,
        services.studio.reports,
        services.images,
        services.files,
    )
    fresh.write_daily_report(noon.replace(hour=6))
    assert not services.settings.reports.exists()
    fresh.write_daily_report(noon)
    name = f"{noon:%Y-%m-%d}-morning"
    assert sorted(path.name for path in services.settings.reports.iterdir()) == [f"{name}.html", f"{name}.md"]
    before = (services.settings.reports / f"{name}.html").stat().st_mtime_ns
    fresh.write_daily_report(noon + timedelta(hours=1))
    off = type(fresh)(
        replace(services.settings, report_at=""), services.notices, services.deliveries, services.jobs, services.view,
        services.studio.reports, services.images, services.files,
    )  # fmt: skip
    off.write_daily_report(noon + timedelta(days=1))
    assert (services.settings.reports / f"{name}.html").stat().st_mtime_ns == before
    assert len(list(services.settings.reports.iterdir())) == 2


def test_small_sums() -> None:
    assert evenly_spaced(list("abc"), 5) == ["a", "b", "c"]
    assert evenly_spaced([str(each) for each in range(100)], 4) == ["0", "33", "66", "99"]
    assert estimate_of([]) is None
    assert seconds_between(None, "2026-11-22T10:00:00.000Z") == 0.0
    assert seconds_between("2026-11-22T10:00:00.000Z", "2026-11-22T10:00:01.500Z") == 1.5
    assert reason_of("a", "x 12 'y'").id == reason_of("a", "x 9 'zz'").id != reason_of("b", "x 9 'zz'").id


def test_others_see_their_own_only(services: Services) -> None:
    with acting(Actor("ann", Role.USER, SCOPES[Role.USER], sees_all=False)):
        batch(services, 1)
    mine = batch(services, 1)
    done(services)
    done(services)
    with acting(Actor("ann", Role.USER, SCOPES[Role.USER], sees_all=False)):
        night = services.studio.reports.night()
        assert (night.counts["done"], len(night.pictures)) == (1, 1)
        with pytest.raises(NotFound):
            services.studio.reports.batch(mine)
    assert services.studio.reports.night().counts["done"] == 2
    assert services.studio.jobs(State.DONE)[0].lane is Lane.INTERACTIVE
