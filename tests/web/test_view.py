"""What the page says: pure functions, plain asserts."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from diffusion_local.actor import Actor, acting
from diffusion_local.domain import Event, Failure, Image, Job, Lane, Snapshot, State, Worker, utc_text
from diffusion_local.errors import InvalidParams, NotFound
from diffusion_local.gallery.boards import Board
from diffusion_local.messages import verbatim
from diffusion_local.web.ui import tab_create, view, view_gallery, view_history, view_now, view_picture, view_stage
from diffusion_local.web.ui.page_urls import GalleryState
from diffusion_local.web.ui.view_gallery import GalleryPage
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


EVERYTHING, NOTHING = GalleryState(), GalleryPage([])


def stage(
    jobs: list[Job], images: dict[str, Image] | None = None, chosen: str = "", shown: Snapshot | None = None
) -> str:
    """Create's right side; ``chosen`` is an id, or the state of the job that is at hand."""
    stacks = view_stage.stacked(jobs, counted(jobs), images or {}, shown or snapshot())
    hand = next((each for stack in stacks for each in stack.shots if chosen and each.state == chosen), None)
    return view_stage.stage(stacks, [], hand or view_stage.at_hand(stacks, [], chosen))


def gallery(
    place: GalleryState = EVERYTHING,
    shown: GalleryPage = NOTHING,
    boards: Sequence[Board] = (),
    models: Sequence[str] = (),
    owners: Sequence[str] = (),
    total: int = 0,
) -> str:
    return view_gallery.gallery(place, shown, boards, models, owners, NOW, total, 30)


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
        (job(held=True), 1, "Paused"),
        (job(State.RUNNING), None, "Starting…"),
        (job(State.RUNNING, phase="loading model"), None, "Loading model…"),
        (job(State.RUNNING, step=3), None, "Step 3 of 16"),
        (job(State.RUNNING, step=3, cancel_requested=True), None, "Stopping…"),
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
        *(stage(jobs, {"J1": picture} if state is State.DONE else {}, chosen=state, shown=shown) for state in State),
        view_stage.stage([], [view_stage.Shot("I1", evil, "done", image=picture)], None),
        view_now.drawer(shown, [], NOW),
        view_now.now_line(shown, NOW),
        view_picture.panel(picture, view_picture.Related()),
        gallery(
            GalleryState({"search": EVIL}), GalleryPage([picture]), [Board("B", EVIL, "", "2026")], [EVIL, "x"], [EVIL]
        ),
        view_gallery.compared(picture, image()),
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
        (snapshot(workers=[worker("loading", model="sdxl")]), "Loading sdxl"),
        (snapshot(workers=[worker("busy", seen=60)]), "is not responding"),
        (snapshot(workers=[worker("busy", seen=60), worker()]), ""),
        (snapshot(paused=True), ""),  # the bar says so, where it is ended
        (snapshot(reason="the disk is full"), "<b>The queue is on hold.</b> the disk is full"),
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
    result = view_now.worker_notice(shown, NOW)
    assert "is not responding" in result
    assert "Paused" in view_now.now_line(shown, NOW)


def test_now_line_promises_no_time_while_paused() -> None:
    counts = dict.fromkeys(State, 0) | {State.QUEUED: 3}
    assert "done about" not in view_now.now_line(snapshot(paused=True, counts=counts, total_eta=9.0), NOW)


def test_a_closed_window_promises_no_time() -> None:
    counts = dict.fromkeys(State, 0) | {State.QUEUED: 1}
    waits = job(lane=Lane.BATCH)
    shown = snapshot(waiting=[waits], counts=counts, total_eta=9.0)
    assert "done about" in view_now.now_line(shown, NOW)
    closed = replace(shown, opens={waits.gate: "2026-01-02T23:00:00.000Z"})
    assert "done about" not in view_now.now_line(closed, NOW)


def test_a_failed_job_says_why_and_offers_again() -> None:
    html = stage([job(State.FAILED, failure=Failure("oom", "Too big."))])
    assert "Too big." in html
    assert 'data-do="again"' in html
    assert 'data-do="forget"' in html


