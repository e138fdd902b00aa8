"""A picture to begin from, in a browser: chosen, painted on, dropped, taken from the gallery."""

from typing import Any

import pytest

from diffusion_local.domain import Kind
from tests.support import eventually
from tests.web.browser.conftest import DESKTOP, PHONE
from tests.web.browser.page_actions import fits_width, generate, make_picture, open_settings, open_view, unique_prompt
from tests.web.conftest import Site

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect

pytestmark = pytest.mark.browser

DROP = """(bytes) => {
  const file = new File([new Uint8Array(bytes)], "dropped.png", { type: "image/png" });
  const data = new DataTransfer();
  data.items.add(file);
  for (const type of ["dragover", "drop"])
    document.body.dispatchEvent(new DragEvent(type, { dataTransfer: data, bubbles: true, cancelable: true }));
}"""

DRAG = """() => {
  const data = new DataTransfer();
  data.items.add(new File([], "a.png", { type: "image/png" }));
  document.body.dispatchEvent(new DragEvent("dragover", { dataTransfer: data, bubbles: true, cancelable: true }));
}"""


def made_of(site: Site, prompt: str) -> Any:
    found = eventually(lambda: [job for job in site.services.studio.jobs() if job.params.prompt == prompt])
    return found[0].params


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_the_button_opens_a_chooser_of_pictures(page: Any, site: Site) -> None:
    picture = site.services.studio.picture_file(make_picture(site, unique_prompt())).local_path
    open_settings(page)
    with page.expect_file_chooser() as chosen:
        page.click("#source [data-source=pick]")
    chosen.value.set_files({"name": "a.jpg", "mimeType": "image/jpeg", "buffer": plain(picture)})
    page.wait_for_selector("#source .begin", state="visible")


