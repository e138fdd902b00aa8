"""The Models tab: what it shows, what its buttons and its line do."""

import re
from pathlib import Path
from typing import Any

import pytest

from diffusion_local import families
from diffusion_local.compose import House
from diffusion_local.domain import Fit, Kind, Room
from diffusion_local.engine.memory import GIB
from diffusion_local.store.downloads import DownloadState
from diffusion_local.studio import Studio
from diffusion_local.web.ui import actions, form, look, tab_models, view
from diffusion_local.web.ui.words import speaking
from tests.models import files
from tests.models.files import write_header
from tests.web.conftest import made


class Click:
    def __init__(self, verb: str, key: str = "") -> None:
        self._data = {"do": verb, "id": key}


def drawn(studio: Studio) -> str:
    return tab_models.draw(studio, studio.snapshot(), view.utc())


def act(studio: Studio, verb: str, key: str = "") -> list[Any]:
    return actions.act(studio, Click(verb, key), "")  # type: ignore[arg-type]


def card(html: str, model: str) -> str:
    found = re.search(rf'<article class="model" data-key="{re.escape(model)}">.*?</article>', html, re.DOTALL)
    assert found, f"no card of {model}"
    return found[0]


def test_an_empty_home_shows_the_starter_and_where_more_comes_from(studio: Studio) -> None:
    html = drawn(studio)
    assert "without any download" in html
    assert html.count('<article class="model"') == 1
    assert 'data-do="remove_model"' not in html
    offered = re.findall(r'data-do="download_model" data-id="([^"]+)"', html)
    assert "stabilityai/stable-diffusion-xl-base-1.0" in offered
    for folder in ("loras", "vae", "upscalers", "embeddings"):
        assert f"“{folder}”" in html
    assert "Downloads</h2>" not in html


def test_only_models_that_can_run_are_offered(studio: Studio) -> None:
    assert all(families.get(each.family).supported for each in studio.library.known())


def test_a_card_says_what_it_is_or_why_it_cannot_be_used(house: House) -> None:
    write_header(house.settings.models / "fine.safetensors", files.SDXL, {"modelspec.title": "<Fine>"})
    write_header(house.settings.models / "flux.safetensors", files.FLUX)
    html = drawn(house.studio)
    fine, flux = card(html, "fine"), card(html, "flux")
    assert "&lt;Fine&gt;" in fine
    assert "SDXL" in fine
    assert 'data-do="use_model"' in fine
    assert "decided at the first picture" in fine
    assert "Not yet" in flux
    assert "FLUX.1 schnell as a diffusers folder" in flux
    assert "<dt>Precision</dt><dd>fp16</dd>" in fine
    assert 'data-do="use_model"' not in flux


def test_a_card_shows_the_newest_picture_and_how_memory_was_managed(house: House) -> None:
    made(house)
    newest = made(house, seed=8)
    house.fits.learn(Fit("starter", Kind.TXT2IMG, 256, 256, "GPU", "model_offload", 2_000_000_000))
    starter = card(drawn(house.studio), "starter")
    assert f'data-id="{newest.id}"' in starter
    assert "part by part on the GPU at 256×256, 2.0 GB at the most" in starter


def test_a_card_says_before_the_first_picture_how_memory_will_be_managed(house: House) -> None:
    for slot in ("gpu0", "gpu1"):
        house.workers.register(slot, 1, "A GPU", Room("cuda", 12 * GIB, True))
        house.workers.tell(slot, "idle", free=11 * GIB)
    told = card(drawn(house.studio), "starter")
    assert re.search(r"GPU 0, 1: all in memory, about \d\.\d of 12\.0 GiB<", told)
    house.workers.tell("gpu1", "idle", free=1)
    told = card(drawn(house.studio), "starter")
    assert "GPU 1: layer by layer" in told
    assert "it may not fit" in told
    with speaking("zh"):
        assert "GPU 0：全部驻留内存，约需" in card(drawn(house.studio), "starter")


def test_the_hubs_models_say_what_is_more_than_the_machine_has(house: House) -> None:
    def told(model: str) -> str:
        found = re.search(rf'<li class="row" data-key="{re.escape(model)}">.*?</li>', drawn(house.studio), re.DOTALL)
        assert found
        return found[0]

    small, large = "stabilityai/sd-turbo", "black-forest-labs/FLUX.1-schnell"
    assert "larger than" not in told(large)
    house.workers.register("gpu0", 1, "A GPU", Room("cuda", 12 * GIB, True))
    assert "larger than the GPU: its parts move there when needed" in told(large)
    assert "larger than" not in told(small)
    house.workers.register("gpu1", 1, "A GPU", Room("cuda", 80 * GIB, True))
    assert "larger than" not in told(large)
    house.workers.tell("gpu0", "stopped")
    house.workers.register("gpu1", 1, "CPU", Room("cpu", 5 * GIB))
    assert "more than this machine’s memory" in told(small)  # 3.2 GB in half precision, so 6.4


