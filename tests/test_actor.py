"""Who may do what: by role, by a token's scopes, by ownership, and in which thread."""

import io
import json
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from PIL import Image as PIL

from diffusion_local import actor, families
from diffusion_local.actor import LOCAL, NOBODY, SCOPES, Actor, Role, Scope, acting
from diffusion_local.compose import Services
from diffusion_local.domain import State
from diffusion_local.errors import Conflict, Forbidden, InvalidParams, LimitReached, NotFound
from diffusion_local.options.table import Params
from diffusion_local.studio import Studio
from tests.support import PACKAGE, claimed, eventually, refused, run_python, sql
from tests.web.conftest import drawn

SMALL = {"width": 128, "height": 128, "steps": 4}
Ask = Callable[[Studio], Any]


def person(name: str, role: Role = Role.USER, own: bool = False, **more: Any) -> Actor:
    return Actor(name, role, SCOPES[role], sees_all=not own or role is Role.ADMIN, **more)


ANN, BOB, EVE = person("ann"), person("bob"), person("eve", Role.VIEWER)
ADMIN, SHY = person("root", Role.ADMIN), person("bob", own=True)


@pytest.fixture
def anns(services: Services) -> dict[str, str]:
    """A job of ann's in each state that matters, and her picture."""
    with acting(ANN):
        done = services.studio.submit("a secret garden", **SMALL, idempotency_key="k", name="gardens")
        image = drawn(services, claimed(services.jobs))
        running = services.studio.submit("a secret river", **SMALL)
        claimed(services.jobs)
        waiting = services.studio.submit("a secret hill", **SMALL)
    return {
        "job": done.job_ids[0],
        "batch": done.batch_id,
        "image": image.id,
        "running": running.job_ids[0],
        "waiting": waiting.job_ids[0],
        "waiting_batch": waiting.batch_id,
    }


@pytest.fixture
def unsaid() -> Iterator[None]:
    """A process that has not said as whom it acts, as the web process never does."""
    actor.run_as(NOBODY)
    yield
    actor.run_as(LOCAL)


def test_the_machines_own_user_may_do_everything() -> None:
    assert actor.current() is LOCAL  # tests/conftest.py says so for this process
    assert LOCAL.scopes == frozenset(Scope)
    assert LOCAL.owner("somebody") == "somebody"
    assert ANN.owner("somebody") == "ann"


def test_without_an_actor_nothing_is_seen_and_nothing_may_be_done(
    unsaid: None, studio: Studio, anns: dict[str, str]
) -> None:
    assert actor.current() is NOBODY
    for ask in (
        studio.snapshot,
        lambda: studio.queue.cancel(waiting=True),
        lambda: studio.job(anns["job"]),
        lambda: studio.submit("a"),
    ):
        with pytest.raises(Forbidden):
            ask()


def test_the_actor_reaches_tasks_and_their_threads_but_no_plain_thread_and_no_pool(unsaid: None) -> None:
    async def ask() -> str:
        return await anyio.to_thread.run_sync(lambda: actor.current().name)

    seen: list[Actor] = []
    with acting(ANN):
        assert anyio.run(ask) == "ann"
        thread = threading.Thread(target=lambda: seen.append(actor.current()))
        thread.start()
        thread.join()
        with ThreadPoolExecutor(1) as pool:
            seen.append(pool.submit(actor.current).result())
    assert seen == [NOBODY, NOBODY]
    assert actor.current() is NOBODY


def test_the_doctor_looks_at_everything_also_in_a_process_that_acts_for_nobody(studio: Studio, unsaid: None) -> None:
    with acting(ADMIN):
        studio.health.start_check()
        found = eventually(lambda: not studio.health.looking and studio.health.findings(), 60)
    assert [each for each in found if "may not" in each.text] == []


def test_a_process_says_once_as_whom_its_threads_act(unsaid: None) -> None:
    actor.run_as(LOCAL)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(actor.current).result() is LOCAL


