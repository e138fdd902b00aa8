"""The Queue tab's HTML: batches that fold, their rows, pagers, filters; pure functions, plain asserts."""

from dataclasses import replace
from typing import Any

import pytest

from diffusion_local.domain import Batch, Failure, Job, Lane, State
from diffusion_local.queue.batches import BatchProgress
from diffusion_local.queue.groups import Group, JobFilter, JobWindow, ListPosition, QueuePosition
from diffusion_local.web.ui import view_queue
from diffusion_local.web.ui.page_urls import MOST_PAGES, MOST_WIDE, QueueState
from diffusion_local.web.ui.view_queue import Page, ShownBatch, group
from diffusion_local.web.ui.view_queue_rows import RowContext, passed_over, row
from diffusion_local.web.ui.words import speaking
from tests.support import params
from tests.web.test_view import EVIL, NOW, image, job, snapshot

NOTHING = Page([])
CHOICES = {"model": ["starter"], "owner": [""]}


def around(**changes: Any) -> RowContext:
    return RowContext.from_snapshot(snapshot(**changes), {}, NOW)


def shown(
    jobs: list[Job] | None = None,
    name: str = "foxes",
    alone: bool = False,
    window: JobWindow | None = None,
    **counts: int,
) -> ShownBatch:
    """A batch with so many jobs in each state; open, if there are jobs to show."""
    of_states = dict.fromkeys(State, 0) | {State(state): count for state, count in counts.items()}
    batch = Batch("B1", name, "", Lane.INTERACTIVE, sum(counts.values()), "2026-01-02T03:04:05.000Z")
    opened = window or (JobWindow(jobs) if jobs is not None else None)
    return ShownBatch(Group(BatchProgress(batch, of_states), ["starter"], QueuePosition(0, 0, 1)), opened, alone)


def moved(each: ShownBatch, **changes: Any) -> ShownBatch:
    """The same batch with other fields."""
    batch = replace(each.group.progress.batch, **changes)
    return replace(each, group=replace(each.group, progress=replace(each.group.progress, batch=batch)))


def page(
    live: Page = NOTHING,
    ended: Page = NOTHING,
    place: str = "",
    others: int = 0,
    choices: Any = CHOICES,
    **changes: Any,
) -> str:
    return view_queue.queue(snapshot(**changes), QueueState.parse(place), live, ended, others, choices, {}, NOW)


# -- batches --------------------------------------------------------------------------------------------------------


def test_a_batch_has_a_header_that_folds_and_tells_how_far_it_is() -> None:
    each = shown([], done=2, failed=1, queued=7)
    html = group(each, QueueState(), around())
    assert 'data-turn="fold" data-id="B1" data-value=""' in html or 'data-turn="fold" data-id="B1"' in html
    assert 'aria-expanded="true"' in html
    assert "2 of 10 pictures done" in html
    assert "1 failed" in html
    assert 'aria-valuemax="10" aria-valuenow="3"' in html
    assert '<i class="done" data-key="done" style="width:20.00%"></i>' in html
    folded = group(shown(None, queued=3), QueueState(), around())
    assert 'aria-expanded="false"' in folded
    assert "<ul" not in folded


def test_a_batch_of_one_is_a_plain_row() -> None:
    html = group(shown([job()], alone=True, queued=1), QueueState(), around())
    assert html.startswith('<li class="line queued"')
    assert "aria-expanded" not in html


def test_an_ended_batch_offers_the_mend_and_to_go() -> None:
    html = group(shown(None, failed=2, done=1), QueueState(), around())
    assert 'data-do="batch_again" data-id="B1"' in html
    assert 'data-do="batch_forget" data-id="B1"' in html
    assert "batch_top" not in html
    assert "batch_forget" not in group(shown(None, queued=2), QueueState(), around())


def test_neighbours_of_one_owner_and_lane_can_change_places() -> None:
    each = shown(None, queued=2)
    above, below = moved(shown(None, queued=2), id="B0").group, moved(shown(None, queued=2), id="B2").group
    html = group(each, QueueState(), around(), above, below)
    assert 'data-do="batch_before" data-id="B1 B0"' in html
    assert 'data-do="batch_before" data-id="B2 B1"' in html
    other = moved(shown(None, queued=2), id="B0", owner="ann").group
    assert "batch_before" not in group(each, QueueState(), around(), other, None)
    ended = moved(shown(None, done=2), id="B0").group
    assert "batch_before" not in group(each, QueueState(), around(), ended, None)


