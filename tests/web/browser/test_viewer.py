"""The viewer in a browser: zoom, keys, swipe, the address of a picture."""

from typing import Any

import pytest

from diffusion_local.paths import assets
from tests.engine.vision_models import caption_model
from tests.web.browser.conftest import PHONE
from tests.web.browser.page_actions import (
    answer_dialog,
    batch_in_strip,
    generate,
    make_picture,
    open_view,
    show_on_stage,
    unique_prompt,
)
from tests.web.conftest import Site

pytestmark = pytest.mark.browser


def scale(page: Any) -> float:
    return page.evaluate("new DOMMatrix(getComputedStyle(document.querySelector('.stage img')).transform).a")


def shown(page: Any, image: str) -> None:
    page.wait_for_selector(f"[data-picture='{image}']")


def test_keys_walk_zoom_star_and_close(people: Any, site: Site) -> None:
    older, newer = make_picture(site, unique_prompt()), make_picture(site, unique_prompt())
    page = people().open()
    open_view(page, "gallery")
    page.click(f".tile[data-key='{newer}'] a.open")
    shown(page, newer)
    assert page.evaluate("location.pathname") == f"/ui/picture/{newer}"
    page.keyboard.press("ArrowRight")
    shown(page, older)
    page.keyboard.press("ArrowLeft")
    shown(page, newer)
    page.keyboard.press("+")
    assert scale(page) == 1.5
    page.keyboard.press("0")
    assert scale(page) == 1
    page.dblclick(".stage")
    assert scale(page) == 3
    page.mouse.wheel(0, 400)
    page.wait_for_function("!document.querySelector('.stage').style.length")
    assert scale(page) < 3
    page.keyboard.press("s")
    page.wait_for_selector("[data-do=unstar]")
    assert site.services.studio.image(newer).starred
    page.keyboard.press("i")
    assert page.locator(".side .prompt").is_hidden()
    page.keyboard.press("i")
    page.keyboard.press("Escape")
    page.locator("[data-picture]").wait_for(state="detached")
    page.wait_for_url("**/ui/gallery")


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_the_open_picture_goes_on_a_board_and_stays_open(people: Any, site: Site) -> None:
    image = make_picture(site, unique_prompt())
    name = unique_prompt("board")
    page = people().open()
    open_view(page, "gallery")
    page.click(f".tile[data-key='{image}'] a.open")
    shown(page, image)
    page.click("[role=dialog] .menu[data-key=pin] summary")
    page.click("[role=dialog] [data-do=pin_new]")
    answer_dialog(page, name)
    page.locator("[role=dialog] a[href*='board=']", has_text=name).wait_for()
    shown(page, image)
    [board] = [each for each in site.services.studio.boards.all() if each.name == name]
    assert board.count == 1
    page.click("[role=dialog] a[href*='board=']")
    page.locator("h2, h3", has_text=name).first.wait_for()
    assert page.locator(".tile").count() == 1


@pytest.mark.slow
def test_two_fingers_zoom_and_a_finger_moves_what_is_large(people: Any, site: Site) -> None:
    image = make_picture(site, unique_prompt())
    page = people(viewport=PHONE, has_touch=True).open()
    open_view(page, "gallery")
    page.click(f".tile[data-key='{image}'] a.open")
    shown(page, image)
    page.evaluate("""() => {
      const stage = document.querySelector(".stage");
      const box = stage.getBoundingClientRect();
      const at = (type, pointerId, dx) => stage.querySelector("img").dispatchEvent(new PointerEvent(type, {
        pointerId, pointerType: "touch", bubbles: true, isPrimary: pointerId === 11,
        clientX: box.left + box.width / 2 + dx, clientY: box.top + box.height / 2,
      }));
      Element.prototype.setPointerCapture = () => {}; // there is no real finger
      at("pointerdown", 11, -30);
      at("pointerdown", 12, 30);
      at("pointermove", 11, -60);
      at("pointermove", 12, 60);
      at("pointerup", 11, -60);
      at("pointerup", 12, 60);
    }""")
    assert scale(page) == pytest.approx(2, abs=0.01)
    shown(page, image)


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_a_link_opens_a_picture_and_back_closes_it(people: Any, site: Site) -> None:
    image = make_picture(site, unique_prompt())
    person = people()
    page = person.open()
    page.goto(f"{site.url}/ui/picture/{image}")
    shown(page, image)
    page.reload()
    shown(page, image)
    page.keyboard.press("Escape")
    page.locator("[data-picture]").wait_for(state="detached")
    page.wait_for_url("**/ui/gallery")
    page.click(f".tile[data-key='{image}'] a.open")
    shown(page, image)
    page.go_back()
    page.locator("[data-picture]").wait_for(state="detached")
    page.go_forward()
    shown(page, image)
    page.goto(f"{site.url}/?picture={image}")  # as they were before
    shown(page, image)


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_a_copied_link_leads_to_the_picture_and_its_button_keeps_its_sign(people: Any, site: Site) -> None:
    picture = make_picture(site, unique_prompt())
    person = people(permissions=["clipboard-read", "clipboard-write"])
    page = person.open()
    page.goto(f"{site.url}/ui/picture/{picture}")
    button = page.locator(".signs [data-address]")
    for _ in range(2):  # the second press while the first one is still told
        button.click()
        button.locator("svg").wait_for(state="detached")
    assert page.evaluate("navigator.clipboard.readText()") == f"{site.url}/ui/picture/{picture}"
    button.locator("svg").wait_for()
    assert button.get_attribute("aria-label") == "Copy link"


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_an_address_of_no_picture_says_so(people: Any, site: Site) -> None:
    page = people().open()
    page.goto(f"{site.url}/ui/picture/nonsense")
    page.locator("[role=dialog]", has_text="Picture not found").wait_for()
    page.click("[role=dialog] a.primary")
    page.wait_for_url("**/ui/gallery")
    page.locator("[role=dialog]").wait_for(state="detached")


