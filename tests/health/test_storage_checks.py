"""Whether gallery and database are writable: the page tells of a bucket that is not, though no job has met it."""

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from diffusion_local.compose import Services, open_services
from diffusion_local.errors import StorageProblem
from diffusion_local.gallery.blobs import MemoryBlobs
from diffusion_local.health import storage_checks
from diffusion_local.health.storage_checks import StorageProbe
from diffusion_local.messages import message
from diffusion_local.settings import Settings
from diffusion_local.web.page_delta import delta_since
from tests.support import eventually


class Refusing(MemoryBlobs):
    """A bucket that refuses writes while it is ``away``, after ``answer``."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.answer = threading.Event()
        self.answer.set()
        self.probes = 0

    def probe(self, prefix: str, size: int) -> None:
        self.probes += 1
        self.answer.wait(10)
        if self.away:
            raise StorageProblem(message("bucket_missing", bucket="pictures"))


@pytest.fixture
def bucket() -> Refusing:
    return Refusing()


@pytest.fixture
def elsewhere(settings: Settings, bucket: Refusing) -> Iterator[Services]:
    opened = open_services(replace(settings, gallery="s3://pictures/studio"), bucket)
    yield opened
    opened.database.close()


def test_the_page_tells_of_a_bucket_that_is_away_and_that_it_is_back(
    elsewhere: Services, bucket: Refusing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told() -> bool:
        nonlocal seen
        delta = delta_since(elsewhere.studio, seen, "create", [], False)
        if delta is not None:
            seen, parts = delta
            notices.append(parts.get("notices", notices[-1] if notices else ""))
        return "pictures" in str(notices[-1])

    monkeypatch.setattr(storage_checks, "WATCH_SECONDS", 0.0)
    seen, notices = "", list[object]()
    bucket.away = True
    eventually(told)
    assert "pictures" in elsewhere.studio.snapshot().reason
    bucket.away = False
    eventually(lambda: not told())


def test_a_look_at_the_page_does_not_wait_for_the_bucket(elsewhere: Services, bucket: Refusing) -> None:
    bucket.answer.clear()
    assert elsewhere.studio.snapshot().reason == ""
    assert bucket.probes == 1
    elsewhere.studio.snapshot()
    assert bucket.probes == 1
    bucket.answer.set()


def test_a_bucket_that_does_not_answer_is_told(
    elsewhere: Services, bucket: Refusing, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.answer.clear()
    probe = elsewhere.studio.storage
    probe.fault(wait=False)
    monkeypatch.setattr(storage_checks, "WATCH_SECONDS", 0.0)
    assert probe.fault(wait=False) == message("storage_no_answer")
    bucket.answer.set()


def test_looks_do_not_write_to_a_folder(services: Services) -> None:
    assert StorageProbe(services.database, services.files).fault(wait=False) == ""
