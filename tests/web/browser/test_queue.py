"""The queue in a browser: order, selection, pause, what happened."""

import re
from typing import Any

import pytest

from diffusion_local.domain import State
from tests.support import eventually
from tests.web.browser.ways import a_prompt, fits, go
from tests.web.conftest import Site

playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

pytestmark = pytest.mark.browser


def line(page: Any, prompt: str) -> Any:
    return page.locator("#queue li.line", has=page.locator(".title", has_text=re.compile(f"^{re.escape(prompt)}$")))


def choose(row: Any, label: str) -> None:
    """A line of a row's menu."""
    row.locator(".menu summary").click()
    row.locator(".menu[open] .items button", has_text=re.compile(f"^{re.escape(label)}$")).click()


def test_the_line_is_ordered_selected_and_cancelled(page: Any, site: Site) -> None:
    studio = site.house.studio
    studio.pause()
    prompts = [a_prompt("in line") for _ in range(4)]
    ids = [studio.submit(prompt, width=128, height=128).job_ids[0] for prompt in prompts]

    def order() -> list[str]:
        return [job.id for job in studio.snapshot().waiting if job.id in ids]

    go(page, "queue")
    choose(line(page, prompts[2]), "Move to top")
    eventually(lambda: order() == [ids[2], ids[0], ids[1], ids[3]])
    assert fits(page)

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
        line(page, prompt).locator(".pick").click()
    bar = page.locator("#queue .picked")
    assert bar.locator(".count").inner_text() == "2 selected"
    bar.locator("[data-do=priority_up]").click()
    page.wait_for_function(  # the toast leaves the bar's buttons free
        "[['.toast', 'bottom'], ['#queue .picked', 'top']].map(([part, edge]) => "
        "document.querySelector(part)?.getBoundingClientRect()[edge]).reduce((toast, bar) => toast <= bar)"
    )
    line(page, prompts[0]).locator("text=priority +1").wait_for()
    assert order()[:2] == [ids[0], ids[1]]
    assert line(page, prompts[0]).locator("input:checked").count() == 1  # over the redraw
    assert fits(page)
    studio.cancel([ids[0]])  # by somebody else
    page.locator("#queue .picked .count", has_text="1 selected").wait_for()
    line(page, prompts[3]).locator(".pick").click()
    bar.locator("[data-do=cancel_these]").click()
    eventually(lambda: order() == [ids[2]])
    bar.wait_for(state="hidden")
    line(page, prompts[2]).locator(".pick").click()
    bar.locator("text=Clear selection").click()
    bar.wait_for(state="hidden")


def test_pause_now_gives_the_running_picture_back_and_resume_goes_on(people: Any, site: Site) -> None:
    page = people().open()
    prompt = a_prompt("given back [slow:0.2]")
    job_id = site.house.studio.submit(prompt, width=128, height=128, steps=12).job_ids[0]
    eventually(lambda: site.house.studio.job(job_id).step > 0)
    go(page, "queue")
    page.locator("#queue .split summary").click()
    page.locator("#queue .split .items >> text=Now, give it back").click()
    eventually(lambda: site.house.studio.job(job_id).state is State.QUEUED, 5)
    page.locator("#notices .notice button", has_text="Resume").click()
    eventually(lambda: site.house.studio.job(job_id).attempt == 2)
    assert site.house.studio.wait([job_id], 30)[0].state is State.DONE


def test_a_batch_is_held_and_goes_on(page: Any, site: Site) -> None:
    studio = site.house.studio
    studio.pause()
    prompt = a_prompt("a batch to hold")
    receipt = studio.submit(prompt, count=2, width=128, height=128, steps=2)
    go(page, "queue")
    choose(line(page, prompt).first, "Pause this batch")
    page.locator("#queue .line", has_text=prompt).locator("text=Held").nth(1).wait_for()
    studio.resume()
    line(page, prompt).first.locator(".acts > [data-do=resume_batch]").click()
    assert {job.state for job in studio.wait(receipt.job_ids, 30)} == {State.DONE}


def test_all_failed_again_and_what_happened(page: Any, site: Site) -> None:
    studio = site.house.studio
    studio.forget(everything=True)
    prompt = a_prompt("broken [fail]")
    studio.wait(studio.submit(prompt, count=2, width=128, height=128, steps=2).job_ids, 30)
    page.on("dialog", lambda dialog: dialog.accept())
    go(page, "queue")
    page.locator("#queue >> text=Again for all failed (2)").click()
    page.locator("#queue >> text=Again for all failed (4)").wait_for()

    choose(line(page, prompt).first, "What happened?")
    panel = page.locator("[role=dialog]")
    panel.locator(".timeline >> text=Started").wait_for()
    assert "worker cpu0" in panel.inner_text()
    assert "Engine error" in panel.inner_text()
    assert panel.locator("pre").is_hidden()
    panel.locator("summary").click()
    assert "Traceback" in panel.locator("pre").inner_text()
    assert fits(page)
    page.keyboard.press("Escape")
    panel.wait_for(state="detached")

    page.locator("#queue >> text=Clear ended").click()
    page.locator("#queue .line.failed").first.wait_for(state="detached")
    assert studio.jobs() == []
