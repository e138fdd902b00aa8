"""For everybody: axe-core finds nothing serious on any tab, and the page speaks the browser's language."""

from typing import Any

import pytest

from diffusion_local.domain import State
from diffusion_local.web.ui import view_help
from tests.web.browser.conftest import DESKTOP, PHONE
from tests.web.browser.ways import a_prompt, batch, fits, go, press, worked
from tests.web.conftest import Site

axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")

pytestmark = pytest.mark.browser


#: The open tab's part that the poll draws has something in it.
DRAWN = """[...document.querySelectorAll('[role=tabpanel] .live-part')]
  .some((part) => part.offsetParent && part.querySelector('.live').childElementCount)"""


def findings(page: Any) -> list[str]:
    """What axe-core calls serious or critical, as "rule: element"."""
    page.evaluate(
        "Promise.all(document.getAnimations().map((each) => each.effect.getTiming().iterations === 1 && each.finished))"
    )
    return [
        f"{found['id']}: {node['html'][:160]}"
        for found in axe.Axe().run(page).response["violations"]
        if found["impact"] in ("serious", "critical")
        for node in found["nodes"]
    ]


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
def test_nothing_serious_is_found_on_any_tab(
    people: Any, site: Site, scheme: str, viewport: dict[str, int], locale: str
) -> None:
    studio = site.services.studio
    page = people(color_scheme=scheme, viewport=viewport, reduced_motion="reduce", locale=locale).open()
    assert findings(page) == []  # the invitation
    prompt, broken = a_prompt(), a_prompt("broken [fail]")
    press(page, broken)
    press(page, prompt)
    batch(page, broken).locator(".card.failed").wait_for()
    batch(page, prompt).locator(".card.done").wait_for()
    studio.pause()
    press(page, a_prompt("waits"))
    studio.submit(a_prompt("several wait"), count=12)  # a batch with a header, and more than is shown of it
    page.locator(".card.queued").first.wait_for()
    page.click("#more > button")
    page.click("#expert > button")
    page.wait_for_selector("#width input", state="visible")
    assert findings(page) == []
    batch(page, prompt).locator("a.open").click()
    page.wait_for_selector("[data-picture]")
    assert findings(page) == []
    page.keyboard.press("Escape")
    page.locator("[data-picture]").wait_for(state="detached")
    page.wait_for_selector("[data-do=keys]", state="attached")
    page.keyboard.press("?")  # a phone has no sign for it
    page.wait_for_selector("[role=dialog]")
    assert findings(page) == []
    page.keyboard.press("Escape")
    page.locator("[role=dialog]").wait_for(state="detached")
    for tab in page.evaluate("[...document.querySelectorAll('#tabs [role=tab]')].map((each) => each.dataset.tabId)"):
        if tab and tab != "create":
            go(page, tab)
            page.wait_for_function(DRAWN)
            assert findings(page) == [], tab
            assert fits(page), tab
    assert studio.snapshot().counts[State.QUEUED] >= 1


def test_the_page_speaks_the_browsers_language_and_the_chosen_one(people: Any, site: Site) -> None:
    worked(site, a_prompt())
    page = people(locale="zh-CN").open()
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    assert page.inner_text("#generate") == "生成"
    assert page.get_attribute("#prompt textarea", "placeholder") == "想画什么？"
    page.locator("[role=tab]", has_text="图库").click()
    page.locator(".total", has_text="张图片").wait_for()
    go(page, "create")
    page.fill("#count input", "0")
    press(page, "x")
    page.locator("#told", has_text="张数 必须在 1 到 100 之间（输入为 0）。").wait_for()
    page.select_option("[data-language]", "en")
    page.wait_for_function("document.querySelector('#generate')?.innerText === 'Generate'")
    page.locator("[role=tab]", has_text="Gallery").click()
    page.locator(".total", has_text="picture").wait_for()
    page.reload()
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
    prompt = a_prompt("to be stopped [slow:0.5]")
    press(page, prompt)
    batch(page, prompt).locator(".card.running").wait_for()
    page.focus("#generate")
    page.keyboard.press("Escape")
    batch(page, prompt).locator(".card.cancelled").wait_for()
    page.locator(".toast >> text=Again").wait_for()


def test_the_title_tells_how_far_it_is(people: Any, site: Site) -> None:
    page = people().open()
    job = site.services.studio.submit(a_prompt("slow [slow:0.3]"), width=128, height=128, steps=12)
    page.wait_for_function("/^\\d+ % · .*diffusion-local$|^\\d+ % · diffusion-local$/.test(document.title)")
    site.services.studio.wait(job.job_ids, 30)
    page.wait_for_function("document.title === 'diffusion-local'")


def test_arrow_keys_walk_the_results_and_enter_opens_one(people: Any, site: Site) -> None:
    page = people().open()
    prompt = a_prompt("three of them")
    page.fill("#count input", "3")
    press(page, prompt)
    page.wait_for_function("document.querySelectorAll('.card.done a.open').length === 3")
    ids = page.evaluate("[...document.querySelectorAll('.card.done a.open')].map((each) => each.dataset.id)")
    page.focus("#generate")
    for image in (ids[0], ids[1], ids[2], ids[2]):
        page.keyboard.press("ArrowRight")
        assert page.evaluate("document.activeElement.dataset.id") == image
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    page.wait_for_selector(f"[data-picture='{ids[1]}']")


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
    bell = page.locator("[data-bell]").first
    bell.wait_for()
    assert bell.get_attribute("aria-pressed") == "false"
    bell.click()
    page.wait_for_function("document.querySelector('[data-bell]').getAttribute('aria-pressed') === 'true'")
    press(page, a_prompt("nobody looks [slow:0.1]"))
    page.locator(".card.running").first.wait_for()
    page.evaluate("window.looksAway = true")
    page.wait_for_function("window.rung.length === 1")
    assert page.evaluate("window.rung") == ["diffusion-local: All pictures are done."]
    page.evaluate("window.looksAway = false")
    bell.click()
    page.wait_for_function("document.querySelector('[data-bell]').getAttribute('aria-pressed') === 'false'")
