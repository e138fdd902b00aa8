"""The Models tab: what it shows, what its buttons and its line do."""

import re
from pathlib import Path
from typing import Any

import pytest

from diffusion_local import families
from diffusion_local.compose import Services
from diffusion_local.domain import DeviceMemory, Fit, Kind
from diffusion_local.engine.memory import GIB
from diffusion_local.hub.downloads import DownloadState
from diffusion_local.models.curated import curated_models
from diffusion_local.studio import Studio
from diffusion_local.web import page_delta
from diffusion_local.web.ui import actions, form, tab_create, tab_models, view
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
    return actions.act(studio, Click(verb, key))  # type: ignore[arg-type]


def card(html: str, model: str) -> str:
    found = re.search(
        rf'<article class="model(?: plain)?" data-key="\w+-{re.escape(model)}".*?</article>', html, re.DOTALL
    )
    assert found, f"no card of {model}"
    return found[0]


def test_an_empty_home_shows_the_starter_and_where_more_comes_from(studio: Studio) -> None:
    html = drawn(studio)
    assert "without any download" in html
    assert html.count('data-section="models"') == 1
    assert 'data-do="remove_model"' not in html
    offered = re.findall(r'data-do="download_model" data-id="([^"]+)"', html)
    assert "stabilityai/stable-diffusion-xl-base-1.0" in offered
    for folder in ("loras", "vae", "upscalers", "embeddings"):
        assert f"<code>{folder}</code>" in html
    assert "Downloads</h2>" not in html


def test_only_models_that_can_run_are_offered(studio: Studio) -> None:
    assert all(families.get(each.family).supported for each in studio.library.known())


def test_a_card_says_what_it_is_or_why_it_cannot_be_used(services: Services) -> None:
    write_header(services.settings.models / "fine.safetensors", files.SDXL, {"modelspec.title": "<Fine>"})
    write_header(services.settings.models / "flux.safetensors", files.FLUX)
    html = drawn(services.studio)
    fine, flux = card(html, "fine"), card(html, "flux")
    assert "&lt;Fine&gt;" in fine
    assert "SDXL" in fine
    assert 'data-do="use_model"' in fine
    assert "decided at the first picture" in fine
    assert "It is FLUX.1 schnell (fp16), which also needs T5-XXL and the VAE of FLUX.1" in flux
    assert "<dt>Precision</dt><dd>fp16</dd>" in fine
    assert 'data-do="use_model"' not in flux


def test_a_card_shows_the_newest_picture_and_how_memory_was_managed(services: Services) -> None:
    made(services)
    newest = made(services, seed=8)
    services.fits.save(Fit("starter", Kind.TXT2IMG, 256, 256, "GPU", "model_offload", 2_000_000_000))
    starter = card(drawn(services.studio), "starter")
    assert f'data-id="{newest.id}"' in starter
    assert "part by part on the GPU at 256×256, 2.0 GB at peak" in starter


def test_a_card_says_before_the_first_picture_how_memory_will_be_managed(services: Services) -> None:
    for slot in ("gpu0", "gpu1"):
        services.workers.register(slot, 1, "A GPU", DeviceMemory("cuda", 12 * GIB, True))
        services.workers.update(slot, "idle", free=11 * GIB)
    told = card(drawn(services.studio), "starter")
    assert re.search(r"GPU 0, 1: all in memory, about \d+ MB of 12\.9 GB", told)
    services.workers.update("gpu1", "idle", free=1)
    told = card(drawn(services.studio), "starter")
    assert "GPU 1: layer by layer" in told
    assert "it may not fit" in told
    with speaking("zh"):
        assert "GPU 0：全部驻留内存，约需" in card(drawn(services.studio), "starter")


def test_the_hubs_models_say_what_is_more_than_the_machine_has(services: Services) -> None:
    def told(model: str) -> str:
        return card(drawn(services.studio), model)

    small, large = "stabilityai/sd-turbo", "black-forest-labs/FLUX.1-schnell"
    assert "larger than" not in told(large)
    services.workers.register("gpu0", 1, "A GPU", DeviceMemory("cuda", 12 * GIB, True))
    assert "larger than the GPU: its parts move there when needed" in told(large)
    assert "larger than" not in told(small)
    services.workers.register("gpu1", 1, "A GPU", DeviceMemory("cuda", 80 * GIB, True))
    assert "larger than" not in told(large)
    services.workers.update("gpu0", "stopped")
    services.workers.register("gpu1", 1, "CPU", DeviceMemory("cpu", 5 * GIB))
    assert "more than this machine’s memory" in told(small)  # 3.2 GB in half precision, so 6.4


def test_downloads_show_their_progress_and_what_went_wrong(services: Services) -> None:
    library = services.studio.library
    loading = library.download("a/loading")
    services.downloads.claim()
    services.downloads.report(loading.id, 1_500_000_000, 6_000_000_000)
    library.download("a/waits")
    html = drawn(services.studio)
    assert 'aria-valuenow="25"' in html
    assert "1.5 GB of 6.0 GB" in html
    assert html.count('data-do="cancel_download"') == 2
    services.downloads.fail(loading.id, "gated", "It is gated.")
    html = drawn(services.studio)
    assert "It is gated." in html
    assert f'data-do="retry_download" data-id="{loading.id}"' in html


