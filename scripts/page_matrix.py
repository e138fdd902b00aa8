"""Every tab and state of the page as screenshots for a designer: ``screenshots.py FOLDER`` takes them all.

Each state is shot on a desktop and a phone, light and dark, in each language: FOLDER/STATE-DEVICE-SCHEME-LANGUAGE.png.
All that axe-core finds in it is written into FOLDER/findings.txt.
The fake engine draws the pictures, so that every state can be held as long as it takes.
"""

import hashlib
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import sync_playwright
from screenshots import go, served, until

from diffusion_local.compose import Services

DEVICES: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1280, "height": 800}},
    "phone": {
        "viewport": {"width": 360, "height": 740},
        "is_mobile": True,
        "has_touch": True,
        "device_scale_factor": 2,
    },
}
LANGUAGES = {"en": "en-US", "zh": "zh-CN"}
STEP_SECONDS = 0.45
MANY_STEPS = 100  # 45 seconds
SETTLE = 0.9  # seconds: an answer of the page's timer, and an animation

PROMPTS = (
    "a lighthouse above a stormy sea",
    "a bowl of oranges on a blue cloth",
    "an old tram in the rain",
    "a fox asleep in the snow",
    "a paper boat",
    "a greenhouse at night, lit from inside, ferns against the glass and a cat on the bench",
)
PASSWORD = "correct horse battery"
LIST = "a red apple\na glass of water\na red apple --steps many\na {small|large} tree --count 2\n"


@dataclass(frozen=True, slots=True)
class Shot:
    """``set_up`` makes the state, once; ``show`` brings each page to it; ``put_back`` leaves it on each. ``of``: the
    device that has it, if not both have."""

    name: str
    show: Callable[[Any], None]
    set_up: Callable[[Services, Any], None] = lambda services, pages: None
    put_back: Callable[[Any], None] = lambda page: None
    of: str = ""


def shoot_all(chromium: str, folder: Path, only: str, variants: str) -> None:
    """``only`` and ``variants`` are regular expressions that a state's and a variant's name must hold."""
    folder.mkdir(parents=True, exist_ok=True)
    slow = {"engine": "fake", "fake_step_seconds": STEP_SECONDS}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        with slow_hub() as hub, served(**slow, hub_endpoint=hub, host="0.0.0.0", auth="none") as (url, services):
            break_a_model(services)
            pages = dict(opened(browser, url, variants))
            shoot(SHOTS, services, pages, folder, only)
            for page in pages.values():
                page.context.close()
        with served(**slow) as (url, services):
            services.studio.accounts.add("ada", PASSWORD, "admin")
            until(lambda: asks_to_sign_in(url), 30)  # the web process notices the first account within some seconds
            pages = dict(opened(browser, url, variants, "form"))
            shoot(ACCOUNT_SHOTS, services, pages, folder, only)
        browser.close()


def asks_to_sign_in(url: str) -> bool:
    return httpx.get(url, headers={"Accept": "text/html"}).is_redirect


def shoot(shots: Sequence[Shot], services: Services, pages: dict[str, Any], folder: Path, only: str) -> None:
    for shot in shots:
        shot.set_up(services, pages)
        if not re.search(only, shot.name):
            continue
        for variant, page in pages.items():
            if not variant.startswith(shot.of):
                continue
            page.bring_to_front()
            try:
                shot.show(page)
                time.sleep(SETTLE / 2)
                page.screenshot(path=folder / f"{shot.name}-{variant}.png")
                note_findings(page, f"{shot.name}-{variant}", folder / "findings.txt")
                shot.put_back(page)
            except PlaywrightError as error:
                print(f"{shot.name}-{variant}: {error}", flush=True)
                page.screenshot(path=folder / f"{shot.name}-{variant}-BROKEN.png")
                page.reload()
        print(shot.name, flush=True)


def note_findings(page: Any, name: str, file: Path) -> None:
    """Append all violations that axe-core finds: rule, impact, element."""
    with file.open("a", encoding="utf-8") as out:
        for found in Axe().run(page).response["violations"]:
            for node in found["nodes"]:
                out.write(f"{name}: {found['id']} ({found['impact']}) {node['target']} {node['html'][:200]!r}\n")


