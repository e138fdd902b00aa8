"""Reference pictures and the prompt helper in a browser."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from diffusion_local.options.types import Reference, Use
from tests.models import files
from tests.models.files import write_header
from tests.web.browser.page_actions import fits_width, generate, open_settings, unique_prompt
from tests.web.browser.test_source import blank
from tests.web.conftest import Site

pytestmark = pytest.mark.browser

DROP = """([panel, pictures]) => {
  const data = new DataTransfer();
  for (const bytes of pictures) data.items.add(new File([new Uint8Array(bytes)], "a.png", { type: "image/png" }));
  const event = (name) => new DragEvent(name, { dataTransfer: data, bubbles: true, cancelable: true });
  document.querySelector(panel).dispatchEvent(event("dragover"));
  window.shaded = !document.querySelector("#source .drop").hidden;
  document.querySelector(panel).dispatchEvent(event("drop"));
}"""


@pytest.fixture
def adapted(site: Site) -> Iterator[Site]:
    """The starter has an IP-Adapter and its image encoder."""
    settings = site.services.settings
    made = [
        write_header(settings.ip_adapters / "plus.safetensors", files.IP_ADAPTER),
        write_header(settings.clip_vision / "encoder.safetensors", files.CLIP_VISION),
    ]
    yield site
    for each in made:
        each.unlink()


def submitted(site: Site, prompt: str) -> Any:
    return next(job.params for job in site.services.studio.jobs() if job.params.prompt == prompt)


def test_several_references_are_added_used_and_removed(adapted: Site, page: Any) -> None:
    open_settings(page)
    page.wait_for_selector("#references [data-listed=add]")
    with page.expect_file_chooser() as chosen:
        page.click("#references [data-listed=add]")
    assert chosen.value.is_multiple()
    pictures = [{"name": "a.png", "mimeType": "image/png", "buffer": blank(each)} for each in ("navy", "olive")]
    chosen.value.set_files(pictures)
    rows = page.locator("#references li")
    rows.nth(1).wait_for()
    page.evaluate(DROP, ["#references .picture-list", [list(blank("teal"))]])
    rows.nth(2).wait_for()
    assert page.evaluate("window.shaded") is False
    assert page.locator("#source .begin").is_hidden()  # it was not dropped on the page
    page.wait_for_function(
        "[...document.querySelectorAll('#references li img')].every((each) => each.naturalWidth > 0)"
    )
    assert rows.nth(0).locator("[data-part=use] option[value=edit]").is_disabled()  # the starter reads no pictures
    rows.nth(0).locator("[data-part=use]").select_option("face")
    rows.nth(1).locator("[data-part=weight]").fill("0.6")
    rows.nth(1).locator("[data-part=weight]").blur()
    rows.nth(2).locator("[data-listed=remove]").click()
    rows.nth(2).wait_for(state="detached")
    assert fits_width(page)
    written = page.input_value("#field-references :is(textarea, input)")
    first, second = (each.split(":")[0] for each in written.split(", "))
    assert written == f"{first}:use=face, {second}:use=style:weight=0.6"
    page.reload()  # the form is as it was
    page.wait_for_function("document.querySelectorAll('#references li').length === 2", polling=100)
    page.evaluate("document.documentElement.classList.remove('with-sheet')")
    adapted.services.studio.queue.pause()  # the adapter is an empty file
    prompt = unique_prompt("refers")
    generate(page, prompt)
    page.locator(f".batch[data-prompt='{prompt}']").wait_for()
    assert submitted(adapted, prompt).references == (
        Reference(first, Use.FACE, 1.0, "plus"),
        Reference(second, Use.STYLE, 0.6, "plus"),
    )


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_references_are_offered_only_for_models_that_read_them(site: Site, people: Any) -> None:
    page = people().open()
    page.wait_for_selector("#source [data-source=pick]")
    page.wait_for_selector("#references .picture-list", state="attached")
    assert page.locator("#references").is_hidden()


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_the_prompt_helper_changes_the_prompt_and_back(
    site: Site, people: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = people().open()
    page.wait_for_function(
        "JSON.parse(document.querySelector('#vocabulary :is(textarea, input)').value || '{}').fields"
    )
    button = page.locator("[data-prompts=helper]")
    assert button.is_hidden()  # no helper is set
    preferences = site.services.studio.preferences
    url = "http://127.0.0.1:9/v1"
    monkeypatch.setattr(preferences, "_settings", replace(preferences.settings, prompt_helper_url=url))
    page.reload()
    button.wait_for()
    asked: list[Any] = []
    answers = {"rewrite": ["a lighthouse at dusk"], "vary": ["a lighthouse in fog", "a lighthouse in snow"]}

    def answer(route: Any) -> None:
        asked.append(json.loads(route.request.post_data))
        route.fulfill(json={"prompts": answers[asked[-1]["task"]], "original": asked[-1]["prompt"]})

    page.route("**/api/v1/prompts/help", answer)
    page.fill("#prompt textarea", "ein Leuchtturm")
    button.click()
    popup = page.locator("#prompt-popup")
    popup.get_by_text("Add detail").click()
    page.wait_for_function("document.querySelector('#prompt textarea').value === 'a lighthouse at dusk'")
    original = "document.querySelector('#field-original :is(textarea, input)').value"
    assert page.evaluate(original) == "ein Leuchtturm"
    button.click()
    popup.get_by_text("Suggest variants").click()
    popup.get_by_text("a lighthouse in snow").click()
    assert page.input_value("#prompt textarea") == "a lighthouse in snow"
    assert page.evaluate(original) == "ein Leuchtturm"
    site.services.studio.queue.pause()
    page.click("#generate")
    page.locator(".batch[data-prompt='a lighthouse in snow']").wait_for()
    assert submitted(site, "a lighthouse in snow").original == "ein Leuchtturm"
    button.click()
    popup.get_by_text("Restore the original").click()
    assert page.input_value("#prompt textarea") == "ein Leuchtturm"
    assert page.evaluate(original) == ""
    assert asked == [
        {"prompt": "ein Leuchtturm", "task": "rewrite"},
        {"prompt": "a lighthouse at dusk", "task": "vary", "count": 4},
    ]
