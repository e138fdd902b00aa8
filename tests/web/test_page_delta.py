"""A look at the page without a browser: what it draws, and what it costs."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from diffusion_local import __version__
from diffusion_local.compose import Services
from diffusion_local.db import rows
from diffusion_local.errors import DatabaseProblem
from diffusion_local.messages import verbatim
from diffusion_local.preferences import restart_file
from diffusion_local.web import page_delta
from diffusion_local.web.ui import tab_create, view, view_stage
from tests.support import claimed
from tests.web.conftest import made


def poll(
    services: Services,
    seen: str = "",
    tab: str = "create",
    mine: Any = (),
    place: str = "",
    queue: str = "",
    drawer: bool = False,
) -> dict:
    """What has changed, the gallery with its tiles as look.js puts them together."""
    asked = [" ".join(mine), "", "", queue, place]
    found = page_delta.delta_since(services.studio, seen, tab, asked, drawer)
    if found is None:
        return {"seen": seen}
    answer = {"seen": found[0], **found[1]}
    if {"gallery", "tiles"} & set(answer):
        _, whole = page_delta.delta_since(services.studio, "", tab, asked) or ("", {})
        answer |= {"gallery": whole["gallery"].replace("<!--tiles-->", whole["tiles"])}
        answer.pop("tiles", None)
    return answer


def drawn(answer: dict) -> set[str]:
    return set(answer) - {"seen"}


def test_unchanged_state_draws_nothing(services: Services) -> None:
    first = poll(services)
    assert drawn(first) == {"now", "notices", "create"}
    assert drawn(poll(services, first["seen"])) == set()


def test_only_the_open_tab_is_drawn(services: Services) -> None:
    made(services)
    seen = poll(services)["seen"]
    assert drawn(answer := poll(services, seen, "gallery")) == {"gallery"}
    assert drawn(answer := poll(services, answer["seen"], "queue")) == {"queue"}
    # drawn before, and nothing has happened since
    assert drawn(poll(services, answer["seen"], "create")) == set()


def test_steps_do_not_redraw_the_gallery_but_a_new_picture_does(services: Services) -> None:
    made(services)
    seen = poll(services, tab="gallery")["seen"]
    services.studio.submit("a blue heart", width=128, height=128)
    job = claimed(services.jobs)
    services.jobs.report(job.claim, 2)
    answer = poll(services, seen, "gallery")
    assert drawn(answer) == {"now"}
    services.jobs.stop(job.claim)
    image = made(services, "a green tree")
    answer = poll(services, answer["seen"], "gallery")
    assert image.id in answer["gallery"]


def test_the_drawer_is_drawn_while_it_is_open(services: Services) -> None:
    services.studio.submit("waits")
    seen = poll(services)["seen"]
    answer = poll(services, seen, drawer=True)
    assert drawn(answer) == {"drawer"}
    assert "waits" in answer["drawer"]
    assert drawn(poll(services, answer["seen"], drawer=True)) == set()


def test_the_drawer_lists_batches_as_their_waiting_pictures_will_run(services: Services) -> None:
    studio = services.studio
    running = studio.submit("many", count=3).batch_id
    claimed(services.jobs)
    moved = studio.submit("moved").batch_id
    studio.queue.move_batch(moved, running)  # before what still waits of it
    drawer = poll(services, drawer=True)["drawer"]
    assert drawer.index(f'data-drag="{moved}"') < drawer.index(f'data-drag="{running}"')


def test_new_pictures_are_counted_and_do_not_move_what_is_there(services: Services) -> None:
    images = [made(services, seed=seed) for seed in range(3)]
    place = f"top={images[2].id}"
    answer = poll(services, tab="gallery", place=place)
    later = [made(services, seed=seed) for seed in (98, 99)]
    html = poll(services, answer["seen"], "gallery", place=place)["gallery"]
    assert "2 new pictures" in html
    assert not any(f'data-key="{each.id}"' in html for each in later)
    assert all(f'data-key="{each.id}"' in html for each in images)
    services.studio.trash(images[2].id)  # the newest of before is gone: everything is shown
    html = poll(services, answer["seen"], "gallery", place=place)["gallery"]
    assert all(f'data-key="{each.id}"' in html for each in (*later, *images[:2]))


def test_an_address_of_no_board_says_so(services: Services) -> None:
    assert "No such board" in poll(services, tab="gallery", place="board=nope")["gallery"]


def test_an_older_part_of_the_gallery_stays_still(services: Services) -> None:
    images = [made(services, seed=seed) for seed in range(5)]
    place = f"at={images[3].id}"  # the newest page holds 4 and 3
    answer = poll(services, tab="gallery", place=place)
    assert images[2].id in answer["gallery"]
    assert f'data-key="{images[3].id}"' not in answer["gallery"]
    made(services, seed=99)
    tiles = [html.split('class="pictures"')[1].split('class="picked"')[0] for html in (
        answer["gallery"], poll(services, answer["seen"], "gallery", place=place)["gallery"]
    )]  # fmt: skip
    assert tiles[0] == tiles[1]


def test_a_search_redraws(services: Services) -> None:
    made(services, "a red apple")
    made(services, "a blue heart")
    seen = poll(services, tab="gallery")["seen"]
    html = poll(services, seen, "gallery", place="search=HEART")["gallery"]
    assert html.count('class="tile"') == 1


def test_presses_of_this_browser_are_shown(services: Services) -> None:
    mine = services.studio.submit("mine").batch_id
    services.studio.submit("somebody else's")
    html = poll(services, mine=[mine])["create"]
    assert "mine" in html
    assert "somebody" not in html
    claimed(services.jobs)
    claimed(services.jobs)
    assert "somebody" in poll(services, mine=[mine])["create"]  # what runs is shown, whoever asked for it


def test_what_is_not_finished_is_shown_before_what_is(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = [services.jobs.get(made(services, seed=seed).job_id).batch_id for seed in range(8)]
    services.studio.submit("first")
    running = claimed(services.jobs).batch_id
    waiting = [services.studio.submit("more").batch_id for _ in range(3)]
    mine = sorted([*ended, running, *waiting], reverse=True)
    monkeypatch.setattr(tab_create, "SHOWN_BATCHES", 6)
    assert tab_create.choose_batches(mine, services.studio.snapshot())[0] == [
        running,
        *waiting[::-1],
        ended[7],
        ended[6],
    ]
    monkeypatch.setattr(tab_create, "MOST_BATCHES", 2)
    monkeypatch.setattr(tab_create, "SHOWN_BATCHES", 2)
    assert tab_create.choose_batches(mine, services.studio.snapshot()) == ([running, waiting[2]], 2)
    assert "2 more in the queue" in poll(services, mine=mine)["create"]


@pytest.mark.parametrize("mine", [None, "text", {"a": 1}, [None, 7], "no such batch", "' OR 1=1", "x " * 5000])
def test_whatever_a_browser_remembers_the_page_is_drawn(services: Services, mine: Any) -> None:
    found = page_delta.delta_since(services.studio, "", "nonsense", [mine])
    assert found
    assert "Describe a picture" in found[1]["create"]


def test_a_database_problem_is_told_and_passes(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: object) -> int:
        raise DatabaseProblem(verbatim("app.db is locked."))

    seen = poll(services)["seen"]
    with monkeypatch.context() as broken:
        broken.setattr(type(services.studio), "revision", fails)
        answer = poll(services, seen)
        assert "app.db is locked." in answer["now"]
        assert drawn(answer) == {"now"}
    assert drawn(poll(services, answer["seen"])) == {"now", "notices", "create"}


def test_a_long_press_is_drawn_from_its_first_jobs_and_its_counts(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = services.studio.submit("a cat", count=60).batch_id
    snapshot = services.studio.snapshot()
    read: list[str] = []
    row_to_job = rows.to_job
    monkeypatch.setattr(rows, "to_job", lambda row: read.append(row["id"]) or row_to_job(row))
    html = tab_create.draw(services.studio, snapshot, view.utc(), mine, "")
    assert len(read) == html.count('class="shot ') == view_stage.MOST_SHOTS
    assert "0/60" in html
    assert "36 more pictures" in html
    assert 'data-do="cancel_batch"' in html


# -- over the wire --------------------------------------------------------------------------------------------------


def test_an_unchanged_page_gets_an_answer_without_a_body(client: TestClient, services: Services) -> None:
    for seed in range(20):
        made(services, seed=seed)
    body: dict[str, Any] = {"seen": "", "tab": "gallery", "asked": ["", "", "", "", ""]}
    first = client.post("/look", json=body)
    assert len(first.content) > 5000
    assert first.headers["Cache-Control"] == "no-store"
    answer = first.json()
    assert answer["version"] == __version__
    assert set(answer["parts"]) == {"now", "notices", "gallery", "tiles"}
    again = client.post("/look", json=body | {"seen": answer["seen"]})
    assert (again.status_code, again.content) == (204, b"")
    made(services, "a blue heart")
    assert "a blue heart" in client.post("/look", json=body | {"seen": answer["seen"]}).json()["parts"]["tiles"]


def test_a_look_that_cannot_be_read_is_told(client: TestClient) -> None:
    bodies = ("", "[", "[]", "null", "{}", '{"seen": 1, "tab": "create", "asked": []}', "[" * 10_000, "\udcff")
    for body in bodies:
        answer = client.post("/look", content=body.encode("utf-8", "surrogateescape"))
        assert answer.status_code == 422, body
        assert answer.json()["error"]["field"] == "body"


def test_one_more_picture_does_not_send_the_tiles_again(services: Services) -> None:
    newest = made(services)
    place = f"top={newest.id}"
    asked = ["", "", "", "", place]
    seen, parts = page_delta.delta_since(services.studio, "", "gallery", asked)
    assert newest.id in parts["tiles"]
    assert 'class="tile"' not in parts["gallery"]
    made(services, seed=8)
    seen, _ = page_delta.delta_since(services.studio, "", "gallery", asked)
    made(services, seed=9)
    _, changed = page_delta.delta_since(services.studio, seen, "gallery", asked)
    assert "2 new pictures" in changed["gallery"]
    assert "tiles" not in changed


def test_every_page_hears_of_a_planned_restart(client: TestClient, services: Services) -> None:
    asked = {"seen": "", "tab": "create", "asked": []}
    first = client.post("/look", json=asked).json()
    assert "restarting" not in first
    again = asked | {"seen": first["seen"]}
    assert client.post("/look", json=again).status_code == 204
    restart_file(services.settings).touch()
    told = {"version": __version__, "seen": first["seen"], "parts": {}, "restarting": True}
    assert client.post("/look", json=again).json() == told