def test_a_window_tells_where_it_is_and_goes_both_ways() -> None:
    few = shown(window=JobWindow([job()], later=ListPosition(1, 0, 8)), queued=3000)
    html = group(few, QueueState(), around())
    assert "1–1 of 3,000" in html
    assert 'data-turn="wide" data-id="B1" data-value=""' in html
    middle = shown(window=JobWindow([job()], 51, True, ListPosition(1, 0, 1), ListPosition(1, -3, 100)), queued=3000)
    html = group(middle, QueueState.parse("wide=B1:1.0.50"), around())
    assert "51–51 of 3,000" in html
    assert 'data-value="1.0.1">Previous 50' in html
    assert 'data-value="1.-3.100">Next 50' in html
    assert 'data-turn="narrow" data-id="B1"' in html
    assert "<nav" not in group(shown([job()], queued=2), QueueState(), around())


# -- rows -----------------------------------------------------------------------------------------------------------


def test_a_waiting_row_can_be_selected_moved_and_paused() -> None:
    html = row(job(), around(waiting=[job()]))
    assert 'data-pick="J1"' in html
    for verb in ("cancel", "move_top", "move_up", "move_down", "move_bottom", "what_happened", "pause_batch"):
        assert f'data-do="{verb}"' in html
    assert "Cancel batch" in html
    assert "Cancel batch" not in row(job(), around(), several=False)


def test_a_held_picture_that_stands_alone_offers_to_resume() -> None:
    html = row(job(held=True), around(waiting=[job()], eta={"J1": 30.0}), several=False)
    assert ">Paused<" in html
    assert "about" not in html.split('class="state"')[1].split("</div>")[0]
    assert 'class="act small" data-do="resume_batch" data-id="B1"' in html
    assert 'class="act small near" data-do="cancel"' in row(job(held=True), around())  # its batch's header resumes


def test_a_running_row_shows_preview_progress_and_time_left() -> None:
    html = row(job(State.RUNNING, step=4), around(running=[job(State.RUNNING, step=4)], eta={"J1": 40.0}))
    assert "/previews/J1.webp?step=4" in html
    assert 'aria-valuenow="25"' in html
    assert "about 40 s left" in html
    assert 'data-do="pause_batch_now"' in html
    assert 'data-do="cancel"' in html
    assert 'data-do="cancel"' not in row(job(State.RUNNING, cancel_requested=True), around())


def test_a_row_says_what_it_waits_for() -> None:
    shut = job(lane=Lane.BATCH, gate=3)
    html = row(shut, around(opens={3: "2026-01-02T23:00:00.000Z"}))
    assert 'not before <time datetime="2026-01-02T23:00:00.000Z">' in html
    assert "its time window never opens" in row(shut, around(opens={3: None}))
    assert "not before" not in row(replace(shut, lane=Lane.INTERACTIVE), around(opens={3: "2026-01-02T23:00:00.000Z"}))
    assert "Retries at <time" in row(job(not_before="2026-01-02T02:14:00.000Z", tries=1), around())


def test_a_job_that_a_loaded_model_goes_before_says_so() -> None:
    flux = params(model="flux")
    line = [job(id="J1", position=1), job(id="J3", position=3), job(id="J2", position=2, params=flux)]
    assert passed_over(line) == {"J2"}
    assert passed_over([*line[:2], replace(line[2], owner="ann")]) == set()  # between owners it is turns
    assert "loaded model first" in row(line[2], around(waiting=line, eta={"J2": 9.0}))


def test_a_failed_row_tells_why_and_offers_the_mend() -> None:
    failed = job(State.FAILED, failure=Failure("out_of_memory", "Too big."), finished_at="2026-01-02T03:04:06.000Z")
    html = row(failed, around())
    assert "Too big." in html
    assert 'data-do="again_auto"' not in html  # the automatic mode has tried everything
    fixed = replace(failed, params=params(rung="full"))
    assert 'class="act small" data-do="again_auto"' in row(fixed, around())
    assert 'data-do="again"' in row(fixed, around())
    broken = replace(failed, failure=Failure("engine_error", "It broke."))
    assert 'class="act small" data-do="again"' in row(broken, around())


def test_somebody_elses_row_has_nothing_to_press() -> None:
    html = row(job(State.RUNNING, hidden=True, step=2), around())
    assert "Another user’s picture" in html
    assert "<button" not in html
    assert "data-pick" not in html


