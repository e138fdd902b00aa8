"""The models in a browser: shown, added, used; a download asked for and stopped."""

from typing import Any

import pytest

from tests.models import files
from tests.models.files import write_header
from tests.web.browser.page_actions import fits_width, open_view
from tests.web.conftest import Site

playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

pytestmark = pytest.mark.browser


def test_models_are_shown_added_used_and_cancelled(page: Any, site: Site, tmp_path: Any) -> None:
    library = site.services.studio.library
    open_view(page, "models")
    page.wait_for_selector("#models .model[data-key=models-starter]")
    assert fits_width(page)
    path = write_header(tmp_path / "elsewhere_lightning.safetensors", files.SDXL)
    page.fill("#model-source :is(input, textarea)", str(path))
    page.click("#model-add")
    card = page.locator("#models .model[data-key=models-elsewhere_lightning]")
    card.wait_for()
    card.locator("[data-do=use_model]").click()
    page.wait_for_url("**/ui/create")
    page.wait_for_function("document.querySelector('#model input')?.value.includes('elsewhere_lightning')")
    open_view(page, "models")
    page.fill("#model-source :is(input, textarea)", "someone/some-model")
    page.press("#model-source :is(input, textarea)", "Enter")
    row = page.locator("#models .row", has_text="someone/some-model")
    row.locator("[data-do=cancel_download]").click()
    page.wait_for_function("document.querySelector('#models .row .quiet').textContent.includes('cancelled')")
    library.remove("elsewhere_lightning")
    card.wait_for(state="detached")


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_loras_are_cards_that_are_searched_used_and_offered_where_they_fit(people: Any, site: Site) -> None:
    from PIL import Image

    folder, words = site.services.settings.loras, {"ss_output_name": "Ink Wash", "modelspec.trigger_phrase": "inkwash"}
    folder.mkdir(exist_ok=True)
    write_header(folder / "ink.safetensors", files.LORA, words)
    write_header(folder / "neon.safetensors", files.LORA_XL)
    Image.new("RGB", (64, 64), "navy").save(folder / "ink.preview.png")
    plain = write_header(site.services.settings.models / "plain.safetensors", files.SD1)
    page = people().open()
    open_view(page, "models")
    page.locator("#models .model[data-key=models-plain] [data-do=use_model]").click()
    page.wait_for_function("document.querySelector('#model input')?.value.includes('plain')")
    page.goto(f"{site.url}/ui/models?show=loras&search=wash")
    ink, neon = (page.locator(f"#models .model[data-key=loras-{name}]") for name in ("ink", "neon"))
    ink.wait_for()
    assert not neon.is_visible()
    assert not page.locator("#models .model[data-key=models-starter]").is_visible()
    assert page.input_value("[data-models-search]") == "wash"
    page.wait_for_function("document.querySelector('[data-key=loras-ink] img').naturalWidth === 64")
    page.fill("[data-models-search]", "")
    neon.wait_for()
    page.fill("[data-models-search]", "nothing like it")
    page.locator("[data-models-none]").wait_for()
    page.fill("[data-models-search]", "")
    ink.locator("[data-do=use_lora]").click()
    page.wait_for_url("**/ui/create")
    page.locator("#group-loras > button").click()
    row = page.locator("#loras li[data-name=ink]")
    row.locator("button", has_text="inkwash").click()
    assert page.input_value("#prompt textarea") == "inkwash"
    assert page.input_value("#field-loras :is(textarea, input)") == "ink:0.8"
    page.locator("#loras .offered summary").click()
    assert page.locator("#loras [data-lora=ink]").get_attribute("aria-pressed") == "true"
    assert page.locator("#loras [data-lora=neon]").count() == 0  # made for SDXL, which this model is not
    page.locator("#loras [data-lora=ink]").click()
    row.wait_for(state="detached")
    assert page.input_value("#field-loras :is(textarea, input)") == ""
    for each in (plain, *folder.iterdir()):
        each.unlink()
