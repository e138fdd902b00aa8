"""For everybody: axe-core finds nothing in any state of the page, in light and dark, on a desktop and a phone."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from diffusion_local.domain import State
from diffusion_local.hub.downloads import Download, DownloadStore
from tests.models import files
from tests.models.files import write_header
from tests.support import eventually
from tests.web.browser.conftest import DESKTOP, PHONE
from tests.web.browser.page_actions import (
    answer_dialog,
    batch_in_strip,
    fits_width,
    generate,
    make_picture,
    open_settings,
    open_view,
    show_on_stage,
    unique_prompt,
)
from tests.web.conftest import Site, free_port, services_of

axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")

pytestmark = [pytest.mark.browser, pytest.mark.slow]  # test_accessibility.py looks at each view in the first tier

#: The open tab's part that the poll draws has something in it.
DRAWN = """[...document.querySelectorAll('[role=tabpanel] .live-part')]
  .some((part) => part.offsetParent && part.querySelector('.live').childElementCount)"""
STILL = """Promise.all(document.getAnimations()
  .filter((each) => each.effect.getTiming().iterations === 1 && each.animationName !== "come-and-go")
  .map((each) => each.finished))"""
PASSWORD = "correct horse battery"
SCENES = {
    "desktop-light": {"color_scheme": "light", "viewport": DESKTOP, "locale": "en-US"},
    "desktop-dark": {"color_scheme": "dark", "viewport": DESKTOP, "locale": "zh-CN"},
    "phone-light": {"color_scheme": "light", "viewport": PHONE, "locale": "zh-CN", "has_touch": True},
    "phone-dark": {"color_scheme": "dark", "viewport": PHONE, "locale": "en-US", "has_touch": True},
}


class Walk:
    """A page, and all that axe-core found in the states that it was in, by their names."""

    def __init__(self, page: Any, url: str) -> None:
        self.page, self.url = page, url
        page.set_default_timeout(15_000)
        self.phone = page.viewport_size["width"] < 760
        self.found: dict[str, list[str]] = {}

    def note(self, state: str) -> None:
        self.page.evaluate(STILL)
        found = axe.Axe().run(self.page).response["violations"]
        rows = [
            f"{each['id']}: {node['html'][:160]} {node['failureSummary']}" for each in found for node in each["nodes"]
        ]
        self.found[state] = rows + ([] if fits_width(self.page) else ["wider than the window"])

    def clean(self) -> None:
        assert {state: each for state, each in self.found.items() if each} == {}

    def press(self, selector: str, then: str, state: str, shut: bool = True) -> None:
        """Click; when what opens is there, look at it, and close it again unless the next step needs it."""
        self.page.locator(selector).first.click()
        self.page.locator(then).first.wait_for()
        self.note(state)
        if shut:
            self.page.keyboard.press("Escape")
            self.page.locator(then).first.wait_for(state="hidden")

    def close_sheet(self) -> None:
        self.page.evaluate("document.documentElement.classList.remove('with-sheet')")


@pytest.fixture(params=SCENES, ids=str)
def walk(people: Any, site: Site, request: pytest.FixtureRequest) -> Iterator[Walk]:
    person = people(reduced_motion="reduce", **SCENES[request.param])
    yield Walk(person.open(), site.url)
    person.complaints.clear()  # of a server that was away, and of what is nowhere


def test_create_from_empty_to_failed(walk: Walk, site: Site) -> None:
    page = walk.page
    walk.note("first look")
    page.click("#generate")  # without a prompt
    page.locator("#told .notice").wait_for()
    walk.note("a mistake at its field")
    prompt, broken = unique_prompt(), unique_prompt("broken [fail]")
    generate(page, broken)
    generate(page, prompt)
    batch_in_strip(page, broken).locator(".shot.failed").wait_for()
    batch_in_strip(page, prompt).locator(".shot.done").wait_for()
    site.services.studio.queue.pause()
    generate(page, unique_prompt("waits"))
    site.services.studio.submit(unique_prompt("several wait"), count=12)
    page.locator(".shot.queued").first.wait_for()
    show_on_stage(page, page.locator(".shot.queued").first)
    walk.note("a waiting picture")
    show_on_stage(page, batch_in_strip(page, broken).locator(".shot.failed"))
    page.locator(".canvas.failed").wait_for()
    walk.note("a failed picture")
    show_on_stage(page, batch_in_strip(page, prompt).locator(".shot.done"))
    page.locator(".canvas.done").wait_for()
    walk.note("a picture")
    page.locator(".caption .menu summary").last.click()
    walk.note("menu of the picture")
    page.keyboard.press("Escape")
    open_settings(page)
    for group in page.locator("#more [id^=group-]:visible > button").all():
        if "open" not in (group.get_attribute("class") or ""):
            group.click()
    page.locator("#styles input").first.check()
    page.locator(".region-list .board").wait_for()
    walk.note("all settings")
    page.locator("#sampler input").click()
    page.locator("[role=option]").first.wait_for()
    walk.note("list of samplers")
    page.keyboard.press("Escape")
    walk.close_sheet()
    walk.press("[data-prompts=history]", "#prompt-popup", "history of prompts")
    if not walk.phone:
        walk.press("[data-prompts=presets]", "#prompt-popup", "presets")
    walk.clean()


def test_all_tabs_with_their_menus_and_dialogs(walk: Walk, site: Site) -> None:
    page, studio = walk.page, site.services.studio
    make_picture(site, unique_prompt())
    failed = studio.submit(unique_prompt("broken [fail]")).job_ids
    studio.wait(failed, 30)
    studio.queue.pause()
    studio.submit(unique_prompt("several wait"), count=12)
    studio.lists.submit("a boat\na bridge\n", name="Small list", window="23:00-07:00")
    for view in ("lists", "queue", "gallery", "models", "settings"):
        open_view(page, view)
        page.wait_for_function(DRAWN)
        walk.note(view)
    open_view(page, "queue")
    walk.press("#queue .line .menu summary", "#queue .menu[open] .items", "menu of a job")
    walk.press("[data-do=cancel_waiting]", "#asking[open]", "a question")
    page.evaluate("document.querySelector('#queue [data-do=what_happened]').click()")
    page.locator(".timeline").wait_for()
    walk.note("history of a job")
    page.keyboard.press("Escape")
    page.locator("#queue .line .tick input").first.check()
    page.locator("#queue .picked").wait_for()
    walk.note("selected jobs")
    page.locator("#queue [data-unpick]").last.click()
    page.fill("#queue [data-wanted=text]", "zeppelin")
    page.locator("#queue .invite").wait_for()
    walk.note("no job fits")
    page.fill("#queue [data-wanted=text]", "")
    page.locator("#queue .line").first.wait_for()
    if walk.phone:
        walk.press("#tabbar summary", "#tabbar .items", "menu of a phone", shut=False)
        page.locator("#tabbar summary").click()
    else:
        page.evaluate("document.activeElement.blur()")
        page.keyboard.press("q")
        page.locator("#drawer .waiting li").first.wait_for()
        walk.note("drawer")
        walk.press("#drawer .menu summary", "#drawer .menu[open] .items", "menu of the drawer")
        page.keyboard.press("q")
        page.evaluate("document.activeElement.blur()")
        page.keyboard.press("?")
        page.locator("[role=dialog]").wait_for()
        walk.note("keys")
        page.keyboard.press("Escape")
    open_view(page, "lists")
    walk.press(".batches header .menu summary", ".batches .menu[open] .items", "files of the queue")
    page.fill("#list-text textarea", "a red apple\na red apple --steps many\na {small|large} tree\n")
    page.click("#list-check")
    page.locator(".checked .bad-lines").wait_for()
    for group in page.locator(":is(#list-for-all, #list-when, #list-expert) > button").all():
        group.click()
    walk.note("a list with a mistake")
    page.locator("#list-mode label").last.click()
    page.locator("#grid-part").wait_for()
    walk.note("a grid")
    page.locator(".batch-line .menu summary").first.click()
    page.locator(".batch-line [data-do=batch_panel]:visible").first.click()
    page.locator("[role=dialog] .fields").wait_for()
    walk.note("changes of what waits")
    page.keyboard.press("Escape")
    page.wait_for_selector(".overlay", state="detached")
    page.route("**/look", lambda route: route.abort())
    page.locator("#notices [data-away]").wait_for()
    walk.note("the studio is away")
    page.unroute("**/look")
    page.locator("#notices [data-away]").wait_for(state="detached")
    page.evaluate("document.querySelector('.skip').focus()")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "view"
    assert studio.snapshot().counts[State.QUEUED] >= 1
    walk.clean()


def test_gallery_viewer_and_canvas(walk: Walk, site: Site) -> None:
    page, studio = walk.page, site.services.studio
    images = [make_picture(site, unique_prompt()) for _ in range(2)]
    board = studio.boards.create(unique_prompt("board"), images)
    open_view(page, "gallery")
    page.locator(".tile .tick input").first.wait_for(state="attached")
    walk.press(".filters .menu summary", ".filters .menu[open] .items", "a filter's choices")
    walk.press("[data-do=board_new]", "#asking[open]", "a question for a name")
    if page.locator(".selecting").is_visible():
        page.locator(".selecting").click()
    for place in (0, 1):
        page.locator(".tile .tick input").nth(place).check(force=True)
    walk.note("selected pictures")
    walk.press(".picked [data-do=compare]", ".compare", "two pictures compared")
    page.evaluate("document.querySelector('#gallery [data-unpick]')?.click()")
    page.evaluate("(id) => diffusionLocalRouter.go(`${diffusionLocalRouter.base}gallery?board=${id}`)", board.id)
    page.locator("[data-do=board_rename]").wait_for()
    walk.note("a board")
    walk.press("[data-do=board_delete]", "#asking[open]", "a board's end")
    page.evaluate("diffusionLocalRouter.go(diffusionLocalRouter.base + 'gallery?search=zeppelin')")
    page.locator("#gallery .invite").wait_for()
    walk.note("no picture fits")
    page.evaluate("diffusionLocalRouter.go(diffusionLocalRouter.base + 'gallery?trashed=1')")
    page.locator("#gallery [data-key=head]").wait_for()
    walk.note("trash")
    page.goto(f"{walk.url}/ui/picture/{images[0]}")
    viewer = page.locator(f"[data-picture='{images[0]}']")
    viewer.wait_for()
    walk.note("viewer")
    viewer.locator(".makes .menu summary").click()
    walk.note("viewer's menu")
    page.keyboard.press("Escape")
    viewer.locator("[data-do=variations]").click()
    page.locator(".toast").first.wait_for()
    page.wait_for_timeout(500)  # until it can be read
    walk.note("a toast")
    viewer.locator("[data-do=to_inpaint]").click()
    page.wait_for_selector("#source dialog.painter[data-ready]")
    walk.note("canvas")
    page.locator(".painter [data-paint=frame]").click()
    walk.note("frame of the canvas")
    page.goto(f"{walk.url}/ui/picture/nothing")
    page.locator("[role=dialog]").wait_for()
    walk.note("no such picture")
    page.goto(f"{walk.url}/ui/nowhere")
    page.locator("[data-unknown]").wait_for()
    page.wait_for_function("document.querySelector('#now .now')")
    walk.note("no such address")
    studio.boards.delete(board.id)
    walk.clean()


def claimed(store: DownloadStore) -> Download:
    download = store.claim()
    assert download
    return download


def test_models_with_downloads(walk: Walk, site: Site) -> None:
    page, library = walk.page, site.services.studio.library
    settings = site.services.settings
    settings.loras.mkdir(exist_ok=True)
    paths = [
        write_header(settings.loras / "ink.safetensors", files.LORA, {"modelspec.trigger_phrase": "inkwash"}),
        write_header(settings.models / "plain.safetensors", files.SD1),
        settings.models / "cut.safetensors",
    ]
    paths[-1].write_bytes(b"cut short")
    store = DownloadStore(site.services.database)
    for name in ("failed", "going"):
        library.download(f"someone/{name}")
    over, going = claimed(store), claimed(store)
    store.fail(over.id, "hub_error", "The hub does not answer.")
    store.report(going.id, 1_200_000_000, 3_400_000_000)
    open_view(page, "models")
    page.locator("#models [role=progressbar]").first.wait_for()
    page.locator("#models [data-key=loras-ink]").wait_for()
    walk.note("models")
    walk.press("#models .model .menu summary", "#models .menu[open] .items", "facts of a model")
    page.fill("[data-models-search]", "nothing like it")
    page.locator("[data-models-none]").wait_for()
    walk.note("no model fits")
    page.fill("#model-source :is(input, textarea)", "not a model")
    page.click("#model-add")
    page.locator(".toast.warn").wait_for()
    page.wait_for_timeout(500)
    walk.note("a warning")
    store.stop(going.id)
    for each in paths:
        each.unlink()
    walk.clean()


# -- with accounts --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server with accounts, an administrator among them, and without a worker."""
    import uvicorn

    from diffusion_local.web.app import create_app

    services = services_of(tmp_path_factory, port=free_port())
    services.studio.accounts.add("ada", PASSWORD, "admin")
    services.studio.accounts.add("bob", PASSWORD)
    settings = services.settings
    (settings.locks / "serve.json").write_text("{}")
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(services.studio, settings, services=services), port=settings.port, log_level="warning"
        )
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    eventually(lambda: server.started, 30)
    yield Site(f"http://127.0.0.1:{settings.port}", services)
    server.should_exit = True
    thread.join(10)


