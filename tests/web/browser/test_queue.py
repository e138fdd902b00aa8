"""The queue in a browser: batches that fold, filters, order, selection, pause, what happened; thousands that wait."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from diffusion_local.domain import State
from tests.support import eventually
from tests.web.browser.page_actions import (
    answer_dialog,
    batch_in_strip,
    fits_width,
    generate,
    make_picture,
    open_view,
    unique_prompt,
)
from tests.web.conftest import Site

playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

pytestmark = pytest.mark.browser


def line(page: Any, prompt: str) -> Any:
    return page.locator("#queue li.line", has=page.locator(".title", has_text=re.compile(f"^{re.escape(prompt)}$")))


def group(page: Any, name: str) -> Any:
    return page.locator("#queue li.group", has=page.locator(".fold", has_text=re.compile(f"^{re.escape(name)}$")))


def unfolded(page: Any, name: str, opened: bool = True) -> None:
    group(page, name).locator(f".fold[aria-expanded={str(opened).lower()}]").wait_for()


def choose(row: Any, label: str) -> None:
    """A line of a row's menu."""
    row.locator(".menu summary").click()
    row.locator(".menu[open] .items button", has_text=re.compile(f"^{re.escape(label)}$")).click()


def test_the_line_is_ordered_selected_and_cancelled(page: Any, site: Site) -> None:
    studio = site.services.studio
    studio.queue.pause()
    prompts = [unique_prompt("in line") for _ in range(4)]
    ids = [studio.submit(prompt, width=128, height=128).job_ids[0] for prompt in prompts]

    def order() -> list[str]:
        return [job.id for job in studio.snapshot().waiting if job.id in ids]

    open_view(page, "queue")
    choose(line(page, prompts[2]), "Move to top")
    eventually(lambda: order() == [ids[2], ids[0], ids[1], ids[3]])
    assert fits_width(page)

    # By keyboard, twice without opening it again: the menu and the focus stay with the row that moves.
    row = line(page, prompts[3])
    row.locator(".menu summary").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    eventually(lambda: order() == [ids[2], ids[0], ids[3], ids[1]])
    page.wait_for_function(f"document.activeElement.dataset.do === 'move_up' && '{ids[3]}'")
    page.keyboard.press("Enter")
    eventually(lambda: order() == [ids[2], ids[3], ids[0], ids[1]])
    page.keyboard.press("Escape")
    assert row.locator(".menu[open]").count() == 0

    for prompt in prompts[:2]:
        line(page, prompt).locator(".tick").click()
    bar = page.locator("#queue .picked")
    assert bar.locator(".count").inner_text() == "2 selected"
    bar.locator("[data-do=priority_up]").click()
    page.wait_for_function(  # the toast leaves the bar's buttons free
        "[['.toast', 'bottom'], ['#queue .picked', 'top']].map(([part, edge]) => "
        "document.querySelector(part)?.getBoundingClientRect()[edge]).reduce((toast, bar) => toast <= bar)"
    )
    line(page, prompts[0]).locator("text=priority +1").wait_for(state="attached")
    assert order()[:2] == [ids[0], ids[1]]
    assert line(page, prompts[0]).locator("input:checked").count() == 1  # over the redraw
    assert fits_width(page)
    studio.queue.cancel([ids[0]])  # by somebody else
    studio.queue.forget([ids[0]])
    page.locator("#queue .picked .count", has_text="1 selected").wait_for()
    line(page, prompts[3]).locator(".tick").click()
    bar.locator("[data-do=cancel_these]").click()
    eventually(lambda: order() == [ids[2]])
    bar.wait_for(state="hidden")
    line(page, prompts[2]).locator(".tick").click()
    bar.locator("[data-unpick]:not([data-do])").click()
    bar.wait_for(state="hidden")


@pytest.mark.slow
def test_rows_are_compact_and_an_undone_cancel_puts_a_job_back_at_its_place(people: Any, site: Site) -> None:
    studio, page = site.services.studio, people().open()
    studio.queue.pause()
    prompts = [unique_prompt("compact") for _ in range(3)]
    batch = [studio.submit(prompt, width=128, height=128) for prompt in prompts][1].batch_id
    studio.submit(unique_prompt("several"), count=3, width=128, height=128)
    open_view(page, "queue")
    line(page, prompts[1]).wait_for()
    heights = page.evaluate(
        "[...document.querySelectorAll('#queue :is(.line:not(.failed), .group-head)')].map((each) => each.offsetHeight)"
    )
    assert heights
    assert max(heights) <= 46
    line(page, prompts[1]).locator("[data-do=cancel].near").click()
    page.locator("#toast [data-do=undo_cancel]").click()
    eventually(lambda: [job.params.prompt for job in studio.snapshot().waiting][:3] == prompts)
    assert [job.state for job in studio.jobs(batch_id=batch)] == [State.CANCELLED]


