"""PostgreSQL beside SQLite: one schema from one source, the same words found, and faults told in the same words."""

import random
import re
import threading
import time
from collections.abc import Iterator

import psycopg
import pytest

from diffusion_local.db import postgresql, search, translation
from diffusion_local.db.database import Database, find_database, open_database
from diffusion_local.db.migrations import SQL_FILES, statements
from diffusion_local.db.postgresql import MIGRATED, PostgresDatabase
from diffusion_local.db.server_connections import check_url, display
from diffusion_local.errors import DatabaseProblem, InvalidParams
from diffusion_local.gallery.images import GalleryFilter, ImageStore
from diffusion_local.queue.jobs import JobStore
from diffusion_local.settings import Settings
from tests.postgresql import Cluster, emptied
from tests.support import claimed, enqueue, eventually, image_of

TYPES = {"text": "TEXT", "bigint": "INTEGER", "double precision": "REAL"}


@pytest.fixture
def server(shared_database: str) -> Iterator[PostgresDatabase]:
    database = PostgresDatabase.open(emptied(shared_database))
    yield database
    database.close()


# -- the schema --------------------------------------------------------------------------------------------------------


def test_both_schemas_agree_column_by_column(database: Database, server: PostgresDatabase) -> None:
    with database.read() as db:
        tables = [
            row["name"]
            for row in db.query("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE '%sqlite_%'")
            if not row["name"].startswith("images_text")
        ]
        lite = {
            table: {
                (row["name"], row["type"], bool(row["notnull"] or row["pk"] or row["hidden"]))
                for row in db.query(f"SELECT * FROM pragma_table_xinfo('{table}')")
            }
            for table in tables
        }
    found = psycopg.connect(server.url).execute(
        "SELECT table_name, column_name, data_type, is_nullable, is_generated, collation_name "
        "FROM information_schema.columns WHERE table_schema = current_schema()"
    )
    post: dict[str, set[tuple[str, str, bool]]] = {}
    for table, column, kind, nullable, generated, collation in found:
        if not table.startswith((MIGRATED, "images_text", "last_writes", "huey_")):
            assert kind != "text" or collation == "C", (table, column)
            post.setdefault(table, set()).add((column, TYPES[kind], nullable == "NO" or generated == "ALWAYS"))
    assert post == lite


def test_both_schemas_have_the_same_indexes_and_triggers(database: Database, server: PostgresDatabase) -> None:
    with database.read() as db:
        lite = {
            (row["type"], row["name"], row["tbl_name"])
            for row in db.query("SELECT * FROM sqlite_master WHERE type IN ('index', 'trigger') AND sql IS NOT NULL")
            if row["tbl_name"] != "_sqlite_migrations" and not row["name"].startswith("images_text")
        }
    with psycopg.connect(server.url) as connection:
        indexes = connection.execute(
            "SELECT 'index', indexname, tablename FROM pg_indexes WHERE schemaname = current_schema()"
        ).fetchall()
        triggers = connection.execute(
            "SELECT 'trigger', tgname, relname FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid "
            "WHERE NOT tgisinternal"
        ).fetchall()
    post = {each for each in {*indexes, *triggers} if not re.search(r"_(pkey|key\d*)$|^images_text|^huey_", each[1])}
    assert post == lite


def test_every_text_for_postgresql_takes_the_place_of_a_statement() -> None:
    subjects = {
        f"{name}.{translation.subject(each)}"
        for name, path in SQL_FILES
        for each in statements(path.read_text("utf-8"))
    }
    assert set(translation.exceptions()) <= subjects


def test_what_has_no_translation_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="m999_new"):
        list(translation.migration("m999_new", iter(["CREATE VIRTUAL TABLE words USING fts5(text)"])))


@pytest.mark.parametrize(
    ("sql", "values", "expected", "bound"),
    [
        ("SELECT window FROM queue WHERE id = ?", [1], 'SELECT "window" FROM queue WHERE id = $1', [1]),
        ("SET window = :window", {"window": "a"}, 'SET "window" = $1', ["a"]),
        ("a = :x OR b = :x", {"x": 1, "y": 2}, "a = $1 OR b = $1", [1]),
        ("a = :x AND b = :y", {"x": None, "y": 2}, "a = NULL AND b = $1", [2]),
        ("note = 'window :x ?' AND x LIKE ?", ["%"], "note = 'window :x ?' AND x ILIKE $1", ["%"]),
        ("FROM a CROSS JOIN b AS c ON c.id = a.id", (), "FROM a JOIN b AS c ON c.id = a.id", []),
        (
            "FROM a CROSS JOIN b AS c ON c.rowid = a.number",
            (),
            "FROM a CROSS JOIN LATERAL (SELECT * FROM b AS c WHERE c.ctid = a.number OFFSET 0) AS c",
            [],
        ),
        ("FROM jobs INDEXED BY jobs_due WHERE id = 1", (), "FROM jobs WHERE id = 1", []),
        ("(actor_sees_all() OR owner = actor_name())", (), "(true OR owner = $1)", [""]),
    ],
)
def test_a_statement_in_the_other_dialect(sql: str, values: object, expected: str, bound: list[object]) -> None:
    from diffusion_local.db.postgresql import bind

    assert bind(sql, values) == (expected, bound)  # type: ignore[arg-type]