def test_a_persons_text_is_never_html() -> None:
    evil = params(prompt=EVIL, negative=EVIL, model=EVIL, sampler=EVIL)
    failure = Failure("engine_error", EVIL)
    jobs = [job(state, params=evil, owner=EVIL, failure=failure if state is State.FAILED else None) for state in State]
    each = moved(shown(jobs, EVIL, queued=1, done=9), owner=EVIL, window=EVIL)
    each = replace(each, group=replace(each.group, models=[EVIL]))
    lone = moved(shown(jobs[:1], EVIL, alone=True, queued=1), id="B2")
    place = QueueState(JobFilter(model=EVIL, owner=EVIL, text=EVIL))
    choices = {"model": [EVIL], "owner": [EVIL]}
    live = Page([each, lone], True)
    html = view_queue.queue(snapshot(), place, live, Page([each]), 1, choices, {"J1": image(params=evil)}, NOW)
    assert "<img src=x" not in html
    assert 'onerror="' not in html
    assert "&lt;img src=x" in html


# -- the tab --------------------------------------------------------------------------------------------------------


def test_the_empty_tab_invites_and_an_empty_answer_offers_to_clear_the_filters() -> None:
    assert "The queue is empty" in page()
    assert "data-wanted" not in page()
    html = page(place="state=failed&text=zebra")
    assert "No matches" in html
    assert 'data-turn="clear"' in html
    assert 'value="zebra"' in html


def test_filters_are_offered_where_there_is_a_choice() -> None:
    live = Page([shown(None, queued=2)])
    html = page(live)
    assert 'data-turn="state" data-id="" data-value="paused"' in html
    assert 'data-turn="model"' not in html
    assert 'data-turn="owner"' not in html
    html = page(live, choices={"model": ["flux", "starter"], "owner": ["ann", "bob"]}, place="model=flux")
    assert '<span class="choice on" data-key="choice-model">' in html
    assert 'data-turn="owner" data-id="" data-value="bob"' in html


def test_pages_of_batches_go_both_ways() -> None:
    live, ended = Page([shown(None, queued=2)], True), Page([shown(None, done=2)], True)
    html = page(live, ended)
    assert 'data-turn="ahead" data-id="live" data-value="0.0.1"' in html
    assert 'data-turn="back"' not in html
    html = page(live, ended, place="live=0.0.1+0.0.2")
    assert 'data-turn="back" data-id="live"' in html
    assert 'data-turn="first" data-id="live"' in html


def test_what_is_for_all_stands_at_the_top() -> None:
    counts = dict.fromkeys(State, 0) | {State.QUEUED: 1000, State.FAILED: 2, State.DONE: 5}
    html = page(Page([shown(None, queued=1000)]), Page([shown(None, failed=2, done=5)]), counts=counts)
    assert "Cancel 1,000 waiting pictures?" in html
    assert "Retry 2 failed" in html
    assert "Clear 7 finished pictures" in html
    assert "data-picked" in html


def test_others_pictures_are_counted() -> None:
    assert "12 pictures of other users are waiting" in page(others=12)


def test_the_tab_speaks_chinese() -> None:
    with speaking("zh"):
        assert "进行中与等待中" in page(Page([shown([job()], queued=2)]))


# -- where one is ---------------------------------------------------------------------------------------------------


def test_a_place_is_read() -> None:
    place = QueueState.parse("state=failed&text=boat&open=A+B&shut=C&wide=A:1.-2.3+B:&live=0.0.9+1.5.-7&ended=X+Y")
    assert place.wanted == JobFilter(state="failed", text="boat")
    assert (place.opened, place.shut) == ({"A", "B"}, {"C"})
    assert place.wide == {"A": ListPosition(1, -2, 3), "B": None}
    assert place.live == (QueuePosition(0, 0, 9), QueuePosition(1, 5, -7))
    assert place.ended == ("X", "Y")


@pytest.mark.parametrize(
    "sent", [None, 7, [], "", "%%%", "state=<b>", "wide=A:x.y.z", "live=1.2", "live=1.2.99999999999999999999"]
)
def test_what_is_not_understood_is_left_out(sent: object) -> None:
    place = QueueState.parse(sent)
    assert (place.wanted, place.live) == (JobFilter(), ())
    assert set(place.wide.values()) <= {None}


def test_a_place_has_an_end() -> None:
    place = QueueState.parse("live=" + "+".join(["0.0.1"] * 999) + "&wide=" + "+".join(f"B{n}:" for n in range(99)))
    assert len(place.live) == MOST_PAGES
    assert len(place.wide) == MOST_WIDE