def test_downloads_show_their_progress_and_what_went_wrong(house: House) -> None:
    library = house.studio.library
    loading = library.download("a/loading")
    house.downloads.claim()
    house.downloads.report(loading.id, 1_500_000_000, 6_000_000_000)
    library.download("a/waits")
    html = drawn(house.studio)
    assert 'aria-valuenow="25"' in html
    assert "1.5 GB of 6.0 GB" in html
    assert html.count('data-do="cancel_download"') == 2
    house.downloads.fail(loading.id, "gated", "It is gated.")
    html = drawn(house.studio)
    assert "It is gated." in html
    assert f'data-do="retry_download" data-id="{loading.id}"' in html


def test_the_tab_is_drawn_anew_for_bytes_and_for_files(house: House) -> None:
    told, _ = look.look(house.studio, "", "models", [])
    assert look.look(house.studio, told, "models", []) is None
    write_header(house.settings.models / "new.safetensors", files.SD1)
    fresh, parts = look.look(house.studio, told, "models", [])
    assert "new" in parts["models"]
    download = house.studio.library.download("a/b")
    house.downloads.claim()
    told, _ = look.look(house.studio, fresh, "models", [])
    house.downloads.report(download.id, 10, 100)
    assert "models" in look.look(house.studio, told, "models", [])[1]


def test_use_this_fills_the_form_with_the_models_defaults(house: House) -> None:
    write_header(house.settings.models / "some_sdxl_turbo.safetensors", files.SDXL)
    outputs = act(house.studio, "use_model", "some_sdxl_turbo")
    values = dict(zip(form.NAMES, outputs[-len(form.NAMES) :], strict=True))
    assert (values["width"], values["steps"], values["sampler"]) == (512, 4, "Euler a")
    assert values["model"].value == "some_sdxl_turbo"
    assert not isinstance(values["prompt"], str)


def test_remove_says_where_the_files_are(house: House) -> None:
    write_header(house.settings.models / "mine.safetensors", files.SD1)
    assert "removed" in act(house.studio, "remove_model", "mine")[0]
    assert not (house.settings.models / "mine.safetensors").exists()
    assert "warn" in act(house.studio, "remove_model", "mine")[0]


def test_download_cancel_and_try_again(house: House) -> None:
    library = house.studio.library
    assert "in line" in act(house.studio, "download_model", "stabilityai/sdxl-turbo")[0]
    [download] = library.downloads()
    act(house.studio, "cancel_download", download.id)
    assert library.downloads()[0].state is DownloadState.CANCELLED
    act(house.studio, "retry_download", download.id)
    assert library.downloads()[0].state is DownloadState.WAITING
    assert "no download" in act(house.studio, "retry_download", "x")[0]


@pytest.mark.parametrize(
    ("wish", "repo", "file"),
    [
        ("stabilityai/sdxl-turbo", "stabilityai/sdxl-turbo", ""),
        (" https://huggingface.co/stabilityai/sdxl-turbo ", "stabilityai/sdxl-turbo", ""),
        ("a/b/sub/x.safetensors", "a/b", "sub/x.safetensors"),
        ("https://huggingface.co/a/b/blob/main/x.safetensors", "a/b", "x.safetensors"),
    ],
)
def test_the_line_takes_an_id_or_an_address_of_the_hub(studio: Studio, wish: str, repo: str, file: str) -> None:
    toast, emptied = tab_models.on_add(studio, wish, "models")
    assert "in line to be downloaded" in toast
    assert emptied == ""
    [download] = studio.library.downloads()
    assert (download.repo, download.file) == (repo, file)


def test_the_line_takes_a_path_of_this_machine(studio: Studio, tmp_path: Path) -> None:
    path = write_header(tmp_path / "mine.safetensors", files.SD1)
    toast, emptied = tab_models.on_add(studio, str(path), "models")
    assert "Added: mine" in toast
    assert emptied == ""


@pytest.mark.parametrize("wish", ["", "nonsense", "/no/such/file", None, 7])
def test_a_bad_wish_is_told_and_stays_in_the_line(studio: Studio, wish: Any) -> None:
    toast, emptied = tab_models.on_add(studio, wish, "models")
    assert "warn" in toast
    assert emptied != ""


def test_it_speaks_chinese_also_about_what_is_wrong(house: House) -> None:
    (house.settings.models / "old.ckpt").write_bytes(b"<html>")
    with speaking("zh"):
        html = drawn(house.studio)
    assert "是网页，不是模型" in html
    assert "来自 Hub" in html