@pytest.fixture(params=SCENES, ids=str)
def guest(chromium: Any, guarded: Site, request: pytest.FixtureRequest) -> Iterator[Walk]:
    context = chromium.new_context(reduced_motion="reduce", **SCENES[request.param])
    page = context.new_page()
    page.set_default_timeout(45_000)
    page.goto(guarded.url)
    yield Walk(page, guarded.url)
    context.close()


def test_sign_in_accounts_machines_and_the_manual(guest: Walk, guarded: Site) -> None:
    page = guest.page

    def sign_in(password: str, then: str) -> None:
        page.fill("[name=username]", "ada")
        page.fill("[name=password]", password)
        page.click("button.main")
        page.wait_for_selector(then)

    guest.note("sign in")
    sign_in("wrong", ".said")
    guest.note("a wrong password")
    sign_in(PASSWORD, "#now .now")
    guest.note("without a worker")
    page.goto(f"{guest.url}/account")
    page.fill("[name=name]", "phone")
    page.click("form[action$='/account/tokens'] button")
    page.locator("main code").first.wait_for()
    guest.note("account with a new token")
    page.goto(f"{guest.url}/ui/settings")
    page.locator("#settings-machines").wait_for()
    guest.note("settings")
    for details in ("add-account", "more-bob"):
        page.locator(f"#settings-accounts details[data-key={details}] > summary").click()
    guest.note("accounts")
    guest.press("[data-do=account_remove]", "#asking[open]", "an account's end")
    guest.press("[data-do=machine_invite]", "[role=dialog]", "pairing code")
    field = page.locator("#settings .row[data-key=keep_trash_days] input")
    field.fill("11")
    field.press("Tab")
    page.locator("[data-key=pending]").wait_for()
    guest.note("a change for the next start")
    page.locator("#settings [data-do=restart]").click()
    answer_dialog(page)
    page.locator("#notices [data-restarting]").wait_for()
    guest.note("restarting")
    for each in (guarded.services.settings.home / "config.toml", guarded.services.settings.locks / "restart"):
        each.unlink(missing_ok=True)
    for topic in ("start", "reference/settings", "search?q=queue", "search?q=zxqw"):
        page.goto(f"{guest.url}/manual/{topic}")
        guest.note(f"manual: {topic}")
    page.goto(f"{guest.url}/manual/nowhere")
    page.wait_for_function("!document.querySelector('.skip') || document.getElementById('view')")
    guest.note("manual: no such page")
    guest.clean()