# -- full-text search --------------------------------------------------------------------------------------------------

WORDS = (
    *(
        "red",
        "apple",
        "café",
        "CAFÉ",
        "Über",
        "straße",
        "naïve",
        "coöperate",
        "snake_case",
        "e-mail",
        "x2",
        "3.14",
        "🍎",
    ),
    *("don't", "ÅNGSTRÖM", "İstanbul", "ΑΒΓ", "αβγ", "привет", "ПРИВЕТ", "שלום", "مرحبا", "हिन्दी", "红苹果", "りんご"),
    *("사과", "แอปเปิล", "a̋", "ǅ", "ﬁne", "½", "№", "Ⅷ"),
)


def test_a_search_finds_the_same_pictures_in_both(database: Database, server: PostgresDatabase) -> None:
    draw = random.Random(11)
    prompts = [" ".join(draw.choices(WORDS, k=draw.randint(1, 6))) for _ in range(60)] + ["", "'; --", "\\", "a' b"]
    for store in (JobStore(database), JobStore(server)):
        for prompt in prompts:
            enqueue(store, prompt=prompt)
        while job := store.claim_next("cpu0"):
            store.finish(job.claim, image_of(job))
    searches = {
        *WORDS,
        *(word[:2] for word in WORDS),
        *(" ".join(draw.choices(WORDS, k=2)) for _ in range(40)),
        *(f'"{" ".join(draw.choices(WORDS, k=2))}"' for _ in range(40)),
        *(f"{draw.choice(WORDS)} -{draw.choice(WORDS)}" for _ in range(40)),
        *("AND", "'", '"', "a' b", "*", ":", "red & apple", "!red", "(apple)"),
    }
    found = {}
    for asked in sorted(searches):
        pages = [ImageStore(each).page(100, gallery_filter=GalleryFilter(search=asked)) for each in (database, server)]
        one, other = ([image.params.prompt for image in page] for page in pages)
        assert one == other, asked
        found[asked] = len(one)
    assert sum(count > 0 for count in found.values()) > 60


PAIRS = "SELECT words FROM images_text"


def test_pairs_of_characters_are_in_the_index_whether_written_or_migrated(server: PostgresDatabase) -> None:
    store = JobStore(server)
    prompts = ["红苹果 'a\\", "a red apple", "🍎 é", "Ä果"]
    for prompt in prompts:
        enqueue(store, prompt=prompt)
        job = claimed(store)
        store.finish(job.claim, image_of(job))
    with server.write() as db:
        assert search.lookup(db, "苹果") == search.Lookup(
            search.WORDS_INDEX, "images_text MATCH :words", "'=e88bb9e69e9c'"
        )
        assert search.lookup(db, "é") != search.lookup(db, "果")
        written = [row["words"] for row in db.query(f"{PAIRS} ORDER BY number")]
        assert sum("'=" in words for words in written) == 3
        db.execute(
            "UPDATE images_text SET words = ts_delete(words, "
            "(SELECT array_agg(word) FROM unnest(tsvector_to_array(words)) AS word WHERE left(word, 1) = '='))"
            " WHERE length(words) > 0 AND CAST(words AS text) ILIKE '%=%'"
        )
        assert not any("'=" in row["words"] for row in db.query(PAIRS))
        db.execute(translation.exceptions()["m032_pairs_on_server.images_text_unspaced"])
        assert [row["words"] for row in db.query(f"{PAIRS} ORDER BY number")] == written


def test_a_long_word_and_a_long_prompt_are_indexed(server: PostgresDatabase) -> None:
    store = JobStore(server)
    enqueue(store, prompt="x" * 5000 + " " + "word " * 17_000 + "end")
    job = claimed(store)
    store.finish(job.claim, image_of(job))
    assert len(ImageStore(server).page(gallery_filter=GalleryFilter(search="end"))) == 1
    assert search.tsquery('"' + "x" * 5000 + '"') == "'" + "x" * 2046 + "'"


