"""Journeys through the page in a real Chromium, with a real server and worker (fake engine)."""

import itertools
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from diffusion_local.domain import State
from tests.support import eventually
from tests.web.conftest import Site

playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 360, "height": 740}
PATIENCE = 20_000  # milliseconds

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no Chromium found; looked for {', '.join(BROWSERS)}")
    with playwright_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@dataclass
class Person:
    """A browser profile of its own, and all that went wrong in it."""

    context: Any
    site: Site
    complaints: list[str] = field(default_factory=list)

    def open(self) -> Any:
        page = self.context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", self._only_home)
        page.goto(self.site.url)
        page.wait_for_selector("#generate")
        page.wait_for_function("document.querySelector('#now .now')")
        return page

    def _only_home(self, request: Any) -> None:
        if not request.url.startswith((self.site.url, "data:", "blob:")):
            self.complaints.append(f"asked {request.url}")


@pytest.fixture
def people(chromium: Any, site: Site) -> Iterator[Any]:
    """Opens browsers; at the end no console may have complained and no other host may have been asked."""
    opened: list[Person] = []

    def enter(**options: Any) -> Person:
        person = Person(chromium.new_context(**{"viewport": DESKTOP} | options), site)
        opened.append(person)
        return person

    yield enter
    for person in opened:
        person.context.close()
    site.house.studio.cancel_waiting()
    site.house.studio.resume()
    assert [complaint for person in opened for complaint in person.complaints] == []


@pytest.fixture(params=[DESKTOP, PHONE], ids=["desktop", "phone"])
def page(people: Any, request: pytest.FixtureRequest) -> Any:
    return people(viewport=request.param).open()


numbers = itertools.count(1)


def a_prompt(words: str = "a red apple") -> str:
    """Different each time, so that tests that share a server find their own."""
    return f"{words} number {next(numbers)}"


def press(page: Any, prompt: str) -> None:
    page.fill("#prompt textarea", prompt)
    page.click("#generate")


def worked(site: Site, prompt: str) -> str:
    """Id of a picture that somebody else submitted and the worker has made."""
    job_ids = site.house.studio.submit(prompt, width=128, height=128, steps=2).job_ids
    job = site.house.studio.wait(job_ids, 30)[0]
    return site.house.studio.images_of([job])[job.id].id


def go(page: Any, tab: str) -> None:
    page.click(f"[role=tab][data-tab-id={tab}]")
    page.wait_for_selector(f"[role=tab][data-tab-id={tab}][aria-selected=true]")


def fits(page: Any) -> bool:
    return page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def batch(page: Any, prompt: str) -> Any:
    return page.locator(".batch", has=page.locator("h3", has_text=re.compile(f"^{re.escape(prompt)}$")))


def test_from_prompt_to_picture_to_gallery_and_back(page: Any) -> None:
    prompt = a_prompt("slow apple [slow:0.15]")
    assert page.title() == "diffusion-local"
    press(page, prompt)
    mine = batch(page, prompt)
    mine.locator(".card.running .state", has_text=re.compile(r"Step \d+ of 12")).wait_for()
    mine.locator(".card.running img[src*='/previews/']").wait_for()
    assert fits(page)
    mine.locator(".card.done img[src^='/thumbnails/']").wait_for()
    mine.locator(".bar").wait_for(state="detached")

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
    page.click("#more button")
    assert page.input_value("#seed input") == seed
    assert fits(page)


def test_a_press_is_shown_at_once_and_ten_are_ten(people: Any, site: Site) -> None:
    page = people().open()
    site.house.studio.pause()
    before = site.house.studio.snapshot().counts[State.QUEUED]
    prompt = a_prompt()
    page.fill("#prompt textarea", prompt)
    for _ in range(10):
        page.click("#generate")
    eventually(lambda: site.house.studio.snapshot().counts[State.QUEUED] == before + 10)
    page.wait_for_function("document.querySelectorAll('.batch').length === 10")  # all that is not finished is shown
    assert page.locator(".notice", has_text="Paused").count() == 1

    go(page, "queue")
    page.locator("#queue >> text=Next").wait_for()
    page.on("dialog", lambda dialog: dialog.accept())
    page.locator("#queue >> text=Cancel all waiting").click()
    eventually(lambda: site.house.studio.snapshot().counts[State.QUEUED] == 0)
    page.locator("#notices .notice button", has_text="Resume").click()
    eventually(lambda: not site.house.studio.snapshot().paused)


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
    assert all(job.state is State.CANCELLED for job in site.house.studio.jobs() if job.params.prompt == prompt)


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
    page.click("#more button")
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
    seeds = [job.params.seed for job in site.house.studio.jobs() if job.params.prompt in prompts]
    assert len(set(seeds)) == 2


def test_a_shape_sets_the_size(people: Any, site: Site) -> None:
    page = people().open()
    page.locator("#size label", has_text="Portrait").click()
    prompt = a_prompt()
    press(page, prompt)
    batch(page, prompt).locator(".card").wait_for()
    job = next(each for each in site.house.studio.jobs() if each.params.prompt == prompt)
    assert (job.params.width, job.params.height) == (224, 296)


