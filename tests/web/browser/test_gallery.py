"""The gallery in a browser: new pictures, search, stars, boards, many at once, trash."""

from typing import Any
from urllib.parse import quote

import pytest

from diffusion_local.errors import Gone
from tests.web.browser.conftest import PHONE
from tests.web.browser.page_actions import answer_dialog, make_picture, open_view, unique_prompt
from tests.web.conftest import Site

playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

pytestmark = pytest.mark.browser


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_the_gallery_is_sorted_as_its_address_says(people: Any, site: Site) -> None:
    studio, prompt = site.services.studio, unique_prompt("to be sorted")
    sizes = [(128, 128), (256, 256), (128, 136)]
    job_ids = [studio.submit(prompt, width=wide, height=high, steps=2).job_ids[0] for wide, high in sizes]
    found = studio.images_of(studio.wait(job_ids, 30))
    small, large, middle = (found[each].id for each in job_ids)
    page = people().open()
    page.goto(f"{site.url}/ui/gallery?search={quote(prompt)}")
    tiles = "() => [...document.querySelectorAll('#gallery .tile')].map((each) => each.dataset.id).join()"
    for sort, wanted in (
        ("oldest", [small, large, middle]),
        ("largest", [large, middle, small]),
        ("newest", [middle, large, small]),
    ):
        page.click("[data-key=filter-sort] summary")
        page.locator("[data-key=filter-sort] a", has_text=sort.capitalize()).click()
        page.wait_for_function(f"(ids) => ({tiles})() === ids", arg=",".join(wanted))
        assert ("sort=" in page.url) is (sort != "newest")
    page.go_back()
    page.wait_for_function(f"(ids) => ({tiles})() === ids", arg=",".join([large, middle, small]))


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_new_pictures_are_offered_and_nothing_moves_by_itself(people: Any, site: Site) -> None:
    page = people().open()
    first = make_picture(site, unique_prompt())
    open_view(page, "gallery")
    shown = page.locator(f".tile[data-key='{first}'] .open img")
    shown.wait_for()
    shown.evaluate("(img) => { img.marked = true; }")
    before = shown.bounding_box()
    second = make_picture(site, unique_prompt())
    page.locator("[data-fresh]", has_text="1 new picture").wait_for()
    assert page.locator(f".tile[data-key='{second}']").count() == 0
    assert shown.bounding_box() == before
    page.click("[data-fresh]")
    page.locator(f".tile[data-key='{second}']").wait_for()
    assert shown.evaluate("(img) => img.marked") is True  # the same element: nothing flickers
    assert page.locator("[data-fresh]").count() == 0


