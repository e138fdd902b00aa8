"""The numbers that monitoring asks for, cheap at any length of the table: each is answered by an index."""

from dataclasses import dataclass

from diffusion_local.db.database import Database
from diffusion_local.db.dialect import by_index, seconds_between
from diffusion_local.domain import Worker
from diffusion_local.store import rows

RECENT = 1000  # ended jobs whose times are told


@dataclass(frozen=True, slots=True)
class Tally:
    """``waiting`` and ``running`` by lane, ``ended`` by state; times in seconds, of the last RECENT ended jobs."""

    revision: int
    paused: bool
    blocked: bool
    waiting: dict[str, int]
    running: dict[str, int]
    ended: dict[str, int]
    failures: dict[str, int]
    pictures: int
    workers: list[Worker]
    wait_seconds: list[float]
    run_seconds: list[float]


def read_tally(database: Database) -> Tally:
    with database.read() as db:

        def counted(sql: str) -> dict[str, int]:
            return dict(db.execute(sql).fetchall())

        def by_lane(state: str, index: str) -> dict[str, int]:
            found = counted(
                f"SELECT lane, count(*) FROM {by_index('jobs', index)} WHERE state = '{state}' GROUP BY lane"
            )
            return {str(lane): found.get(rank, 0) for rank, lane in rows.LANES.items()}  # type: ignore[call-overload]

        revision, paused, blocked = db.execute("SELECT revision, paused, blocked FROM queue").fetchone()
        # Out of `jobs_ended`, whose order lets it stop after RECENT rows. Times before a requeue count as waiting.
        times = db.execute(
            f"SELECT {seconds_between('created_at', 'started_at')}, {seconds_between('started_at', 'finished_at')} "
            f"FROM {by_index('jobs', 'jobs_ended')} "
            f"WHERE finished_at IS NOT NULL ORDER BY finished_at DESC LIMIT {RECENT}"
        ).fetchall()
        ran = [(max(0.0, wait), max(0.0, run)) for wait, run in times if wait is not None]
        return Tally(
            revision=revision,
            paused=bool(paused),
            blocked=bool(blocked),
            waiting=by_lane("queued", "jobs_queued"),
            running=by_lane("running", "jobs_running"),
            ended=counted(
                "SELECT state, sum(jobs) FROM job_counts WHERE state IN ('done', 'failed', 'cancelled') "
                "GROUP BY state HAVING sum(jobs) > 0"
            ),
            failures=counted(
                f"SELECT error_kind, count(*) FROM {by_index('jobs', 'jobs_by_state')} "
                "WHERE state = 'failed' GROUP BY error_kind"
            ),
            pictures=db.scalar("SELECT coalesce(sum(images), 0) FROM image_counts"),
            workers=[rows.worker(row) for row in db.query("SELECT * FROM workers ORDER BY slot")],
            wait_seconds=[wait for wait, _ in ran],
            run_seconds=[run for _, run in ran],
        )