SERVE = """
import threading
from diffusion_local import actor, families
from diffusion_local.web import __main__ as web

def run(server, *sockets):
    seen = []
    threads = [threading.Thread(target=lambda: seen.append(actor.current().source))]
    threads += [threading.Timer(0, lambda: seen.append(actor.current().source))]
    for thread in threads:
        thread.start()
        thread.join()
    print(actor.current().source, *seen, flush=True)

web.WebServer.run = run
print(web.main([]))
"""


@pytest.mark.slow
def test_in_the_web_process_a_bare_thread_is_nobody(home: Path) -> None:
    assert run_python(SERVE).split() == ["nobody", "nobody", "nobody", "0"]


def test_the_command_line_acts_for_the_machines_own_user(home: Path) -> None:
    text = run_python("import sys; from diffusion_local.cli import main; sys.argv[1:] = ['queue', '--json']; main()")
    assert json.loads(text)["counts"]["queued"] == 0


def test_the_web_process_acts_for_the_machines_own_user_in_few_places_only() -> None:
    """Where a server without accounts lets callers in, while the page is laid out, for the probe of readiness, and for
    workers on other machines, who make all pictures (what they may call is in ``dispatch``) and fetch models."""
    named = {
        path.relative_to(PACKAGE).as_posix(): len(found)
        for path in (PACKAGE / "web").rglob("*.py")
        if (found := re.findall(r"\bLOCAL\b", path.read_text(encoding="utf-8")))
    }
    assert named == {"web/authentication.py": 3, "web/api/http/workers.py": 4, "web/app.py": 2, "web/health.py": 2}
    assert not [path for path in (PACKAGE / "web").rglob("*.py") if "run_as" in path.read_text(encoding="utf-8")]


