"""The manual's pictures of the page: ``screenshots.py --page`` plays the app with the starter model, in dark and light.

Each view becomes assets/docs/page/VIEW.webp, dark on the left and light on the right. With ``--before FOLDER`` a second
row shows an earlier state of the page, from FOLDER/VIEW-dark.png and FOLDER/VIEW-light.png where they exist; without
them the row that the file already has is kept.
"""

import io
import re
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from screenshots import DESKTOP, GALLERY, PHONE, go, page_of, press, running_at, until

from diffusion_local.studio import Studio

TARGET = Path(__file__).resolve().parent.parent / "assets" / "docs" / "page"
SCHEMES = ("dark", "light")
WIDE, NARROW = 600, 300  # pixels of a picture's width, desktop and phone
GAP, LABEL = 8, 18
QUALITY = 62
LIST = "a red apple\na {blue|yellow} star --count 2\na green tree --seed 7\n"


class Book:
    """The open pages of both schemes, and the file that each view goes into."""

    def __init__(self, browser: Any, url: str, before: Path | None, only: str = "") -> None:
        self.pages = {scheme: page_of(browser, url, scheme, viewport=DESKTOP) for scheme in SCHEMES}
        phone: dict[str, Any] = {"viewport": PHONE, "is_mobile": True, "has_touch": True}
        self.phones = {scheme: page_of(browser, url, scheme, **phone) for scheme in SCHEMES}
        self.before, self.only = before, only

    def shoot(self, name: str, show: Any, phone: bool = False) -> None:
        if not re.search(self.only, name):
            return
        found = {}
        for scheme, page in (self.phones if phone else self.pages).items():
            page.bring_to_front()
            show(page)
            page.wait_for_function("[...document.images].every((each) => each.complete || each.loading === 'lazy')")
            page.wait_for_timeout(400)  # animations
            found[scheme] = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        path, width = TARGET / f"{name}.webp", NARROW if phone else WIDE
        earlier = self.earlier(name) or kept(path, width, fit(found[SCHEMES[0]], width).height)
        rows = [("before", earlier), ("after", found)] if earlier else [("", found)]
        sheet(rows, width).save(path, quality=QUALITY, method=6)
        print(f"{path.name}: {path.stat().st_size // 1000} kB", flush=True)

    def earlier(self, name: str) -> dict[str, Image.Image]:
        paths = {scheme: self.before / f"{name}-{scheme}.png" for scheme in SCHEMES} if self.before else {}
        if not all(path.exists() for path in paths.values()):
            return {}
        return {scheme: Image.open(path).convert("RGB") for scheme, path in paths.items()}


def kept(path: Path, width: int, height: int) -> dict[str, Image.Image]:
    """The earlier state in the file of a former run, whose pictures had this size; empty if it has none."""
    if not path.exists():
        return {}
    whole = Image.open(path).convert("RGB")
    if whole.height < 2 * height:
        return {}
    corners = {scheme: (place * (width + GAP), LABEL) for place, scheme in enumerate(SCHEMES)}
    return {scheme: whole.crop((left, top, left + width, top + height)) for scheme, (left, top) in corners.items()}


def sheet(rows: list[tuple[str, dict[str, Image.Image]]], width: int) -> Image.Image:
    """Pictures of one width beside and below each other; a row's label stands above it."""
    cells = [[fit(each, width) for each in found.values()] for _, found in rows]
    heights = [
        max(each.height for each in row) + (LABEL if words else 0) for row, (words, _) in zip(cells, rows, strict=True)
    ]
    whole = Image.new("RGB", (width * len(SCHEMES) + GAP, sum(heights) + GAP * (len(rows) - 1)), "white")
    top = 0
    for row, (words, _), height in zip(cells, rows, heights, strict=True):
        if words:
            ImageDraw.Draw(whole).text((4, top + 2), words, fill="#444")
        for place, each in enumerate(row):
            whole.paste(each, (place * (width + GAP), top + (LABEL if words else 0)))
        top += height + GAP
    return whole


def fit(picture: Image.Image, width: int) -> Image.Image:
    return picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS)


def take(browser: Any, url: str, studio: Studio, before: Path | None = None, only: str = "") -> None:
    TARGET.mkdir(parents=True, exist_ok=True)
    book = Book(browser, url, before, only)
    book.shoot("create-empty", lambda page: go(page, "create"))
    made = [studio.submit(prompt, seed=7) for prompt in GALLERY]
    studio.wait([job_id for receipt in made for job_id in receipt.job_ids], 1800)
    for receipt in made[1::4]:
        studio.star(next(iter(studio.images_of(studio.jobs_of_batches([receipt.batch_id])).values())).id)
    studio.boards.create("Garden", [image.id for image in studio.gallery()[3:7]])
    for page in (*book.pages.values(), *book.phones.values()):
        page.reload()
        page.wait_for_selector("#now .now")
    book.shoot("create", lambda page: go(page, "create"))
    book.shoot("gallery", lambda page: go(page, "gallery"))
    book.shoot("viewer", viewer)
    book.shoot("mask", mask)  # from the open viewer
    for page in book.pages.values():
        page.keyboard.press("Escape")
        page.reload()
        page.wait_for_selector("#now .now")
    for name in ("models", "settings"):
        book.shoot(name, lambda page, name=name: go(page, name))
    book.shoot("lists", checked)
    book.shoot("phone", lambda page: go(page, "create"), phone=True)
    book.shoot("phone-gallery", lambda page: go(page, "gallery"), phone=True)
    page = book.pages["dark"]
    go(page, "create")
    page.evaluate("document.querySelector('[data-source=remove]')?.click()")  # the one of the mask
    press(page, "a sunflower", 20, seed=3)
    running_at(studio, "a sunflower", index=2)
    other = book.pages["light"]  # the other browser takes the press for its own
    ids = page.evaluate("localStorage.getItem('diffusion-local-batches')")
    other.evaluate("(ids) => localStorage.setItem('diffusion-local-batches', ids)", ids)
    other.reload()
    studio.queue.pause_batch(studio.submit("a blue whale", count=2).batch_id)
    book.shoot("create-running", lambda page: go(page, "create"))
    book.shoot("queue", lambda page: go(page, "queue"))
    studio.queue.cancel(waiting=True)


def viewer(page: Any) -> None:
    go(page, "gallery")
    page.locator(".tile a.open").nth(5).click()
    page.wait_for_selector("[data-picture] .stage img")


def mask(page: Any) -> None:
    """From the open viewer."""
    page.locator("[data-picture] [data-do=to_inpaint]").click()
    page.wait_for_selector("#source dialog.painter[data-ready]")
    box = page.locator(".painter canvas").bounding_box()
    middle, level = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(middle - 80, level - 20)
    page.mouse.down()
    page.mouse.move(middle + 80, level - 60, steps=12)
    page.mouse.move(middle - 60, level + 30, steps=12)
    page.mouse.up()
    page.wait_for_timeout(400)


def checked(page: Any) -> None:
    go(page, "lists")
    page.fill("#list-text textarea", LIST)
    page.click("#list-check")
    page.wait_for_selector(".checked")
    until(lambda: page.locator(".checked").is_visible(), 20)
