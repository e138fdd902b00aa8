"""What stores ask of a database beyond portable SQL: the answers that each database has to give."""

import json
import random
from collections.abc import Iterator

import pytest

from diffusion_local.actor import Actor, Role, Scope, acting
from diffusion_local.db import search
from diffusion_local.db.database import Database, Transaction
from diffusion_local.db.dialect import (
    as_list,
    by_index,
    contains,
    count_distinct,
    distinct_values,
    first_of_each,
    in_list,
    json_field,
    list_rows,
    not_in_list,
    seconds_between,
)
from diffusion_local.db.row_access import RULES_ALL, SEES_ALL, owned, readable, writable
from diffusion_local.domain import utc_now
from diffusion_local.queue.jobs import JobStore
from tests.support import enqueue


@pytest.fixture
def db(database: Database) -> Iterator[Transaction]:
    with database.write() as opened:
        yield opened


def test_rows_are_inserted_one_by_one_and_read_as_dictionaries(db: Transaction) -> None:
    taken: list[int] = []

    def each() -> Iterator[dict[str, object]]:
        for number in range(1200):
            taken.append(number)
            yield {"id": f"{number:04}", "name": f"board {number}", "owner": "ann", "created_at": utc_now()}

    db.insert_many("boards", each())
    assert len(taken) == db.scalar("SELECT count(*) FROM boards WHERE owner = :who", who="ann") == 1200
    db.insert_many("boards", [])
    [row] = db.query("SELECT id, name FROM boards WHERE id = ?", ["0007"])
    assert row == {"id": "0007", "name": "board 7"}
    assert db.scalar("SELECT id FROM boards WHERE id = :id", id="nobody") is None


def test_an_insert_that_fails_half_way_leaves_nothing(database: Database) -> None:
    def each() -> Iterator[dict[str, object]]:
        yield {"id": "a", "name": "a", "owner": "", "created_at": ""}
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError), database.write() as db:
        db.insert_many("boards", each())
    with database.read() as db:
        assert db.scalar("SELECT count(*) FROM boards") == 0


def test_an_upsert_changes_the_row_of_its_key_and_keeps_other_columns(db: Transaction) -> None:
    row = {"slot": "gpu0", "pid": 1, "status": "idle", "started_at": "", "seen_at": ""}
    db.upsert("workers", row, ("slot",))
    db.execute("UPDATE workers SET free_bytes = 7")
    db.upsert("workers", row | {"pid": 2}, ("slot",))
    db.upsert("workers", row | {"slot": "gpu1"}, ("slot",))
    found = db.execute("SELECT slot, pid, free_bytes FROM workers ORDER BY slot").fetchall()
    assert found == [("gpu0", 2, 7), ("gpu1", 1, 0)]


def test_a_list_of_any_length_is_one_value(db: Transaction) -> None:
    ids = [f"{number:06}" for number in range(40_000)]
    assert db.scalar(f"SELECT count(*) FROM ({list_rows()}) AS listed", ids=as_list(ids)) == 40_000
    db.insert("boards", *({"id": each, "name": each, "owner": "", "created_at": ""} for each in ("000001", "x'; --")))
    asked = as_list([*ids, "x'; --"])
    assert db.scalar(f"SELECT count(*) FROM boards WHERE {in_list('id')}", ids=asked) == 2
    assert db.scalar(f"SELECT count(*) FROM boards WHERE {not_in_list('id', ':ids')}", ids=as_list(ids)) == 1
    assert db.scalar(f"SELECT count(*) FROM boards WHERE {in_list('id')}", ids=as_list(())) == 0


def test_a_field_of_a_json_column(db: Transaction) -> None:
    recipe = json.dumps({"source": "abc", "mask": None, "prompt": 'ein "Apfel" 🍎'})
    row = "(SELECT :recipe AS params) AS row"
    for name, value in {"source": "abc", "mask": None, "prompt": 'ein "Apfel" 🍎', "nothing": None}.items():
        assert db.scalar(f"SELECT {json_field('params', name)} FROM {row}", recipe=recipe) == value


def test_seconds_between_two_times(db: Transaction) -> None:
    between = seconds_between(":start", ":end")
    found = db.scalar(f"SELECT {between}", start="2026-02-28T23:59:59.500Z", end="2026-03-01T00:00:01.250Z")
    assert found == pytest.approx(1.75, abs=0.002)
    assert db.scalar(f"SELECT {between}", start=None, end=utc_now()) is None


