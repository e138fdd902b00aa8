"""The whole application over a gallery that has no folder: every picture's way, from the submit to the end."""

import io
import json
import os
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from PIL import Image as PIL

from diffusion_local.compose import Services, open_services
from diffusion_local.dispatch import storage_faults
from diffusion_local.domain import State
from diffusion_local.engine.fake import FakeEngine
from diffusion_local.gallery.blobs import MemoryBlobs
from diffusion_local.gallery.image_formats import webp
from diffusion_local.gallery.sweep import sweep
from diffusion_local.health.doctor import examine, rebuild_gallery
from diffusion_local.settings import Settings
from diffusion_local.supervisor import housekeeping
from diffusion_local.worker.stopping import Stop
from tests.web.conftest import client_of
from tests.workers import open_runner

JOBS, IMAGES = "/api/v1/jobs", "/api/v1/images"
SMALL = {"width": 128, "height": 128, "steps": 2}


@pytest.fixture
def blobs() -> MemoryBlobs:
    return MemoryBlobs()


@pytest.fixture
def form() -> str:
    return "png"


@pytest.fixture
def elsewhere(form: str, settings: Settings, blobs: MemoryBlobs) -> Iterator[Services]:
    """A house whose pictures lie in memory, and nowhere below its home."""
    services = open_services(replace(settings, image_format=form, sidecar="on"), blobs)
    yield services
    found = [
        path.relative_to(settings.home)
        for name in ("gallery", "sources", "previews", "sheets", "reports", "strays")
        for path in (settings.home / name).rglob("*")
    ]
    services.database.close()
    assert found == []


@pytest.fixture
def client(elsewhere: Services) -> TestClient:
    return client_of(elsewhere, page=False)


def worked(services: Services, client: TestClient, **options: object) -> list[str]:
    """Ids of pictures that a worker made of a submit over HTTP."""
    answer = client.post(JOBS, json={"prompt": "a red apple", "seed": 7} | SMALL | options)
    assert answer.status_code == 202, answer.text
    work(services)
    ids = answer.json()["job_ids"]
    assert {services.jobs.get(job_id).state for job_id in ids} == {State.DONE}
    return ids


def work(services: Services) -> None:
    runner = open_runner(services, "cpu0", FakeEngine(0), Stop())
    runner.run_due_jobs()
    runner.close()


def keys(blobs: MemoryBlobs, prefix: str = "") -> list[str]:
    return [stat.key for stat in blobs.list(prefix)]


@pytest.mark.parametrize("form", ["png", "webp"])
def test_a_picture_is_made_shown_and_downloaded(elsewhere: Services, client: TestClient, blobs: MemoryBlobs) -> None:
    [image_id] = worked(elsewhere, client)
    [shown] = client.get(IMAGES).json()["images"]
    assert shown["id"] == image_id
    suffix = elsewhere.studio.image(image_id).suffix
    kept = blobs.open(next(key for key in keys(blobs) if key.endswith((".png", ".full.webp")))).read()
    whole = client.get(shown["url"])
    assert (whole.status_code, whole.content, whole.headers["Content-Length"]) == (200, kept, str(len(kept)))
    assert whole.headers["Content-Type"] == f"image/{suffix[1:]}"
    with PIL.open(io.BytesIO(whole.content)) as picture:
        assert picture.size == (128, 128)
    head = client.head(shown["url"])
    assert (head.status_code, head.content, head.headers["Content-Length"]) == (200, b"", str(len(kept)))
    tag = whole.headers["ETag"]
    assert client.get(shown["url"], headers={"If-None-Match": tag}).status_code == 304
    part = client.get(shown["url"], headers={"Range": "bytes=10-19", "If-Range": tag})
    assert (part.status_code, part.content) == (206, kept[10:20])
    assert part.headers["Content-Range"] == f"bytes 10-19/{len(kept)}"
    assert client.get(shown["url"], headers={"Range": "bytes=-5"}).content == kept[-5:]
    both = client.get(shown["url"], headers={"Range": "bytes=0-3,8-11"})
    assert both.status_code == 206
    assert kept[:4] in both.content
    assert kept[8:12] in both.content
    assert client.get(shown["url"], headers={"Range": f"bytes={len(kept)}-"}).status_code == 416
    assert (
        image_id in client.get(f"{shown['url']}?download=1").headers["Content-Disposition"] or suffix in whole.url.path
    )
    with PIL.open(io.BytesIO(client.get(f"/thumbnails/{image_id}.webp").content)) as small:
        assert (small.format, small.size) == ("WEBP", (128, 128))