CHANGES: dict[str, Callable[[dict[str, str]], Ask]] = {
    "cancel": lambda ids: lambda studio: studio.queue.cancel([ids["waiting"]]),
    "cancel the running": lambda ids: lambda studio: studio.queue.cancel([ids["running"]]),
    "cancel a batch": lambda ids: lambda studio: studio.queue.cancel(batch_id=ids["waiting_batch"]),
    "again": lambda ids: lambda studio: studio.queue.again([ids["job"]]),
    "pause a batch": lambda ids: lambda studio: studio.queue.pause_batch(ids["waiting_batch"]),
    "resume a batch": lambda ids: lambda studio: studio.queue.resume_batch(ids["waiting_batch"]),
    "priority": lambda ids: lambda studio: studio.queue.set_priority(5, [ids["waiting"]]),
    "to the top": lambda ids: lambda studio: studio.queue.move("top", [ids["waiting"]]),
    "up": lambda ids: lambda studio: studio.queue.move("up", [ids["waiting"]]),
    "forget": lambda ids: lambda studio: studio.queue.forget([ids["job"]]),
    "star": lambda ids: lambda studio: studio.star(ids["image"]),
    "trash": lambda ids: lambda studio: studio.trash(ids["image"]),
    "restore": lambda ids: lambda studio: studio.restore(ids["image"]),
}
READS: dict[str, Callable[[dict[str, str]], Ask]] = {
    "job": lambda ids: lambda studio: studio.job(ids["job"]),
    "events": lambda ids: lambda studio: studio.events(ids["job"]),
    "wait": lambda ids: lambda studio: studio.wait([ids["waiting"]], 0),
    "batch": lambda ids: lambda studio: studio.batch(ids["batch"]),
    "image": lambda ids: lambda studio: studio.image(ids["image"]),
    "picture": lambda ids: lambda studio: studio.picture_file(ids["image"]),
    "thumbnail": lambda ids: lambda studio: studio.thumbnail_file(ids["image"]),
    "preview": lambda ids: lambda studio: studio.preview_file(ids["running"]),
    "export": lambda ids: lambda studio: list(studio.lists.export(ids["batch"])),
    "key": lambda ids: lambda studio: studio.submitted_under("k"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_only_the_owner_and_an_admin_change_a_job_or_a_picture(
    studio: Studio, anns: dict[str, str], change: str
) -> None:
    ask = CHANGES[change](anns)
    revision = studio.revision()
    for other in (BOB, EVE):
        with acting(other), pytest.raises(Forbidden):
            ask(studio)
    with acting(SHY), pytest.raises(NotFound):
        ask(studio)
    assert studio.revision() == revision
    with acting(ANN):
        ask(studio)


@pytest.mark.parametrize("change", CHANGES)
def test_an_admin_changes_what_is_others(studio: Studio, anns: dict[str, str], change: str) -> None:
    with acting(ADMIN):
        CHANGES[change](anns)(studio)


@pytest.mark.parametrize("read", READS)
def test_what_is_not_shared_is_not_there_for_others(studio: Studio, anns: dict[str, str], read: str) -> None:
    ask = READS[read](anns)
    with acting(SHY), pytest.raises(NotFound):
        ask(studio)
    with acting(NOBODY), pytest.raises(Forbidden):
        ask(studio)
    if read not in ("key", "preview"):  # a key is each one's own; the fake worker left no preview
        for other in (ANN, BOB, EVE, ADMIN):
            with acting(other):
                ask(studio)


def test_lists_leave_out_what_is_others(studio: Studio, anns: dict[str, str]) -> None:
    with acting(SHY):
        assert studio.jobs() == []
        assert studio.jobs_of_batches([anns["batch"]]) == []
        assert studio.gallery() == []
        assert studio.gallery_count() == 0
        assert studio.events_after(0) == []
        assert studio.unfinished([anns["waiting"]]) == []
        assert studio.images_of(studio.jobs()) == {}
        assert "secret" not in "".join(studio.lists.export(None))
    with acting(BOB):
        assert len(studio.jobs()) == 3
        assert len(studio.gallery()) == 1


def test_the_queue_shows_somebodys_jobs_without_their_prompts(studio: Studio, anns: dict[str, str]) -> None:
    with acting(SHY):
        mine = studio.submit("my own tree", **SMALL)
        snapshot = studio.snapshot()
    assert [job.id for job in snapshot.waiting] == [*mine.job_ids, anns["waiting"]]  # in turn: one of hers runs
    assert [job.hidden for job in snapshot.waiting] == [False, True]
    assert snapshot.running[0].hidden
    assert snapshot.ended == []
    assert "secret" not in repr(snapshot)
    assert "ann" not in repr(snapshot)
    assert snapshot.counts[State.QUEUED] == 2  # how long the line is concerns everybody


def test_all_of_them_are_all_of_ones_own(studio: Studio, anns: dict[str, str]) -> None:
    with acting(BOB):
        mine = studio.submit("my own tree", **SMALL)
        assert studio.queue.cancel(waiting=True) == mine.job_ids
        assert studio.queue.forget(ended=True) == mine.job_ids
        with pytest.raises(Conflict):
            studio.queue.again(state=State.DONE)
    assert studio.job(anns["waiting"]).state is State.QUEUED
    with acting(ADMIN):
        assert studio.queue.cancel(waiting=True) == [anns["waiting"]]


@pytest.mark.parametrize("who", [BOB, EVE, SHY, NOBODY])
def test_the_whole_queue_is_an_admins(studio: Studio, who: Actor) -> None:
    with acting(who):
        for ask in (studio.queue.pause, studio.queue.resume):
            with pytest.raises(Forbidden):
                ask()
    with acting(ADMIN):
        studio.queue.pause()
    assert studio.snapshot().paused


def test_a_viewer_only_looks(studio: Studio, anns: dict[str, str]) -> None:
    with acting(EVE):
        assert studio.job(anns["job"]).params.prompt == "a secret garden"
        for ask in (
            lambda: studio.submit("a tree"),
            lambda: studio.lists.submit("a tree"),
            lambda: studio.lists.check("a tree"),
            lambda: studio.queue.again([anns["job"]]),
            lambda: studio.queue.cancel(waiting=True),
            lambda: studio.queue.forget(ended=True),
        ):
            with pytest.raises(Forbidden):
                ask()


def test_a_tokens_scopes_bound_what_its_account_may(studio: Studio, anns: dict[str, str]) -> None:
    submits = Actor("ann", Role.USER, frozenset({Scope.READ, Scope.SUBMIT}), source="token")
    with acting(submits):
        studio.submit("a tree", **SMALL)
        with refused(Forbidden, "may_not"):
            studio.queue.cancel([anns["waiting"]])
    quiet_admin = Actor("root", Role.ADMIN, frozenset({Scope.READ, Scope.CONTROL}), source="token")
    with acting(quiet_admin), pytest.raises(Forbidden):
        studio.queue.cancel([anns["waiting"]])


def test_a_new_job_is_its_submitters(studio: Studio, services: Services, anns: dict[str, str]) -> None:
    assert studio.job(anns["job"]).owner == "ann"
    assert studio.image(anns["image"]).owner == "ann"
    with acting(BOB):
        batch_id = studio.lists.submit("a tree\na hill", owner="ann").batch_id
        assert studio.batch(batch_id)[0].owner == "bob"


def test_each_account_has_idempotency_keys_of_its_own(studio: Studio, anns: dict[str, str]) -> None:
    with acting(BOB):
        mine = studio.submit("something else", **SMALL, idempotency_key="k")
        assert mine.batch_id != anns["batch"]
        assert studio.submit("something else", **SMALL, idempotency_key="k").batch_id == mine.batch_id
        with refused(Conflict, "key_used"):
            studio.submit("a third thing", **SMALL, idempotency_key="k")
    with acting(ANN):
        assert studio.submitted_under("k") == anns["batch"]


def test_waiting_jobs_of_an_account_are_limited(studio: Studio) -> None:
    with acting(person("ann", allowance=actor.Allowance(queued=3))):
        studio.submit("a tree", count=2, **SMALL)
        with pytest.raises(
            LimitReached, match="may have 3 jobs waiting; 2 are waiting, and 2 more were requested"
        ) as error:
            studio.submit("a hill", count=2, **SMALL)
        assert error.value.retry_after > 0
        studio.submit("a hill", **SMALL)
    with acting(BOB):
        studio.submit("a hill", count=5, **SMALL)


def test_pictures_a_day_of_an_account_are_limited(studio: Studio, services: Services) -> None:
    with acting(person("ann", allowance=actor.Allowance(per_day=3))):
        first = studio.submit("a tree", count=2, **SMALL)
        studio.queue.cancel([first.job_ids[1]])  # never ran: given back
        drawn(services, claimed(services.jobs))
        studio.queue.forget(ended=True)  # what is deleted was made all the same
        studio.submit("a hill", count=2, **SMALL)
        with pytest.raises(LimitReached, match="3 pictures a day") as error:
            studio.submit("a hill", **SMALL)
        assert 0 < error.value.retry_after <= 86400


def test_the_size_of_an_accounts_pictures_is_limited(studio: Studio) -> None:
    with acting(person("ann", allowance=actor.Allowance(pixels=128 * 128))):
        studio.submit("a tree", **SMALL)
        for ask in (
            lambda: studio.submit("a tree", width=256, height=128),
            lambda: studio.lists.submit("a tree", width=256),
        ):
            with pytest.raises(InvalidParams, match="at most 16,384 pixels for ann"):
                ask()
        assert len(studio.jobs()) == 1  # nothing half-stored


def test_two_submits_at_once_do_not_both_fit_into_one_allowance(studio: Studio) -> None:
    def submit(_: int) -> bool:
        with acting(person("ann", allowance=actor.Allowance(queued=5))):
            try:
                studio.submit("a tree", **SMALL)
            except LimitReached:
                return False
            return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(submit, range(16))) == 5


def test_changing_what_waits_holds_to_the_size_limit_too(studio: Studio) -> None:
    with acting(person("ann", allowance=actor.Allowance(pixels=128 * 128))):
        batch_id = studio.submit("a tree", count=2, **SMALL).batch_id
        for ask in (
            lambda: studio.batches.edit(batch_id, width=256),
            lambda: studio.batches.edit(batch_id, size="512x512", prompt="a hill"),
        ):
            with pytest.raises(InvalidParams, match="at most 16,384 pixels for ann"):
                ask()
        assert {(job.params.width, job.params.prompt) for job in studio.jobs()} == {(128, "a tree")}
    with acting(ADMIN):
        assert studio.batches.edit(batch_id, width=256).count == 2


def test_limits_hold_wherever_jobs_are_made(studio: Studio, services: Services) -> None:
    """Of a picture made larger it is the larger one's size that counts; without a size of its own, the source's."""
    with acting(ANN):
        source = studio.sources.add(png(96, 96)).id
        done = studio.submit("a tree", **SMALL)
        file = "".join(studio.queue_file.export())
        drawn(services, claimed(services.jobs))
    small, few = actor.Allowance(pixels=100 * 100), actor.Allowance(per_day=1)
    asks: dict[str, Ask] = {
        "submit": lambda studio: studio.submit("a tree", count=2, **SMALL),
        "upscale": lambda studio: studio.submit("", kind="upscale", source=source, scale=2, count=2),
        "list": lambda studio: studio.lists.submit("a tree\na hill"),
        "grid": lambda studio: studio.grids.submit("a tree", x="steps: 4, 8"),
        "duplicate": lambda studio: studio.batches.duplicate(done.batch_id),
        "again": lambda studio: studio.queue.again(done.job_ids),
        "queue file": lambda studio: studio.queue_file.take(file),
    }
    before = studio.jobs()
    for ask in asks.values():
        with acting(person("ann", allowance=few)), pytest.raises(LimitReached):
            ask(studio)
        with acting(person("ann", allowance=small)), pytest.raises(InvalidParams, match="pixels for ann"):
            ask(studio)
    assert studio.jobs() == before


def png(width: int, height: int, colour: str = "red") -> bytes:
    file = io.BytesIO()
    PIL.new("RGB", (width, height), colour).save(file, "PNG")
    return file.getvalue()


def test_a_source_is_seen_by_whoever_added_it_or_sees_a_use_of_it(studio: Studio, services: Services) -> None:
    shared, own = replace(BOB, sees_all=True), SHY
    with acting(replace(ANN, sees_all=False)):
        used, mask = studio.sources.add(png(128, 128)).id, studio.sources.add(png(128, 128, "white")).id
        unused = studio.sources.add(png(64, 64)).id
        studio.submit("a tree", source=used, mask=mask, width=128, height=128)
    for source, who, seen in (
        (used, shared, True),
        (mask, shared, True),
        (unused, shared, False),
        (used, own, False),
        (mask, own, False),
        (unused, own, False),
        (unused, ADMIN, True),
        (unused, replace(ANN, sees_all=False), True),
    ):
        with acting(who):
            if seen:
                assert studio.sources.file(source).exists()
                assert studio.submit("a hill", source=source, width=128, height=128)
                studio.queue.cancel(waiting=True)
                studio.queue.forget(ended=True)
            else:
                with pytest.raises(NotFound):
                    studio.sources.file(source)
                with refused(InvalidParams, "source_not_kept", field="source"):
                    studio.submit("a hill", source=source)
        if who is ADMIN:
            with acting(replace(ANN, sees_all=False)):
                studio.submit("a tree", source=used, mask=mask, width=128, height=128)


def test_a_picture_among_several_is_seen_like_a_source(
    studio: Studio, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(families, "references_of", lambda architecture: 3)
    ann = replace(ANN, sees_all=False)
    with acting(ann):
        first, mask = studio.sources.add(png(128, 128)).id, studio.sources.add(png(128, 128, "white")).id
        job_id = studio.submit("a tree", references=[{"image": first, "mask": mask}], **SMALL).job_ids[0]
    with sql(services.settings) as db:
        db.execute("DELETE FROM source_owners")  # nobody noted who added them
    with acting(SHY):
        for source in (first, mask):
            with pytest.raises(NotFound):
                studio.sources.file(source)
            with refused(InvalidParams, "source_not_kept", field="references[0].image"):
                studio.submit("a hill", references=[{"image": source}])
    with acting(ann):
        assert all(studio.sources.file(each).exists() for each in (first, mask))
        studio.batches.edit(studio.job(job_id).batch_id, references=[{"image": first}])
        assert studio.sources.file(first).exists()
        with pytest.raises(NotFound):
            studio.sources.file(mask)  # it is used no longer


def test_a_source_that_several_added_is_each_ones(studio: Studio) -> None:
    for who in (replace(ANN, sees_all=False), SHY):
        with acting(who):
            source = studio.sources.add(png(64, 64)).id
    for who in (replace(ANN, sees_all=False), SHY):
        with acting(who):
            assert studio.sources.size(source) == (64, 64)


def test_a_source_of_an_older_home_is_seen_with_a_picture_that_uses_it(studio: Studio, services: Services) -> None:
    with acting(ANN):
        source = studio.sources.add(png(128, 128)).id
        studio.submit("a tree", source=source, **SMALL)
        drawn(services, claimed(services.jobs))
    with services.database.write() as db:
        db.execute("DELETE FROM source_owners")  # nobody noted who added it
    with acting(SHY), pytest.raises(NotFound):
        studio.sources.file(source)
    with acting(replace(ANN, sees_all=False)):
        assert studio.sources.file(source).exists()
        studio.queue.forget(ended=True)
        assert studio.sources.file(source).exists()  # the picture is still there


def test_boards_take_the_scope_and_are_counted_by_owner(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffusion_local.gallery.boards.MOST_BOARDS", 2)
    reads = Actor("ann", Role.USER, frozenset({Scope.READ}), source="token")
    for who in (EVE, reads):
        with acting(who):
            for ask in (lambda: studio.boards.create("one"), lambda: studio.boards.delete("one")):
                with pytest.raises(Forbidden):
                    ask()
    for who in (ANN, BOB):
        with acting(who):
            studio.boards.create("one")
            studio.boards.create("two")
            with pytest.raises(InvalidParams, match="you already have 2 boards"):
                studio.boards.create("three")


def test_of_anothers_work_no_model_no_worker_and_no_name_is_told(studio: Studio, services: Services) -> None:
    with acting(ANN):
        studio.submit("a secret garden", name="plans", **SMALL)
        drawn(services, claimed(services.jobs))
        running = studio.submit("a secret river", variation_seed=5, variation_strength=0.5, rung="vae_tiling", **SMALL)
        claim = claimed(services.jobs).claim
        services.workers.register(claim.worker, 1, "cpu")
        services.workers.update(claim.worker, "busy", "starter")
    with acting(SHY):
        [job] = studio.snapshot().running
        assert job.id == running.job_ids[0]
        assert job.params == Params("", "", "", 128, 128, 4, 0.0, "", 0)
        assert not any((job.owner, job.batch_id, job.from_job, job.failure, job.index, job.tries, job.crashes))
        assert [worker.model for worker in studio.snapshot().workers] == [""]
        assert [worker.model for worker in studio.workers()] == [""]
        assert studio.groups.models() == studio.pictures.models() == studio.groups.owners() == []
        assert studio.reports.night().batches == []
    with acting(ANN):
        assert studio.groups.models() == studio.pictures.models() == ["starter"]
        assert [worker.model for worker in studio.snapshot().workers] == ["starter"]
