"""The Queue tab over a real store: what is open, how much of it is drawn, and what its buttons do."""

import re

from diffusion_local.actor import SCOPES, Actor, Role, acting
from diffusion_local.compose import Services
from diffusion_local.domain import Lane
from diffusion_local.web.ui import tab_queue
from diffusion_local.web.ui.view import utc
from tests.support import claimed
from tests.web.test_page import click
from tests.web.test_page_delta import poll


def draw(services: Services, place: str = "") -> str:
    return tab_queue.draw(services.studio, services.studio.snapshot(), utc(), place)


def rows(html: str) -> int:
    return html.count('<li class="line ')


def opened(html: str) -> list[str]:
    return re.findall(r'data-turn="fold" data-id="(\w+)" aria-expanded="true"', html)


def test_what_runs_is_open_and_what_a_person_folded_stays_so(services: Services) -> None:
    first, second = (services.studio.submit("x", count=3).batch_id for _ in range(2))
    assert opened(draw(services)) == [first]
    assert opened(draw(services, f"open={second}")) == [first, second]
    assert opened(draw(services, f"shut={first}")) == []
    services.studio.queue.move("top", batch_id=second)
    claimed(services.jobs)
    assert opened(draw(services)) == [second]
    services.studio.queue.cancel(batch_id=first)
    html = draw(services)
    assert opened(html) == [second]  # ended ones are folded
    assert html.index(second) < html.index(first)


def test_however_many_wait_a_page_has_few_rows(services: Services) -> None:
    big = services.studio.submit("big", count=100)
    for number in range(60):
        services.studio.submit(f"picture {number}")
    html = draw(services)
    assert rows(html) == tab_queue.FEW + tab_queue.LIVE - 1
    assert rows(draw(services, f"wide={big.batch_id}:")) == tab_queue.MANY + tab_queue.LIVE - 1
    assert len(html) < 150_000
    pages, place = [html], ""
    while found := re.search(r'data-turn="ahead" data-id="live" data-value="([-\d.]+)"', pages[-1]):
        place = f"{place}+{found[1]}".lstrip("+")
        pages.append(draw(services, f"live={place}"))
    titles = [title for each in pages for title in re.findall(r'class="title">(picture \d+)<', each)]
    assert titles == [f"picture {number}" for number in range(60)]


def test_a_filter_shows_what_it_is_for_in_open_batches(services: Services) -> None:
    services.studio.lists.submit("a red boat\na green tree\na blue boat")
    services.studio.submit("a tree")
    html = draw(services, "text=boat")
    assert re.findall(r'class="title">([^<]*boat)<', html)[-2:] == ["a red boat", "a blue boat"]
    assert "a green tree" not in html
    assert rows(html) == 2
    assert "No matches" in draw(services, "text=zebra")


def test_only_the_open_batch_is_of_the_poll_and_an_unchanged_one_answers_nothing(services: Services) -> None:
    first = services.studio.submit("x", count=3).batch_id
    answer = poll(services, tab="queue")
    assert first in answer["queue"]
    again = poll(services, answer["seen"], "queue")
    assert "queue" not in again
    folded = poll(services, answer["seen"], "queue", queue=f"shut={first}")
    assert 'aria-expanded="false"' in folded["queue"]


def test_somebody_without_sight_of_others_sees_that_they_wait(services: Services) -> None:
    services.studio.submit("a secret", count=3, owner="ann")
    claimed(services.jobs)
    with acting(Actor("bob", Role.USER, SCOPES[Role.USER], sees_all=False)):
        html = draw(services)
    assert "secret" not in html
    assert "Another user’s picture" in html
    assert "2 pictures of other users are waiting" in html


def test_buttons_of_a_batch(services: Services) -> None:
    first, second = (services.studio.submit("x", count=2).batch_id for _ in range(2))

    def order() -> list[str]:
        return list(dict.fromkeys(job.batch_id for job in services.studio.snapshot().waiting))

    assert "Moved to the top: 2 pictures" in click(services, "batch_top", second)["toast"]
    assert order() == [second, first]
    click(services, "batch_before", f"{first} {second}")
    assert order() == [first, second]
    night = services.studio.submit("x", lane=Lane.BATCH).batch_id
    assert "Prompt lists run only when" in click(services, "batch_before", f"{night} {first}")["toast"]
    services.studio.queue.cancel(batch_id=night)
    assert "waiting any more" in click(services, "batch_before", f"{night} {first}")["toast"]
    assert "Moved to the bottom: 2 pictures" in click(services, "batch_bottom", first)["toast"]
    assert order() == [second, first]
    [job] = [each for each in services.studio.snapshot().waiting if each.batch_id == first][:1]
    assert "Moved to the bottom" in click(services, "move_bottom", job.id)["toast"]
    services.studio.queue.cancel(batch_id=second)
    assert "2 pictures" in click(services, "batch_forget", second)["toast"]
    assert second not in draw(services)
    assert "batch" in click(services, "batch_before", f"{first} nobody")["toast"].lower()
