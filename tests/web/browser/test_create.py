"""Create in a browser: from a prompt to pictures, and what the form keeps."""

import re
from typing import Any

import pytest

from diffusion_local.domain import State
from tests.support import eventually
from tests.web.browser.conftest import PHONE
from tests.web.browser.page_actions import (
    answer_dialog,
    batch_in_strip,
    fits_width,
    generate,
    make_picture,
    open_settings,
    open_view,
    show_on_stage,
    unique_prompt,
)
from tests.web.conftest import Site

playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

pytestmark = pytest.mark.browser


def test_from_prompt_to_picture_to_gallery_and_back(page: Any) -> None:
    prompt = unique_prompt("slow apple [slow:0.15]")
    assert page.title() == "diffusion-local"
    generate(page, prompt)
    mine = batch_in_strip(page, prompt)
    page.locator(".caption .state", has_text=re.compile(r"Step \s*\d+ of 12")).wait_for()
    page.locator(".canvas.running img[src*='/previews/']").wait_for()
    assert fits_width(page)
    mine.locator(".shot.done img[src^='/thumbnails/']").wait_for()
    page.locator(f".canvas.done img[src^='/images/'][alt='{prompt}']").wait_for()

    open_view(page, "gallery")
    tile = page.locator(f".tile a.open:has(img[alt='{prompt}'])")
    tile.wait_for()
    assert fits_width(page)
    page.wait_for_function("[...document.querySelectorAll('.tile img')].some((img) => img.naturalWidth > 0)")

    tile.click()
    panel = page.locator("[role=dialog]")
    panel.wait_for()
    assert prompt in panel.inner_text()
    assert "DPM++ 2M" in panel.inner_text()
    assert fits_width(page)
    seed = panel.locator("dt:has-text('Seed') + dd").inner_text()
    page.keyboard.press("Escape")
    panel.wait_for(state="detached")

    tile.click()
    panel.wait_for()
    panel.locator(".menu[data-key=use] summary").click()
    panel.locator("[data-do=recipe]").click()
    panel.wait_for(state="detached")
    page.wait_for_url("**/ui/create")
    assert page.input_value("#prompt textarea") == prompt
    open_settings(page)
    assert page.input_value("#seed input") == seed
    assert fits_width(page)


def test_a_press_is_shown_at_once_and_ten_are_ten(people: Any, site: Site) -> None:
    page = people().open()
    site.services.studio.queue.pause()
    before = site.services.studio.snapshot().counts[State.QUEUED]
    prompt = unique_prompt()
    page.fill("#prompt textarea", prompt)
    for _ in range(10):
        page.click("#generate")
    eventually(lambda: site.services.studio.snapshot().counts[State.QUEUED] == before + 10)
    page.wait_for_function("document.querySelectorAll('.batch').length === 10")  # all that is not finished is shown
    assert "Paused" in page.locator("#now").inner_text()

    open_view(page, "queue")
    page.locator("#queue").get_by_text("Next", exact=True).wait_for()
    page.locator("#queue >> text=Cancel all waiting").click()
    page.click("#asking .primary")
    eventually(lambda: site.services.studio.snapshot().counts[State.QUEUED] == 0)
    page.locator("#now [data-do=resume]").click()
    eventually(lambda: not site.services.studio.snapshot().paused)


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_cancel_and_again(page: Any, site: Site) -> None:
    prompt = unique_prompt("long way [slow:3]")
    generate(page, prompt)
    mine = batch_in_strip(page, prompt)
    mine.locator(".shot.running").wait_for()
    mine.locator("[data-do=cancel_batch]").click()
    show_on_stage(page, mine.locator(".shot.cancelled")).locator(".canvas [data-do=again]").click()
    mine.nth(1).wait_for()

    open_view(page, "queue")
    row = page.locator("#queue li.line:not(.cancelled)", has_text=prompt).first
    row.locator("text=Cancel").click()
    page.locator("#queue li.line.cancelled", has_text=prompt).nth(1).wait_for()
    assert fits_width(page)
    assert all(job.state is State.CANCELLED for job in site.services.studio.jobs() if job.params.prompt == prompt)


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_a_failed_picture_says_why(people: Any) -> None:
    page = people().open()
    prompt = unique_prompt("broken [fail]")
    generate(page, prompt)
    batch_in_strip(page, prompt).locator(".shot.failed").wait_for()
    told = page.locator(".canvas.failed")
    told.locator("text=made the fake engine fail").wait_for()
    told.locator("text=Dismiss").click()
    batch_in_strip(page, prompt).wait_for(state="detached")


