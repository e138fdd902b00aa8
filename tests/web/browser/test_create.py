"""Create in a browser: from a prompt to pictures, and what the form keeps."""

import re
from typing import Any

import pytest

from diffusion_local.domain import State
from tests.support import eventually
from tests.web.browser.ways import a_prompt, batch, fits, go, press
from tests.web.conftest import Site

playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

pytestmark = pytest.mark.browser


def test_from_prompt_to_picture_to_gallery_and_back(page: Any) -> None:
    prompt = a_prompt("slow apple [slow:0.15]")
    assert page.title() == "diffusion-local"
    press(page, prompt)
    mine = batch(page, prompt)
    mine.locator(".card.running .state", has_text=re.compile(r"Step \d+ of 12")).wait_for()
    mine.locator(".card.running img[src*='/previews/']").wait_for()
    assert fits(page)
    mine.locator(".card.done img[src^='/thumbnails/']").wait_for()
    mine.locator(".ring").wait_for(state="detached")

    go(page, "gallery")
    tile = page.locator(f".tile a.open:has(img[alt='{prompt}'])")
    tile.wait_for()
    assert fits(page)
    page.wait_for_function("[...document.querySelectorAll('.tile img')].some((img) => img.naturalWidth > 0)")

    tile.click()
    panel = page.locator("[role=dialog]")
    panel.wait_for()
    assert prompt in panel.inner_text()
    assert "DPM++ 2M" in panel.inner_text()
    assert fits(page)
    seed = panel.locator("dt:has-text('Seed') + dd").inner_text()
    page.keyboard.press("Escape")
    panel.wait_for(state="detached")

    tile.click()
    panel.locator("[data-do=recipe]").click()
    panel.wait_for(state="detached")
    page.wait_for_selector("[role=tab][data-tab-id=create][aria-selected=true]")
    assert page.input_value("#prompt textarea") == prompt
    page.click("#more > button")
    assert page.input_value("#seed input") == seed
    assert fits(page)


def test_a_press_is_shown_at_once_and_ten_are_ten(people: Any, site: Site) -> None:
    page = people().open()
    site.services.studio.pause()
    before = site.services.studio.snapshot().counts[State.QUEUED]
    prompt = a_prompt()
    page.fill("#prompt textarea", prompt)
    for _ in range(10):
        page.click("#generate")
    eventually(lambda: site.services.studio.snapshot().counts[State.QUEUED] == before + 10)
    page.wait_for_function("document.querySelectorAll('.batch').length === 10")  # all that is not finished is shown
    assert page.locator(".notice", has_text="Paused").count() == 1

    go(page, "queue")
    page.locator("#queue >> text=Next").wait_for()
    page.on("dialog", lambda dialog: dialog.accept())
    page.locator("#queue >> text=Cancel all waiting").click()
    eventually(lambda: site.services.studio.snapshot().counts[State.QUEUED] == 0)
    page.locator("#notices .notice button", has_text="Resume").click()
    eventually(lambda: not site.services.studio.snapshot().paused)


def test_cancel_and_again(page: Any, site: Site) -> None:
    prompt = a_prompt("long way [slow:0.4]")
    press(page, prompt)
    mine = batch(page, prompt)
    mine.locator(".card.running").wait_for()
    mine.locator("text=Cancel").click()
    mine.locator(".card.cancelled").wait_for()
    mine.locator("text=Again").click()
    mine.nth(1).wait_for()

    go(page, "queue")
    row = page.locator("#queue li.line:not(.cancelled)", has_text=prompt).first
    row.locator("text=Cancel").click()
    page.locator("#queue li.line.cancelled", has_text=prompt).nth(1).wait_for()
    assert fits(page)
    assert all(job.state is State.CANCELLED for job in site.services.studio.jobs() if job.params.prompt == prompt)


def test_a_failed_picture_says_why(people: Any) -> None:
    page = people().open()
    prompt = a_prompt("broken [fail]")
    press(page, prompt)
    card = batch(page, prompt).locator(".card.failed")
    card.wait_for()
    assert "asked the fake engine to fail" in card.inner_text()
    assert card.locator("text=Again").count() == 1


def test_bad_input_is_told_beside_the_form(people: Any, site: Site) -> None:
    page = people().open()
    page.fill("#count input", "0")
    press(page, "a red apple")
    page.locator("#told .notice", has_text="Pictures must be from 1 to 100 (got 0).").wait_for()
    page.fill("#count input", "1")
    page.fill("#prompt textarea", "")
    page.click("#generate")
    page.locator("#told .notice", has_text="Prompt must not be empty").wait_for()
    assert page.locator(".batch").count() == 0