# -- faults ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysql://host/name", "postgresql://"),
        ("postgresql://host", "postgresql://"),
        ("postgresql://host:port/name", "port"),
        ("postgresql://user:secret@host/name?colour=red", "colour"),
    ],
)
def test_an_unusable_address_is_refused_without_its_password(url: str, words: str) -> None:
    with pytest.raises(InvalidParams, match=words) as refused:
        check_url(url)
    assert "secret" not in str(refused.value)
    assert display("postgresql://user:secret@host:5432/name?a=b") == "postgresql://host:5432/name"


def test_a_server_that_is_not_there_is_told(home: object) -> None:
    settings = Settings.load(database="postgresql://nobody:secret@127.0.0.1:9/name")
    for opened in (open_database, find_database):
        with pytest.raises(DatabaseProblem, match=r"127\.0\.0\.1:9/name cannot be reached") as told:
            opened(settings)
        assert "secret" not in str(told.value)


def test_a_database_of_a_newer_program_is_refused(server: PostgresDatabase, cluster: Cluster) -> None:
    url = cluster.create("newer")
    PostgresDatabase.open(url).close()
    with psycopg.connect(url) as connection:
        connection.execute(f"INSERT INTO {MIGRATED} VALUES ('m999_from_the_future', '')")
    with pytest.raises(DatabaseProblem, match=r"newer diffusion-local \(m999_from_the_future\)"):
        PostgresDatabase.open(url)