def test_bad_input_is_told_beside_the_form(people: Any, site: Site) -> None:
    page = people().open()
    page.fill("#count input", "0")
    generate(page, "a red apple")
    page.locator("#told .notice", has_text="Pictures must be from 1 to 100 (got 0).").wait_for()
    assert page.get_attribute("#count input", "aria-invalid") == "true"
    page.fill("#count input", "1")
    page.locator("#told .notice").wait_for(state="detached")  # it is right now
    assert page.get_attribute("#count input", "aria-invalid") is None
    page.fill("#prompt textarea", "")
    page.click("#generate")
    page.locator("#told .notice", has_text="Prompt must not be empty").wait_for()
    assert page.locator(".batch").count() == 0


@pytest.mark.slow
def test_opening_the_settings_changes_none_of_them(people: Any, site: Site) -> None:
    """gr.Number shows an empty value as 0 when its accordion opens, and would have sent that as the seed."""
    page = people().open()
    page.wait_for_selector("#seed input", state="visible")
    assert page.input_value("#seed input") == ""
    page.click("#dice")
    page.wait_for_function("document.querySelector('#seed input').value !== ''")
    page.click("#any-seed")
    page.wait_for_function("document.querySelector('#seed input').value === ''")
    prompts = [unique_prompt(), unique_prompt()]
    for prompt in prompts:
        generate(page, prompt)
        batch_in_strip(page, prompt).locator(".shot").wait_for()
    seeds = [job.params.seed for job in site.services.studio.jobs() if job.params.prompt in prompts]
    assert len(set(seeds)) == 2


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_a_shape_sets_the_size(people: Any, site: Site) -> None:
    page = people().open()
    page.locator("#size label", has_text="3:4").click()
    prompt = unique_prompt()
    generate(page, prompt)
    batch_in_strip(page, prompt).locator(".shot").wait_for()
    job = next(each for each in site.services.studio.jobs() if each.params.prompt == prompt)
    assert (job.params.width, job.params.height) == (224, 296)


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_enter_generates_but_not_while_an_input_method_composes(people: Any, site: Site) -> None:
    page = people().open()
    prompt = unique_prompt()
    page.fill("#prompt textarea", prompt)
    page.focus("#prompt textarea")
    page.keyboard.press("Shift+Enter")
    assert page.input_value("#prompt textarea") == prompt + "\n"
    page.fill("#prompt textarea", prompt)
    for composing in ("{isComposing: true}", "{keyCode: 229}"):
        page.evaluate(
            "document.querySelector('#prompt textarea').dispatchEvent(new KeyboardEvent('keydown', "
            f"Object.assign({{key: 'Enter', bubbles: true, cancelable: true}}, {composing})))"
        )
    page.keyboard.press("Enter")
    batch_in_strip(page, prompt).wait_for()
    eventually(lambda: [job for job in site.services.studio.jobs() if job.params.prompt.strip() == prompt])
    assert len([job for job in site.services.studio.jobs() if job.params.prompt.strip() == prompt]) == 1

    page.keyboard.press("Escape")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("?")
    page.locator("[role=dialog] [data-enter]").check()  # turned round
    page.keyboard.press("Escape")
    other = unique_prompt()
    page.fill("#prompt textarea", other)
    page.focus("#prompt textarea")
    page.keyboard.press("Enter")
    assert page.input_value("#prompt textarea") == other + "\n"
    page.keyboard.press("Control+Enter")
    eventually(lambda: [job for job in site.services.studio.jobs() if job.params.prompt.strip() == other])


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_a_list_of_choices_closes_when_tab_leaves_it(people: Any) -> None:
    page = people().open()
    page.focus("#model input")
    page.locator("[role=listbox]:visible").wait_for()
    page.keyboard.press("Tab")
    page.wait_for_function("![...document.querySelectorAll('[role=listbox]')].some((each) => each.checkVisibility())")


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_escape_closes_and_never_cancels(people: Any, site: Site) -> None:
    page = people().open()
    site.services.studio.queue.pause()
    prompt = unique_prompt()
    page.fill("#count input", "4")
    generate(page, prompt)
    batch_in_strip(page, prompt).locator(".shot").nth(3).wait_for()
    waiting = site.services.studio.snapshot().counts[State.QUEUED]
    for place in ("#prompt textarea", "#steps input", "#model input", "#seed input"):
        page.click(place)
        page.keyboard.press("Escape")
        page.keyboard.press("Escape")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Escape")
    page.wait_for_timeout(300)
    assert site.services.studio.snapshot().counts[State.QUEUED] == waiting


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_weights_are_set_by_keyboard(people: Any) -> None:
    page = people().open()
    page.fill("#prompt textarea", "a red apple")
    page.evaluate("document.querySelector('#prompt textarea').setSelectionRange(3, 3)")
    page.keyboard.press("Control+ArrowUp")
    page.keyboard.press("Control+ArrowUp")
    assert page.input_value("#prompt textarea") == "a (red:1.2) apple"
    for _ in range(2):
        page.keyboard.press("Control+ArrowDown")
    assert page.input_value("#prompt textarea") == "a red apple"