@pytest.mark.parametrize(("rung", "offered"), [("", False), ("vae_tiling", False), ("full", True)])
def test_another_memory_mode_is_offered_only_where_one_is_left(rung: str, offered: bool) -> None:
    failure = Failure("out_of_memory", "Too big.")
    html = stage([job(State.FAILED, failure=failure, params=params(rung=rung))])
    assert ('data-do="again_auto"' in html) is offered


def test_the_running_picture_is_at_hand_with_its_preview_progress_and_time_left() -> None:
    running = job(State.RUNNING, step=8)
    html = stage([running], shown=snapshot(running=[running], eta={"J1": 42.0}))
    assert '<figure class="canvas running"' in html
    assert "/previews/J1.webp?step=8" in html
    assert 'aria-valuenow="50"' in html
    assert "about 40 s" in html


def test_until_there_is_a_preview_the_newest_picture_stays_at_hand() -> None:
    done = job(State.DONE, id="J2", finished_at="2026-01-02T03:04:06.000Z")
    jobs = [job(State.RUNNING), done]
    stacks = view_stage.stacked(jobs, counted(jobs), {"J2": image(id="I2", job_id="J2")}, snapshot())
    hand = view_stage.at_hand(stacks, [], "")
    assert hand
    assert hand.id == "J2"
    chosen = view_stage.at_hand(stacks, [], "J1")
    assert chosen
    assert chosen.id == "J1"


def test_the_caption_tells_a_variation_and_the_upscaler() -> None:
    def caption(**changes: object) -> str:
        shown = params(seed=7, **changes)
        html = view_stage.stage([], [], view_stage.Shot("I1", shown, "done", image=image(params=shown)))
        return html[html.index('class="meta"') :].partition("</p>")[0]

    assert caption().endswith("Seed 7")
    assert caption(variation_strength=0.3).endswith("Seed 7 · Variation")
    assert "Lanczos" in caption(kind="upscale", upscaler="Lanczos", model="tiny")
    assert "tiny" not in caption(kind="upscale", upscaler="Lanczos", model="tiny")


def test_a_picture_in_the_trash_leaves_the_strip() -> None:
    assert view_stage.stacked([job(State.DONE)], counted([job(State.DONE)]), {}, snapshot()) == []


def test_a_browser_that_made_nothing_sees_what_there_is() -> None:
    earlier = view_stage.older([image(), image(id="I2")], [])
    html = view_stage.stage([], earlier, view_stage.at_hand([], earlier, ""))
    assert "/images/I1.png" in html
    assert "/thumbnails/I2.webp" in html
    assert 'data-do="example"' not in html


def test_a_long_press_shows_some_pictures_and_counts_the_rest() -> None:
    jobs = [job(id=f"J{n}") for n in range(100)]
    stacks = view_stage.stacked(jobs[: view_stage.MOST_SHOTS], counted(jobs), {}, snapshot())
    html = view_stage.stage(stacks, [], None)
    assert html.count('class="shot queued"') == view_stage.MOST_SHOTS
    assert "76 more pictures" in html


def test_presses_come_newest_first_as_given() -> None:
    html = stage([job(id="J2", batch_id="B2"), job(id="J1", batch_id="B1")])
    assert html.index('data-key="B2"') < html.index('data-key="B1"')


def test_an_empty_page_invites() -> None:
    html = stage([])
    for example in view_stage.EXAMPLE_PROMPTS:
        assert f'data-id="{example}"' in html
    assert "emoji-like" in html


def test_a_job_that_is_tried_again_says_when_and_which_try() -> None:
    html = view.standing(job(not_before="2026-01-02T02:14:00.000Z", tries=1), 1)
    assert html == 'Retries at <time datetime="2026-01-02T02:14:00.000Z">02:14 UTC</time>, try 2 of 3'
    assert html in stage([job(not_before="2026-01-02T02:14:00.000Z", tries=1)])
    assert view.standing(job(State.RUNNING, phase="<b>")) == "&lt;b&gt;…"


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
    shown = snapshot(paused=True, reason="No room.", running=[job(State.RUNNING)])
    assert "No room." in view_now.worker_notice(shown, NOW)
    line = view_now.now_line(shown, NOW)
    assert "Pausing after this picture" in line
    assert 'data-do="resume"' in line
    assert 'data-do="pause_now"' in line


