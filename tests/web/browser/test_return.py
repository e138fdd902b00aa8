"""The server is killed, the network drops, a second device looks: the page comes back by itself and shows the truth."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from diffusion_local.compose import Services, open_services
from diffusion_local.domain import State
from diffusion_local.preferences import restart_file
from diffusion_local.settings import Settings
from tests.forking import Forked, fork, main_of
from tests.support import eventually, tiers
from tests.web.browser.conftest import PHONE, Person
from tests.web.browser.page_actions import (
    answer_dialog,
    batch_in_strip,
    generate,
    open_view,
    show_on_stage,
    unique_prompt,
)
from tests.web.conftest import Site, free_port

pytestmark = pytest.mark.browser

AWAY = "#notices [data-away]"


class Served:
    """A web process that may be killed, and a worker that goes on."""

    def __init__(self, home: Path, **changes: Any) -> None:
        self.settings = Settings.load(
            environ={}, home=home, engine="fake", port=free_port(), fake_step_seconds=0.05, **changes
        )
        self.services: Services = open_services(self.settings)
        self.url = f"http://127.0.0.1:{self.settings.port}{self.settings.root_path}"
        self._log = home / "out"
        self._worker = self._run("worker", "--slot", "cpu0")
        self.web = self._run("web")
        self._answers()

    def _run(self, part: str, *options: str) -> Forked:
        code = main_of(f"diffusion_local.{part}")
        return fork(part, code, *options, "--supervised", env=self.settings.child_environ(), log=self._log)

    def _answers(self) -> None:
        def ready() -> bool:
            try:
                return httpx.get(f"{self.url}/readyz").status_code == 200
            except httpx.TransportError:
                return False

        eventually(ready, 90, 0.2)

    def kill(self) -> None:
        self.web.kill()
        self.web.wait()

    def restart(self) -> None:
        self.web = self._run("web")
        self._answers()

    def close(self) -> None:
        for each in (self.web, self._worker):
            each.kill()
            each.wait()
            each.stdin.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    found = Served(tmp_path_factory.mktemp("returns"))
    yield found
    found.close()


@pytest.fixture
def person(chromium: Any, served: Served) -> Iterator[Person]:
    """Their console may complain of a server that was away."""
    found = Person(chromium.new_context(), Site(served.url, served.services))
    yield found
    found.context.close()


def test_the_page_outlives_its_server_without_a_reload(person: Person, served: Served) -> None:
    page = person.open()
    page.evaluate("window.since = 'the beginning'")
    prompt = unique_prompt("goes on meanwhile")
    page.fill("#count input", "4")
    generate(page, prompt)
    batch_in_strip(page, prompt).locator(".shot").first.wait_for()
    page.fill("#prompt textarea", "half a thou")
    served.kill()
    page.locator(AWAY).wait_for()
    served.restart()
    page.locator(AWAY).wait_for(state="detached")
    page.wait_for_function("document.querySelectorAll('.batch .shot.done').length === 4")
    assert page.evaluate("window.since") == "the beginning"
    assert page.input_value("#prompt textarea") == "half a thou"
    again = unique_prompt("after the restart")
    generate(page, again)
    page.wait_for_function("document.querySelectorAll('.batch .shot.done').length === 8")


@pytest.mark.slow
def test_a_planned_restart_is_told_as_one_and_in_other_tabs_and_browsers_too(
    person: Person, served: Served, chromium: Any
) -> None:
    """The supervisor is played by the test: it takes the request, and kills and starts the web process."""
    locks = served.settings.locks
    (locks / "serve.json").write_text("{}")
    other = person.open()
    phone = Person(chromium.new_context(viewport=PHONE), person.site)
    elsewhere = phone.open()
    page = person.open()
    open_view(page, "settings")
    field = page.locator("#settings .row[data-key=keep_trash_days] input")
    field.fill("11")
    field.press("Tab")
    page.locator("#settings [data-do=restart]").click()
    answer_dialog(page)
    told = page.locator("#notices [data-restarting]")
    told.wait_for()
    elsewhere.locator("#notices [data-restarting]").wait_for()
    assert told.locator(".bar i").is_visible()
    eventually(restart_file(served.settings).exists)
    served.kill()
    other.bring_to_front()
    other.locator("#notices [data-restarting]").wait_for()
    elsewhere.locator("html.studio-away").wait_for(state="attached")
    assert other.locator(AWAY).count() == page.locator(AWAY).count() == elsewhere.locator(AWAY).count() == 0
    restart_file(served.settings).unlink()
    served.restart()
    for each in (other, elsewhere):
        each.locator("#notices [data-restarting]").wait_for(state="detached")
    phone.context.close()
    page.bring_to_front()
    told.wait_for(state="detached")
    served.kill()  # and this one nobody asked for
    page.locator(AWAY).wait_for()
    served.restart()
    page.locator(AWAY).wait_for(state="detached")
    (locks / "serve.json").unlink()


def test_a_press_into_the_void_is_told_and_sent_once_the_studio_is_back(person: Person, served: Served) -> None:
    page = person.open()
    page.evaluate("window.since = 'the beginning'")
    prompt, second = unique_prompt("into the void"), unique_prompt("into the void")
    served.kill()
    generate(page, prompt)  # before the page has noticed
    page.locator(AWAY, has_text="Waiting to be sent: 1").wait_for()
    generate(page, second)
    page.locator(AWAY, has_text="Waiting to be sent: 2").wait_for()
    served.restart()
    page.locator(AWAY).wait_for(state="detached")
    for each in (prompt, second):
        batch_in_strip(page, each).locator(".shot.done").first.wait_for()
        assert [job.params.prompt for job in served.services.studio.jobs()].count(each) == 1
    assert page.evaluate("window.since") == "the beginning"
    assert page.evaluate("sessionStorage.getItem('diffusion-local-pressed')") == "0"


@pytest.mark.slow
def test_an_action_into_the_void_is_told_at_once_and_can_be_repeated(person: Person, served: Served) -> None:
    page = person.open()
    served.kill()
    page.click("#bar [data-do=keys]")
    page.locator("#toast .toast", has_text="did not respond").wait_for()
    page.locator(AWAY).wait_for()
    served.restart()
    page.locator(AWAY).wait_for(state="detached")
    page.click("#bar [data-do=keys]")
    page.locator("[role=dialog]").wait_for()


LOADING = """() => {
  const found = gradio_config.dependencies.filter(({ api_name: name }) => name.startsWith("repeatable"));
  return [found.map(({ id }) => id), found.find(({ api_name: name }) => name === "repeatable_press").id];
}"""


@pytest.mark.parametrize("cut", tiers(["before the answer", "answered by a proxy"], first=["before the answer"]))
@pytest.mark.slow
def test_a_studio_that_dies_while_the_page_loads_costs_no_press(person: Person, served: Served, cut: str) -> None:
    """The page asks for its choices as it loads. That call is lost with the server; then Generate is pressed."""
    page = person.open()
    page.locator("#source .source").wait_for(state="attached")
    _, of_press = page.evaluate(LOADING)
    served.kill()
    lost: list[int] = []
    page.route("**/gradio_api/run/predict*", lambda route: refuse(route, lost, cut))
    page.fill("#width input", "136")
    page.fill("#prompt textarea", prompt := unique_prompt("while it loads"))
    eventually(lambda: lost or page.wait_for_timeout(50))  # an event that is no press has failed
    page.click("#generate")
    eventually(lambda: of_press in lost or page.wait_for_timeout(50))
    page.locator(AWAY).wait_for()
    page.unroute("**/gradio_api/run/predict*")
    served.restart()
    batch_in_strip(page, prompt).locator(".shot.done").first.wait_for()
    assert [job.params.prompt for job in served.services.studio.jobs()].count(prompt) == 1


def refuse(route: Any, lost: list[int], cut: str) -> None:
    if cut == "before the answer":
        route.abort()
    else:
        route.fulfill(status=502, content_type="text/html", body="<h1>Bad Gateway</h1>")
    lost.append(route.request.post_data_json["fn_index"])


def test_a_page_whose_first_calls_are_lost_becomes_whole(person: Person, served: Served) -> None:
    page = person.context.new_page()
    lost: list[int] = []
    page.route("**/gradio_api/run/predict*", lambda route: refuse(route, lost, "before the answer"))
    page.goto(served.url)
    page.wait_for_selector("#generate")
    eventually(lambda: lost or page.wait_for_timeout(50))
    assert page.locator("#source .source").count() == 0
    page.unroute("**/gradio_api/run/predict*")
    page.locator("#source .source").wait_for(state="attached")
    page.locator("#size label").nth(1).wait_for()


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_a_dropped_network_is_told_and_what_happened_meanwhile_is_shown(person: Person, served: Served) -> None:
    page = person.open()
    open_view(page, "gallery")
    person.context.set_offline(True)
    page.locator(AWAY).wait_for()
    prompt = unique_prompt("made meanwhile")
    served.services.studio.wait(served.services.studio.submit(prompt, width=128, height=128, steps=2).job_ids, 30)
    person.context.set_offline(False)
    page.click("[data-fresh]")
    page.locator(f".tile img[alt='{prompt}']").wait_for()
    assert page.locator(AWAY).count() == 0


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_a_page_in_the_background_looks_rarely_and_at_once_when_it_is_back(person: Person, served: Served) -> None:
    page = person.open()
    page.evaluate("""() => {
      window.looks = 0;
      const { fetch } = window;
      window.fetch = (address, ...rest) => {
        if (String(address).endsWith("/look")) window.looks += 1;
        return fetch(address, ...rest);
      };
      Object.defineProperty(document, "hidden", { get: () => window.away ?? false, configurable: true });
      window.away = true;
    }""")
    page.wait_for_timeout(6500)  # one that was on its way, and one each five seconds
    assert page.evaluate("window.looks") <= 3
    before = page.evaluate("window.looks")
    page.evaluate("() => { window.away = false; document.dispatchEvent(new Event('visibilitychange')); }")
    page.wait_for_function(f"window.looks > {before}", timeout=1000)


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_what_one_device_does_the_other_sees(chromium: Any, person: Person, served: Served) -> None:
    page = person.open()
    phone = Person(chromium.new_context(viewport=PHONE), Site(served.url, served.services))
    try:
        other = phone.open()
        generate(page, unique_prompt("runs first [slow:0.3]"))
        other.locator("#now [data-do=pause]").click()
        page.locator("[data-do=resume]").first.wait_for()
        prompt = unique_prompt("waits for both")
        generate(page, prompt)
        batch_in_strip(page, prompt).locator(".shot.queued").first.wait_for()
        open_view(other, "queue")
        other.locator("#queue", has_text=prompt).wait_for()
        page.click("[data-do=resume]")
        other.locator("[data-do=resume]").first.wait_for(state="detached")
        batch_in_strip(page, prompt).locator(".shot.done").first.wait_for()
    finally:
        phone.context.close()
    assert served.services.studio.snapshot().counts[State.QUEUED] == 0


@pytest.mark.slow
def test_below_a_path_everything_is_found(chromium: Any, tmp_path: Path) -> None:
    below = Served(tmp_path, root_path="/studio", auth="none")
    context = chromium.new_context()
    bad: list[str] = []

    def heard(response: Any) -> None:
        path = response.url.removeprefix(f"http://127.0.0.1:{below.settings.port}")
        if response.url.startswith("http") and (response.status >= 400 or not path.startswith("/studio/")):
            bad.append(f"{response.status} {response.url}")

    try:
        context.on("response", heard)
        guest = Person(context, Site(f"{below.url}/", below.services))
        page = guest.open()
        prompt = unique_prompt("below a path")
        generate(page, prompt)
        card = batch_in_strip(page, prompt).locator(".shot.done").first
        card.wait_for()
        seen = "document.querySelector('.shot.done img')?.naturalWidth > 0"
        page.wait_for_function(seen)
        show_on_stage(page, card).locator("a.open").click()
        page.wait_for_function("document.querySelector('.stage img')?.naturalWidth > 0")
        with page.expect_download() as download:
            page.click("[role=dialog] a[download]")
        assert download.value.path().stat().st_size > 1000
        page.click("[role=dialog] [data-do=to_img2img]")
        page.wait_for_function("document.querySelector('#source .begin img')?.naturalWidth > 0")
        for tab in page.evaluate(
            "[...document.querySelectorAll('#tabs [role=tab]')].map((each) => each.dataset.tabId)"
        ):
            if tab:
                open_view(page, tab)
                page.wait_for_function(f"diffusionLocalLook.drawn['{tab}']")
        links = page.evaluate(
            "[...document.querySelectorAll('a[href], img[src]')].map((each) => each.href || each.src)"
        )
        for link in {each.split("#")[0] for each in links if each.startswith("http://127.0.0.1")}:
            assert context.request.get(link).status < 400, link
        assert context.request.get(f"{below.url}/api/v1/queue").status == 200
        open_view(page, "create")
        page.reload()
        batch_in_strip(page, prompt).locator(".shot.done").first.wait_for()
        assert bad == []
        assert guest.complaints == []
    finally:
        context.close()
        below.close()