def test_search_star_trash_and_undo(people: Any, site: Site) -> None:
    image = make_picture(site, unique_prompt("a very special boat"))
    make_picture(site, unique_prompt("something else"))
    page = people().open()
    open_view(page, "gallery")
    page.fill("[data-search]", "special boat")
    page.wait_for_function("document.querySelectorAll('.tile').length === 1")
    page.click(".tile a.open")
    page.locator("[role=dialog] [data-do=star]").click()
    page.locator("[role=dialog] [data-do=unstar]").wait_for()
    assert site.services.studio.image(image).starred
    page.wait_for_function("location.pathname.startsWith('/ui/picture/')")
    page.locator("[role=dialog] [data-trash]").click()
    page.locator(".invite", has_text="No matches").wait_for()
    page.wait_for_url("**/ui/gallery?search=special+boat")
    assert page.locator(".shelves .number").first.inner_text() != ""  # how many there are, also while one searches
    page.locator(".toast >> text=Undo").click()
    page.locator(f".tile[data-key='{image}']").wait_for()
    page.fill("[data-search]", "")
    page.wait_for_url("**/ui/gallery")
    page.click(".shelves a[href$='starred=1']")
    page.wait_for_function("document.querySelectorAll('.tile').length === 1")
    assert page.evaluate("location.search") == "?starred=1"
    page.go_back()
    page.wait_for_function("document.querySelectorAll('.tile').length > 1")
    page.go_forward()
    page.wait_for_function("document.querySelectorAll('.tile').length === 1")
    page.reload()
    page.wait_for_function("document.querySelectorAll('.tile').length === 1")


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_ticked_pictures_go_on_a_board_are_compared_and_thrown_away(people: Any, site: Site) -> None:
    first, second, third = (make_picture(site, unique_prompt()) for _ in range(3))
    page = people().open()
    open_view(page, "gallery")
    for image in (first, second):
        page.locator(f".tile[data-key='{image}'] .tick input").check(force=True)
    bar = page.locator(".picked:visible")
    assert "2 selected" in bar.inner_text()

    bar.locator("[data-do=compare]").click()
    table = page.locator(".compare .differences")
    table.wait_for()
    assert "Prompt" in table.inner_text()
    page.keyboard.press("Escape")

    bar.locator("summary").click()
    bar.locator("[data-do=board_new]").click()
    answer_dialog(page, f"Autumn <b>{first}")
    page.locator(".toast", has_text="Autumn <b>").wait_for()
    [board] = [each for each in site.services.studio.boards.all() if first in each.name]
    assert board.count == 2

    page.locator(f".tile[data-key='{third}'] .tick").click()  # while some are ticked, all of a tile is its box
    assert "3 selected" in bar.inner_text()
    bar.locator("[data-do=trash_these]").click()
    page.locator(f".tile[data-key='{third}']").wait_for(state="detached")
    page.locator(".toast >> text=Undo").click()
    page.locator(f".tile[data-key='{third}']").wait_for()


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_the_gallery_is_narrowed_to_a_board_and_to_the_trash(people: Any, site: Site) -> None:
    kept, other = make_picture(site, unique_prompt()), make_picture(site, unique_prompt())
    board = site.services.studio.boards.create(f"Winter {kept}", [kept])
    page = people().open()
    open_view(page, "gallery")
    page.locator(f".tile[data-key='{other}']").wait_for()
    page.locator(f".shelves [data-board='{board.id}']").click()
    page.wait_for_function("document.querySelectorAll('.tile').length === 1")
    assert page.locator(".gallery-head h2").inner_text().startswith(board.name)
    with page.expect_download() as download:
        page.locator(".gallery-head a[download]").click()
    assert download.value.suggested_filename.endswith(".zip")

    page.locator(".shelves a").first.click()
    page.locator(f".tile[data-key='{other}']").wait_for()  # a click before the answer would still mean the board
    site.services.studio.trash(other)
    page.locator(".shelves a[href$='trashed=1']").click()
    page.locator(".gallery-head", has_text="Trash").wait_for()
    page.locator(f".tile[data-key='{other}'] .tick input").check(force=True)
    page.locator(".picked:visible [data-do=delete_these]").click()
    answer_dialog(page)
    page.locator(f".tile[data-key='{other}']").wait_for(state="detached")
    with pytest.raises(Gone):
        site.services.studio.image(other)


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_a_picture_is_dragged_to_a_board(people: Any, site: Site) -> None:
    image = make_picture(site, unique_prompt())
    board = site.services.studio.boards.create(f"Spring {image}", [])
    page = people().open()
    open_view(page, "gallery")
    page.drag_and_drop(f".tile[data-key='{image}']", f".shelves [data-board='{board.id}']")
    page.locator(f".shelves [data-board='{board.id}'] .number", has_text="1").wait_for()
    assert site.services.studio.boards.get(board.id).count == 1


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_tools_of_a_tile_star_it(people: Any, site: Site) -> None:
    image = make_picture(site, unique_prompt())
    page = people().open()
    open_view(page, "gallery")
    page.hover(f".tile[data-key='{image}']")
    page.click("#tile-tools [data-star]")
    page.locator(f".tile[data-key='{image}'][data-starred]").wait_for()
    assert site.services.studio.image(image).starred


@pytest.mark.slow
def test_a_thumb_selects_in_a_mode_of_its_own(people: Any, site: Site) -> None:
    image = make_picture(site, unique_prompt())
    page = people(viewport=PHONE, is_mobile=True, has_touch=True).open()
    open_view(page, "gallery")
    tile = page.locator(f".tile[data-key='{image}']")
    tile.tap(position={"x": 20, "y": 20})
    page.wait_for_selector("[data-picture]")  # no box lies above the picture
    page.keyboard.press("Escape")
    page.locator("[data-picture]").wait_for(state="detached")
    page.locator(".selecting").tap()
    tile.tap()
    bar = page.locator("#gallery .picked")
    bar.wait_for()
    assert bar.locator(".count").inner_text() == "1 selected"
    bar.locator("[data-unpick]").tap()
    bar.wait_for(state="hidden")
    tile.tap()
    page.wait_for_selector("[data-picture]")
