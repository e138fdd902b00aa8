"""The doctor names what is wrong with servers: a database that is away or newer, a bucket that is not there."""

from dataclasses import replace

import psycopg
import pytest

from diffusion_local.compose import open_files, open_services
from diffusion_local.db.postgresql import MIGRATED
from diffusion_local.errors import InvalidParams
from diffusion_local.health.doctor import Finding, back_up, examine
from diffusion_local.settings import Settings
from tests.postgresql import Cluster, emptied


@pytest.fixture
def shared(settings: Settings, shared_database: str) -> Settings:
    found = replace(settings, database=emptied(shared_database))
    open_services(found).database.close()
    return found


def bad(settings: Settings) -> dict[str, Finding]:
    return {each.name: each for each in examine(settings, open_files(settings)) if not each.ok}


def test_a_sound_server_is_sound(shared: Settings) -> None:
    assert set(bad(shared)) <= {"permissions"}


def test_a_server_that_is_away_is_named(shared: Settings) -> None:
    found = bad(replace(shared, database="postgresql://studio:secret@127.0.0.1:9/studio"))
    assert "127.0.0.1:9/studio cannot be reached" in found["database"].text
    assert "secret" not in str(found)


def test_a_database_of_a_newer_program_is_named(shared: Settings, cluster: Cluster) -> None:
    newer = replace(shared, database=cluster.create("ahead"))
    open_services(newer).database.close()
    with psycopg.connect(newer.database) as connection:
        connection.execute(f"INSERT INTO {MIGRATED} VALUES ('m999_from_the_future', '')")
    assert "m999_from_the_future" in bad(newer)["database"].text


def test_a_bucket_that_is_not_there_is_named(shared: Settings, s3_server: str) -> None:
    found = bad(replace(shared, gallery=f"s3://absent/x?endpoint={s3_server}&region=us-east-1"))
    assert "There is no bucket s3://absent/x" in found["storage"].text


def test_a_backup_of_a_server_is_the_servers_own(shared: Settings) -> None:
    with pytest.raises(Exception, match="pg_dump"):
        back_up(shared, shared.home / "copy.db")


def test_an_unusable_address_is_refused_by_every_command(settings: Settings) -> None:
    with pytest.raises(InvalidParams, match="database: is not a usable address"):
        open_services(replace(settings, database="mysql://host/name"))
