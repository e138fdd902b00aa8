"""What the page says: pure functions, plain asserts."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from diffusion_local.actor import Actor, acting
from diffusion_local.domain import Event, Failure, Image, Job, Snapshot, State, Worker, utc_text
from diffusion_local.errors import InvalidParams, NotFound
from diffusion_local.gallery.boards import Board
from diffusion_local.messages import verbatim
from diffusion_local.web.ui import view, view_gallery, view_gallery_bar, view_history, view_jobs, view_now, view_picture
from diffusion_local.web.ui.place import Place
from tests.support import params

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
EVIL = """<img src=x onerror="alert(1)">'`${alert(2)}{{boom}}"""


def job(state: State = State.QUEUED, **changes: object) -> Job:
    base = Job("J1", "B1", 0, params(steps=16), state, "2026-01-02T03:04:05.000Z")
    return replace(base, **changes)  # type: ignore[arg-type]


def image(**changes: object) -> Image:
    base = Image("I1", "J1", "2026/01/02/I1", params(), 128, 128, 4321, "2026-01-02T03:04:05.000Z", 2.5)
    return replace(base, **changes)  # type: ignore[arg-type]


def worker(status: str = "idle", seen: float = 1.0, model: str = "") -> Worker:
    return Worker("cpu0", 1, "CPU", status, model, utc_text(NOW), utc_text(NOW - timedelta(seconds=seen)))


def snapshot(**changes: object) -> Snapshot:
    base = Snapshot(1, dict.fromkeys(State, 0), [], [], [], [worker()], False, "", {}, None)
    return replace(base, **changes)  # type: ignore[arg-type]


def counted(jobs: list[Job]) -> dict[str, dict[State, int]]:
    """How many jobs of each batch are in each state."""
    counts: dict[str, dict[State, int]] = {}
    for each in jobs:
        counts.setdefault(each.batch_id, dict.fromkeys(State, 0))[each.state] += 1
    return counts


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "a few seconds"),
        (4.9, "a few seconds"),
        (12, "about 10 s"),
        (58, "about 1 min"),
        (125, "about 2 min"),
        (3590, "about 1 h"),
        (5400, "about 1 h 30 min"),
        (90000, "about 1 day 1 h"),
        (200000, "about 2 days 7 h"),
    ],
)
def test_durations_are_said_as_estimates(seconds: float, words: str) -> None:
    assert view.duration(seconds) == words


@pytest.mark.parametrize(
    ("shown", "position", "words"),
    [
        (job(), None, "Waiting"),
        (job(), 1, "Next"),
        (job(), 2, "2nd in line"),
        (job(), 11, "11th in line"),
        (job(), 1003, "1,003rd in line"),
        (job(held=True), 1, "Held"),
        (job(State.RUNNING), None, "Starting …"),
        (job(State.RUNNING, phase="loading model"), None, "Loading model …"),
        (job(State.RUNNING, step=3), None, "Step 3 of 16"),
        (job(State.RUNNING, step=3, cancel_requested=True), None, "Stopping …"),
        (job(State.DONE), None, "Done"),
        (job(State.FAILED), None, "Failed"),
        (job(State.CANCELLED), None, "Cancelled"),
    ],
)
def test_every_state_has_words(shown: Job, position: int | None, words: str) -> None:
    assert view.state_words(shown, position) == words


def test_a_persons_text_is_never_html() -> None:
    """Prompt, failure, model and search come back escaped wherever they are shown."""
    evil = params(prompt=EVIL, negative=EVIL, model=EVIL, sampler=EVIL)
    failure = Failure("engine_error", EVIL)
    jobs = [job(state, params=evil, failure=failure if state is State.FAILED else None) for state in State]
    shown = snapshot(running=[jobs[1]], waiting=[jobs[0]], ended=jobs[2:], workers=[worker("loading", model=EVIL)])
    picture = image(params=evil)
    pages = [
        view_jobs.created(jobs, counted(jobs), {"J1": picture}, shown, NOW),
        view_now.now_line(shown, NOW),
        view_picture.panel(picture, view_picture.Kin()),
        view_gallery.gallery([picture], 1, Place(), False, False),
        view.toast(EVIL, EVIL),
        view_now.worker_notice(snapshot(reason=EVIL), NOW),
        view_now.now_problem(NotFound(EVIL)),
    ]
    for page in pages:
        assert "<img src=x" not in page
        assert 'onerror="' not in page
        assert "&lt;img src=x" in page


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        (snapshot(), ""),
        (snapshot(workers=[worker("busy")]), ""),
        (snapshot(workers=[]), "No worker is running"),
        (snapshot(workers=[worker("stopped")]), "No worker is running"),
        (snapshot(workers=[worker("starting")]), "The worker is starting"),
        (snapshot(workers=[worker("loading", model="sdxl")]), "Loading model sdxl"),
        (snapshot(workers=[worker("busy", seen=60)]), "does not answer"),
        (snapshot(workers=[worker("busy", seen=60), worker()]), ""),
        (snapshot(paused=True), "Paused"),
        (snapshot(reason="the disk is full"), "<b>The queue waits.</b> the disk is full"),
    ],
)
def test_what_holds_the_queue_up_is_said(shown: Snapshot, words: str) -> None:
    notice = view_now.worker_notice(shown, NOW)
    assert words in notice
    assert bool(words) == bool(notice)


