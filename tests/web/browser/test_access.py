"""Language, keys, the title and the bell."""

from typing import Any

import pytest

from diffusion_local.web.ui import view_help
from tests.web.browser.page_actions import (
    generate,
    make_picture,
    open_view,
    unique_prompt,
)
from tests.web.conftest import Site

pytestmark = pytest.mark.browser


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


@pytest.mark.slow
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