def test_a_reload_brings_the_whole_form_back(people: Any) -> None:
    page = people().open()
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
        assert page.input_value("#seed input") == "4242"
        assert page.input_value("#steps input") == "9"
        assert page.input_value("#width input") == "224"
        playwright_api.expect(page.locator("#negative :is(input, textarea)")).to_have_value("blur")


def test_a_press_that_was_lost_with_its_page_is_told_once(people: Any, site: Site) -> None:
    person = people()
    page = person.open()
    lost = page.locator("#told .notice", has_text="did not reach the studio")
    page.fill("#prompt textarea", "lost")
    page.route("**/run/predict*", lambda route: route.abort())
    page.click("#generate")
    page.locator("#notices [data-away]").wait_for()
    page.reload()
    page.wait_for_selector("#generate")
    page.unroute("**/run/predict*")
    lost.wait_for()
    assert page.input_value("#prompt textarea") == "lost"
    prompt = unique_prompt()
    generate(page, prompt)
    batch_in_strip(page, prompt).wait_for()
    lost.wait_for(state="detached")
    page.reload()
    batch_in_strip(page, prompt).wait_for()
    assert lost.count() == 0
    assert "lost" not in [job.params.prompt for job in site.services.studio.jobs()]
    person.complaints.clear()  # of the requests that this test broke


def test_an_action_that_the_server_refuses_is_told(people: Any) -> None:
    person = people()
    page = person.open()
    answer = '{"error": {"code": "rate_limited", "message": "Too many requests."}}'
    page.route("**/run/predict*", lambda route: route.fulfill(status=429, content_type="application/json", body=answer))
    page.click("#bar [data-do=keys]")
    page.locator("#toast .toast", has_text="Too many requests.").wait_for()
    page.unroute("**/run/predict*")
    page.click("#bar [data-do=keys]")
    page.locator("[role=dialog]").wait_for()
    person.complaints.clear()  # of the refusal


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_presses_of_two_tabs_are_all_remembered(people: Any) -> None:
    person = people()
    tabs = [person.open(), person.open()]
    prompts = [unique_prompt(), unique_prompt()]
    for tab, prompt in zip(tabs, prompts, strict=True):
        generate(tab, prompt)
        batch_in_strip(tab, prompt).wait_for()
    tabs[0].reload()
    for prompt in prompts:
        batch_in_strip(tabs[0], prompt).wait_for()


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_a_prompt_is_shown_as_text(people: Any) -> None:
    page = people().open()
    prompt = unique_prompt('<img src=x onerror="window.hit = 1"> ${window.hit = 2} {{hit}} `')
    generate(page, prompt.replace("{", r"\{").replace("}", r"\}"))  # else they are choices
    batch_in_strip(page, prompt).locator(".shot.done").wait_for()
    open_view(page, "gallery")
    page.locator(".tile").first.click()
    page.locator("[role=dialog]").wait_for()
    assert page.evaluate("window.hit") is None