def test_health_changes_when_a_worker_falls_silent_but_not_with_each_sign_of_life() -> None:
    assert view_now.worker_health([worker(seen=1)], NOW) == view_now.worker_health([worker(seen=9)], NOW)
    assert view_now.worker_health([worker(seen=1)], NOW) != view_now.worker_health([worker(seen=60)], NOW)


def test_now_line_tells_what_runs_how_many_wait_and_when_all_is_done() -> None:
    counts = dict.fromkeys(State, 0) | {State.QUEUED: 12, State.RUNNING: 1}
    line = view_now.now_line(snapshot(running=[job(State.RUNNING, step=4)], counts=counts, total_eta=120.0), NOW)
    assert "a red apple" in line
    assert "Step 4 of 16" in line
    assert "12 waiting" in line
    assert 'datetime="2026-01-02T03:06:05.000Z"' in line
    assert 'aria-valuenow="25"' in line


def test_now_line_tells_the_time_left_unless_no_worker_answers() -> None:
    running, counts = job(State.RUNNING, step=4), dict.fromkeys(State, 0) | {State.RUNNING: 1}
    shown = snapshot(running=[running], counts=counts, eta={running.id: 12.0}, total_eta=12.0)
    assert "~10 s" in view_now.now_line(shown, NOW)
    assert '<span class="brief">4/16</span>' in view_now.now_line(shown, NOW)
    silent = replace(shown, workers=[worker("busy", seen=60)])
    assert "~10 s" not in view_now.now_line(silent, NOW)
    assert "done about" not in view_now.now_line(silent, NOW)


def test_a_paused_queue_can_be_resumed_from_the_now_line_and_a_dead_worker_is_told_beside() -> None:
    shown = snapshot(paused=True, workers=[worker("idle", seen=60)])
    assert 'data-do="resume"' in view_now.now_line(shown, NOW)
    told = view_now.worker_notice(shown, NOW)
    assert "does not answer" in told
    assert "Paused." in told


def test_now_line_promises_no_time_while_paused() -> None:
    counts = dict.fromkeys(State, 0) | {State.QUEUED: 3}
    assert "done about" not in view_now.now_line(snapshot(paused=True, counts=counts, total_eta=9.0), NOW)


def test_a_failed_job_says_why_and_offers_again() -> None:
    card = view_jobs.card(job(State.FAILED, failure=Failure("oom", "Too big.")), None, None, None)
    assert "Too big." in card
    assert 'data-do="again"' in card


def test_a_running_card_shows_preview_progress_and_time_left() -> None:
    card = view_jobs.card(job(State.RUNNING, step=8), None, 42.0, None)
    assert "/previews/J1.webp?step=8" in card
    assert 'aria-valuenow="50"' in card
    assert "about 40 s" in card


def test_a_trashed_picture_is_said_to_be_in_the_trash() -> None:
    assert "In the trash" in view_jobs.card(job(State.DONE), None, None, None)


def test_a_long_press_shows_some_cards_and_counts_the_rest() -> None:
    jobs = [job(id=f"J{n}") for n in range(100)]
    html = view_jobs.created(jobs, counted(jobs), {}, snapshot(), NOW)
    assert html.count("<article") == view_jobs.MOST_CARDS
    assert "and 76 more pictures" in html


def test_presses_come_newest_first_as_given() -> None:
    jobs = [job(id="J2", batch_id="B2"), job(id="J1", batch_id="B1")]
    html = view_jobs.created(jobs, counted(jobs), {}, snapshot(), NOW)
    assert html.index('data-key="B2"') < html.index('data-key="B1"')


def test_an_empty_page_invites() -> None:
    html = view_jobs.created([], {}, {}, snapshot(), NOW)
    for example in view_jobs.EXAMPLES:
        assert f'data-id="{example}"' in html


def test_a_job_that_is_tried_again_says_when_and_which_try() -> None:
    html = view.standing(job(not_before="2026-01-02T02:14:00.000Z", tries=1), 1)
    assert html == 'Again at <time datetime="2026-01-02T02:14:00.000Z">02:14 UTC</time>, try 2 of 3'
    assert html in view_jobs.card(job(not_before="2026-01-02T02:14:00.000Z", tries=1), None, None, 1)
    assert view.standing(job(State.RUNNING, phase="<b>")) == "&lt;b&gt; …"


