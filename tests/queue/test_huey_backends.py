"""Queue URLs: which are taken, what they name, and how a wrong one is refused."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from diffusion_local.compose import Services, open_services
from diffusion_local.errors import InvalidParams, QueueUnavailable
from diffusion_local.health import doctor
from diffusion_local.queue.huey_backends import home_prefix, open_huey, parse_url, queue_file, queue_url, sqlite_url
from diffusion_local.settings import Settings
from tests.servers import redis_server


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("nonsense", "must be a URL such as"),
        ("http://host", "scheme 'http'"),
        ("kafka://host", "scheme 'kafka'"),
        ("redis://", "must name a server"),
        ("redis://host:port/0", "must be a URL"),
        ("redis://host:0/0", "must name a server"),
        ("redis://host:99999/0", "must be a URL"),
        ("redis://host/queue", "number of a database"),
        ("redis://host/0?no_such_option=1", "cannot be used"),
        ("redis://host/0?socket_timeout=soon", "cannot be used"),
        ("redis://host/0?&", "must be a URL"),
        ("unix://", "must name a server, socket or file"),
        ("sqlite://", "must name a server, socket or file"),
        ("sqlite:///", "must name a server, socket or file"),
        ("sqlite://folder/queue.db", "must name a server, socket or file"),
        ("sqlite:///queue.db?timeout=3", "option 'timeout'"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_by_name(url: str, problem: str) -> None:
    with pytest.raises(InvalidParams, match=problem) as refused:
        open_huey(url, "doorbell")
    assert refused.value.field == "queue"


def test_a_house_with_a_wrong_url_is_not_opened(settings: Settings) -> None:
    with pytest.raises(InvalidParams, match=r"^queue: must be a URL such as sqlite:////folder"):
        open_services(replace(settings, queue="carrier-pigeon://home"))


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(InvalidParams, match=r"install diffusion-local\[redis\]"):
        open_huey("redis://host/0", "doorbell")


def test_messages_name_a_server_without_its_password() -> None:
    address = parse_url("rediss://ann:secret@host:6380/2?prefix=studio")
    assert (address.display, address.prefix) == ("rediss://host:6380/2", "studio")
    with pytest.raises(InvalidParams) as refused:
        open_huey("redis://ann:secret@host/0?no_such_option=secret", "doorbell")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("name", ["queue.db", "with a space #1 %41?.db"])
def test_a_file_keeps_its_name(tmp_path: Path, name: str) -> None:
    assert parse_url(sqlite_url(tmp_path / name)).path == tmp_path / name
    assert parse_url(sqlite_url(tmp_path / name)).display == f"sqlite:///{tmp_path / name}"


@pytest.mark.sqlite
def test_without_the_setting_it_is_the_homes_own_file(settings: Settings) -> None:
    assert queue_url(settings) == f"sqlite:///{settings.home}/queue.db"
    assert queue_file(settings) == settings.queue_database


def test_a_relative_file_lies_in_the_home(settings: Settings, tmp_path: Path) -> None:
    assert queue_file(replace(settings, queue="sqlite:///bells/queue.db")) == settings.home / "bells/queue.db"
    assert queue_file(replace(settings, queue=f"sqlite:///{tmp_path}/queue.db")) == tmp_path / "queue.db"
    assert queue_file(replace(settings, queue="redis://host/0")) is None


def test_a_file_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        QueueUnavailable, match=r"queue.db cannot be opened .unable to open database file.. Check its owner"
    ):
        open_huey(sqlite_url(tmp_path / "no such folder" / "queue.db"), "doorbell")


def test_homes_that_share_a_server_have_queues_of_their_own(tmp_path: Path) -> None:
    with redis_server() as server:
        houses = [open_services(Settings.load(home=tmp_path / name, queue=server.url)) for name in ("one", "two")]
        houses[0].queue.ring()
        again = open_services(houses[0].settings)
        assert [each.queue.pending() for each in (*houses, again)] == [1, 0, 1]
        for each in (*houses, again):
            each.database.close()


def test_a_prefix_of_the_url_is_taken(services: Services) -> None:
    settings = replace(services.settings, database="")
    value = replace(settings, queue="redis://host/3?prefix=studio")
    assert queue_url(value) == "redis://host/3?prefix=studio"
    own = queue_url(replace(settings, queue="redis://host/3"))
    assert own == f"redis://host/3?prefix={home_prefix(settings)}"
    assert len(home_prefix(settings)) == 16


def test_the_doctor_tells_of_a_queue(services: Services) -> None:
    def found(settings: Settings) -> doctor.Finding:
        return next(iter(doctor.message_queue(settings)))

    assert found(services.settings).ok
    with redis_server() as server:
        shared = replace(services.settings, queue=server.url)
        assert (found(shared).ok, found(shared).text) == (True, f"{server.url}, 0 messages waiting")
        server.stop()
        gone = found(shared)
        assert (gone.ok, gone.grave) == (False, False)
        assert gone.text.startswith("The message queue is unavailable")
    wrong = {
        each.name: each
        for each in doctor.examine(replace(services.settings, queue="redis://host/queue"), services.files)
    }
    assert not wrong["message_queue"].ok