@pytest.mark.slow
def test_a_finger_swipes_from_picture_to_picture(people: Any, site: Site) -> None:
    older, newer = make_picture(site, unique_prompt()), make_picture(site, unique_prompt())
    page = people(viewport=PHONE, has_touch=True).open()
    open_view(page, "gallery")
    page.click(f".tile[data-key='{newer}'] a.open")
    shown(page, newer)
    page.mouse.move(300, 200)
    page.mouse.down()
    page.mouse.move(100, 205, steps=5)
    page.mouse.up()
    shown(page, older)


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_more_of_a_picture_appears_on_create(people: Any, site: Site) -> None:
    page = people().open()
    prompt = unique_prompt()
    generate(page, prompt)
    show_on_stage(page, batch_in_strip(page, prompt).locator(".shot.done")).locator("a.open").click()
    page.wait_for_selector("[data-picture]")
    page.click("[role=dialog] [data-do=again_new]")
    page.locator(".toast", has_text="Queued").wait_for()
    page.keyboard.press("Escape")
    page.wait_for_function("document.querySelectorAll('.batch .shot.done').length >= 2")
    seeds = {job.params.seed for job in site.services.studio.jobs() if job.params.prompt == prompt}
    assert len(seeds) == 2


#: Whether two elements of the page lie over each other.
OVERLAP = """([one, others]) => {
  const a = document.querySelector(one).getBoundingClientRect();
  return [...document.querySelectorAll(others)].filter((each) => {
    const b = each.getBoundingClientRect();
    return b.width && a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
  }).map((each) => each.outerHTML.slice(0, 120));
}"""


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_an_upscaled_picture_leads_to_its_original_and_a_toast_covers_no_control(people: Any, site: Site) -> None:
    studio, prompt = site.services.studio, unique_prompt()
    original = make_picture(site, prompt)
    source = studio.sources.from_image(original).id
    job = studio.wait(studio.submit("", kind="upscale", source=source, upscaler="Lanczos", scale=2).job_ids, 30)[0]
    larger = studio.images_of([job])[job.id].id
    page = people().open()
    page.goto(f"{site.url}/ui/picture/{larger}")
    shown(page, larger)
    panel = page.locator("[role=dialog]")
    assert panel.locator(".makes .primary").get_attribute("data-do") == "upscale"
    assert panel.locator("[data-do=again_new]").count() == 0  # the same would come out again
    address = panel.locator("a", has_text="Original").get_attribute("href")
    assert page.request.get(site.url + address).status == 200
    panel.locator("[data-do=again_picture]").click()
    page.locator(".toast", has_text="Queued").wait_for()
    assert page.evaluate(OVERLAP, [".toast", ".viewer :is(button, a, summary)"]) == []


@pytest.mark.timeout(400)
@pytest.mark.slow  # it starts a process with torch; the gallery's tests cover the search by captions
def test_a_caption_is_made_shown_and_searched(people: Any, site: Site) -> None:
    caption_model(site.services.settings.preprocessors / "caption", assets() / "starter/tokenizer")
    image = make_picture(site, unique_prompt())
    page = people().open()
    open_view(page, "gallery")
    page.click(f".tile[data-key='{image}'] a.open")
    shown(page, image)
    page.click("[data-do=caption]")
    assert page.locator("[data-do=caption]").get_attribute("aria-busy") == "true"
    page.wait_for_selector(".side .seen, .toast.warn", timeout=120_000)
    page.wait_for_selector(".side .seen")
    caption = site.services.studio.image(image).caption
    assert caption
    assert caption in " ".join(page.locator(".side .seen").inner_text().split())
    assert page.locator("[data-do=caption]").count() == 0