def test_opening_the_settings_changes_none_of_them(people: Any, site: Site) -> None:
    """gr.Number shows an empty value as 0 when its accordion opens, and would have sent that as the seed."""
    page = people().open()
    page.click("#more > button")
    page.wait_for_selector("#seed input", state="visible")
    assert page.input_value("#seed input") == ""
    page.click("#dice")
    page.wait_for_function("document.querySelector('#seed input').value !== ''")
    page.click("#any-seed")
    page.wait_for_function("document.querySelector('#seed input').value === ''")
    prompts = [a_prompt(), a_prompt()]
    for prompt in prompts:
        press(page, prompt)
        batch(page, prompt).locator(".card").wait_for()
    seeds = [job.params.seed for job in site.services.studio.jobs() if job.params.prompt in prompts]
    assert len(set(seeds)) == 2


def test_a_shape_sets_the_size(people: Any, site: Site) -> None:
    page = people().open()
    page.locator("#size label", has_text="3:4").click()
    prompt = a_prompt()
    press(page, prompt)
    batch(page, prompt).locator(".card").wait_for()
    job = next(each for each in site.services.studio.jobs() if each.params.prompt == prompt)
    assert (job.params.width, job.params.height) == (224, 296)


def test_examples_invite_and_keys_submit(people: Any) -> None:
    page = people().open()
    page.locator(".invite >> text=a blue heart").click()
    page.wait_for_function("document.querySelector('#prompt textarea').value === 'a blue heart'")
    page.focus("#prompt textarea")
    page.keyboard.press("Control+Enter")
    page.locator(".batch h2", has_text="a blue heart").wait_for()


def test_a_reload_brings_the_whole_form_back(people: Any) -> None:
    page = people().open()
    page.click("#more > button")
    page.locator("#size label", has_text="3:4").click()
    page.fill("#seed input", "4242")
    page.fill("#count input", "3")
    page.fill("#steps input", "9")
    page.fill("#negative :is(input, textarea)", "blur")
    page.fill("#prompt textarea", "a draft")
    page.wait_for_function("/draft.*blur.*4242/.test(sessionStorage.getItem('diffusion-local-draft'))")
    for _ in range(2):
        page.reload()
        page.wait_for_function("document.querySelector('#prompt textarea')?.value === 'a draft'")
        assert page.input_value("#count input") == "3"
        page.locator("#size label.selected", has_text="3:4").wait_for()
        page.click("#more > button")
        assert page.input_value("#seed input") == "4242"
        assert page.input_value("#steps input") == "9"
        page.click("#expert > button")
        assert page.input_value("#width input") == "224"
        playwright_api.expect(page.locator("#negative :is(input, textarea)")).to_have_value("blur")


def test_a_press_that_was_lost_is_told_once(people: Any, site: Site) -> None:
    person = people()
    page = person.open()
    lost = page.locator("#told .notice", has_text="did not reach the studio")
    page.fill("#prompt textarea", "lost")
    page.route("**/run/predict*", lambda route: route.abort())
    page.click("#generate")
    page.wait_for_timeout(300)
    page.unroute("**/run/predict*")
    page.reload()
    lost.wait_for()
    assert page.input_value("#prompt textarea") == "lost"
    prompt = a_prompt()
    press(page, prompt)
    batch(page, prompt).wait_for()
    lost.wait_for(state="detached")
    page.reload()
    batch(page, prompt).wait_for()
    assert lost.count() == 0
    person.complaints.clear()  # of the requests that this test broke


def test_presses_of_two_tabs_are_all_remembered(people: Any) -> None:
    person = people()
    tabs = [person.open(), person.open()]
    prompts = [a_prompt(), a_prompt()]
    for tab, prompt in zip(tabs, prompts, strict=True):
        press(tab, prompt)
        batch(tab, prompt).wait_for()
    tabs[0].reload()
    for prompt in prompts:
        batch(tabs[0], prompt).wait_for()


def test_a_prompt_is_shown_as_text(people: Any) -> None:
    page = people().open()
    prompt = a_prompt('<img src=x onerror="window.hit = 1"> ${window.hit = 2} {{hit}} `')
    press(page, prompt.replace("{", r"\{").replace("}", r"\}"))  # else they are choices
    batch(page, prompt).locator(".card.done").wait_for()
    go(page, "gallery")
    page.locator(".tile").first.click()
    page.locator("[role=dialog]").wait_for()
    assert page.evaluate("window.hit") is None