def test_a_part_of_a_text_in_capitals_or_not(db: Transaction) -> None:
    has = contains(":text", ":part")
    for part, there in {"RED": True, "红苹": True, "%": False, "blue": False}.items():
        assert bool(db.scalar(f"SELECT {has}", text="A Red apple 红苹果", part=part)) is there


def test_the_first_of_each_group_in_an_order(database: Database) -> None:
    store, draw = JobStore(database), random.Random(7)
    for _ in range(40):
        enqueue(store, count=3, owner=draw.choice(["", "ann", "bob", "zoe"]), model=draw.choice(["a", "b", "c"]))
    source = f"{by_index('jobs', 'jobs_due')} WHERE state = 'queued' AND held = 0 AND not_before IS NULL AND gate = 0"
    rest = " AND lane = 0 AND priority = 0"
    with database.write() as db:
        db.execute("UPDATE jobs SET position = -position WHERE idx = 1")
        heads = first_of_each(source + rest, ("owner", "model"), "position", "owner, model, position")
        plain = f"SELECT owner, model, min(position) FROM jobs WHERE state = 'queued'{rest} GROUP BY owner, model"
        assert db.execute(heads).fetchall() == db.execute(f"{plain} ORDER BY owner, model").fetchall()
        db.execute("UPDATE jobs SET held = 1")
        assert db.execute(heads).fetchall() == []


def test_different_values_of_a_column(database: Database) -> None:
    store = JobStore(database)
    for owner in ("zoe", "ann", "ann", "bob"):
        enqueue(store, owner=owner)
    with database.read() as db:
        assert distinct_values(db, "jobs", "owner") == ["ann", "bob", "zoe"]
        assert distinct_values(db, "jobs", "owner", "owner > 'ann'") == ["bob", "zoe"]
        assert distinct_values(db, "jobs", "owner", "false") == []
        waiting = f"{by_index('jobs', 'jobs_open')} WHERE state IN ('queued', 'running')"
        assert [count_distinct(db, waiting, "batch_id", most) for most in (1, 3, 100)] == [1, 3, 4]
        assert count_distinct(db, f"{waiting} AND false", "batch_id", 5) == 0


@pytest.mark.parametrize(
    ("actor", "visible", "changeable"),
    [
        (Actor("ann", Role.USER, frozenset({Scope.READ}), sees_all=False), {"ann"}, {"ann"}),
        (Actor("ann", Role.USER, frozenset({Scope.READ}), sees_all=True), {"ann", "bob"}, {"ann"}),
        (Actor("root", Role.ADMIN, frozenset(Scope), sees_all=True), {"ann", "bob"}, {"ann", "bob"}),
    ],
)
def test_rows_that_an_actor_may_see_and_change(
    database: Database, actor: Actor, visible: set[str], changeable: set[str]
) -> None:
    with database.write() as db:
        db.insert("boards", *({"id": who, "name": who, "owner": who, "created_at": ""} for who in ("ann", "bob")))

    def owners(where: str) -> set[str]:
        with database.read() as db:
            return {row["owner"] for row in db.query(f"SELECT owner FROM boards WHERE {where}")}

    with acting(actor):
        assert owners(readable()) == owners(readable("boards")) == visible
        assert owners(writable()) == owners(writable("boards")) == changeable
        assert owners(owned()) == {actor.name} & {"ann", "bob"}
        with database.read() as db:
            assert db.execute(f"SELECT {SEES_ALL}, {RULES_ALL}").fetchone() == (actor.sees_all, actor.rules_all)


@pytest.mark.parametrize(
    ("typed", "asked"),
    [
        ("red apple", '"red" * AND "apple" *'),
        ('"red apple" -green', '"red apple" NOT "green" *'),
        ("-green", ""),  # nothing that a picture must have: by plain comparison
        ("红苹果", ""),
        ("!!!", ""),
        ('snake_case"', '"snake case" *'),
        ("AND OR NOT", '"AND" * AND "OR" * AND "NOT" *'),
    ],
)
def test_a_search_becomes_a_query_of_the_index(typed: str, asked: str) -> None:
    assert search.fts_query(typed) == asked