OVERLAPPING = """(row) => {
  const [buttons, texts] = [".acts > *, .acts summary", ".state span, .title, .meta, .thumb"].map((each) =>
    [...row.querySelectorAll(each)].map((one) => one.getBoundingClientRect()).filter((box) => box.width && box.height));
  return buttons.flatMap((a) => texts.filter((b) =>
    a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1)).length;
}"""


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_the_long_button_of_a_row_without_memory_covers_nothing_at_any_width(people: Any, site: Site) -> None:
    studio, page = site.services.studio, people().open()
    prompt = unique_prompt("broken [oom]")
    studio.wait(studio.submit(prompt, width=128, height=128, steps=2, rung="model_offload").job_ids, 30)
    open_view(page, "queue")
    row = line(page, prompt)
    row.locator("[data-do=again_auto]").wait_for()
    for width in (280, 390, 700, 1024, 1440):
        page.set_viewport_size({"width": width, "height": 800})
        assert row.evaluate(OVERLAPPING) == 0, width
        assert fits_width(page), width


@pytest.mark.slow
def test_pause_now_gives_the_running_picture_back_and_resume_goes_on(people: Any, site: Site) -> None:
    page = people().open()
    prompt = unique_prompt("given back [slow:0.2]")
    job_id = site.services.studio.submit(prompt, width=128, height=128, steps=12).job_ids[0]
    eventually(lambda: site.services.studio.job(job_id).step > 0)
    open_view(page, "queue")
    page.locator("#queue .split summary").click()
    page.locator("#queue .split .items >> text=Stop now and requeue").click()
    eventually(lambda: site.services.studio.job(job_id).state is State.QUEUED, 5)
    page.locator("#now [data-do=resume]").click()
    eventually(lambda: site.services.studio.job(job_id).attempt == 2)
    assert site.services.studio.wait([job_id], 30)[0].state is State.DONE


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_a_batch_is_held_and_goes_on(page: Any, site: Site) -> None:
    studio = site.services.studio
    studio.queue.pause()
    prompt = unique_prompt("a batch to hold")
    receipt = studio.submit(prompt, count=2, width=128, height=128, steps=2)
    open_view(page, "queue")
    choose(line(page, prompt).first, "Pause this batch")
    page.locator("#queue .line", has_text=prompt).locator("text=Paused").nth(1).wait_for()
    studio.queue.resume()
    group(page, prompt).locator(".group-head [data-do=resume_batch]").first.click()
    assert {job.state for job in studio.wait(receipt.job_ids, 30)} == {State.DONE}


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_all_failed_again_and_what_happened(page: Any, site: Site) -> None:
    studio = site.services.studio
    studio.queue.forget(ended=True)
    prompt = unique_prompt("broken [fail]")
    studio.wait(studio.submit(prompt, count=2, width=128, height=128, steps=2).job_ids, 30)
    open_view(page, "queue")
    page.locator("#queue [data-do=again_failed]").first.click()
    answer_dialog(page)
    page.locator("#queue [data-do=again_failed]", has_text="Retry 4 failed").first.wait_for()

    group(page, prompt).first.locator(".fold").click()
    choose(line(page, prompt).first, "History")
    panel = page.locator("[role=dialog]")
    panel.locator(".timeline >> text=Started").wait_for()
    assert "worker cpu0" in panel.inner_text()
    assert "Engine error" in panel.inner_text()
    assert panel.locator("pre").is_hidden()
    panel.locator("summary").click()
    assert "Traceback" in panel.locator("pre").inner_text()
    assert fits_width(page)
    page.keyboard.press("Escape")
    panel.wait_for(state="detached")

    page.locator("#queue >> text=Clear finished").click()
    answer_dialog(page)
    page.locator("#queue .group").first.wait_for(state="detached")
    assert studio.jobs() == []