@pytest.mark.slow
def test_a_server_that_sends_files_by_path_is_given_the_bytes(elsewhere: Services, client: TestClient) -> None:
    """ASGI's ``http.response.pathsend`` extension names a file of this machine, of which there is none."""
    [image_id] = worked(elsewhere, client)
    app = client.app

    async def with_extension(scope, receive, send):  # type: ignore[no-untyped-def]
        await app(scope | {"extensions": {"http.response.pathsend": {}}}, receive, send)  # type: ignore[operator]

    asked = TestClient(with_extension, base_url="http://127.0.0.1:7860")
    url = elsewhere.studio.image(image_id).suffix
    answer = asked.get(f"/images/{image_id}{url}")
    assert answer.content == elsewhere.studio.picture_data(image_id)


@pytest.mark.slow
def test_a_lost_thumbnail_is_drawn_again(elsewhere: Services, client: TestClient) -> None:
    [image_id] = worked(elsewhere, client)
    elsewhere.studio.thumbnail_file(image_id).delete()
    assert client.get(f"/thumbnails/{image_id}.webp").status_code == 200
    assert elsewhere.studio.thumbnail_file(image_id).exists()


def test_a_source_is_sent_used_and_let_go(elsewhere: Services, client: TestClient, blobs: MemoryBlobs) -> None:
    file = io.BytesIO()
    PIL.new("RGB", (128, 128), "teal").save(file, "PNG")
    answer = client.post("/api/v1/sources", content=file.getvalue()).json()
    assert client.get(answer["url"]).content == blobs.open(f"sources/{answer['id'][:2]}/{answer['id']}.png").read()
    [image_id] = worked(elsewhere, client, source=answer["id"], strength=0.5)
    assert elsewhere.studio.image(image_id).params.source == answer["id"]
    again = client.post(f"/api/v1/images/{image_id}/source").json()
    assert again["id"] != answer["id"]
    for source_id in (answer["id"], again["id"]):
        key = f"sources/{source_id[:2]}/{source_id}.png"
        blobs._kept[key] = blobs._kept[key][0], time.time() - 31 * 86400
    housekeeping.delete_expired(elsewhere)
    assert keys(blobs, "sources/") == [f"sources/{answer['id'][:2]}/{answer['id']}.png"]  # a picture was made from it


@pytest.mark.slow
def test_previews_come_and_go(elsewhere: Services, client: TestClient, blobs: MemoryBlobs) -> None:
    [job_id] = client.post(JOBS, json={"prompt": "x"} | SMALL).json()["job_ids"]
    elsewhere.files.save_preview(job_id, webp(PIL.new("RGB", (8, 8), "red"), 60))
    answer = client.get(f"/previews/{job_id}.webp")
    assert (answer.headers["Content-Type"], answer.content) == (
        "image/webp",
        blobs.open(f"previews/{job_id}.webp").read(),
    )
    elsewhere.files.drop_preview(job_id)
    assert client.get(f"/previews/{job_id}.webp").headers["Content-Type"] == "image/gif"
    elsewhere.files.save_preview("of-the-dead", webp(PIL.new("RGB", (8, 8)), 60))
    blobs._kept["previews/of-the-dead.webp"] = b"", time.time() - 86400
    housekeeping.delete_expired(elsewhere)
    assert keys(blobs, "previews/") == []