@pytest.mark.slow
def test_words_that_the_starter_does_not_know_are_told_quietly(people: Any) -> None:
    page = people().open()
    line = page.locator("#tokens .unknown")
    page.fill("#prompt textarea", "a red apple beside a quantum lighthouse")
    line.filter(has_text="quantum, lighthouse").wait_for()
    count, unknown, button = (
        page.locator(each).bounding_box()
        for each in ("#tokens .tokens", "#tokens .unknown", "#tokens [data-prompts=history]")
    )
    middles = [box["y"] + box["height"] / 2 for box in (count, unknown, button)]
    assert max(middles) - min(middles) < 2  # in one line
    assert unknown["x"] + unknown["width"] <= count["x"]
    assert page.locator("#told .notice").count() == 0
    page.fill("#prompt textarea", "a red apple")
    page.wait_for_function("document.querySelector('#tokens .unknown').textContent === ''")


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_the_prompt_is_counted_suggested_remembered_and_kept_as_a_preset(people: Any, site: Site) -> None:
    settings, prompt = site.services.settings, unique_prompt("glowing lantern, misty harbour")
    settings.wildcards.mkdir(exist_ok=True)
    (settings.wildcards / "animal.txt").write_text("cat\ndog\n")
    make_picture(site, prompt)
    page = people().open()
    field = page.locator("#prompt textarea")
    field.fill("a red apple")
    page.locator(".tokens", has_text=re.compile(r"^3/75$")).wait_for()
    field.press_sequentially(", glow")  # a part of an earlier prompt
    option = page.locator("#suggestions [role=option]", has_text="glowing lantern").first
    option.wait_for()
    button = page.locator("#generate").bounding_box()
    middle = {"x": button["x"] + button["width"] / 2, "y": button["y"] + button["height"] / 2}
    assert page.evaluate("({ x, y }) => document.elementFromPoint(x, y).id", middle) == "generate"  # not covered
    page.keyboard.press("Tab")
    assert page.input_value("#prompt textarea") == "a red apple, glowing lantern"
    field.press_sequentially(" __ani")
    page.locator("#suggestions [role=option]", has_text="animal").wait_for()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")  # takes it and does not generate
    assert page.input_value("#prompt textarea") == "a red apple, glowing lantern __animal__"
    field.press_sequentially(", mist")
    page.locator("#suggestions").wait_for()
    page.keyboard.press("Escape")
    page.locator("#suggestions").wait_for(state="hidden")
    assert page.locator(".batch").count() == 0

    first, second = unique_prompt("an older one"), unique_prompt("a newer one")
    for each in (first, second):
        generate(page, each)
        batch_in_strip(page, each).wait_for()
    field.fill("half written")
    for wanted in (second, first):
        page.keyboard.press("Alt+ArrowUp")
        assert page.input_value("#prompt textarea") == wanted
    page.keyboard.press("Alt+ArrowDown")
    page.keyboard.press("Alt+ArrowDown")
    assert page.input_value("#prompt textarea") == "half written"
    page.click("[data-prompts=history]")
    page.locator("#prompt-popup .act", has_text=first).first.click()
    assert page.input_value("#prompt textarea") == first

    page.fill("#steps input", "9")
    page.fill("#negative :is(input, textarea)", "blur")
    page.wait_for_function("/older.*9.*blur|blur.*9|older/.test(sessionStorage.getItem('diffusion-local-draft'))")
    page.wait_for_function("JSON.parse(sessionStorage.getItem('diffusion-local-draft')).includes('blur')")
    page.click("[data-prompts=presets]")
    page.locator("#prompt-popup > .act").click()
    answer_dialog(page, "evening")
    page.fill("#steps input", "3")
    field.fill("something else")
    page.click("[data-prompts=presets]")
    page.locator("#prompt-popup .act", has_text="evening").first.click()
    page.wait_for_function("document.querySelector('#steps input').value === '9'")
    assert page.input_value("#prompt textarea") == first


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_again_until_stopped(people: Any, site: Site) -> None:
    page, prompt = people().open(), unique_prompt("on and on")
    page.fill("#prompt textarea", prompt)
    page.click("[data-prompts=repeat]")
    batch_in_strip(page, prompt).nth(1).wait_for()
    page.click("[data-prompts=repeat]")
    assert page.get_attribute("[data-prompts=repeat]", "aria-pressed") == "false"
    jobs = [job for job in site.services.studio.jobs() if job.params.prompt == prompt]
    assert len({job.params.seed for job in jobs}) == len(jobs)


