"""A download ends with a model that is whole, or with a sentence; it goes on where it broke off."""

import json
import logging
import threading
from pathlib import Path
from typing import Any

import pytest

from diffusion_local.compose import Services
from diffusion_local.hub import fetcher as fetcher_module
from diffusion_local.hub.downloads import Download, DownloadState
from diffusion_local.hub.fetcher import Fetcher
from diffusion_local.paths import assets
from tests.hub.conftest import FakeHub
from tests.models import files
from tests.models.files import write_header
from tests.support import eventually

REPO = "someone/tiny-model"


@pytest.fixture
def starter(hub: FakeHub) -> dict[str, bytes]:
    """The bundled starter as a repository, with what a download must leave alone."""
    folder = assets() / "starter"
    names = ("model_index.json", "scheduler", "text_encoder", "tokenizer", "unet", "vae")
    content = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for name in names
        for path in ([folder / name] if (folder / name).is_file() else (folder / name).rglob("*"))
        if path.is_file()
    }
    extras = {
        "README.md": b"# words", "unet/diffusion_pytorch_model.bin": b"PK", "v1-5-pruned.safetensors": b"x" * 100,
        "unet/code.py": b"import os", "safety_checker/model.safetensors": b"y" * 100,
    }  # fmt: skip
    hub.repos[REPO] = content | extras
    return content


def loaded(services: Services, **wish: Any) -> Download:
    download = services.studio.library.download(**{"repo": REPO} | wish)
    Fetcher(services.settings, services.downloads, pause=0.01).run()
    return services.downloads.get(download.id)


def test_a_model_comes_whole_and_is_ready_and_nothing_else_comes(
    services: Services, hub: FakeHub, starter: dict[str, bytes]
) -> None:
    download = loaded(services)
    assert (download.state, download.error_message) == (DownloadState.DONE, "")
    folder = services.settings.models / "tiny-model"
    came = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert json.loads(came.pop("diffusion-local.json"))["repo"] == REPO
    assert came == starter
    assert download.bytes_done == download.bytes_total == sum(map(len, starter.values()))
    model = services.studio.library.model("tiny-model")
    assert (model.ready, model.source, model.hub_id) == (True, "hub", REPO)
    assert list(services.settings.models.glob(".*")) == []


def test_the_smaller_form_of_weights_is_chosen(services: Services, hub: FakeHub, starter: dict[str, bytes]) -> None:
    weights = next(path for path in starter if path.startswith("vae/") and path.endswith(".safetensors"))
    hub.repos[REPO][weights.replace(".safetensors", ".fp16.safetensors")] = starter[weights]
    hub.repos[REPO][weights.replace(".safetensors", ".non_ema.safetensors")] = b"z" * 10
    loaded(services)
    names = [path.name for path in (services.settings.models / "tiny-model/vae").glob("*.safetensors")]
    assert names == [Path(weights).name.replace(".safetensors", ".fp16.safetensors")]


def test_a_line_that_drops_is_taken_up_where_it_broke(
    services: Services, hub: FakeHub, starter: dict[str, bytes]
) -> None:
    hub.break_after = [30_000, 20_000]
    assert loaded(services).state is DownloadState.DONE
    assert len(hub.sent_ranges()) == 2
    assert all(sent.startswith("bytes=") and sent != "bytes=0-" for sent in hub.sent_ranges())


def test_a_server_without_ranges_begins_anew(services: Services, hub: FakeHub, starter: dict[str, bytes]) -> None:
    hub.ranges = False
    hub.break_after = [30_000]
    assert loaded(services).state is DownloadState.DONE
    assert services.studio.library.model("tiny-model").ready


def test_one_that_broke_off_for_good_goes_on_when_asked_again(
    services: Services, hub: FakeHub, starter: dict[str, bytes]
) -> None:
    hub.break_after = [30_000, *([10] * 20)]
    failed = loaded(services)
    assert (failed.state, failed.error_kind) == (DownloadState.FAILED, "no_network")
    assert "resumes where it stopped" in failed.error_message
    hub.break_after = []
    hub.asked.clear()
    assert loaded(services).state is DownloadState.DONE
    assert len(hub.sent_ranges()) == 1
    assert len(hub.paths()) < len(starter) + 1


def test_other_content_than_announced_is_thrown_away(
    services: Services, hub: FakeHub, starter: dict[str, bytes]
) -> None:
    hub.wrong = {next(path for path in starter if path.endswith(".safetensors"))}
    failed = loaded(services)
    assert (failed.state, failed.error_kind) == (DownloadState.FAILED, "checksum")
    assert not (services.settings.models / "tiny-model").exists()
    hub.wrong = set()
    assert loaded(services).state is DownloadState.DONE


def test_small_files_are_checked_too(services: Services, hub: FakeHub, starter: dict[str, bytes]) -> None:
    hub.wrong = {"unet/config.json"}
    assert loaded(services).error_kind == "checksum"


def test_a_busy_hub_is_asked_again(services: Services, hub: FakeHub, starter: dict[str, bytes]) -> None:
    hub.busy = 3
    assert loaded(services).state is DownloadState.DONE


