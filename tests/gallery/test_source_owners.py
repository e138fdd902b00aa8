"""What a refused request has added is withdrawn, and nothing that anything else has added or uses."""

from collections.abc import Callable
from threading import Thread

import pytest
from PIL import Image as PIL

from diffusion_local import actor
from diffusion_local.actor import SCOPES, Actor, Role
from diffusion_local.compose import Services, open_services
from diffusion_local.errors import DatabaseProblem, InvalidParams
from diffusion_local.gallery.source_owners import SourceOwners
from diffusion_local.gallery.sources import provisional
from diffusion_local.settings import Settings
from tests.gallery.test_sources import encoded

PICTURE, OTHER = encoded(), encoded(PIL.new("L", (64, 64), 90))
ALICE, BOB = (Actor(name, Role.USER, SCOPES[Role.USER], sees_all=False) for name in ("alice", "bob"))


class Refused(Exception):
    pass


@pytest.fixture
def services(settings: Settings) -> Services:
    return open_services(settings)


def stored(services: Services) -> list[str]:
    return [source_id for source_id, _ in services.files.sources()]


def owners(services: Services) -> list[tuple[str, ...]]:
    with services.database.read() as db:
        return [tuple(row) for row in db.execute("SELECT source_id, owner FROM source_owners").fetchall()]


def refused(services: Services, data: bytes = PICTURE, meanwhile: Callable[[str], object] = id) -> None:
    """A request that adds a picture and is refused. ``meanwhile`` is called with the picture's id before that."""

    def request() -> None:
        with provisional(services.sources):
            meanwhile(services.sources.add(data).id)
            raise Refused

    with pytest.raises(Refused):
        request()


def elsewhere(call: Callable[[], object]) -> None:
    """Call something outside the request, as another thread does."""
    thread = Thread(target=call)
    thread.start()
    thread.join()


def test_the_pictures_of_a_refused_request_are_gone_and_those_of_an_accepted_one_stay(services: Services) -> None:
    refused(services)
    assert (stored(services), owners(services)) == ([], [])
    with provisional(services.sources):
        source = services.sources.add(PICTURE)
        assert services.sources.add(PICTURE) == source
    refused(services)  # the same picture again
    assert (stored(services), services.sources.page()) == ([source.id], [source])


def test_a_picture_that_was_there_before_stays(services: Services) -> None:
    source = services.sources.add(PICTURE)
    refused(services)
    services.sources.remove(source.id)  # its file is left until retention, as by earlier versions
    refused(services)
    assert (stored(services), owners(services)) == ([source.id], [])


@pytest.mark.parametrize("who", [actor.LOCAL, ALICE])
def test_a_picture_that_others_add_meanwhile_stays(services: Services, who: Actor) -> None:
    def add(source_id: str) -> None:
        def as_other() -> None:
            with actor.acting(who):
                services.sources.add(PICTURE)

        elsewhere(as_other)

    refused(services, meanwhile=add)
    with actor.acting(who):
        [source] = services.sources.page()
        assert services.sources.file(source.id).exists()


def test_a_picture_that_a_job_uses_stays(services: Services) -> None:
    refused(services, meanwhile=lambda source_id: services.studio.submit("a boat", source=source_id))
    refused(
        services,
        OTHER,
        lambda source_id: services.studio.submit("a boat", controls=[{"image": source_id, "weight": 0.5}]),
    )
    used = {services.studio.job(each.id).params.source for each in services.studio.jobs()} - {""}
    assert len(used) == 1
    assert used < set(stored(services))
    assert len(services.studio.jobs()) == 2


def test_a_picture_that_two_refused_requests_add_at_the_same_time_waits_for_retention(services: Services) -> None:
    refused(services, meanwhile=lambda _: elsewhere(lambda: refused(services)))
    assert len(stored(services)) == 1


def test_an_owner_of_another_request_keeps_the_picture(services: Services) -> None:
    with actor.acting(ALICE), provisional(services.sources):
        source = services.sources.add(PICTURE)

        def as_bob() -> None:
            with actor.acting(BOB):
                refused(services)

        elsewhere(as_bob)
        assert services.sources.page() == [source]


def test_a_control_picture_of_a_refused_submit_is_gone(services: Services) -> None:
    source = services.sources.add(PICTURE)
    submit = {"controls": [{"image": source.id, "type": "canny"}], "prompt": "a boat"}
    with pytest.raises(InvalidParams, match="priority"):
        services.studio.submit(**submit, priority=1000)
    assert stored(services) == [source.id]
    receipt = services.studio.submit(**submit)
    [control] = services.studio.job(receipt.job_ids[0]).params.controls
    assert set(stored(services)) >= {source.id, control.image}
    with pytest.raises(InvalidParams, match="priority"):
        services.studio.submit(**submit, priority=1000)
    assert set(stored(services)) >= {source.id, control.image}


def test_a_fault_while_pictures_are_withdrawn_does_not_hide_the_refusal(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise DatabaseProblem("locked")

    monkeypatch.setattr(SourceOwners, "withdraw", fail)
    refused(services)
    assert len(stored(services)) == 1
