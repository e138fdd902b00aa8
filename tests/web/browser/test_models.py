"""The models in a browser: shown, added, used; a download asked for and stopped."""

from typing import Any

import pytest

from tests.models import files
from tests.models.files import write_header
from tests.web.browser.ways import fits, go
from tests.web.conftest import Site

playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

pytestmark = pytest.mark.browser


def test_models_are_shown_added_used_and_cancelled(page: Any, site: Site, tmp_path: Any) -> None:
    library = site.services.studio.library
    go(page, "models")
    page.wait_for_selector("#models .model[data-key=starter]")
    assert fits(page)
    path = write_header(tmp_path / "elsewhere_lightning.safetensors", files.SDXL)
    page.fill("#model-source :is(input, textarea)", str(path))
    page.click("#model-add")
    card = page.locator("#models .model[data-key=elsewhere_lightning]")
    card.wait_for()
    card.locator("[data-do=use_model]").click()
    page.wait_for_url("**/ui/create")
    page.wait_for_function("document.querySelector('#model input')?.value.includes('elsewhere_lightning')")
    go(page, "models")
    page.fill("#model-source :is(input, textarea)", "someone/some-model")
    page.press("#model-source :is(input, textarea)", "Enter")
    row = page.locator("#models .row", has_text="someone/some-model")
    row.locator("[data-do=cancel_download]").click()
    page.wait_for_function("document.querySelector('#models .row .quiet').textContent.includes('cancelled')")
    library.remove("elsewhere_lightning")
    card.wait_for(state="detached")
