"""The settings in a browser: changed, reloaded, refused; light and dark."""

import re
from typing import Any

import pytest

from tests.web.browser.page_actions import fits_width, open_view
from tests.web.conftest import Site

playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

pytestmark = pytest.mark.browser


def test_a_setting_is_changed_and_one_from_the_command_line_is_not(page: Any, site: Site) -> None:
    open_view(page, "settings")
    row = page.locator("#settings .row[data-key=keep_trash_days]")
    row.locator("input").fill("12")
    row.locator("input").press("Tab")
    row.locator(".later").wait_for()
    assert fits_width(page)
    page.reload()
    page.wait_for_selector("#now .now")
    open_view(page, "settings")
    row.locator(".later").wait_for()
    assert row.locator("input").input_value() == "12"
    assert "keep_trash_days = 12" in (site.services.settings.home / "config.toml").read_text()
    assert row.locator(".later").bounding_box()["y"] >= row.bounding_box()["y"]  # within its own row
    assert row.locator(".later").bounding_box()["y"] < row.bounding_box()["y"] + row.bounding_box()["height"]
    row.locator("[data-do=reset_setting]").click()
    row.locator(".later").wait_for(state="detached")
    page.fill("[data-settings-search]", "engine")
    fixed = page.locator("#settings .row[data-key=engine]")
    assert "command line" in fixed.text_content()
    assert fixed.locator("input, select").count() == 0
    assert not row.is_visible()  # another than what is searched for
    page.wait_for_url("**/ui/settings?search=engine")
    page.fill("[data-settings-search]", "")
    row.wait_for()
    sizes = page.locator("#settings-machine, #settings-health").all_inner_texts()
    free = {unit for text in sizes for unit in re.findall(r"[\d.]+ ([GM]i?B)(?: of [\d.]+ GB)? free", text)}
    assert len(free) <= 1, free


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_the_bell_stays_when_its_row_is_drawn_anew(people: Any) -> None:
    page = people().open()
    open_view(page, "settings")
    bell = page.locator("#settings [data-bell]")
    bell.wait_for()
    drawn = "bell => { bell.hidden = true; return new Promise((done) => setTimeout(() => done(bell.hidden))) }"
    assert bell.evaluate(drawn) is False  # the server, which draws it hidden, knows no browser


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_the_theme_is_chosen_and_stays(people: Any) -> None:
    page = people(color_scheme="light").open()
    open_view(page, "settings")
    dark = "document.body.classList.contains('dark')"
    assert not page.evaluate(dark)
    with page.expect_navigation():
        page.select_option("[data-theme]", "dark")
    page.wait_for_function(dark)
    open_view(page, "settings")
    page.wait_for_function("document.querySelector('[data-theme]')?.value === 'dark'")
    with page.expect_navigation():
        page.select_option("[data-theme]", "")
    page.wait_for_selector("#now .now")
    assert not page.evaluate(dark)
