"""Lists in a browser: pasted, checked, queued without its bad line, watched, taken away as files; a grid; a file."""

from pathlib import Path
from typing import Any

import pytest

from diffusion_local.domain import State
from tests.support import eventually
from tests.web.browser.page_actions import answer_dialog, fits_width, open_view, unique_prompt
from tests.web.conftest import Site

playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

pytestmark = pytest.mark.browser

TEXT = "#list-text textarea"


def batch(page: Any, name: str) -> Any:
    return page.locator(".batch-line", has=page.locator(".title", has_text=name))


def option(page: Any, name: str, value: str) -> None:
    page.fill(f"#list-{name} :is(input, textarea)", value)


def test_a_list_is_checked_queued_without_its_bad_line_and_reported(page: Any, site: Site) -> None:
    studio, first = site.services.studio, unique_prompt("a list of boats")
    open_view(page, "lists")
    page.fill(TEXT, f"{first}\na red apple --steps many\n# nothing\na {{red|blue}} tree --count 2\n")
    page.click("#list-for-all > button")
    option(page, "size", "128x128")
    option(page, "steps", "2")
    page.click("#list-check")
    checked = page.locator(".checked")
    assert "3 pictures" in checked.locator(".sum").inner_text()
    bad = checked.locator(".bad-lines tbody tr")
    assert bad.count() == 1
    assert bad.inner_text().startswith("2")
    assert "Steps" in bad.inner_text()
    assert fits_width(page)

    page.reload()
    page.wait_for_selector("#generate", state="attached")
    open_view(page, "lists")
    page.wait_for_function(f"document.querySelector('{TEXT}').value.includes({first!r})")
    page.click("#list-for-all > button")
    assert page.input_value("#list-size :is(input, textarea)") == "128x128"
    assert page.locator(".checked").count() == 0

    page.click("#list-check")
    page.locator("[data-do=queue_skipping]", has_text="Queue 3 pictures, skip 1 bad line").click()
    page.locator("#list-checked .notice", has_text="In the queue: 3 pictures").wait_for()
    row = batch(page, first)
    row.locator(".meta", has_text="3 of 3 pictures done").wait_for()
    [progress] = [each for each in studio.batches.page(large=True) if each.batch.name == first]
    assert progress.counts[State.DONE] == 3

    row.locator(".menu summary").click()
    addresses = row.locator(".menu .items a").evaluate_all("(links) => links.map((link) => link.href)")
    for part in ("sheet.webp", "/zip", f"/reports/batch/{progress.batch.id}.html", "export?format=csv"):
        [address] = [each for each in addresses if part in each]
        assert page.request.get(address).status == 200
    row.locator("a[href*='/ui/gallery?batch=']").last.click()
    page.wait_for_function("document.querySelectorAll('#gallery .tile').length === 3")


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_what_waits_is_changed_renamed_and_cancelled(page: Any, site: Site) -> None:
    studio, prompt = site.services.studio, unique_prompt("waiting in a list")
    studio.queue.pause()
    batch_id = studio.lists.submit(f"{prompt}\na blue whale", name=prompt, size="128x128", steps=2).batch_id
    open_view(page, "lists")
    row = batch(page, prompt)
    row.locator(".menu summary").click()
    row.locator("[data-do=batch_panel]").click()
    assert page.input_value(".fields [name=steps]") == "2"  # its value, not a hint that looks like one
    assert page.input_value(".fields [name=prompt]") == ""  # the two differ
    page.fill(".fields [name=steps]", "none")
    page.press(".fields [name=steps]", "Enter")
    page.locator("[role=dialog] .notice.bad", has_text="Steps").wait_for()
    page.fill(".fields [name=steps]", "3")
    page.fill(".fields [name=window]", "23:00-07:00")
    page.click("[data-do=batch_change]")
    page.locator("[role=dialog]").wait_for(state="detached")
    assert {job.params.steps for job in studio.jobs(batch_id=batch_id)} == {3}
    assert {job.params.prompt for job in studio.jobs(batch_id=batch_id)} == {prompt, "a blue whale"}
    row.locator(".meta", has_text="only 23:00-07:00").wait_for()
    row.locator(".menu summary").click()
    row.locator("[data-do=batch_panel]").click()
    page.fill(".fields [name=prompt]", f"{prompt} again")
    page.click("[data-do=batch_change]")
    page.locator("[role=dialog]").wait_for(state="detached")
    assert {job.params.prompt for job in studio.jobs(batch_id=batch_id)} == {f"{prompt} again"}

    row.locator(".menu summary").click()
    row.locator("[data-do=batch_rename]").click()
    answer_dialog(page, f"{prompt} at night")
    row = batch(page, f"{prompt} at night")
    row.wait_for()
    row.locator(".menu summary").click()
    row.locator("[data-do=cancel_batch]").click()
    answer_dialog(page)
    row.locator(".meta", has_text="2 cancelled").wait_for()


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_a_grid_is_counted_before_it_is_queued(people: Any, site: Site) -> None:
    page, prompt = people().open(), unique_prompt("a grid of a red apple")
    open_view(page, "lists")
    page.click("#list-mode label:nth-of-type(2)")
    page.fill("#list-prompt textarea", prompt)
    page.fill("#list-axis-x input", "prompt")
    page.keyboard.press("Enter")
    page.fill("#list-values-x :is(input, textarea)", "red,blue")
    page.fill("#list-axis-y input", "steps")
    page.keyboard.press("Enter")
    page.fill("#list-values-y :is(input, textarea)", "1-3")
    page.click("#list-for-all > button")
    option(page, "size", "128x128")
    page.click("#list-check")
    page.locator("[data-do=queue_grid]", has_text="Queue 6 pictures").click()
    batch(page, prompt).locator(".meta", has_text="6 of 6 pictures done").wait_for()


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_a_file_becomes_the_list_and_the_queue_comes_from_a_file(people: Any, site: Site, tmp_path: Path) -> None:
    studio, page, prompt = site.services.studio, people().open(), unique_prompt("从文件")
    studio.queue.pause()
    open_view(page, "lists")
    path = tmp_path / "list.csv"
    path.write_bytes(f"prompt,steps\n{prompt},2\n".encode("gbk"))
    with page.expect_file_chooser() as chooser:
        page.click("#list-upload")
    chooser.value.set_files(path)
    page.wait_for_function(f"document.querySelector('{TEXT}').value.includes({prompt!r})")
    page.click("#list-check")
    page.locator("[data-do=queue_list]").click()
    batch(page, "list").first.wait_for()  # by the name of its file

    kept = tmp_path / "queue.jsonl"
    kept.write_text("".join(studio.queue_file.export()), encoding="utf-8")
    studio.queue.cancel(waiting=True)
    page.click("[data-key=queue-files] summary")
    with page.expect_file_chooser() as chooser:
        page.click("[data-import=queue]")
    chooser.value.set_files(kept)
    page.locator("#list-checked .notice", has_text="In the queue: 1 picture").wait_for()
    eventually(lambda: [job.params.prompt for job in studio.snapshot().waiting] == [prompt])
