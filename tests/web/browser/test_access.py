"""For everybody: axe-core finds nothing on any tab, and the page speaks the browser's language."""

from typing import Any

import pytest

from diffusion_local.domain import State
from diffusion_local.web.ui import view_help
from tests.web.browser.conftest import DESKTOP, PHONE
from tests.web.browser.page_actions import (
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

axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")

pytestmark = pytest.mark.browser


#: The open tab's part that the poll draws has something in it.
DRAWN = """[...document.querySelectorAll('[role=tabpanel] .live-part')]
  .some((part) => part.offsetParent && part.querySelector('.live').childElementCount)"""


def findings(page: Any) -> list[str]:
    """All that axe-core finds, as "rule: element"."""
    page.evaluate(
        "Promise.all(document.getAnimations().map((each) => each.effect.getTiming().iterations === 1 && each.finished))"
    )
    return [
        f"{found['id']}: {node['html'][:160]}"
        for found in axe.Axe().run(page).response["violations"]
        for node in found["nodes"]
    ]


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
@pytest.mark.parametrize(
    ("scheme", "viewport", "locale"),
    [
        ("light", DESKTOP, "en-US"),
        ("dark", DESKTOP, "zh-CN"),
        pytest.param("dark", DESKTOP, "en-US", marks=pytest.mark.slow),
        pytest.param("light", PHONE, "en-US", marks=pytest.mark.slow),
        pytest.param("dark", PHONE, "en-US", marks=pytest.mark.slow),
        pytest.param("light", PHONE, "zh-CN", marks=pytest.mark.slow),
    ],
    ids=lambda it: it if isinstance(it, str) else str(it["width"]),
)
def test_nothing_is_found_on_any_tab(
    people: Any, site: Site, scheme: str, viewport: dict[str, int], locale: str
) -> None:
    studio = site.services.studio
    page = people(color_scheme=scheme, viewport=viewport, reduced_motion="reduce", locale=locale).open()
    assert findings(page) == []  # the invitation
    prompt, broken = unique_prompt(), unique_prompt("broken [fail]")
    generate(page, broken)
    generate(page, prompt)
    batch_in_strip(page, broken).locator(".shot.failed").wait_for()
    batch_in_strip(page, prompt).locator(".shot.done").wait_for()
    studio.queue.pause()
    generate(page, unique_prompt("waits"))
    studio.submit(unique_prompt("several wait"), count=12)  # a batch with a header, and more than is shown of it
    page.locator(".shot.queued").first.wait_for()
    open_settings(page)
    page.wait_for_selector("#width input", state="visible")
    assert findings(page) == []
    page.keyboard.press("Escape")
    page.evaluate("document.documentElement.classList.remove('with-sheet')")
    show_on_stage(page, batch_in_strip(page, broken).locator(".shot.failed"))
    page.locator(".canvas.failed").wait_for()
    assert findings(page) == []
    show_on_stage(page, batch_in_strip(page, prompt).locator(".shot.done")).locator(".canvas.done a.open").click()
    page.wait_for_selector("[data-picture]")
    assert findings(page) == []
    page.keyboard.press("Escape")
    page.locator("[data-picture]").wait_for(state="detached")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("?")
    page.wait_for_selector("[role=dialog]")
    assert findings(page) == []
    page.keyboard.press("Escape")
    page.locator("[role=dialog]").wait_for(state="detached")
    page.keyboard.press("q")
    page.locator("#drawer .waiting li").first.wait_for()
    assert findings(page) == []
    page.keyboard.press("q")
    page.keyboard.press("Tab")
    page.evaluate("document.querySelector('.skip').focus()")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "view"
    for tab in page.evaluate("[...document.querySelectorAll('#tabs [role=tab]')].map((each) => each.dataset.tabId)"):
        if tab and tab != "create":
            open_view(page, tab)
            page.wait_for_function(DRAWN)
            assert findings(page) == [], tab
            assert fits_width(page), tab
    assert studio.snapshot().counts[State.QUEUED] >= 1


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_nothing_is_found_in_dialogs_and_panels(people: Any, site: Site, scheme: str, viewport: dict[str, int]) -> None:
    images = [make_picture(site, unique_prompt()), make_picture(site, unique_prompt())]
    page = people(color_scheme=scheme, viewport=viewport, reduced_motion="reduce").open()
    found: dict[str, list[str]] = {}
    open_settings(page)
    page.locator("#group-styles > button").click()
    page.get_by_role("checkbox", name="Anime").check()
    found["styles"] = findings(page)
    page.evaluate("document.documentElement.classList.remove('with-sheet')")
    page.locator("[data-prompts=history]").click()
    page.locator("#prompt-popup").wait_for()
    found["history"] = findings(page)
    page.keyboard.press("Escape")
    open_view(page, "gallery")
    page.locator(".tile .tick input").first.wait_for(state="attached")
    if page.locator(".selecting").is_visible():
        page.locator(".selecting").click()
    for place in (0, 1):
        page.locator(".tile .tick input").nth(place).check(force=True)
    found["selection"] = findings(page)
    page.locator(".picked [data-do=compare]").click()
    page.wait_for_selector(".compare")
    found["compare"] = findings(page)
    page.keyboard.press("Escape")
    page.locator(".compare").wait_for(state="detached")
    page.goto(f"{site.url}/ui/picture/{images[0]}")
    page.locator(f"[data-picture='{images[0]}'] [data-do=to_inpaint]").click()
    page.wait_for_selector("#source dialog.painter[data-ready]")
    found["canvas"] = findings(page)
    assert {state: each for state, each in found.items() if each} == {}


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_the_page_speaks_the_browsers_language_and_the_chosen_one(people: Any, site: Site) -> None:
    make_picture(site, unique_prompt())
    page = people(locale="zh-CN").open()
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    assert page.inner_text("#generate") == "生成"
    assert page.get_attribute("#prompt textarea", "placeholder") == "描述您想要的图片"
    page.locator("#views a", has_text="图库").click()
    page.locator(".shelves", has_text="全部图片").wait_for()
    open_view(page, "create")
    page.fill("#count input", "0")
    generate(page, "x")
    page.locator("#told", has_text="张数 必须在 1 到 100 之间（输入为 0）。").wait_for()
    open_view(page, "settings")
    page.select_option("[data-language]", "en")
    page.wait_for_function("document.documentElement.lang === 'en' && document.querySelector('#now .now')")
    page.locator("#views a", has_text="Gallery").click()
    page.locator(".shelves", has_text="All pictures").wait_for()
    page.goto(site.url)
    page.wait_for_function("document.querySelector('#generate')?.innerText === 'Generate'")


def test_keys_do_what_their_list_says(people: Any, site: Site) -> None:
    page = people().open()
    page.focus("#generate")
    page.wait_for_selector("[data-do=keys]", state="attached")
    page.keyboard.press("?")
    page.locator("[role=dialog] kbd").first.wait_for()
    assert page.locator("[role=dialog] kbd").all_inner_texts() == [key for key, _ in view_help.KEYS]
    page.keyboard.press("Escape")
    page.locator("[role=dialog]").wait_for(state="detached")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.closest('#prompt') !== null")
    page.focus("#generate")
    page.keyboard.press("q")
    page.locator("#drawer").wait_for()
    page.keyboard.press("q")
    page.locator("#drawer").wait_for(state="hidden")


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_the_title_tells_how_far_it_is(people: Any, site: Site) -> None:
    page = people().open()
    job = site.services.studio.submit(unique_prompt("slow [slow:0.3]"), width=128, height=128, steps=12)
    page.wait_for_function("/^\\d+ % · .*diffusion-local$|^\\d+ % · diffusion-local$/.test(document.title)")
    site.services.studio.wait(job.job_ids, 30)
    page.wait_for_function("document.title === 'diffusion-local'")


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_arrow_keys_walk_the_results_and_enter_opens_one(people: Any, site: Site) -> None:
    page = people().open()
    prompt = unique_prompt("three of them")
    page.fill("#count input", "3")
    generate(page, prompt)
    shots = f".batch[data-prompt='{prompt}'] .shot.done"
    page.wait_for_function("(shots) => document.querySelectorAll(shots).length === 3", arg=shots)
    ids = page.evaluate("(shots) => [...document.querySelectorAll(shots)].map((each) => each.dataset.at)", shots)
    page.focus(f".shot[data-at='{ids[0]}']")
    for shot in (ids[1], ids[2]):
        page.keyboard.press("ArrowRight")
        assert page.evaluate("document.activeElement.dataset.at") == shot
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    page.wait_for_function("(id) => document.querySelector('#at :is(input, textarea)').value === id", arg=ids[1])
    page.focus(".canvas a.open")
    page.keyboard.press("Enter")
    page.wait_for_selector("[data-picture]")


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_the_bell_is_asked_for_and_rings_when_all_is_done(people: Any, site: Site) -> None:
    person = people(permissions=["notifications"])
    person.context.add_init_script("""
      window.rung = [];
      const asked = Notification.requestPermission.bind(Notification);
      window.Notification = class {
        static permission = Notification.permission;
        static requestPermission = asked;
        constructor(title, { body }) { window.rung.push(`${title}: ${body}`); }
      };
      Object.defineProperty(document, "hidden", { get: () => window.looksAway ?? false });
    """)
    page = person.open()
    open_view(page, "settings")
    bell = page.locator("[data-bell]").first
    bell.wait_for()
    assert bell.get_attribute("aria-pressed") == "false"
    bell.click()
    page.wait_for_function("document.querySelector('[data-bell]').getAttribute('aria-pressed') === 'true'")
    open_view(page, "create")
    generate(page, unique_prompt("nobody looks [slow:0.1]"))
    page.locator(".shot.running").first.wait_for()
    page.evaluate("window.looksAway = true")
    page.wait_for_function("window.rung.length === 1")
    assert page.evaluate("window.rung") == ["diffusion-local: All pictures are done."]
    page.evaluate("window.looksAway = false")
    open_view(page, "settings")
    bell.click()
    page.wait_for_function("document.querySelector('[data-bell]').getAttribute('aria-pressed') === 'false'")