@pytest.mark.parametrize(
    ("token", "words"), [("", "set it as `hub_token`"), ("wrong", "with the account of your access token")]
)
def test_a_gated_model_says_what_to_do(
    services: Services,
    hub: FakeHub,
    starter: dict[str, bytes],
    token: str,
    words: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from dataclasses import replace

    hub.gated = {REPO}
    services = replace(services, settings=replace(services.settings, hub_token=token))
    failed = loaded(services)
    assert (failed.state, failed.error_kind) == (DownloadState.FAILED, "gated")
    assert words in failed.error_message


def test_the_token_is_sent_and_never_told(
    services: Services,
    hub: FakeHub,
    starter: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "right")
    hub.gated = {REPO}
    with caplog.at_level(logging.DEBUG):
        assert loaded(services).state is DownloadState.DONE
    assert {token for _, _, token in hub.asked} == {"Bearer right"}
    assert "Bearer" not in caplog.text


@pytest.mark.parametrize(
    ("repo", "content", "kind", "words"),
    [
        ("no/body", None, "unknown_repo", "no repository 'no/body'"),
        ("a/notes", {"README.md": b""}, "not_a_model", "neither a diffusers model nor a file of weights"),
        ("a/files", {"x.safetensors": b""}, "not_a_model", "Name one of its files instead: x.safetensors"),
        ("a/pickle", {"unet/model.bin": b"", "unet/config.json": b"{}"}, "pickle", "its unet only as a pickle file"),
        ("a/empty", {}, "not_a_model", "no parts"),
        ("a/evil", {"../../evil.json": b""}, "hub_error", "cannot be read"),
    ],
)
def test_what_cannot_be_had_is_named(
    services: Services, hub: FakeHub, repo: str, content: Any, kind: str, words: str
) -> None:
    if content is not None:
        index = json.dumps({"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]})
        with_index = {"model_index.json": index.encode()} if repo in ("a/pickle", "a/empty") else {}
        hub.repos[repo] = content | with_index
    failed = loaded(services, repo=repo)
    assert (failed.state, failed.error_kind) == (DownloadState.FAILED, kind)
    assert words in failed.error_message


def test_an_unknown_revision_is_named(services: Services, hub: FakeHub, starter: dict[str, bytes]) -> None:
    assert "no such revision" in loaded(services, revision="v9").error_message


def test_a_hub_that_is_not_there_is_named(services: Services, hub: FakeHub) -> None:
    from dataclasses import replace

    services = replace(services, settings=replace(services.settings, hub_endpoint="http://127.0.0.1:9"))
    failed = loaded(services)
    assert failed.error_kind == "no_network"
    assert "hub_endpoint" in failed.error_message


def test_without_room_nothing_is_begun(
    services: Services, hub: FakeHub, starter: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(fetcher_module.shutil, "disk_usage", lambda _: usage(0, 0, 500_000_000 + 1000))
    failed = loaded(services)
    assert failed.error_kind == "no_space"
    assert "disk is full" in failed.error_message
    assert hub.paths() == ["model_index.json"]


def test_one_file_goes_into_the_folder_named(services: Services, hub: FakeHub, tmp_path: Path) -> None:
    lora = write_header(tmp_path / "x", files.LORA).read_bytes()
    hub.repos["a/loras"] = {"nested/style.safetensors": lora, "old.ckpt": b"PK"}
    assert loaded(services, repo="a/loras", file="nested/style.safetensors", into="loras").state is DownloadState.DONE
    assert [each.name for each in services.catalog.loras() if each.ready] == ["style"]
    assert list(services.settings.loras.glob(".*")) == []
    missing = loaded(services, repo="a/loras", file="none.safetensors", into="loras")
    assert "has no file 'none.safetensors'. It has: nested/style.safetensors" in missing.error_message


def test_cancelling_stops_at_the_next_piece_and_clears_up(
    services: Services, hub: FakeHub, starter: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetcher_module, "REPORT_SECONDS", 0.0)
    hub.hold = threading.Event()
    download = services.studio.library.download(REPO)
    fetcher = Fetcher(services.settings, services.downloads, pause=0.01)
    thread = threading.Thread(target=fetcher.run)
    thread.start()
    eventually(lambda: services.downloads.get(download.id).bytes_done > 50_000)
    services.studio.library.cancel_download(download.id)
    hub.hold.set()
    thread.join(10)
    assert services.downloads.get(download.id).state is DownloadState.CANCELLED
    assert list(services.settings.models.glob("*")) == []


def test_a_process_that_ends_keeps_what_is_there_and_the_next_goes_on(
    services: Services, hub: FakeHub, starter: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetcher_module, "REPORT_SECONDS", 0.0)
    hub.hold = threading.Event()
    download = services.studio.library.download(REPO)
    fetcher = Fetcher(services.settings, services.downloads, pause=0.01)
    thread = threading.Thread(target=fetcher.run)
    thread.start()
    eventually(lambda: services.downloads.get(download.id).bytes_done > 50_000)
    fetcher.stop()
    hub.hold.set()
    thread.join(10)
    assert services.downloads.get(download.id).state is DownloadState.WAITING
    before = len(hub.paths())
    Fetcher(services.settings, services.downloads, pause=0.01).run()
    assert services.downloads.get(download.id).state is DownloadState.DONE
    assert len(hub.paths()) - before < len(starter) + 1
