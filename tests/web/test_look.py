"""A look at the page without a browser: what it draws, and what it costs."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from diffusion_local import __version__
from diffusion_local.compose import House
from diffusion_local.errors import DatabaseProblem
from diffusion_local.messages import verbatim
from diffusion_local.store import rows
from diffusion_local.web.ui import look, tab_create, view, view_jobs
from tests.support import claimed
from tests.web.conftest import made


def poll(
    house: House,
    seen: str = "",
    tab: str = "create",
    mine: Any = (),
    place: str = "",
    search: str = "",
    queue: str = "",
) -> dict:
    found = look.look(house.studio, seen, tab, [" ".join(mine), "", queue, place, search])
    return {"seen": found[0], **found[1]} if found else {"seen": seen}


def drawn(answer: dict) -> set[str]:
    return set(answer) - {"seen"}


def test_unchanged_state_draws_nothing(house: House) -> None:
    first = poll(house)
    assert drawn(first) == {"now", "notices", "create"}
    assert drawn(poll(house, first["seen"])) == set()


def test_only_the_open_tab_is_drawn(house: House) -> None:
    made(house)
    seen = poll(house)["seen"]
    assert drawn(answer := poll(house, seen, "gallery")) == {"gallery"}
    assert drawn(answer := poll(house, answer["seen"], "queue")) == {"queue"}
    # drawn before, and nothing has happened since
    assert drawn(poll(house, answer["seen"], "create")) == set()


def test_steps_do_not_redraw_the_gallery_but_a_new_picture_does(house: House) -> None:
    made(house)
    seen = poll(house, tab="gallery")["seen"]
    house.studio.submit("a blue heart", width=128, height=128)
    job = claimed(house.jobs)
    house.jobs.report(job.claim, 2)
    answer = poll(house, seen, "gallery")
    assert drawn(answer) == {"now"}
    house.jobs.stop(job.claim)
    image = made(house, "a green tree")
    answer = poll(house, answer["seen"], "gallery")
    assert image.id in answer["gallery"]


def test_an_older_page_of_the_gallery_stays_still(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffusion_local.web.ui.tab_gallery.PAGE", 2)
    images = [made(house, seed=seed) for seed in range(5)]
    place = f"at={images[3].id}"  # the newest page holds 4 and 3
    answer = poll(house, tab="gallery", place=place)
    assert images[2].id in answer["gallery"]
    assert images[3].id not in answer["gallery"]
    made(house, seed=99)
    assert "gallery" not in drawn(poll(house, answer["seen"], "gallery", place=place))


def test_a_search_redraws(house: House) -> None:
    made(house, "a red apple")
    made(house, "a blue heart")
    seen = poll(house, tab="gallery")["seen"]
    html = poll(house, seen, "gallery", search="HEART")["gallery"]
    assert html.count('class="tile"') == 1


def test_presses_of_this_browser_are_shown(house: House) -> None:
    mine = house.studio.submit("mine").batch_id
    house.studio.submit("somebody else's")
    html = poll(house, mine=[mine])["create"]
    assert "mine" in html
    assert "somebody" not in html


def test_what_is_not_finished_is_shown_before_what_is(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = [house.jobs.get(made(house, seed=seed).job_id).batch_id for seed in range(8)]
    house.studio.submit("first")
    running = claimed(house.jobs).batch_id
    waiting = [house.studio.submit("more").batch_id for _ in range(3)]
    mine = sorted([*ended, running, *waiting], reverse=True)
    assert tab_create.choose(mine, house.studio.snapshot()) == ([running, *waiting[::-1], ended[7], ended[6]], 0)
    monkeypatch.setattr(tab_create, "MOST_BATCHES", 2)
    monkeypatch.setattr(tab_create, "SHOWN_BATCHES", 2)
    assert tab_create.choose(mine, house.studio.snapshot()) == ([running, waiting[2]], 2)
    assert "and 2 more in the queue" in poll(house, mine=mine)["create"]


@pytest.mark.parametrize("mine", [None, "text", {"a": 1}, [None, 7], "no such batch", "' OR 1=1", "x " * 5000])
def test_whatever_a_browser_remembers_the_page_is_drawn(house: House, mine: Any) -> None:
    found = look.look(house.studio, "", "nonsense", [mine])
    assert found
    assert "Your pictures appear here" in found[1]["create"]


def test_a_database_problem_is_told_and_passes(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: object) -> int:
        raise DatabaseProblem(verbatim("app.db is locked."))

    seen = poll(house)["seen"]
    with monkeypatch.context() as broken:
        broken.setattr(type(house.studio), "revision", fails)
        answer = poll(house, seen)
        assert "app.db is locked." in answer["now"]
        assert drawn(answer) == {"now"}
    assert drawn(poll(house, answer["seen"])) == {"now", "notices", "create"}


def test_a_long_press_is_drawn_from_its_first_jobs_and_its_counts(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = house.studio.submit("a cat", count=60).batch_id
    snapshot = house.studio.snapshot()
    read: list[str] = []
    row_to_job = rows.job
    monkeypatch.setattr(rows, "job", lambda row: read.append(row["id"]) or row_to_job(row))
    html = tab_create.draw(house.studio, snapshot, view.utc(), mine)
    assert len(read) == html.count("<article") == view_jobs.MOST_CARDS
    assert "0 of 60" in html
    assert "and 36 more pictures" in html
    assert 'data-do="cancel_batch"' in html


# -- over the wire --------------------------------------------------------------------------------------------------


def test_an_unchanged_page_gets_an_answer_without_a_body(client: TestClient, house: House) -> None:
    for seed in range(20):
        made(house, seed=seed)
    body: dict[str, Any] = {"seen": "", "tab": "gallery", "asked": ["", "", "", "", ""]}
    first = client.post("/look", json=body)
    assert len(first.content) > 5000
    assert first.headers["Cache-Control"] == "no-store"
    told = first.json()
    assert told["version"] == __version__
    assert set(told["parts"]) == {"now", "notices", "gallery"}
    again = client.post("/look", json=body | {"seen": told["seen"]})
    assert (again.status_code, again.content) == (204, b"")
    made(house, "a blue heart")
    assert "a blue heart" in client.post("/look", json=body | {"seen": told["seen"]}).json()["parts"]["gallery"]


def test_a_look_that_cannot_be_read_is_told(client: TestClient) -> None:
    bodies = ("", "[", "[]", "null", "{}", '{"seen": 1, "tab": "create", "asked": []}', "[" * 10_000, "\udcff")
    for body in bodies:
        answer = client.post("/look", content=body.encode("utf-8", "surrogateescape"))
        assert answer.status_code == 422, body
        assert answer.json()["error"]["field"] == "body"
