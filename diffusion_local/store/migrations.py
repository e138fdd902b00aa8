"""The tables, as append-only steps. A released step is never edited; ``sqlite_utils`` records which have run.

Invariants are CHECKs; ``job_events`` and ``queue.revision`` are written by triggers, so that no code can forget them.
"""

from sqlite_utils import Database, Migrations

from diffusion_local.domain import Params
from diffusion_local.store.accounts_schema import ACCOUNTS, DEVICES
from diffusion_local.store.counts_schema import COUNTS
from diffusion_local.store.downloads_schema import DOWNLOADS
from diffusion_local.store.gallery_schema import GALLERY
from diffusion_local.store.groups_schema import GROUPS
from diffusion_local.store.messages_schema import MESSAGES
from diffusion_local.store.overnight_schema import OVERNIGHT
from diffusion_local.store.rows import recipe_mark
from diffusion_local.store.sources_schema import SOURCES
from diffusion_local.store.storage_schema import STORAGE
from diffusion_local.store.telling_schema import TELLING
from diffusion_local.store.triggers import event_trigger, revision_trigger, tombstone_trigger

MIGRATIONS = Migrations("diffusion_local")

#: Tables whose deleted rows are remembered, and what people call a row of them.
NOUNS = {"jobs": "job", "batches": "batch", "images": "picture"}


@MIGRATIONS()
def m001_queue(db: Database) -> None:
    run(
        db,
        """
        CREATE TABLE batches (
            id TEXT PRIMARY KEY,
            name TEXT NOT NULL DEFAULT '',
            owner TEXT NOT NULL DEFAULT '',
            lane TEXT NOT NULL DEFAULT 'interactive' CHECK (lane IN ('interactive', 'batch')),
            count INTEGER NOT NULL,
            paused INTEGER NOT NULL DEFAULT 0 CHECK (paused IN (0, 1, 2)),  -- see store.jobs.PAUSED
            idempotency_key TEXT UNIQUE,
            request TEXT NOT NULL DEFAULT '',  -- digest of what came with the key
            created_at TEXT NOT NULL
        )
        """,
        """
        CREATE TABLE jobs (
            id TEXT PRIMARY KEY,
            batch_id TEXT NOT NULL REFERENCES batches (id),
            idx INTEGER NOT NULL,
            owner TEXT NOT NULL DEFAULT '',
            state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'done', 'failed', 'cancelled')),
            params TEXT NOT NULL,
            model TEXT NOT NULL,
            cost REAL NOT NULL,
            -- what claim_next orders and filters by; lane as a rank so that one index answers it
            lane INTEGER NOT NULL DEFAULT 0,
            priority INTEGER NOT NULL DEFAULT 0,
            position INTEGER NOT NULL,
            held INTEGER NOT NULL DEFAULT 0,
            not_before TEXT,
            -- the claim
            worker TEXT,
            attempt INTEGER NOT NULL DEFAULT 0,
            crashes INTEGER NOT NULL DEFAULT 0,
            tries INTEGER NOT NULL DEFAULT 0,
            step INTEGER NOT NULL DEFAULT 0,
            phase TEXT NOT NULL DEFAULT '',
            cancel_requested INTEGER NOT NULL DEFAULT 0,
            reported_at TEXT,
            created_at TEXT NOT NULL,
            started_at TEXT,
            finished_at TEXT,
            error_kind TEXT,
            error_message TEXT,
            error_detail TEXT,
            note TEXT NOT NULL DEFAULT '',
            from_job TEXT,
            CHECK ((state = 'running') = (worker IS NOT NULL)),
            CHECK (cancel_requested = 0 OR state IN ('running', 'cancelled')),
            CHECK ((state IN ('done', 'failed', 'cancelled')) = (finished_at IS NOT NULL))
        )
        """,
        "CREATE INDEX jobs_waiting ON jobs (lane, priority DESC, position) WHERE state = 'queued' AND held = 0",
        "CREATE INDEX jobs_queued ON jobs (lane, priority DESC, position, model, cost) WHERE state = 'queued'",
        "CREATE INDEX jobs_work ON jobs (model, cost) WHERE state = 'queued'",
        "CREATE INDEX jobs_running ON jobs (worker) WHERE state = 'running'",
        "CREATE INDEX jobs_ended ON jobs (finished_at DESC) WHERE finished_at IS NOT NULL",
        "CREATE INDEX jobs_by_model ON jobs (model, finished_at DESC) WHERE state = 'done'",
        "CREATE INDEX jobs_by_batch ON jobs (batch_id, idx)",
        "CREATE INDEX jobs_by_state ON jobs (state, id)",
        "CREATE INDEX jobs_from ON jobs (from_job) WHERE from_job IS NOT NULL",
        "CREATE INDEX jobs_position ON jobs (position)",
        """
        CREATE TABLE job_events (
            id INTEGER PRIMARY KEY,
            job_id TEXT NOT NULL,
            state TEXT NOT NULL,
            at TEXT NOT NULL,
            attempt INTEGER NOT NULL,
            worker TEXT,
            note TEXT NOT NULL DEFAULT ''
        )
        """,
        "CREATE INDEX job_events_by_job ON job_events (job_id, id)",
        """
        CREATE TABLE workers (
            slot TEXT PRIMARY KEY,
            pid INTEGER NOT NULL,
            device TEXT NOT NULL DEFAULT '',
            status TEXT NOT NULL,
            model TEXT NOT NULL DEFAULT '',
            started_at TEXT NOT NULL,
            seen_at TEXT NOT NULL
        )
        """,
        # One row: what holds for the whole queue. `revision` grows with every visible change (see the triggers), so
        # that a page can ask "is anything new?" with one look-up.
        """
        CREATE TABLE queue (
            id INTEGER PRIMARY KEY CHECK (id = 1),
            revision INTEGER NOT NULL DEFAULT 0,
            paused INTEGER NOT NULL DEFAULT 0 CHECK (paused IN (0, 1, 2)),  -- by a person
            blocked TEXT NOT NULL DEFAULT ''  -- by the machine itself, and why
        )
        """,
        "INSERT INTO queue (id) VALUES (1)",
        *(event_trigger(verb) for verb in ("INSERT", "UPDATE OF state")),
        *(revision_trigger(table, verb) for table in ("jobs", "batches") for verb in ("INSERT", "UPDATE", "DELETE")),
        revision_trigger("workers", "INSERT"),
        revision_trigger("workers", "UPDATE OF status, model, pid"),
        revision_trigger("queue", "UPDATE OF paused, blocked"),
    )


