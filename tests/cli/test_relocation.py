"""A studio is carried to servers and back with every row and file, or not at all."""

from dataclasses import replace
from pathlib import Path

import boto3
import pytest

from diffusion_local.cli.serving import copy_stores
from diffusion_local.compose import Services, open_blobs, open_services
from diffusion_local.db import copying
from diffusion_local.db.database import find_database
from diffusion_local.domain import State
from diffusion_local.errors import Conflict, StorageProblem
from diffusion_local.gallery import blobs as blobs_
from diffusion_local.gallery.blobs import Area, StoredFile
from diffusion_local.gallery.images import GalleryFilter
from diffusion_local.settings import Settings
from tests.cli.test_cli import Run, run
from tests.postgresql import Cluster
from tests.support import FAILURE, claimed, enqueue, image_of, sql

__all__ = ["run"]

SIZE = {"width": 128, "height": 128, "steps": 1}


@pytest.fixture
def filled(services: Services) -> Services:
    """An account, jobs in several states, pictures, and a board."""
    services.studio.accounts.add("ann", "a long password")
    for prompt in ("a red apple", "红苹果", "a green pear"):
        enqueue(services.jobs, prompt=prompt)
    for _ in range(2):
        job = claimed(services.jobs)
        image = image_of(job)
        content = job.id.encode() * 100
        services.files.picture(image.key).write(lambda file, content=content: file.write(content), durable=True)
        services.jobs.finish(job.claim, image)
    services.studio.boards.create("fruit", [image.id for image in services.studio.gallery()])
    return services


@pytest.fixture
def servers(cluster: Cluster, s3_server: str, services: Services) -> Settings:
    """Settings with an empty database on a server and an empty part of a bucket."""
    boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1").create_bucket(Bucket="moved")
    gallery = f"s3://moved/{services.settings.home.parent.name}?endpoint={s3_server}&region=us-east-1"
    return replace(services.settings, database=cluster.create("moved"), gallery=gallery)


def contents(settings: Settings) -> tuple[dict[str, list[tuple[object, ...]]], dict[str, str]]:
    """(rows by table, digest by key) of a studio."""
    database = find_database(settings)
    assert database is not None
    with database.read() as db:
        rows = {
            table: [tuple(row.values()) for row in copying.ordered(db, table, columns)]
            for table, columns in copying.tables(db).items()
        }
    database.close()
    blobs = open_blobs(settings)
    files = {each.key: StoredFile(blobs, each.key).sha256() for area in Area for each in blobs.list(f"{area}/")}
    return rows, files


def test_a_studio_is_moved_to_servers_works_there_and_is_moved_back(filled: Services, servers: Settings) -> None:
    here = contents(filled.settings)
    rows, files = copy_stores(filled.settings, servers)
    assert contents(servers) == here == contents(filled.settings)
    assert (rows["jobs"], rows["images"], rows["accounts"], files) == (3, 2, 1, 2)

    there = open_services(servers)
    assert {image.params.prompt for image in there.studio.gallery(search="appl")} == {"a red apple"}
    assert len(there.images.page(gallery_filter=GalleryFilter(search="苹果"))) == 1
    job = claimed(there.jobs, "cpu0")
    there.jobs.fail(job.claim, FAILURE)
    [again] = there.studio.submit("a blue plum", **SIZE).job_ids  # the numbers of events go on behind the copied ones
    assert there.jobs.get(again).state is State.QUEUED
    there.database.close()

    back = replace(filled.settings, home=filled.settings.home.parent / "back")
    back.make_folders()
    changed = contents(servers)
    copy_stores(servers, back)
    assert contents(back) == changed
    with sql(back) as db:  # its triggers are back, too
        revision = db.execute("SELECT revision FROM queue").fetchone()[0]
        db.execute("UPDATE jobs SET priority = 1 WHERE id = ?", [again])
        assert db.execute("SELECT revision FROM queue").fetchone()[0] > revision


def test_what_is_not_empty_is_not_moved_to(filled: Services, servers: Settings) -> None:
    copy_stores(filled.settings, servers)
    before = contents(servers)
    with pytest.raises(Conflict, match="is not empty"):
        copy_stores(filled.settings, servers)
    open_blobs(servers).write("gallery/2020/01/01/foreign.png", lambda file: file.write(b"x"))
    with pytest.raises(Conflict, match="is not empty"):
        copy_stores(filled.settings, replace(servers, database=""))
    assert contents(servers)[0] == before[0]


def test_nothing_is_moved_while_pictures_are_made(filled: Services, servers: Settings) -> None:
    claimed(filled.jobs)
    with pytest.raises(Conflict, match="Pictures are being made"):
        copy_stores(filled.settings, servers)


def test_a_move_that_is_cut_off_leaves_no_rows_and_goes_on(
    filled: Services, servers: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = contents(filled.settings)
    copy_blob, copy_table = blobs_.copy_blob, copying.copy_table
    copied: list[str] = []

    def fail_at_the_second(source: object, target: object, key: str, size: int) -> None:
        if copied:
            raise StorageProblem("the network is gone")
        copied.append(key)
        copy_blob(source, target, key, size)  # type: ignore[arg-type]

    def fail_at_jobs(old: object, new: object, table: str, columns: tuple[str, ...]) -> int:
        if table == "jobs":
            raise StorageProblem("the server is gone")
        return copy_table(old, new, table, columns)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(blobs_, "copy_blob", fail_at_the_second)
        with pytest.raises(StorageProblem):
            copy_stores(filled.settings, servers)
    with monkeypatch.context() as patch:
        patch.setattr(copying, "copy_table", fail_at_jobs)
        with pytest.raises(StorageProblem):
            copy_stores(filled.settings, servers)
    copy_stores(filled.settings, servers)
    assert contents(servers) == here


def test_a_file_that_arrives_changed_is_told(
    filled: Services, servers: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusion_local.gallery.object_blobs import ObjectBlobs

    write = ObjectBlobs.write

    def spoil(self: ObjectBlobs, key: str, content: object, **options: object) -> int:
        return write(self, key, lambda file: file.write(b"other"))

    monkeypatch.setattr(ObjectBlobs, "write", spoil)
    with pytest.raises(StorageProblem, match="differs after it was written"):
        copy_stores(filled.settings, servers)
    with sql(servers) as db:
        assert db.execute("SELECT count(*) FROM jobs").fetchone()[0] == 0


def test_the_command_says_what_to_set(filled: Services, servers: Settings, home: Path, run: Run) -> None:
    status, output, errors = run("relocate", "--to", servers.database, "--gallery", servers.gallery)
    assert (status, errors) == (0, "")
    assert f'database = "{servers.database}"' in output
    assert f'gallery = "{servers.gallery}"' in output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "must name a database"),
        (["--to", "mysql://host/name"], "not a usable address"),
        (["--to", "postgresql://127.0.0.1:9/name"], "cannot be reached"),
        (["--gallery", "ftp://bucket"], "must be a bucket"),
    ],
)
def test_an_unusable_target_is_one_sentence(
    services: Services,
    arguments: list[str],
    words: str,
    run: Run,
) -> None:
    status, _, errors = run("relocate", *arguments)
    assert status == 2
    assert words in errors
    assert len(errors.strip().splitlines()) == 1