@pytest.fixture
def names(site: Site) -> Iterator[list[str]]:
    """Three batches of some pictures that wait, the first one open."""
    studio = site.services.studio
    studio.queue.pause()
    studio.queue.cancel(waiting=True)
    studio.queue.forget(ended=True)
    names = [unique_prompt("batch") for _ in range(3)]
    for name in names:
        studio.submit(name, count=12, width=128, height=128, steps=2)
    yield names
    studio.queue.cancel(waiting=True)
    studio.queue.forget(ended=True)
    studio.queue.resume()


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_a_fold_outlives_a_look_and_a_reload_and_goes_by_keyboard(page: Any, site: Site, names: list[str]) -> None:
    open_view(page, "queue")
    unfolded(page, names[0])
    group(page, names[0]).locator(".fold").click()
    unfolded(page, names[0], False)
    assert page.locator("#queue li.line").count() == 0
    group(page, names[1]).locator(".fold").focus()
    page.keyboard.press("Enter")
    unfolded(page, names[1])
    assert page.evaluate("document.activeElement.matches('.fold')")  # the focus is still there
    assert line(page, names[1]).count() == 8
    page.evaluate("document.querySelectorAll('#queue li').forEach((each) => { each.seen = true })")
    other = unique_prompt("another")
    site.services.studio.submit(other, width=128, height=128)  # the next look draws anew
    line(page, other).wait_for()
    # What was there is the same as before, not drawn in its place.
    assert page.evaluate("[...document.querySelectorAll('#queue li')].filter((each) => !each.seen).length") == 1
    unfolded(page, names[0], False)
    unfolded(page, names[1])
    page.reload()
    page.wait_for_function("document.querySelector('#now .now')")
    open_view(page, "queue")
    unfolded(page, names[1])
    unfolded(page, names[0], False)
    assert fits_width(page)


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_filters_narrow_outlive_a_reload_and_are_cleared(page: Any, site: Site, names: list[str]) -> None:
    boat = unique_prompt("a boat at sea")
    site.services.studio.submit(boat, width=128, height=128)
    open_view(page, "queue")
    unfolded(page, names[0])
    page.fill("#queue [type=search]", "BOAT")
    page.wait_for_function("document.querySelectorAll('#queue li.line').length === 1")
    line(page, boat).wait_for()
    assert page.input_value("#queue [type=search]") == "BOAT"
    assert page.evaluate("document.activeElement.matches('[type=search]')")  # one can type on
    page.reload()
    page.wait_for_function("document.querySelector('#now .now')")
    open_view(page, "queue")
    line(page, boat).wait_for()
    assert page.locator("#queue li.line").count() == 1
    page.locator("[data-key=choice-state] summary").click()
    page.locator("[data-key=choice-state] .items button", has_text="Failed").click()
    page.locator("#queue >> text=No matches").wait_for()
    assert fits_width(page)
    page.locator("[data-key=nothing] >> text=Clear filters").click()
    unfolded(page, names[0])
    assert page.input_value("#queue [type=search]") == ""


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_a_range_is_ticked_with_shift_and_cancelled(people: Any, site: Site, names: list[str]) -> None:
    page, studio = people().open(), site.services.studio
    open_view(page, "queue")
    unfolded(page, names[0])
    rows = line(page, names[0])
    rows.nth(1).locator(".tick").click()
    rows.nth(5).locator(".tick").click(modifiers=["Shift"])
    page.locator("#queue .picked .count", has_text="5 selected").wait_for()
    rows.nth(3).locator(".tick input").focus()
    page.keyboard.press("Space")
    page.locator("#queue .picked .count", has_text="4 selected").wait_for()
    page.locator("#queue .picked [data-do=cancel_these]").click()
    group(page, names[0]).locator(".group-head", has_text="4 cancelled").wait_for()
    page.locator("#queue .picked").wait_for(state="hidden")
    batch_id = next(each.batch.id for each in studio.batches.page() if each.batch.name == names[0])
    assert [job.index for job in studio.jobs("cancelled", batch_id)] == [1, 2, 4, 5]


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_batches_change_places(page: Any, site: Site, names: list[str]) -> None:
    def order() -> list[str]:
        shown = (page.locator("#queue .fold").nth(place).inner_text() for place in range(3))
        return [names.index(name) for name in shown]

    open_view(page, "queue")
    group(page, names[2]).locator(".menu summary").first.click()
    group(page, names[2]).locator(".items button", has_text="Move to top").first.click()
    eventually(lambda: order() == [2, 0, 1])
    group(page, names[1]).locator(".menu summary").first.click()
    group(page, names[1]).locator(".items button", has_text="Move up").first.click()
    eventually(lambda: order() == [2, 1, 0])
    page.keyboard.press("Escape")
    assert fits_width(page)


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_with_thousands_waiting_there_are_few_rows_and_all_can_be_reached(page: Any, site: Site) -> None:
    studio = site.services.studio
    studio.queue.pause()
    name = unique_prompt("a long list")
    try:
        studio.lists.submit("\n".join(f"picture {number}" for number in range(3000)), name=name)
        open_view(page, "queue")
        long = group(page, name)
        long.locator(".fold").wait_for()
        if long.locator(".fold[aria-expanded=false]").count():
            long.locator(".fold").click()
        long.locator("nav.more", has_text="1–8 of 3,000").wait_for()
        long.locator("text=Show more").click()
        long.locator("nav.more", has_text="1–50 of 3,000").wait_for()
        long.locator("text=Next 50").click()
        long.locator("nav.more", has_text="51–100 of 3,000").wait_for()
        assert long.locator("li.line .title").all_inner_texts() == [f"picture {number}" for number in range(50, 100)]
        assert page.locator("#queue li.line").count() < 100
        assert page.evaluate("document.querySelectorAll('#queue *').length") < 3000
        long.locator("text=Previous 50").click()
        long.locator("nav.more", has_text="1–50 of 3,000").wait_for()
        long.locator("text=Show fewer").click()
        long.locator("nav.more", has_text="1–8 of 3,000").wait_for()
        page.fill("#queue [type=search]", "picture 2999")
        page.wait_for_function("document.querySelectorAll('#queue li.line').length === 1")
        assert fits_width(page)
    finally:
        studio.queue.cancel(waiting=True)
        studio.queue.forget(ended=True)
        studio.queue.resume()