@pytest.mark.slow
def test_a_batch_is_taken_home(elsewhere: Services, client: TestClient, blobs: MemoryBlobs) -> None:
    """As a ZIP file, as a contact sheet, and as a report."""
    worked(elsewhere, client, count=3)
    [batch] = client.get("/api/v1/batches").json()["batches"]
    for address in (f"/api/v1/batches/{batch['id']}/zip", f"{IMAGES}/zip"):
        with zipfile.ZipFile(io.BytesIO(client.get(address).content)) as archive:
            names = [name for name in archive.namelist() if not name.endswith(".csv")]
            assert len(names) == 3
            assert {archive.read(name) for name in names} == {
                elsewhere.studio.picture_data(image.id) for image in elsewhere.studio.gallery()
            }
    sheet = client.get(f"/api/v1/batches/{batch['id']}/sheet.webp")
    with PIL.open(io.BytesIO(sheet.content)) as picture:
        assert picture.format == "WEBP"
    [first] = keys(blobs, "sheets/")
    elsewhere.studio.batches.rename(batch["id"], "other")
    client.get(f"/api/v1/batches/{batch['id']}/sheet.webp")
    [second] = keys(blobs, "sheets/")
    assert first != second
    report = elsewhere.studio.reports.batch(batch["id"])
    kept = elsewhere.studio.reports.keep(report, "2026-11-22-x")
    assert keys(blobs, "reports/") == ["reports/2026-11-22-x.html", "reports/2026-11-22-x.md"]
    assert kept.read_bytes().count(b"data:image/webp;base64,") == 3


def test_the_trash_is_emptied(elsewhere: Services, client: TestClient, blobs: MemoryBlobs) -> None:
    first, second = worked(elsewhere, client, count=2)
    assert len(keys(blobs, "gallery/")) == 6  # picture, thumbnail, sidecar
    client.post(f"{IMAGES}/trash", json={"image_ids": [first, second]})
    assert client.post(f"{IMAGES}/delete", json={"image_ids": [first]}).json() == {"deleted": [first]}
    assert {Path(key).name.split(".")[0] for key in keys(blobs, "gallery/")} == {second}
    client.post(f"{IMAGES}/{second}/restore")
    assert client.get(f"/thumbnails/{second}.webp").status_code == 200
    assert client.get(f"/images/{first}.png").status_code == 410


@pytest.mark.parametrize("form", ["png", "webp"])
@pytest.mark.slow
def test_strays_are_swept_and_lost_rows_written_again(
    elsewhere: Services, client: TestClient, blobs: MemoryBlobs
) -> None:
    lost, forgotten = worked(elsewhere, client, count=2)
    image = elsewhere.studio.image(forgotten)
    elsewhere.files.picture(elsewhere.studio.image(lost).key).delete()
    with elsewhere.database.write() as db:
        db.execute("DELETE FROM images WHERE id = ?", [forgotten])
        db.execute("DELETE FROM jobs WHERE id = ?", [forgotten])
    swept = sweep(elsewhere.files, elsewhere.database)
    assert (swept.strays, swept.missing) == ([image.key], [lost])
    [stray] = keys(blobs, "strays/")
    assert stray == elsewhere.files.stray(image.key).key
    assert not any(forgotten in key for key in keys(blobs, "gallery/"))
    assert rebuild_gallery(elsewhere.settings, elsewhere.files) == 1
    assert elsewhere.studio.image(forgotten).params == image.params
    assert client.get(f"/images/{forgotten}{image.suffix}").status_code == 200
    assert keys(blobs, "strays/") == []


@pytest.mark.slow
def test_a_full_store_holds_the_queue_and_no_job_pays_for_it(
    elsewhere: Services, client: TestClient, blobs: MemoryBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_faults, "PROBE_SECONDS", 0.0)
    [job_id] = client.post(JOBS, json={"prompt": "x"} | SMALL).json()["job_ids"]
    blobs._capacity = 1000
    work(elsewhere)
    assert elsewhere.jobs.get(job_id).state is State.QUEUED
    assert "nearly full" in elsewhere.studio.snapshot().reason
    assert not next(each for each in examine(elsewhere.settings, elsewhere.files) if each.name == "storage").ok
    blobs._capacity = 2**62
    work(elsewhere)
    job = elsewhere.jobs.get(job_id)
    assert (job.state, job.tries, job.faults, job.crashes) == (State.DONE, 0, 0, 0)


@pytest.mark.slow
def test_the_recipe_beside_a_picture_is_kept_with_it(elsewhere: Services, client: TestClient) -> None:
    [image_id] = worked(elsewhere, client)
    beside = elsewhere.files.sidecar(elsewhere.studio.image(image_id).key)
    assert json.loads(beside.read_bytes())["params"]["prompt"] == "a red apple"


def test_no_file_of_this_machine_is_named(elsewhere: Services, client: TestClient) -> None:
    [image_id] = worked(elsewhere, client)
    file = elsewhere.studio.picture_file(image_id)
    assert file.local_path is None
    assert str(file) == file.key
    assert os.sep not in file.name
