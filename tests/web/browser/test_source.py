"""A picture to begin from, in a browser: chosen, painted on, dropped, taken from the gallery."""

from typing import Any

import pytest

from diffusion_local.domain import Kind
from tests.support import eventually
from tests.web.browser.ways import a_prompt, fits, go, press, worked
from tests.web.conftest import Site

pytestmark = pytest.mark.browser

DROP = """(bytes) => {
  const file = new File([new Uint8Array(bytes)], "dropped.png", { type: "image/png" });
  const data = new DataTransfer();
  data.items.add(file);
  for (const type of ["dragover", "drop"])
    document.body.dispatchEvent(new DragEvent(type, { dataTransfer: data, bubbles: true, cancelable: true }));
}"""


def made_of(site: Site, prompt: str) -> Any:
    found = eventually(lambda: [job for job in site.services.studio.jobs() if job.params.prompt == prompt])
    return found[0].params


def test_the_button_opens_a_chooser_of_pictures(page: Any, site: Site) -> None:
    picture = site.services.studio.picture_file(worked(site, a_prompt())).local_path
    with page.expect_file_chooser() as chosen:
        page.click("#source [data-source=pick]")
    chosen.value.set_files({"name": "a.jpg", "mimeType": "image/jpeg", "buffer": plain(picture)})
    page.wait_for_selector("#source .begin", state="visible")


def test_a_file_becomes_a_source_and_its_mask_is_painted(page: Any, site: Site) -> None:
    picture = site.services.studio.picture_file(worked(site, a_prompt())).local_path
    page.set_input_files("#source [data-file]", {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": plain(picture)})
    page.wait_for_selector("#source .begin", state="visible")
    assert fits(page)
    prompt = a_prompt("from a picture")
    press(page, prompt)
    params = made_of(site, prompt)
    assert (params.kind, params.width, params.height, params.strength) == (Kind.IMG2IMG, 128, 128, 0.6)

    page.locator("#source .kinds label", has_text="Inpaint").click()
    canvas = page.locator("#source .easel canvas")
    canvas.wait_for()
    page.wait_for_function("document.querySelector('#source .easel img').naturalWidth === 128")
    page.wait_for_function("document.querySelector('#source .easel canvas').width === 128")
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 3, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=4)
    page.mouse.up()
    page.click("[data-paint=done]")
    page.wait_for_selector("#source .from .mask", state="visible")
    prompt = a_prompt("painted anew")
    press(page, prompt)
    params = made_of(site, prompt)
    assert params.kind is Kind.INPAINT
    lit = light(site.services.studio.sources.file(params.mask).local_path)
    assert 0.01 < lit < 0.5
    page.click("#source [data-source=remove]")
    page.wait_for_selector("#source .begin", state="hidden")
    prompt = a_prompt("from nothing")
    press(page, prompt)
    assert made_of(site, prompt).kind is Kind.TXT2IMG


def test_a_dropped_picture_offers_its_recipe(people: Any, site: Site) -> None:
    original = a_prompt("the dropped one")
    data = list(site.services.studio.picture_file(worked(site, original)).read_bytes())
    page = people().open()
    page.evaluate(DROP, data)
    page.click("[data-ask=recipe]")
    page.wait_for_function(f"document.querySelector('#prompt textarea').value === '{original}'")
    page.locator("#told .notice", has_text="Applied: Width, Height, Steps, Seed").wait_for()
    page.evaluate(DROP, data)
    page.click("[data-ask=source]")
    page.wait_for_selector("#source .begin img[src^='/sources/']")


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
    page.wait_for_selector("#seed :is(input, textarea)", state="visible")
    assert page.input_value("#seed :is(input, textarea)") == "77"
    assert page.input_value("#negative :is(input, textarea)") == "people"


def foreign(parameters: str) -> list[int]:
    """A PNG with the text that A1111 writes."""
    import io

    from PIL import Image, PngImagePlugin

    out, noted = io.BytesIO(), PngImagePlugin.PngInfo()
    noted.add_text("parameters", parameters)
    Image.new("RGB", (384, 256), "navy").save(out, "PNG", pnginfo=noted)
    return list(out.getvalue())


def test_what_is_no_picture_is_told(people: Any) -> None:
    person = people()
    page = person.open()
    page.set_input_files("#source [data-file]", {"name": "a.png", "mimeType": "image/png", "buffer": b"no picture"})
    page.locator("#source [data-told]", has_text="must be a picture").wait_for()
    assert any("400" in each or "422" in each for each in person.complaints)  # the refusal itself
    person.complaints.clear()


def test_a_picture_of_the_gallery_is_begun_from(people: Any, site: Site) -> None:
    prompt = a_prompt()
    image = worked(site, prompt)
    page = people().open()
    go(page, "gallery")
    page.click(f".tile[data-key='{image}'] a.open")
    page.click("[role=dialog] [data-do=to_img2img]")
    page.wait_for_selector("#source .begin", state="visible")
    assert page.input_value("#prompt textarea") == prompt
    assert page.locator("#strength").is_visible()
    page.reload()
    page.wait_for_selector("#source .begin", state="visible")


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