@pytest.mark.slow
@pytest.mark.parametrize("view", ["create", "queue", "gallery"])
def test_nothing_moves_while_jobs_run(people: Any, site: Site, view: str) -> None:
    """The browser's own measure of layout shift, while a picture goes from step to step."""
    studio, page = site.services.studio, people().open()
    make_picture(site, unique_prompt("there before"))
    prompt = unique_prompt("runs and runs [slow:1]")
    generate(page, prompt)
    batch_in_strip(page, prompt).locator(".shot.running").wait_for()
    open_view(page, view)
    page.locator("#now .mini img").wait_for()
    page.evaluate(SHIFTS)
    eventually(lambda: studio.snapshot().running[0].step >= 10 or page.wait_for_timeout(100), 60)  # a digit more
    page.locator("#now .step", has_text="10").wait_for()
    assert page.evaluate("window.shifts") == []
    studio.queue.cancel([job.id for job in studio.snapshot().running])


SHIFTS = """() => {
  window.shifts = [];
  new PerformanceObserver((list) => {
    for (const each of list.getEntries())
      window.shifts.push(...each.sources.filter(
        ({ previousRect: from, currentRect: to }) => Math.abs(from.x - to.x) >= 1 || Math.abs(from.y - to.y) >= 1,
      ).map(({ node, previousRect: from, currentRect: to }) =>
        `${node?.id || node?.className || node?.nodeName}: ${from.x},${from.y} to ${to.x},${to.y}`));
  }).observe({ type: "layout-shift", buffered: false });
}"""


@pytest.mark.slow
def test_the_last_batch_is_dragged_to_the_top_of_the_drawer(people: Any, site: Site) -> None:
    site.services.studio.queue.pause()
    names = [unique_prompt() for _ in range(3)]
    for name in names:
        site.services.studio.submit(name, count=2, width=128, height=128, steps=2)
    page = people().open()
    page.click("#drawer-button")
    rows = page.locator("#drawer .waiting > li")
    rows.nth(2).wait_for()
    rows.nth(2).drag_to(rows.nth(0))
    eventually(
        lambda: [rows.nth(at).locator(".title").inner_text() for at in range(3)] == [names[2], names[0], names[1]]
    )
    page.get_by_role("link", name="Open the whole queue").click()
    page.wait_for_selector("#drawer", state="hidden")