def test_the_tab_is_drawn_anew_for_bytes_and_for_files(services: Services) -> None:
    told, _ = page_delta.delta_since(services.studio, "", "models", [])
    assert page_delta.delta_since(services.studio, told, "models", []) is None
    write_header(services.settings.models / "new.safetensors", files.SD1)
    fresh, parts = page_delta.delta_since(services.studio, told, "models", [])
    assert "new" in parts["models"]
    download = services.studio.library.download("a/b")
    services.downloads.claim()
    told, _ = page_delta.delta_since(services.studio, fresh, "models", [])
    services.downloads.report(download.id, 10, 100)
    assert "models" in page_delta.delta_since(services.studio, told, "models", [])[1]


def test_use_this_fills_the_form_with_the_models_defaults(services: Services) -> None:
    write_header(services.settings.models / "some_sdxl_turbo.safetensors", files.SDXL)
    outputs = act(services.studio, "use_model", "some_sdxl_turbo")
    values = dict(zip(form.FORM_FIELDS, outputs[-len(form.FORM_FIELDS) :], strict=True))
    assert (values["width"], values["steps"], values["sampler"]) == (512, 4, "Euler a")
    assert values["model"].value == "some_sdxl_turbo"
    assert not isinstance(values["prompt"], str)


def test_remove_says_where_the_files_are(services: Services) -> None:
    write_header(services.settings.models / "mine.safetensors", files.SD1)
    assert "removed" in act(services.studio, "remove_model", "mine")[0]
    assert not (services.settings.models / "mine.safetensors").exists()
    assert "warn" in act(services.studio, "remove_model", "mine")[0]


def test_the_precision_of_a_model_is_chosen_on_its_card(services: Services) -> None:
    assert "✓ as in the settings" in card(drawn(services.studio), "starter")
    assert "nf4" in act(services.studio, "model_precision", "nf4 starter")[0]
    assert services.studio.library.model("starter").chosen_precision == "nf4"
    assert "✓ nf4" in card(drawn(services.studio), "starter")
    act(services.studio, "model_precision", " starter")
    assert services.studio.library.model("starter").chosen_precision == ""


def test_download_cancel_and_try_again(services: Services) -> None:
    library = services.studio.library
    assert "queued for download" in act(services.studio, "download_model", "stabilityai/sdxl-turbo")[0]
    [download] = library.downloads()
    act(services.studio, "cancel_download", download.id)
    assert library.downloads()[0].state is DownloadState.CANCELLED
    act(services.studio, "retry_download", download.id)
    assert library.downloads()[0].state is DownloadState.WAITING
    assert "no download" in act(services.studio, "retry_download", "x")[0]


def test_the_offered_model_shows_its_download_where_it_was_pressed(services: Services) -> None:
    studio, now = services.studio, view.utc()

    def shown() -> list[str]:
        welcome = tab_create.draw(studio, studio.snapshot(), now, "", "").split("more-models")[-1]
        notice = drawn(studio).split('data-key="suited"')[1].split("<section")[0]
        return [welcome, notice]

    first = tab_create.first_model(studio)
    assert first
    assert all("download_model" in each for each in shown())
    act(studio, "download_model", first.model.id)
    download = services.downloads.claim()
    assert all("cancel_download" in each and "download_model" not in each for each in shown())
    services.downloads.fail(download.id, "unreachable", "The hub cannot be reached.")
    assert all("hub cannot be reached" in each and "retry_download" in each for each in shown())
    act(studio, "retry_download", download.id)
    services.downloads.fail(services.downloads.claim().id, "unreachable", "Still away.")
    assert "Still away." in drawn(studio)
    assert "The hub cannot be reached." not in drawn(studio)  # the earlier try
    studio.library.download("a/nother")
    assert tab_create.first_model(studio) is None  # another model is on its way


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
    assert "queued for download" in toast
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


def test_it_speaks_chinese_also_about_what_is_wrong(services: Services) -> None:
    (services.settings.models / "old.ckpt").write_bytes(b"<html>")
    with speaking("zh"):
        html = drawn(services.studio)
    assert "是网页，不是模型" in html
    assert "来自 Hub" in html


@pytest.mark.parametrize(
    ("wish", "source"),
    [
        ("https://example.com/a/style.safetensors?key=secret", "https://example.com/a/style.safetensors"),
        ("https://civitai.com/models/4384/x?modelVersionId=128713", "civitai:128713"),
        ("https://huggingface.co/a/b/blob/main/x/style.safetensors", "a/b"),
    ],
)
def test_the_line_takes_addresses(studio: Studio, wish: str, source: str) -> None:
    toast, emptied = tab_models.on_add(studio, wish, "loras")
    assert emptied == ""
    assert source in str(toast)
    assert "secret" not in str(toast)
    assert (studio.library.downloads()[0].source, studio.library.downloads()[0].folder) == (source, "loras")


def test_what_is_said_of_a_known_model_is_in_the_language_of_the_request(services: Services) -> None:
    with speaking("zh"):
        html = drawn(services.studio)
    assert "小巧快速，可用的 LoRA 最多。" in html
    assert "Small and quick" not in html
    assert all(bool(each.about) == bool(each.about_zh) for each in curated_models())
