"""The table of downloads: states change by its verbs alone, and asking twice is one download."""

import pytest

from diffusion_local.db.database import Database
from diffusion_local.errors import Conflict, NotFound
from diffusion_local.hub.downloads import FINAL, KEPT_DOWNLOADS, TRANSITIONS, Download, DownloadState, DownloadStore


@pytest.fixture
def downloads(database: Database) -> DownloadStore:
    return DownloadStore(database)


def add(store: DownloadStore, repo: str = "a/b", **changes: str) -> Download:
    wish = {"revision": "main", "file": "", "folder": "models", "name": repo.partition("/")[2], "owner": ""} | changes
    return store.add(repo, **wish)[0]


def in_state(store: DownloadStore, state: DownloadState) -> Download:
    download = add(store)
    if state is DownloadState.WAITING:
        return download
    store.claim()
    match state:
        case DownloadState.DONE:
            return store.finish(download.id, 10)
        case DownloadState.FAILED:
            return store.fail(download.id, "gated", "no")
        case DownloadState.CANCELLED:
            return store.stop(download.id)
    return store.get(download.id)


@pytest.mark.parametrize("state", DownloadState)
@pytest.mark.parametrize("verb", ["finish", "fail", "stop"])
def test_an_end_is_only_of_what_runs(downloads: DownloadStore, state: DownloadState, verb: str) -> None:
    download = in_state(downloads, state)
    arguments = {"finish": (10,), "fail": ("gated", "no"), "stop": ()}[verb]
    if state is TRANSITIONS[verb][0]:
        assert getattr(downloads, verb)(download.id, *arguments).state is TRANSITIONS[verb][1]
    else:
        with pytest.raises(Conflict):
            getattr(downloads, verb)(download.id, *arguments)
        assert downloads.get(download.id).state is state


@pytest.mark.parametrize("state", sorted(FINAL))
def test_final_is_final(downloads: DownloadStore, state: DownloadState) -> None:
    download = in_state(downloads, state)
    with pytest.raises(Conflict, match=f"is already {state}"):
        downloads.cancel(download.id)
    assert downloads.claim() is None
    assert downloads.recover() == 0
    assert downloads.report(download.id, 5, 10)
    assert downloads.get(download.id).bytes_done == (10 if state is DownloadState.DONE else 0)


def test_the_oldest_is_claimed_first_and_once(downloads: DownloadStore) -> None:
    first, second = add(downloads, "a/one"), add(downloads, "a/two")
    claimed = [downloads.claim(), downloads.claim(), downloads.claim()]
    assert [each and each.id for each in claimed] == [first.id, second.id, None]


def test_asking_twice_is_one_download_until_it_ended(downloads: DownloadStore) -> None:
    first = add(downloads)
    assert add(downloads).id == first.id
    downloads.claim()
    assert add(downloads).id == first.id
    downloads.fail(first.id, "gated", "no")
    assert add(downloads).id != first.id


def test_two_downloads_never_write_one_name(downloads: DownloadStore) -> None:
    add(downloads, "a/model")
    with pytest.raises(Conflict, match="Another download is writing models/model"):
        add(downloads, "b/model")


def test_cancelling_what_waits_is_at_once_and_what_runs_hears_of_it(downloads: DownloadStore) -> None:
    assert downloads.cancel(add(downloads, "a/waits").id).state is DownloadState.CANCELLED
    running = in_state(downloads, DownloadState.RUNNING)
    assert not downloads.report(running.id, 5, 10)
    assert downloads.cancel(running.id).cancel_requested
    assert downloads.report(running.id, 6, 10)


def test_a_dead_loaders_download_waits_again_or_is_cancelled(downloads: DownloadStore) -> None:
    first, second = add(downloads, "a/one"), add(downloads, "a/two")
    downloads.claim(), downloads.claim()
    downloads.cancel(second.id)
    assert downloads.recover() == 2
    assert [downloads.get(each.id).state for each in (first, second)] == ["waiting", "cancelled"]


def test_only_the_newest_ended_ones_are_kept_and_open_ones_come_first(downloads: DownloadStore) -> None:
    waiting = add(downloads, "z/waits")
    for number in range(KEPT_DOWNLOADS + 5):
        downloads.cancel(add(downloads, f"a/m{number}").id)
    found = downloads.list_all()
    assert found[0].id == waiting.id
    assert len(found) <= KEPT_DOWNLOADS + 2
    assert found[1].repo == f"a/m{KEPT_DOWNLOADS + 4}"


def test_an_unknown_one_is_named(downloads: DownloadStore) -> None:
    with pytest.raises(NotFound, match="no download 'x'"):
        downloads.get("x")


def test_pages_hear_of_states_and_not_of_each_piece(database: Database, downloads: DownloadStore) -> None:
    def revision() -> int:
        with database.read() as db:
            return int(db.execute("SELECT revision FROM queue").fetchone()[0])

    before = revision()
    add(downloads)
    claimed = downloads.claim()
    assert claimed
    moved = revision()
    assert moved >= before + 2
    downloads.report(claimed.id, 5, 10)
    assert revision() == moved