def test_a_file_becomes_a_source_and_its_mask_is_painted(page: Any, site: Site) -> None:
    picture = site.services.studio.picture_file(make_picture(site, unique_prompt())).local_path
    open_settings(page)
    page.set_input_files("#source [data-file]", {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": plain(picture)})
    page.wait_for_selector("#source .begin", state="visible")
    assert fits_width(page)
    prompt = unique_prompt("from a picture")
    generate(page, prompt)
    params = made_of(site, prompt)
    assert (params.kind, params.width, params.height, params.strength) == (Kind.IMG2IMG, 128, 128, 0.6)

    open_settings(page)
    page.locator("#source .kinds label", has_text="Inpaint").click()
    painter(page)
    stroke(page, (0.3, 0.5), (0.5, 0.5))
    page.click("[data-paint=done]")
    page.wait_for_selector("#source .from .mask", state="visible")
    prompt = unique_prompt("painted anew")
    generate(page, prompt)
    params = made_of(site, prompt)
    assert params.kind is Kind.INPAINT
    lit = light(site.services.studio.sources.file(params.mask).local_path)
    assert 0.01 < lit < 0.5

    open_settings(page)
    page.click("#source [data-source=paint]")  # the mask as it was, to go on with
    painter(page)
    page.click("[data-paint=invert]")
    page.click("[data-paint=done]")
    page.wait_for_function("(old) => !document.querySelector('#source .from .mask').src.includes(old)", arg=params.mask)
    prompt = unique_prompt("painted anew")
    generate(page, prompt)
    assert light(site.services.studio.sources.file(made_of(site, prompt).mask).local_path) == pytest.approx(
        1 - lit, abs=0.01
    )
    open_settings(page)
    page.click("#source [data-source=remove]")
    page.wait_for_selector("#source .begin", state="hidden")
    prompt = unique_prompt("from nothing")
    generate(page, prompt)
    assert made_of(site, prompt).kind is Kind.TXT2IMG


def painter(page: Any) -> None:
    """The canvas, once it shows the picture."""
    page.wait_for_selector("#source dialog.painter[data-ready]")


def view(page: Any) -> dict[str, Any]:
    return page.evaluate("diffusionLocalCanvas.view()")


def on_canvas(page: Any, across: float, down: float) -> tuple[float, float]:
    """A place of the picture, given in parts of its sides, as a place of the window."""
    box, seen = page.locator("#source .painter canvas").bounding_box(), view(page)
    return (
        box["x"] + seen["x"] + across * seen["width"] * seen["scale"],
        box["y"] + seen["y"] + down * seen["height"] * seen["scale"],
    )


def stroke(page: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    page.mouse.move(*on_canvas(page, *start))
    page.mouse.down()
    page.mouse.move(*on_canvas(page, *end), steps=4)
    page.mouse.up()


def colour(page: Any, across: float, down: float) -> list[int]:
    """What the canvas shows at a place of the picture."""
    page.wait_for_timeout(50)  # two frames
    return page.evaluate(
        """([x, y]) => {
          const canvas = document.querySelector("#source .painter canvas");
          const box = canvas.getBoundingClientRect();
          const ratio = canvas.width / box.width;
          const one = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
          const context = one.getContext("2d", { willReadFrequently: true });
          context.drawImage(canvas, -Math.round((x - box.left) * ratio), -Math.round((y - box.top) * ratio));
          return [...context.getImageData(0, 0, 1, 1).data];
        }""",
        on_canvas(page, across, down),
    )


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_the_canvas_shows_the_mask_on_any_picture_and_takes_steps_back(people: Any) -> None:
    page = people().open()
    for kind, paper in (("white", 255), ("black", 0)):
        page.set_input_files("#source [data-file]", {"name": "a.png", "mimeType": "image/png", "buffer": blank(kind)})
        page.wait_for_selector("#source .begin", state="visible")
        page.locator("#source .kinds label", has_text="Inpaint").click()
        painter(page)
        before = colour(page, 0.5, 0.5)
        assert before[:3] == [paper] * 3
        stroke(page, (0.4, 0.5), (0.6, 0.5))
        page.mouse.move(*on_canvas(page, 0.9, 0.9))
        assert max(abs(new - old) for new, old in zip(colour(page, 0.5, 0.5), before, strict=True)) > 60, kind
        if kind == "white":
            page.click("[data-paint=close]")
            page.click("#source [data-source=remove]")
    page.keyboard.press("Control+z")
    assert colour(page, 0.5, 0.5) == before
    page.keyboard.press("Control+y")
    assert colour(page, 0.5, 0.5) != before
    page.keyboard.press("e")
    stroke(page, (0.35, 0.5), (0.65, 0.5))
    page.mouse.move(*on_canvas(page, 0.9, 0.9))
    assert colour(page, 0.5, 0.5) == before

    fitted = view(page)["scale"]
    middle = on_canvas(page, 0.5, 0.5)
    page.mouse.move(*middle)
    page.mouse.wheel(0, -400)
    page.wait_for_function("(fitted) => diffusionLocalCanvas.view().scale > 2 * fitted", arg=fitted)
    assert on_canvas(page, 0.5, 0.5) == pytest.approx(middle, abs=1)  # what is under the pointer stays
    page.keyboard.down(" ")
    page.mouse.down()
    page.mouse.move(middle[0] + 50, middle[1] + 20)
    page.mouse.up()
    page.keyboard.up(" ")
    assert on_canvas(page, 0.5, 0.5) == pytest.approx((middle[0] + 50, middle[1] + 20), abs=1)
    assert view(page)["steps"] == 2  # moved, not painted
    page.keyboard.press("0")
    assert view(page)["scale"] == fitted
    page.evaluate(TWO_FINGERS, on_canvas(page, 0.5, 0.5))
    assert view(page)["scale"] == pytest.approx(2 * fitted, rel=0.01)
    assert view(page)["steps"] == 2
    page.keyboard.press("Escape")  # loses nothing
    page.click("#source [data-source=paint]")
    painter(page)
    assert view(page)["steps"] == 2
    assert fits_width(page)


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_the_frame_is_dragged_to_extend_a_picture(people: Any, site: Site) -> None:
    page = people().open()
    page.set_input_files("#source [data-file]", {"name": "a.png", "mimeType": "image/png", "buffer": blank("navy")})
    page.wait_for_selector("#source .begin", state="visible")
    page.locator("#source .kinds label", has_text="Inpaint").click()
    painter(page)
    page.keyboard.press("f")
    stroke(page, (1.0, 0.5), (1.5, 0.5))
    assert view(page)["margins"] == {"left": 0, "top": 0, "right": 64, "bottom": 0}
    assert view(page)["steps"] == 0
    page.click("[data-paint=done]")
    page.wait_for_function("sessionStorage.getItem('diffusion-local-draft')?.includes('right:64')")
    prompt = unique_prompt("a wider sea")
    generate(page, prompt)
    params = made_of(site, prompt)
    assert (params.kind, params.outpaint) == (Kind.INPAINT, "right:64")


TWO_FINGERS = """([x, y]) => {
  const canvas = document.querySelector("#source .painter canvas");
  canvas.setPointerCapture = () => {}; // there is no real finger
  const at = (type, pointerId, dx) => canvas.dispatchEvent(new PointerEvent(type, {
    pointerId, pointerType: "touch", bubbles: true, cancelable: true, buttons: 1, clientX: x + dx, clientY: y,
  }));
  at("pointerdown", 11, -30);
  at("pointerdown", 12, 30);
  at("pointermove", 11, -60);
  at("pointermove", 12, 60);
  at("pointerup", 11, -60);
  at("pointerup", 12, 60);
}"""


def blank(colour: str) -> bytes:
    import io

    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (128, 128), colour).save(out, "PNG")
    return out.getvalue()


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_a_dropped_picture_offers_its_recipe(people: Any, site: Site) -> None:
    original = unique_prompt("the dropped one")
    data = list(site.services.studio.picture_file(make_picture(site, original)).read_bytes())
    page = people().open()
    page.wait_for_selector("#source .source", state="attached")
    page.evaluate(DRAG)
    shade = page.locator("#source .drop")
    shade.wait_for()
    assert shade.evaluate(
        "(each) => getComputedStyle(each).backgroundColor.startsWith('rgb(')"
    )  # nothing shows through
    page.evaluate(DROP, data)
    page.click("[data-ask=recipe]")
    page.wait_for_function(f"document.querySelector('#prompt textarea').value === '{original}'")
    page.locator("#told .notice", has_text="Applied: Width, Height, Steps, Seed").wait_for()
    page.evaluate(DROP, data)
    page.click("[data-ask=source]")
    page.wait_for_selector("#source .begin img[src^='/sources/']")


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_a_picture_of_another_tool_fills_the_form_and_says_what_it_could_not_take_over(people: Any) -> None:
    written = (
        "a lighthouse in fog <lora:old ink:0.8>\nNegative prompt: people\n"
        "Steps: 33, Sampler: Restart, CFG scale: 5.5, Seed: 77, Size: 384x256, Model hash: 0123456789, "
        "Model: someMerge_v7, Version: v1.10.1"
    )
    page = people().open()
    page.evaluate(DROP, foreign(written))
    page.click("[data-ask=recipe]")
    page.wait_for_function("document.querySelector('#prompt textarea').value.startsWith('a lighthouse in fog')")
    told = page.locator("#told .notice", has_text="someMerge_v7")
    told.wait_for()
    assert "Restart" in told.inner_text()
    assert "old ink" in told.inner_text()
    assert page.input_value("#prompt textarea").strip() == "a lighthouse in fog"
    expect(page.locator("#seed :is(input, textarea)")).to_have_value("77")
    expect(page.locator("#negative :is(input, textarea)")).to_have_value("people")


def test_a_picture_that_is_dropped_before_the_page_is_whole_is_not_lost(people: Any, site: Site) -> None:
    page = people().context.new_page()
    held: list[Any] = []
    released: list[bool] = []
    page.route("**/gradio_api/run/predict*", lambda route: route.continue_() if released else held.append(route))
    page.goto(site.url)
    page.wait_for_selector("#generate")
    eventually(lambda: held or page.wait_for_timeout(50))
    with page.expect_response("**/api/v1/sources*"):
        page.evaluate(
            DROP, foreign("a late lighthouse\nSteps: 9, Sampler: Euler, CFG scale: 5.5, Seed: 77, Size: 384x256")
        )
    released.append(True)
    for route in held:
        route.continue_()
    page.click("[data-ask=recipe]")
    page.wait_for_function("document.querySelector('#prompt textarea').value.startsWith('a late lighthouse')")


def foreign(parameters: str) -> list[int]:
    """A PNG with the text that A1111 writes."""
    import io

    from PIL import Image, PngImagePlugin

    out, noted = io.BytesIO(), PngImagePlugin.PngInfo()
    noted.add_text("parameters", parameters)
    Image.new("RGB", (384, 256), "navy").save(out, "PNG", pnginfo=noted)
    return list(out.getvalue())


DROP_FILES = """(files) => {
  const data = new DataTransfer();
  for (const [name, type, bytes] of files) data.items.add(new File([new Uint8Array(bytes)], name, { type }));
  document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
}"""


@pytest.mark.slow
def test_dropped_files_that_are_not_taken_are_told(people: Any) -> None:
    person = people()
    page = person.open()
    page.wait_for_selector("#source .source", state="attached")
    told = page.locator("#source [data-told]")
    good = ["good.png", "image/png", list(blank("navy"))]
    page.evaluate(DROP_FILES, [["notes.txt", "text/plain", [1]], good, ["b.png", "image/png", [2]]])
    told.filter(has_text="notes.txt is not an image. b.png: must be a picture").wait_for()
    page.wait_for_selector("#source .begin img[src^='/sources/']")
    page.click("[data-source=remove]")
    page.wait_for_selector("#source .begin", state="hidden")
    page.evaluate(DROP_FILES, [["notes.doc", "application/msword", [1]]])
    told.filter(has_text="notes.doc is not an image").wait_for()
    open_view(page, "lists")
    page.evaluate(DROP_FILES, [["night.txt", "text/plain", list(b"a red apple")]])
    page.wait_for_function("document.querySelector('#list-text textarea').value === 'a red apple'")
    assert person.complaints  # the refusal of b.png
    person.complaints.clear()


@pytest.mark.slow
def test_each_of_several_dropped_pictures_makes_a_batch(people: Any, site: Site) -> None:
    page = people().open()
    page.wait_for_selector("#source .source", state="attached")
    colours = ("navy", "teal", "maroon")
    page.evaluate(DROP_FILES, [[f"{each}.png", "image/png", list(blank(each))] for each in colours])
    page.wait_for_function("document.querySelectorAll('#source .sources li').length === 3")
    page.locator("#source [data-told]", has_text="Each of the 3 images").wait_for()
    assert not page.locator("#source [name=kind][value=inpaint]").locator("..").is_visible()  # one mask, one picture
    page.locator("#source .sources li button").nth(1).click()
    page.wait_for_function("document.querySelectorAll('#source .sources li').length === 2")
    prompt = unique_prompt()
    generate(page, prompt)

    def made_from() -> set[str]:
        return {job.params.source for job in site.services.studio.jobs(limit=20) if job.params.prompt == prompt}

    eventually(lambda: len(made_from()) == 2)
    page.wait_for_function(
        "(prompt) => document.querySelectorAll(`.batch[data-prompt='${prompt}']`).length === 2", arg=prompt
    )
    page.click("[data-source=remove]")
    page.wait_for_selector("#source .begin", state="hidden")


@pytest.mark.slow
def test_outpaint_is_a_button_with_its_name(people: Any, site: Site) -> None:
    image = make_picture(site, unique_prompt())
    page = people().open()
    open_view(page, "gallery")
    page.click(f".tile[data-key='{image}'] a.open")
    page.locator("[role=dialog] [data-do=to_outpaint]", has_text="Outpaint").click()
    page.wait_for_selector("#source dialog.painter[data-ready][data-tool=frame]")
    assert page.locator(".painter [data-paint=frame]").inner_text() == "Outpaint"
    page.click("#source dialog.painter [data-paint=close]")
    page.locator("[data-source=paint]").click()
    page.wait_for_selector("#source dialog.painter[data-ready][data-tool=brush]")
    page.click("#source dialog.painter [data-paint=close]")
    page.locator("[data-source=extend]", has_text="Outpaint").click()
    page.wait_for_selector("#source dialog.painter[data-ready][data-tool=frame]")


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_what_is_no_picture_is_told(people: Any) -> None:
    person = people()
    page = person.open()
    page.set_input_files("#source [data-file]", {"name": "a.png", "mimeType": "image/png", "buffer": b"no picture"})
    page.locator("#source [data-told]", has_text="a.png: must be a picture").wait_for()
    assert any("400" in each or "422" in each for each in person.complaints)  # the refusal itself
    person.complaints.clear()


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_a_picture_of_the_gallery_is_begun_from(people: Any, site: Site) -> None:
    prompt = unique_prompt()
    image = make_picture(site, prompt)
    page = people().open()
    open_view(page, "gallery")
    page.click(f".tile[data-key='{image}'] a.open")
    page.click("[role=dialog] [data-do=to_img2img]")
    page.wait_for_selector("#source .begin", state="visible")
    assert page.input_value("#prompt textarea") == prompt
    assert page.locator("#strength").is_visible()
    page.reload()
    page.wait_for_selector("#source .begin", state="visible")


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.slow
def test_inpaint_of_a_picture_opens_the_canvas_each_time(people: Any, site: Site, size: dict[str, int]) -> None:
    first, second = (make_picture(site, unique_prompt()) for _ in range(2))
    page = people(viewport=size).open()
    for image in (first, first, second):
        open_view(page, "gallery")
        page.click(f".tile[data-key='{image}'] a.open")
        page.click("[role=dialog] [data-do=to_inpaint]")
        page.wait_for_selector("#source dialog.painter[open] canvas")
        page.click("#source dialog.painter [data-paint=close]")
        page.wait_for_selector("#source dialog.painter", state="hidden")


def plain(path: Any) -> bytes:
    """The same picture without its recipe."""
    import io

    from PIL import Image

    out = io.BytesIO()
    Image.open(path).convert("RGB").save(out, "JPEG")
    return out.getvalue()


def light(path: Any) -> float:
    """The part of a mask that is white."""
    from PIL import Image, ImageStat

    return ImageStat.Stat(Image.open(path).convert("L")).mean[0] / 255


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_a_control_is_added_previewed_and_sent_by_clicks(page: Any, site: Site) -> None:
    picture = site.services.studio.picture_file(make_picture(site, unique_prompt())).local_path
    open_settings(page)
    page.click("#group-controls > button")
    with page.expect_file_chooser() as chosen:
        page.click("#controls [data-listed=add]")
    chosen.value.set_files({"name": "a.jpg", "mimeType": "image/jpeg", "buffer": plain(picture)})
    row = page.locator("#controls ul li")
    row.locator("[data-part=weight]").fill("0.5")
    before = row.locator("img").get_attribute("src")
    row.locator("[data-part=type]").select_option("luminance")
    row.locator("[data-listed=look]").click()
    page.wait_for_function(
        "(src) => document.querySelector('#controls li img').getAttribute('src') !== src", arg=before
    )
    assert row.locator("[data-told]").inner_text() == ""
    assert fits_width(page)
    prompt = unique_prompt("controlled")
    generate(page, prompt)
    [control] = made_of(site, prompt).controls
    assert (str(control.type), control.weight) == ("luminance", 0.5)
    open_settings(page)
    row.locator("[data-listed=remove]").click()
    row.wait_for(state="detached")