def opened(browser: Any, url: str, variants: str, waits_for: str = "#now .now") -> Iterator[tuple[str, Any]]:
    for device, size in DEVICES.items():
        for scheme in ("light", "dark"):
            for language, locale in LANGUAGES.items():
                name = f"{device}-{scheme}-{language}"
                if not re.search(variants, name):
                    continue
                page = browser.new_context(color_scheme=scheme, locale=locale, **size).new_page()
                page.set_default_timeout(20_000)
                page.goto(url)
                page.wait_for_selector(waits_for)
                yield name, page


# -- what is set up -------------------------------------------------------------------------------------------------


def pictures(services: Services, pages: Any) -> None:
    studio = services.studio
    made = [studio.submit(prompt, steps=2, count=1 + place % 3) for place, prompt in enumerate(PROMPTS)]
    made.append(studio.submit("a wide valley", steps=2, width=512, height=288))
    studio.wait([job_id for receipt in made for job_id in receipt.job_ids], 120)
    images = studio.gallery()
    for image in images[1:9:3]:
        studio.star(image.id)
    studio.boards.create("Rainy days", [each.id for each in images[:4]])


def busy(services: Services, pages: Any) -> None:
    """Failed ones, a running one, some that wait, and one that is held."""
    studio = services.studio
    failed = [studio.submit("a sailing ship [fail]", steps=3), studio.submit("a cathedral [oom]", steps=3)]
    studio.wait([job_id for receipt in failed for job_id in receipt.job_ids], 60)
    running(services, pages, [receipt.batch_id for receipt in failed])


def running(services: Services, pages: Any, before: Sequence[str] = ()) -> None:
    """Each page takes all of it for its own."""
    studio = services.studio
    receipts = [studio.submit(PROMPTS[1], steps=2, count=1), studio.submit(PROMPTS[2], steps=MANY_STEPS, count=4)]
    receipts += [studio.submit(PROMPTS[5], steps=20, count=2), studio.submit(PROMPTS[4], steps=20)]
    studio.queue.pause_batch(receipts[-1].batch_id)
    until(lambda: any(job.step > 10 for job in studio.snapshot().running), 60)
    newest_first = [*(receipt.batch_id for receipt in reversed(receipts)), *before]
    for page in pages.values():
        page.evaluate("(ids) => localStorage.setItem('diffusion-local-batches', ids.join(' '))", newest_first)
        reload(page)


def paused(services: Services, pages: Any) -> None:
    services.studio.queue.pause()


def going(services: Services, pages: Any) -> None:
    services.studio.queue.resume()


def all_cancelled(services: Services, pages: Any) -> None:
    studio = services.studio
    studio.queue.cancel(waiting=True)
    if running := [job.id for job in studio.snapshot().running]:
        studio.queue.cancel(running)
    until(lambda: not studio.snapshot().running, 30)


def trashed(services: Services, pages: Any) -> None:
    images = services.studio.gallery()
    for image in images[-2:]:
        services.studio.trash(image.id)


def listed(services: Services, pages: Any) -> None:
    studio = services.studio
    studio.queue.pause()
    studio.lists.submit("a red apple\na glass of water\na tall tree\n" * 40, name="Night of the apples")
    studio.lists.submit("a boat\na bridge\n", name="Small list", window="23:00-07:00")


def downloads(services: Services, pages: Any) -> None:
    library = services.studio.library
    library.download("someone/not-there")
    until(lambda: any(each.state == "failed" for each in library.downloads()), 60)
    library.download("someone/a-slow-model")
    until(lambda: any(each.bytes_done for each in library.downloads()), 60)


def worker_silent(services: Services, pages: Any) -> None:
    for worker in services.studio.workers():
        os.kill(worker.pid, signal.SIGSTOP)
    time.sleep(22)


def worker_back(services: Services, pages: Any) -> None:
    for worker in services.studio.workers():
        os.kill(worker.pid, signal.SIGCONT)


def break_a_model(services: Services) -> None:
    """A folder that is no whole model, a checkpoint that is cut short, and a LoRA."""
    import numpy
    from safetensors.numpy import save_file

    settings = services.settings
    (settings.models / "half-a-model").mkdir(parents=True)
    (settings.models / "half-a-model" / "model_index.json").write_text("{")
    settings.loras.mkdir(parents=True, exist_ok=True)
    key = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    tensors = {f"{key}.lora_down.weight": numpy.zeros((4, 768), "float32")}
    tensors |= {f"{key}.lora_up.weight": numpy.zeros((320, 4), "float32")}
    save_file(tensors, settings.loras / "watercolour.safetensors")