def test_examples_invite_and_keys_submit(people: Any) -> None:
    page = people().open()
    page.locator(".invite >> text=a blue heart").click()
    page.wait_for_function("document.querySelector('#prompt textarea').value === 'a blue heart'")
    page.focus("#prompt textarea")
    page.keyboard.press("Control+Enter")
    page.locator(".batch h3", has_text="a blue heart").wait_for()


def test_a_reload_a_second_tab_and_another_device_show_the_truth(people: Any, site: Site) -> None:
    person = people()
    page = person.open()
    prompt = a_prompt()
    press(page, prompt)
    batch(page, prompt).locator(".card.done").wait_for()
    page.reload()
    batch(page, prompt).locator(".card.done").wait_for()
    batch(person.open(), prompt).locator(".card.done").wait_for()

    other = people(viewport=PHONE).open()
    assert other.locator(".batch").count() == 0  # not its own press
    go(other, "gallery")
    other.locator(f".tile img[alt='{prompt}']").wait_for()
    go(other, "queue")
    other.locator("#queue li.line.done", has_text=prompt).wait_for()


def test_a_reload_brings_the_whole_form_back(people: Any) -> None:
    page = people().open()
    page.click("#more button")
    page.locator("#size label", has_text="Portrait").click()
    page.fill("#seed input", "4242")
    page.fill("#count input", "3")
    page.get_by_label("number input for Steps").fill("9")
    page.get_by_label("Negative prompt").fill("blur")
    page.fill("#prompt textarea", "a draft")
    page.wait_for_function("/draft.*blur.*4242/.test(sessionStorage.getItem('diffusion-local-draft'))")
    for _ in range(2):
        page.reload()
        page.wait_for_function("document.querySelector('#prompt textarea')?.value === 'a draft'")
        assert page.input_value("#count input") == "3"
        page.locator("#size label.selected", has_text="Portrait").wait_for()
        page.click("#more button")
        assert page.input_value("#seed input") == "4242"
        assert page.get_by_label("number input for Steps").input_value() == "9"
        assert page.get_by_label("Width").input_value() == "224"
        playwright_api.expect(page.get_by_label("Negative prompt")).to_have_value("blur")


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


def test_a_seventh_tab_loads(people: Any) -> None:
    """gr.State would hold a connection open for each tab, and a browser has six."""
    person = people()
    tabs = [person.open() for _ in range(7)]
    prompt = a_prompt()
    press(tabs[-1], prompt)
    batch(tabs[-1], prompt).locator(".card.done").wait_for()


def test_new_pictures_come_into_the_open_gallery_without_touching_the_others(people: Any, site: Site) -> None:
    page = people().open()
    first = worked(site, a_prompt())
    go(page, "gallery")
    shown = page.locator(f".tile[data-key='{first}'] img")
    shown.wait_for()
    shown.evaluate("(img) => { img.marked = true; }")
    second = worked(site, a_prompt())
    page.locator(f".tile[data-key='{second}']").wait_for()
    assert shown.evaluate("(img) => img.marked") is True  # the same element: nothing flickers


def test_search_star_trash_and_undo(people: Any, site: Site) -> None:
    image = worked(site, a_prompt("a very special boat"))
    worked(site, a_prompt("something else"))
    page = people().open()
    go(page, "gallery")
    page.fill("#search :is(input, textarea)", "special boat")
    page.wait_for_function("document.querySelectorAll('.tile').length === 1")
    page.click(".tile a.open")
    page.locator("[role=dialog] [data-do=star]").click()
    page.locator("[role=dialog] [data-do=unstar]").wait_for()
    assert site.house.studio.image(image).starred
    page.locator("[role=dialog] >> text=Move to trash").click()
    page.locator(".invite", has_text="No picture fits").wait_for()
    page.locator(".toast >> text=Undo").click()
    page.locator(f".tile[data-key='{image}']").wait_for()
    page.fill("#search :is(input, textarea)", "")
    page.check("#starred input")
    page.wait_for_function("document.querySelectorAll('.tile').length === 1")


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
    page.locator(".toast").wait_for()
    over, under = page.locator(".toast").bounding_box(), bar.bounding_box()
    assert over["y"] + over["height"] <= under["y"]  # the toast leaves the bar's buttons free
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


def test_a_prompt_is_shown_as_text(people: Any) -> None:
    page = people().open()
    prompt = a_prompt('<img src=x onerror="window.hit = 1"> ${window.hit = 2} {{hit}} `')
    press(page, prompt)
    batch(page, prompt).locator(".card.done").wait_for()
    go(page, "gallery")
    page.locator(".tile").first.click()
    page.locator("[role=dialog]").wait_for()
    assert page.evaluate("window.hit") is None


def test_light_and_dark_have_readable_words(people: Any) -> None:
    for scheme in ("light", "dark"):
        page = people(color_scheme=scheme).open()
        page.locator(".invite").wait_for()
        assert page.evaluate(CONTRAST) >= 4.5, scheme


#: Contrast (WCAG) of the quiet text of the invitation against what is behind it.
CONTRAST = """() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = (colour) => {
    const [r, g, b] = rgb(colour).slice(0, 3).map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const words = document.querySelector(".invite p");
  let behind = words;
  while (behind && (rgb(getComputedStyle(behind).backgroundColor)[3] ?? 1) === 0) behind = behind.parentElement;
  const both = [getComputedStyle(words).color, getComputedStyle(behind ?? document.body).backgroundColor].map(light);
  return (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
}"""
