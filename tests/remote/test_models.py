"""Model files follow from the studio to a machine that lacks them: resumed, verified, if the setting allows."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

from diffusion_local.actor import LOCAL, acting
from diffusion_local.compose import Services, open_services
from diffusion_local.dispatch.matching import installed_files
from diffusion_local.domain import SharedFile
from diffusion_local.errors import DatabaseProblem
from diffusion_local.models.digests import Digests
from diffusion_local.remote.models import INCOMING, Fetcher, is_safe
from diffusion_local.settings import Settings
from tests.remote.farm import ROBOT, Studio, joined
from tests.support import enqueue

DATA = bytes(range(256)) * 8000
WHOLE = sha256(DATA).hexdigest()
FILE = SharedFile("loras", "style", "style.safetensors", len(DATA), WHOLE, WHOLE)


class Source:
    """A studio's files; ``cut`` ends an answer after so many bytes."""

    def __init__(self, data: bytes = DATA) -> None:
        self.data, self.cut, self.ranges = data, 0, []  # type: ignore[var-annotated]

    def client(self) -> httpx.Client:
        return httpx.Client(base_url="http://studio", transport=httpx.MockTransport(self._answer))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        requested = request.headers.get("range", "")
        self.ranges.append(requested)
        start = int(requested.removeprefix("bytes=").removesuffix("-")) if requested else 0
        return httpx.Response(206 if requested else 200, content=self._pieces(start))

    def _pieces(self, start: int) -> Iterator[bytes]:
        if self.cut:
            yield self.data[start : start + self.cut]
            raise httpx.ReadError("cut")
        yield self.data[start:]


def fetcher(source: Source, folder: Path, reserve: int = 0) -> Fetcher:
    folder.mkdir(exist_ok=True)
    return Fetcher(source.client(), {"loras": folder}, lambda path: sha256(path.read_bytes()).hexdigest(), reserve)


def test_a_file_appears_when_all_of_it_is_there(tmp_path: Path) -> None:
    assert fetcher(Source(), tmp_path / "loras").fetch([FILE])
    assert (tmp_path / "loras" / "style.safetensors").read_bytes() == DATA
    assert not list((tmp_path / "loras" / INCOMING).glob("*"))


def test_a_break_is_resumed_where_it_was(tmp_path: Path) -> None:
    source = Source()
    source.cut = 500_000
    with pytest.raises(DatabaseProblem):
        fetcher(source, tmp_path / "loras").fetch([FILE])
    assert not (tmp_path / "loras" / "style.safetensors").exists()
    source.cut = 0
    assert fetcher(source, tmp_path / "loras").fetch([FILE])  # also by a worker that was restarted
    assert source.ranges == ["", "bytes=500000-"]
    assert (tmp_path / "loras" / "style.safetensors").read_bytes() == DATA


@pytest.mark.parametrize(
    "wrong",
    [DATA[:-1], DATA[:-1] + b"x", DATA + b"x"],
    ids=["short", "another byte", "long"],
)
def test_what_is_not_the_studios_is_thrown_away_and_not_tried_again(
    tmp_path: Path, wrong: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    source = Source(wrong)
    getting = fetcher(source, tmp_path / "loras")
    assert not getting.fetch([FILE])
    assert not getting.fetch([FILE])
    assert len(source.ranges) == 1
    assert [path for path in (tmp_path / "loras").rglob("*") if path.is_file()] == []
    assert "style cannot be fetched" in caplog.text


def test_the_digest_of_the_whole_counts(tmp_path: Path) -> None:
    assert not fetcher(Source(), tmp_path / "loras").fetch([replace(FILE, sha256="", whole="0" * 64)])
    assert not (tmp_path / "loras" / "style.safetensors").exists()


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x", "a\\b", "c:x", "", "a/../b", "x\0"])
def test_a_path_cannot_leave_the_folder(tmp_path: Path, path: str) -> None:
    assert not is_safe(path)
    assert not fetcher(Source(), tmp_path / "loras").fetch([replace(FILE, path=path)]) if path else True
    assert not (tmp_path / "x").exists()


def test_a_file_that_is_here_is_not_written_over(tmp_path: Path) -> None:
    getting = fetcher(Source(), tmp_path / "loras")
    (tmp_path / "loras" / "style.safetensors").write_bytes(b"mine")
    assert not getting.fetch([FILE])
    assert (tmp_path / "loras" / "style.safetensors").read_bytes() == b"mine"


def test_a_disk_without_room_is_left_alone(tmp_path: Path) -> None:
    source = Source()
    assert not fetcher(source, tmp_path / "loras", reserve=10**18).fetch([FILE])
    assert source.ranges == []


# -- at the studio -----------------------------------------------------------------------------------------------------


@pytest.fixture
def sharing(settings: Settings) -> Iterator[Services]:
    """A studio that shares a second model."""
    opened = open_services(replace(settings, share_models="on"))
    shutil.copytree(opened.settings.starter, opened.settings.models / "second")
    with acting(LOCAL):
        Digests(opened.catalog.index, opened.catalog.default.folder).run()
    yield opened
    opened.database.close()


def second(services: Services) -> str:
    return next(model.id for model in services.catalog.all() if model.id != "starter")


def files_but(services: Services, lacking: str) -> dict[str, dict[str, str]]:
    with acting(LOCAL):
        found = installed_files(services.catalog)
    return found | {"models": {name: each for name, each in found["models"].items() if name != lacking}}


def test_a_worker_fetches_the_model_of_a_queued_job_and_is_given_it(sharing: Services, tmp_path: Path) -> None:
    model = second(sharing)
    studio = Studio(sharing)
    dispatch = joined(studio, files_but(sharing, model))
    assert dispatch.missing_files() == []  # nobody needs it
    enqueue(sharing.jobs, model=model)
    assert dispatch.claim("") == []
    missing = dispatch.missing_files()
    assert {(each.kind, each.name) for each in missing} == {("models", model)}
    folder = tmp_path / "models"
    folder.mkdir()
    getting = Fetcher(studio._client, {"models": folder}, Digests(sharing.catalog.index).sha256, 0)  # type: ignore[arg-type]
    assert getting.fetch(missing)
    here = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    there = sharing.settings.models
    assert here == {name: (there / name).read_bytes() for name in here}
    assert any(name.endswith(".safetensors") for name in here)
    dispatch.publish_files(installed_files(sharing.catalog))
    assert dispatch.claim("")


def test_nothing_is_shared_unless_the_setting_says_so(services: Services, studio: Studio, files: Any) -> None:
    enqueue(services.jobs)
    dispatch = joined(studio, {})
    assert dispatch.missing_files() == []
    answer = studio._client.get("/api/v1/worker/file", params={"kind": "models", "name": "starter", "path": "x"})
    assert answer.status_code == 404


def test_only_a_worker_reads_files_and_only_those_of_a_model(sharing: Services) -> None:
    model, studio = second(sharing), Studio(sharing)
    good = next(iter(sorted((sharing.settings.models / "second").rglob("*.json"))))
    path = good.relative_to(sharing.settings.models).as_posix()

    def status(**query: str) -> int:
        return int(studio._client.get("/api/v1/worker/file", params=query).status_code)

    assert status(kind="models", name=model, path=path) == 200
    for wrong in ("../app.db", "second/../../app.db", "/etc/passwd", ""):
        assert status(kind="models", name=model, path=wrong) == 404
    assert status(kind="models", name="starter", path=path) == 404
    assert status(kind="x", name=model, path=path) == 404
    studio.who = replace(ROBOT, scopes=frozenset())
    assert status(kind="models", name=model, path=path) == 403