def test_what_happened_tells_all_and_folds_the_detail() -> None:
    events = [
        Event("J1", "queued", "2026-01-02T03:04:05.000Z", 0, None, ""),
        Event("J1", "running", "2026-01-02T03:04:06.000Z", 1, "gpu0", ""),
        Event("J1", "queued", "2026-01-02T03:04:07.000Z", 1, None, EVIL),
        Event("J1", "later-state", "2026-01-02T03:04:08.000Z", 1, None, ""),
    ]
    detail = f'File "/home/someone/lib/python/engine/fake.py", line 3\n{EVIL}'
    shown = job(State.FAILED, failure=Failure("out_of_memory", "Too big. Try a smaller size.", detail), priority=3)
    html = view_history.panel(shown, events, image())
    assert "after 1.0 s" in html
    for words in ("attempt 1", "worker gpu0", "Back in the queue", "Out of memory", "Try a smaller size.", "+3"):
        assert words in html
    assert "someone" not in html
    assert "…/engine/fake.py" in html
    assert "<details><summary>Detail" in html
    assert "/thumbnails/I1.webp" in html
    assert EVIL not in html
    assert 'data-do="again"' in html
    assert "Now: " in view_history.panel(job(), events[:1], None)


def test_a_pause_and_a_reason_are_both_told() -> None:
    notice = view_now.worker_notice(snapshot(paused=True, reason="No room.", running=[job(State.RUNNING)]), NOW)
    assert "No room." in notice
    assert 'data-do="resume"' in notice
    assert 'data-do="pause_now"' in notice


def test_gallery_pages_go_both_ways() -> None:
    first = view_gallery.gallery([image()], 100, Place(), True, False)
    assert 'data-do="older"' in first
    assert 'data-do="newer"' not in first
    assert "100 pictures" in first
    last = view_gallery.gallery([image()], 100, Place(cursors=("I9",)), False, False)
    assert 'data-do="older"' not in last
    assert 'data-do="newer"' in last


def test_a_recipe_that_was_made_more_than_once_is_marked() -> None:
    marked = view_gallery.gallery([image()], 100, Place(), False, False, {image().id: 3})
    assert f'data-do="alike" data-id="{image().id}"' in marked
    assert "×3" in marked
    assert "3 pictures of this recipe and seed" in marked
    assert "alike" not in view_gallery.gallery([image()], 100, Place(), False, False, {"another": 3})


@pytest.mark.parametrize(
    ("owners", "place", "offered"),
    [
        ([], Place(), False),
        (["ann"], Place(), False),  # her own alone
        (["bob"], Place(), True),
        (["ann", "bob"], Place(), True),
        ([], Place({"owner": "gone"}), True),
    ],
)
def test_owners_are_offered_where_there_are_others(owners: list[str], place: Place, offered: bool) -> None:
    with acting(Actor("ann")):
        bar = view_gallery_bar.bar(place, "", [], [], owners, view.utc())
    assert ("filter-owner" in bar) is offered
    assert all((f'data-id="owner={name}"' in bar) is offered for name in owners)


def test_gallery_says_why_it_is_empty() -> None:
    assert "No pictures yet" in view_gallery.gallery([], 0, Place(), False, False)
    assert "No picture fits" in view_gallery.gallery([], 0, Place({"model": "sdxl"}), False, True)


def test_panel_shows_the_whole_recipe() -> None:
    html = view_picture.panel(image(params=params(negative="blurry", seed=99, guidance=7.5)), view_picture.Kin())
    for shown in ("a red apple", "blurry", "99", "7.5", "DPM++ 2M", "starter", "128 × 128", "4 kB", "2.5 s"):
        assert shown in html
    assert "/images/I1.png?download=1" in html


def test_panel_leads_to_what_is_akin() -> None:
    tea, sea = (Board(f"B{name}", f"<{name}>", "", "2026-01-02T03:04:05.000Z") for name in ("tea", "sea"))
    html = view_picture.panel(image(), view_picture.Kin(2, "BATCH", [tea], [sea, tea]))
    assert "2 others with this recipe" in html
    for verb, key in (("alike", "I1"), ("batch_pictures", "BATCH"), ("board_pictures", "Btea"), ("pin", "Bsea I1")):
        assert f'data-do="{verb}" data-id="{key}"' in html
    assert "Btea I1" not in html
    assert "&lt;tea&gt;" in html
    trashed = view_picture.panel(replace(image(), trashed_at="2026-01-02T03:04:05.000Z"), view_picture.Kin())
    assert 'data-do="pin' not in trashed
    assert 'data-do="alike' not in trashed


def test_problems_name_the_field_as_the_page_does() -> None:
    assert view.problem(InvalidParams("negative", verbatim("is too long."))) == "Negative prompt is too long."
    assert view.problem(NotFound(verbatim("No such thing."))) == "No such thing."