@MIGRATIONS()
def m002_images(db: Database) -> None:
    run(
        db,
        """
        CREATE TABLE images (
            id TEXT PRIMARY KEY,
            job_id TEXT NOT NULL UNIQUE,  -- one job, one picture: the last line of defence
            key TEXT NOT NULL UNIQUE,
            params TEXT NOT NULL,
            prompt TEXT NOT NULL,
            model TEXT NOT NULL,
            seed INTEGER NOT NULL,
            width INTEGER NOT NULL,
            height INTEGER NOT NULL,
            bytes INTEGER NOT NULL,
            seconds REAL NOT NULL DEFAULT 0,
            starred INTEGER NOT NULL DEFAULT 0,
            trashed_at TEXT,
            created_at TEXT NOT NULL
        )
        """,
        "CREATE INDEX images_shown ON images (created_at DESC, id DESC) WHERE trashed_at IS NULL",
        "CREATE INDEX images_trashed ON images (trashed_at) WHERE trashed_at IS NOT NULL",
        *(revision_trigger("images", verb) for verb in ("INSERT", "UPDATE", "DELETE")),
    )


@MIGRATIONS()
def m003_fits(db: Database) -> None:
    run(
        db,
        """
        CREATE TABLE fits (
            model TEXT NOT NULL,
            kind TEXT NOT NULL,
            width INTEGER NOT NULL,
            height INTEGER NOT NULL,
            device TEXT NOT NULL,
            worked TEXT NOT NULL DEFAULT '',
            peak_bytes INTEGER NOT NULL DEFAULT 0,
            failed TEXT NOT NULL DEFAULT '',
            free_bytes INTEGER NOT NULL DEFAULT 0,
            at TEXT NOT NULL,
            PRIMARY KEY (model, kind, width, height, device)
        ) WITHOUT ROWID
        """,
    )