def test_the_gallery_says_whether_there_is_more_and_what_is_new() -> None:
    assert "data-more" in gallery(shown=GalleryPage([image()], more=True))
    assert "data-more" not in gallery(shown=GalleryPage([image()]))
    assert "12 new pictures" in gallery(shown=GalleryPage([image()], fresh=12))
    assert "data-fresh" not in gallery(shown=GalleryPage([image()]))
    assert "1,234" in gallery(total=1234)  # also while something is searched
    assert "1,234" in gallery(GalleryState({"search": "boat"}), total=1234)


def test_tiles_have_the_pictures_own_shape() -> None:
    assert "--r:1.500" in gallery(shown=GalleryPage([image(width=768, height=512)]))


def test_a_recipe_that_was_made_more_than_once_is_marked() -> None:
    marked = gallery(shown=GalleryPage([image()], repeated={image().id: 3}))
    assert f'href="/ui/gallery?like={image().id}"' in marked
    assert "×3" in marked
    assert "3 pictures with the same settings and seed" in marked
    assert "like=" not in gallery(shown=GalleryPage([image()], repeated={"another": 3}))


@pytest.mark.parametrize(
    ("owners", "place", "offered"),
    [
        ([], GalleryState(), False),
        (["ann"], GalleryState(), False),  # her own alone
        (["bob"], GalleryState(), True),
        (["ann", "bob"], GalleryState(), True),
        ([], GalleryState({"owner": "gone"}), True),
    ],
)
def test_owners_are_offered_where_there_are_others(owners: list[str], place: GalleryState, offered: bool) -> None:
    with acting(Actor("ann")):
        html = gallery(place, owners=owners)
    assert ("filter-owner" in html) is offered
    assert all((f"owner={name}" in html) is offered for name in owners)


def test_gallery_says_why_it_is_empty() -> None:
    assert "No pictures yet" in gallery()
    assert "No matches" in gallery(GalleryState({"model": "sdxl"}))
    assert "The trash is empty" in gallery(GalleryState({"trashed": "1"}))
    assert "Deleted after 30 days" in gallery(GalleryState({"trashed": "1"}))
    assert "No such board" in gallery(GalleryState({"board": "B"}), GalleryPage([], missing=True))


def test_panel_shows_the_whole_recipe() -> None:
    html = view_picture.panel(image(params=params(negative="blurry", seed=99, guidance=7.5)), view_picture.Related())
    for shown in ("a red apple", "blurry", "99", "7.5", "DPM++ 2M", "starter", "128 × 128", "4 kB", "2.5 s"):
        assert shown in html
    assert "/images/I1.png?download=1" in html


def test_panel_leads_to_what_is_akin() -> None:
    tea, sea = (Board(f"B{name}", f"<{name}>", "", "2026-01-02T03:04:05.000Z") for name in ("tea", "sea"))
    html = view_picture.panel(image(), view_picture.Related(2, "BATCH", [tea], [sea, tea]))
    assert "2 others with these settings" in html
    for query in ("like=I1", "batch=BATCH", "board=Btea"):
        assert f'href="/ui/gallery?{query}"' in html
    assert 'data-do="pin" data-id="Bsea I1"' in html
    assert "Btea I1" not in html
    assert "&lt;tea&gt;" in html
    trashed = view_picture.panel(replace(image(), trashed_at="2026-01-02T03:04:05.000Z"), view_picture.Related())
    assert 'data-do="pin' not in trashed
    assert "like=" not in trashed


def test_problems_name_the_field_as_the_page_does() -> None:
    assert view.problem(InvalidParams("negative", verbatim("is too long."))) == "Negative prompt is too long."
    assert view.problem(NotFound(verbatim("No such thing."))) == "No such thing."
    wrong = InvalidParams("controls[1].type", verbatim("needs a model."))
    assert view.problem(wrong) == "Controls 2, Preprocessor needs a model."
    assert 'data-entry="1" data-part="type"' in tab_create.refusal_notice(wrong)
    assert view.problem(InvalidParams("controls[0]", verbatim("has no image."))) == "Controls 1 has no image."