@contextmanager
def slow_hub() -> Iterator[str]:
    """A hub with one model, whose weights come to a third and no further."""
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if "a-slow-model" not in self.path:
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.end_headers()
            elif "/api/" in self.path:
                names = {"model_index.json": len(INDEX), "unet/diffusion_pytorch_model.safetensors": 3_400_000_000}
                names["unet/config.json"] = 2
                facts = {"sha": "abc123", "cardData": {"license": "mit"}}
                siblings: list[dict[str, Any]] = [
                    {"rfilename": name, "size": size, "blobId": blob_id(name)} for name, size in names.items()
                ]
                siblings[1]["lfs"] = {"sha256": "0" * 64, "size": siblings[1]["size"], "pointerSize": 134}
                self.say(json.dumps(facts | {"siblings": siblings}).encode())
            elif self.path.endswith(".safetensors"):
                self.send_response(200)
                self.send_header("Content-Length", "3400000000")
                self.end_headers()
                self.wfile.write(bytes(20_000_000))
                over.wait()
            else:
                self.say(INDEX if self.path.endswith("index.json") else b"{}")

        def say(self, content: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *words: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        over.set()
        server.shutdown()


def blob_id(name: str) -> str:
    """As git names a file's content."""
    content = INDEX if name == "model_index.json" else b"{}"
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


INDEX = json.dumps({"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}).encode()


# -- how each page is brought there ---------------------------------------------------------------------------------


def tab(name: str) -> Callable[[Any], None]:
    def show(page: Any) -> None:
        go(page, name, SETTLE)
        page.evaluate("window.scrollTo(0, 0)")

    return show


def lower(name: str, selector: str) -> Callable[[Any], None]:
    """That tab, scrolled until the part is at the top."""

    def show(page: Any) -> None:
        tab(name)(page)
        page.evaluate("(at) => document.querySelector(at)?.scrollIntoView()", selector)

    return show


def clicking(name: str, *selectors: str) -> Callable[[Any], None]:
    def show(page: Any) -> None:
        tab(name)(page)
        for selector in selectors:
            page.locator(selector).first.click()
            time.sleep(0.5)

    return show


def pressing(*keys: str) -> Callable[[Any], None]:
    def act(page: Any) -> None:
        for key in keys:
            page.keyboard.press(key)

    return act


def reload(page: Any) -> None:
    page.reload()
    page.wait_for_selector("#now .now")


def wrong(page: Any) -> None:
    """A press with a mistake in it."""
    tab("create")(page)
    page.fill("#prompt textarea", "")
    page.click("#generate")
    page.wait_for_selector("#told .notice")


def from_picture(page: Any) -> None:
    viewer(page)
    page.locator("[data-picture] [data-do=to_img2img]").click()
    page.wait_for_selector("#source .begin", state="attached")
    sheet = page.locator("[data-sheet]")
    if sheet.is_visible():
        sheet.click()
    page.wait_for_selector("#source .begin", state="visible")
    page.evaluate("window.scrollTo(0, 0)")


def brush(page: Any) -> None:
    page.locator("#source .kinds label", has=page.locator("[value=inpaint]")).click()
    page.wait_for_selector("#source dialog.painter[data-ready]")


def no_picture(page: Any) -> None:
    page.keyboard.press("Escape")
    page.evaluate("document.querySelector('[data-source=remove]')?.click()")
    page.evaluate("document.documentElement.classList.remove('with-sheet')")


def viewer(page: Any) -> None:
    tab("gallery")(page)
    page.locator(".tile a.open").nth(2).click()
    page.wait_for_selector("[data-picture] .stage img")


def viewer_below(page: Any) -> None:
    viewer(page)
    page.evaluate("document.querySelector('.viewer .beside').scrollIntoView({ block: 'end' })")


def ticked(page: Any) -> None:
    tab("gallery")(page)
    if page.locator(".selecting").is_visible():
        page.locator(".selecting").click()
    for place in (0, 1):
        page.locator(".tile .tick input").nth(place).check(force=True)


def unticked(page: Any) -> None:
    page.evaluate("document.querySelector('#gallery [data-unpick]')?.click()")


def compared(page: Any) -> None:
    ticked(page)
    page.locator(".picked [data-do=compare]").click()
    page.wait_for_selector(".compare")


def uncompared(page: Any) -> None:
    page.keyboard.press("Escape")
    unticked(page)


def searched(page: Any) -> None:
    tab("gallery")(page)
    page.fill("#gallery [data-search]", "zeppelin")


def unsearched(page: Any) -> None:
    page.fill("#gallery [data-search]", "")


def binned(page: Any) -> None:
    tab("gallery")(page)
    page.evaluate("diffusionLocalRouter.go(diffusionLocalRouter.base + 'gallery?trashed=1')")
    page.wait_for_selector("#gallery [data-key=head]")


def unbinned(page: Any) -> None:
    page.evaluate("diffusionLocalRouter.go(diffusionLocalRouter.base + 'gallery')")


def checked(page: Any) -> None:
    tab("lists")(page)
    page.fill("#list-text textarea", LIST)
    page.click("#list-check")
    page.wait_for_selector(".checked")
    page.evaluate("document.querySelector('#list-text').scrollIntoView()")


def unchecked(page: Any) -> None:
    page.fill("#list-text textarea", "")


def wrong_model(page: Any) -> None:
    tab("models")(page)
    page.fill("#model-source :is(input, textarea)", "not a model")
    page.click("#model-add")
    page.wait_for_selector("#toast .toast")


def health(page: Any) -> None:
    tab("settings")(page)
    page.evaluate("document.querySelector('[data-do=check_health]')?.click()")
    time.sleep(SETTLE * 3)


def timeline(page: Any) -> None:
    tab("queue")(page)
    page.evaluate("document.querySelector('#queue [data-do=what_happened]').click()")
    page.wait_for_selector(".timeline")


def bad_sign_in(page: Any) -> None:
    page.fill("[name=username]", "ada")
    page.fill("[name=password]", "wrong")
    page.click("button.main")
    page.wait_for_selector(".said")


def signed_in(page: Any) -> None:
    page.fill("[name=username]", "ada")
    page.fill("[name=password]", PASSWORD)
    page.click("button.main")
    page.wait_for_selector("#now .now")
    page.goto(page.url.rstrip("/") + "/account")


escape = pressing("Escape")

SHOTS = (
    Shot("01-create-welcome", tab("create")),
    Shot("02-lists-empty", tab("lists")),
    Shot("03-queue-empty", tab("queue")),
    Shot("04-gallery-empty", tab("gallery")),
    Shot("05-models", tab("models")),
    Shot("06-settings", tab("settings")),
    Shot("07-settings-health", health),
    Shot("08-settings-own", lower("settings", "#settings section:nth-of-type(4)")),
    Shot("09-keys", clicking("create", "[data-do=keys]"), put_back=escape, of="desktop"),
    Shot("10-phone", clicking("create", "[data-do=phone]"), put_back=escape, of="desktop"),
    Shot("11-create-idle", tab("create"), pictures),
    Shot("12-create-wrong", wrong, put_back=reload),
    Shot("20-gallery", tab("gallery")),
    Shot("21-gallery-board-menu", clicking("gallery", ".filters .menu summary"), put_back=escape),
    Shot("22-gallery-ticked", ticked, put_back=unticked),
    Shot("23-gallery-compare", compared, put_back=uncompared),
    Shot("24-gallery-nothing", searched, put_back=unsearched),
    Shot("25-gallery-trash", binned, trashed, unbinned),
    Shot("26-viewer", viewer, put_back=escape),
    Shot("27-viewer-below", viewer_below, put_back=escape),
    Shot("30-create-img2img", from_picture),
    Shot("31-create-inpaint", brush, put_back=no_picture),
    Shot("40-create-busy", tab("create"), busy),
    Shot("41-queue-busy", tab("queue")),
    Shot("42-queue-timeline", timeline, put_back=escape),
    Shot("43-models-busy", lower("models", "#models"), lambda h, p: (downloads(h, p), running(h, p))[0]),
    Shot("44-models-wrong", wrong_model),
    Shot("45-models-below", lower("models", "#models > * section:last-of-type")),
    Shot("46-create-paused", tab("create"), paused),
    Shot("47-queue-paused", tab("queue")),
    Shot("48-create-worker-silent", tab("create"), worker_silent),
    Shot("50-lists-checked", checked, lambda h, p: (worker_back(h, p), all_cancelled(h, p))[0], unchecked),
    Shot("51-lists-batches", lower("lists", ".batches"), listed),
    Shot("52-lists-for-all", clicking("lists", "#list-for-all > button", "#list-when > button"), going),
    Shot("53-create-after", tab("create"), all_cancelled),
)
ACCOUNT_SHOTS = (
    Shot("60-sign-in", lambda page: None),
    Shot("61-sign-in-wrong", bad_sign_in),
    Shot("62-account", signed_in),
)