@pytest.mark.slow
def test_styles_are_chosen_by_their_pictures_which_come_when_the_group_is_opened(people: Any, site: Site) -> None:
    page = people().open()
    sheets: list[str] = []
    page.on("request", lambda request: sheets.append(request.url) if "styles.webp" in request.url else None)
    prompt = unique_prompt()
    page.fill("#prompt textarea", prompt)
    assert page.locator("#styles input").first.is_hidden()
    assert sheets == []
    page.locator("#group-styles > button").click()
    page.get_by_role("checkbox", name="Watercolour").check()
    eventually(lambda: len(sheets) == 1)
    bundled = [style.name for style in site.services.studio.styles.all()]
    tiles = page.evaluate(
        "[...document.querySelectorAll('#styles input')].map((each) => getComputedStyle(each).backgroundPosition)"
    )
    assert len(set(tiles)) == len(tiles) == len(bundled)  # each has a picture of its own
    page.click("#generate")
    eventually(
        lambda: any(
            job.params.prompt.startswith(f"watercolour painting of {prompt},")
            for job in site.services.studio.jobs(limit=5)
        )
    )


def test_a_prompt_typed_and_sent_before_the_form_is_there_is_not_lost(people: Any, site: Site) -> None:
    """The scripts of the form come late, while an input method composes."""
    prompt, page = unique_prompt("early"), people().context.new_page()
    held: list[Any] = []
    sheets: list[str] = []
    page.on("request", lambda request: sheets.append(request.url) if request.resource_type == "stylesheet" else None)
    page.route(re.compile(r"/assets/Blocks-[\w-]+\.js"), lambda route: held.append(route))
    page.goto(site.url)
    early = page.locator("#early-prompt")
    early.fill(f"{prompt} a")
    early.dispatch_event("compositionstart")
    eventually(lambda: held or page.wait_for_timeout(50))
    held[0].continue_()
    page.wait_for_selector("#generate")
    early.press_sequentially("b")
    early.dispatch_event("compositionend")
    early.wait_for(state="detached")
    own = page.locator("#prompt textarea")
    assert own.input_value() == f"{prompt} ab"
    assert own.evaluate("(field) => field === document.activeElement && field.selectionStart") == len(prompt) + 3
    assert [each.split("/")[-1].split("?")[0] for each in sheets] == ["gradio.css"]

    page.reload()
    early.fill(f"{prompt} again")
    held.clear()
    page.reload()
    assert early.input_value() == f"{prompt} again"
    early.fill(prompt)
    early.press("Enter")
    eventually(lambda: held or page.wait_for_timeout(50))
    held[0].continue_()
    batch_in_strip(page, prompt).locator(".shot.done").wait_for()
    assert [job.params.prompt for job in site.services.studio.jobs()].count(prompt) == 1


@pytest.mark.slow  # a detail of the layout
def test_a_notice_above_the_studio_leaves_the_prompt_of_a_phone_in_the_window(people: Any) -> None:
    page = people(viewport=PHONE).open()
    words = "No worker is running. " * 9
    page.evaluate(f"diffusionLocalLook.show({{ notices: `<div class='notice bad'>{words}</div>` }})")
    page.wait_for_function(
        """() => document.querySelector("#generate").getBoundingClientRect().bottom
            <= document.querySelector("#tabbar").getBoundingClientRect().top"""
    )