def test_two_programs_may_migrate_at_once(cluster: Cluster) -> None:
    url, problems = cluster.create("twice"), []

    def migrate() -> None:
        try:
            PostgresDatabase.open(url).close()
        except Exception as problem:
            problems.append(problem)

    threads = [threading.Thread(target=migrate) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


def test_there_is_one_writer_at_a_time(server: PostgresDatabase) -> None:
    def add_one_often() -> None:
        for _ in range(50):
            with server.write() as db:
                value = db.scalar("SELECT revision FROM queue")
                db.execute("UPDATE queue SET revision = ?", [value + 1])
        server.close()

    threads = [threading.Thread(target=add_one_often) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with server.read() as db:
        assert db.scalar("SELECT revision FROM queue") == 200


def test_the_next_writer_does_not_wait_for_the_disk_of_the_last(
    server: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "COMMIT_WRITE", "COMMIT; SELECT pg_advisory_xact_lock(7)")  # the disk is slow
    with psycopg.connect(server.url) as disk:
        disk.execute("SELECT pg_advisory_xact_lock(7)")

        def write() -> None:
            with server.write() as db:
                db.execute("UPDATE queue SET paused = 1")
            server.close()

        writer = threading.Thread(target=write)
        writer.start()
        eventually(lambda: server.fetch("SELECT paused FROM queue") == [{"paused": 1}])
        lock = "SELECT pg_try_advisory_lock(%s::int, %s::int)"
        with psycopg.connect(server.url) as next_writer:
            eventually(
                lambda: next_writer.execute(lock, [postgresql.LOCKS, postgresql.WRITE_LOCK]).fetchone() == (True,)
            )
        assert writer.is_alive()  # it says that it has written only when that is on the disk
    writer.join(30)
    assert not writer.is_alive()


def test_the_writes_of_people_go_before_those_of_workers(server: PostgresDatabase) -> None:
    order: list[str] = []

    def write(name: str, patient: bool) -> None:
        with server.write(patient=patient):
            order.append(name)
        server.close()

    def start(name: str, patient: bool) -> threading.Thread:
        waiting = sum(map(len, server._turns._waiting))
        thread = threading.Thread(target=write, args=(name, patient))
        thread.start()
        eventually(lambda: server._turns.holder not in (None, 0) or order)
        if name != "first":
            eventually(lambda: sum(map(len, server._turns._waiting)) > waiting)
        return thread

    with server.write():
        threads = [start("first", True), *(start(f"worker{number}", True) for number in range(4))]
        threads.append(start("person", False))
    for thread in threads:
        thread.join(30)
    assert sorted(order) == ["first", "person", "worker0", "worker1", "worker2", "worker3"]
    assert order.index("person") <= 1


def test_a_writer_that_waits_too_long_says_so(server: PostgresDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    with server.write() as db, psycopg.connect(server.url) as _:
        db.execute("UPDATE queue SET paused = 1")
        other = PostgresDatabase(server.url)
        other._session.connection().execute("SET lock_timeout = '50ms'")
        with pytest.raises(DatabaseProblem, match="was locked by another program"), other.write():
            pass
        with other.read() as reading:  # readers wait for nobody
            assert reading.scalar("SELECT paused FROM queue") == 0
        other.close()


def test_a_read_only_server_is_told(server: PostgresDatabase) -> None:
    server._session.connection().execute("SET default_transaction_read_only = on")
    with pytest.raises(DatabaseProblem, match="cannot be written"):
        server.probe()


def test_a_nul_in_a_text_is_refused_by_name(server: PostgresDatabase) -> None:
    with pytest.raises(InvalidParams, match="NUL"), server.write() as db:
        db.insert("boards", {"id": "a\0b", "name": "", "owner": "", "created_at": ""})


# -- the server dies ---------------------------------------------------------------------------------------------------


@pytest.fixture
def own_cluster() -> Iterator[Cluster]:
    from tests.postgresql import running_cluster

    with running_cluster() as found:
        yield found


def test_a_server_that_dies_and_comes_back_loses_nothing(own_cluster: Cluster) -> None:
    database = PostgresDatabase.open(own_cluster.create("studio"))
    store = JobStore(database)
    enqueue(store, count=3)
    running = claimed(store)
    own_cluster.stop("immediate")
    with pytest.raises(DatabaseProblem, match="cannot be reached"):
        store.claim_next("cpu0")
    own_cluster.start()
    assert store.get(running.id).worker == "cpu0"  # the first call on the old connection opens a new one
    store.finish(running.claim, image_of(running))
    assert store.claim_next("cpu0") is not None
    database.close()


def test_a_query_is_repeated_on_a_new_connection_unless_it_is_part_of_a_transaction(server: PostgresDatabase) -> None:
    def cut_off() -> None:
        mine = server._session.connection().info.backend_pid
        with psycopg.connect(server.url, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s, 5000)", [mine])

    query = "SELECT paused FROM queue"
    assert server.fetch(query) == [{"paused": 0}]
    cut_off()
    assert server.fetch(query) == [{"paused": 0}]

    def within_a_transaction() -> None:
        with server.write() as db:
            db.execute("UPDATE queue SET paused = 1")
            cut_off()
            server.fetch(query)

    with pytest.raises(DatabaseProblem):
        within_a_transaction()
    assert server.fetch(query) == [{"paused": 0}]


def test_a_commit_without_an_answer_is_looked_up(own_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server commits, but the connection breaks before it says so."""
    database = PostgresDatabase.open(own_cluster.create("studio"))

    def committed(commits: bool) -> bool:
        with database.write() as db:
            db.execute("UPDATE queue SET paused = ?", [int(commits)])
            connection = database._session.connection()
            whole = connection.execute

            def execute(sql: str, *values: object, **options: object) -> object:
                if sql != postgresql.COMMIT_WRITE:
                    return whole(sql, *values, **options)
                if commits:
                    whole("COMMIT")
                connection.close()
                raise psycopg.OperationalError("server closed the connection unexpectedly")

            monkeypatch.setattr(connection, "execute", execute)
        return True

    assert committed(True)
    with pytest.raises(DatabaseProblem):
        committed(False)
    with database.read() as db:
        assert db.scalar("SELECT paused FROM queue") == 1
    database.close()


@pytest.mark.slow
def test_a_server_killed_again_and_again_while_jobs_run(own_cluster: Cluster) -> None:
    """Two workers and a submitter on threads; the server crashes five times. Each job ends once, with one picture."""
    url = own_cluster.create("studio")
    PostgresDatabase.open(url).close()
    stop, submitted = threading.Event(), []

    def retrying(work: object) -> object:
        while True:
            try:
                return work()  # type: ignore[operator]
            except DatabaseProblem:
                time.sleep(0.05)

    def submit() -> None:
        database = PostgresDatabase(url)
        for number in range(60):
            if stop.is_set():
                break
            submitted.append(retrying(lambda number=number: enqueue(JobStore(database), key=f"k{number}")))
            time.sleep(0.02)
        database.close()

    def work(slot: str) -> None:
        database = PostgresDatabase(url)
        store = JobStore(database)
        while not stop.is_set():
            job = retrying(lambda: next(iter(store.running(slot)), None) or store.claim_next(slot))
            if job is None:
                time.sleep(0.02)
                continue
            retrying(lambda job=job: store.finish(job.claim, image_of(job)))
        database.close()

    threads = [threading.Thread(target=submit), *(threading.Thread(target=work, args=(f"cpu{n}",)) for n in range(2))]
    database = PostgresDatabase(url)

    def counts() -> tuple[int, int]:
        with database.read() as db:
            return db.scalar("SELECT count(*) FROM jobs WHERE state = 'done'"), db.scalar("SELECT count(*) FROM images")

    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            time.sleep(0.4)  # some work is done in between
            own_cluster.stop("immediate")
            own_cluster.start()
        threads[0].join(60)
        eventually(lambda: counts() == (60, 60), 60)
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
        database.close()