@MIGRATIONS()
def m004_overnight(db: Database) -> None:
    run(
        db,
        *OVERNIGHT,
        "DROP TRIGGER queue_revision_update",
        revision_trigger("queue", "UPDATE OF paused, blocked, window"),
    )


@MIGRATIONS()
def m005_telling(db: Database) -> None:
    run(db, *TELLING)


@MIGRATIONS()
def m006_accounts(db: Database) -> None:
    run(db, *ACCOUNTS)


@MIGRATIONS()
def m007_gallery(db: Database) -> None:
    db.conn.create_function("recipe_mark", 1, lambda text: recipe_mark(Params.from_json(text)), deterministic=True)
    run(
        db,
        *GALLERY,
        *(revision_trigger(table, verb) for table in ("boards", "board_images") for verb in ("INSERT", "DELETE")),
        revision_trigger("boards", "UPDATE OF name"),
    )


@MIGRATIONS()
def m008_downloads(db: Database) -> None:
    verbs = ("INSERT", "UPDATE OF state, cancel_requested", "DELETE")  # the progress is asked for by who shows it
    run(db, *DOWNLOADS, *(revision_trigger("downloads", verb) for verb in verbs))


@MIGRATIONS()
def m009_tombstones(db: Database) -> None:
    """Ids of what was deleted, so that whoever asks for it hears that, and not that it never was."""
    run(
        db,
        """
        CREATE TABLE deleted (
            what TEXT NOT NULL,  -- job, batch or picture
            id TEXT NOT NULL,
            owner TEXT NOT NULL,
            at TEXT NOT NULL,
            PRIMARY KEY (what, id)
        ) WITHOUT ROWID
        """,
        "CREATE INDEX deleted_at ON deleted (at)",
        *(tombstone_trigger(table, what) for table, what in NOUNS.items()),
    )


@MIGRATIONS()
def m010_kinds(db: Database) -> None:
    run(db, "ALTER TABLE images ADD COLUMN facts TEXT NOT NULL DEFAULT '{}'")


@MIGRATIONS()
def m011_counts(db: Database) -> None:
    run(db, *COUNTS)


@MIGRATIONS()
def m012_rooms(db: Database) -> None:
    """What a worker's device has room for: how a model would be held is told before its first picture."""
    numbers = (f"{name} INTEGER NOT NULL DEFAULT 0" for name in ("memory_bytes", "bf16", "free_bytes"))
    columns = ("type TEXT NOT NULL DEFAULT ''", *numbers)
    run(db, *(f"ALTER TABLE workers ADD COLUMN {column}" for column in columns))


@MIGRATIONS()
def m013_groups(db: Database) -> None:
    run(db, *GROUPS)


@MIGRATIONS()
def m014_devices(db: Database) -> None:
    run(db, *DEVICES)


@MIGRATIONS()
def m015_storage(db: Database) -> None:
    run(db, *STORAGE)


@MIGRATIONS()
def m016_sources(db: Database) -> None:
    run(db, *SOURCES)


@MIGRATIONS()
def m017_messages(db: Database) -> None:
    run(db, *MESSAGES)


@MIGRATIONS()
def m018_flags(db: Database) -> None:
    """Why a picture is probably not what was wanted; its facts say the same."""
    run(
        db,
        "ALTER TABLE images ADD COLUMN flag TEXT NOT NULL DEFAULT ''",
        "CREATE INDEX images_flagged ON images (created_at DESC, id DESC) WHERE flag != '' AND trashed_at IS NULL",
    )


def run(db: Database, *statements: str) -> None:
    for statement in statements:
        db.execute(statement)
