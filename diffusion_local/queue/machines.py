"""Machines: other computers whose workers have joined the studio, and the settings that decide when they get jobs.

A machine has slots named ``machine.device``. Its row outlives its connection, so that its settings are kept.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

from diffusion_local.db.database import Database, Transaction
from diffusion_local.domain import utc_now, utc_text
from diffusion_local.errors import NotFound, echo
from diffusion_local.messages import Message, from_json, message, to_json
from diffusion_local.queue import schedule

ACTIVE, DRAINING, PAUSED = "active", "draining", "paused"
IGNORE, WAIT = "ignore", "wait"
#: How long no other program may have used a GPU before its worker gets jobs again.
FREE_TIME = timedelta(seconds=30)
KEPT_HOURS = timedelta(days=7)  # how long hourly picture counts are kept


@dataclass(frozen=True, slots=True)
class MachineSlot:
    """A worker of a machine. ``connected``: its lease is valid; ``pictures_per_hour``: pictures of the last hour."""

    slot: str
    device: str = ""
    status: str = "stopped"
    model: str = ""
    memory_bytes: int = 0
    free_bytes: int = 0
    temperature: int | None = None
    shared: bool = False
    problem: str = ""
    connected: bool = False
    seen_at: str = ""
    pictures_per_hour: int = 0
    jobs: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine with its settings.

    ``state``: active, draining (finishes its jobs, gets no more) or paused (gives its jobs back). ``hours``: window in
    which it gets jobs, "" for always. ``gpu_share``: with ``wait`` it gets none while another program uses its GPU.
    ``resting``: why it gets no jobs now, or "". ``models``: models that both it and the studio have.
    """

    name: str
    state: str = ACTIVE
    hours: str = ""
    gpu_share: str = IGNORE
    account: str = ""
    version: str = ""
    protocol: int = 0
    joined_at: str = ""
    connected: bool = False
    seen_at: str = ""
    resting: str = ""
    pictures_per_hour: int = 0
    models: list[str] = field(default_factory=list)
    slots: list[MachineSlot] = field(default_factory=list)


def machine_of(slot: str) -> str:
    """Name of the machine that a slot belongs to; "" for the studio's own."""
    name, dot, _ = slot.rpartition(".")
    return name if dot else ""


class MachineStore:
    def __init__(self, database: Database, zone: tzinfo) -> None:
        """``zone``: time zone of the machines' hours."""
        self._database = database
        self._zone = zone

    def note(self, name: str, account: str = "", token: str = "", version: str = "", protocol: int = 0) -> None:
        """Record the credential and program version with which a machine's worker starts; its settings are kept."""
        row = {"name": name, "account": account, "token": token, "version": version, "protocol": protocol}
        with self._database.write() as db:
            db.upsert("machines", row | {"joined_at": self._joined_at(db, name)}, key=("name",))

    def change(self, name: str, **columns: str) -> None:
        """Change settings. Raises NotFound."""
        sets = ", ".join(f"{column} = :{column}" for column in columns)
        with self._database.write() as db:
            if not db.execute(f"UPDATE machines SET {sets} WHERE name = :name", columns | {"name": name}).rowcount:
                raise no_machine(name)

    def credential(self, name: str) -> tuple[str, str]:
        """(account, token id) with which the machine started last. Raises NotFound."""
        with self._database.read() as db:
            found = db.execute("SELECT account, token FROM machines WHERE name = ?", [name]).fetchone()
        if found is None:
            raise no_machine(name)
        return str(found[0]), str(found[1])

    def remove(self, name: str) -> list[str]:
        """Delete a machine and its leases; returns its slots, whose jobs the caller must recover."""
        with self._database.write() as db:
            slots = {slot for (slot,) in db.execute("SELECT slot FROM leases").fetchall() if machine_of(slot) == name}
            slots |= {slot for (slot,) in db.execute("SELECT slot FROM workers").fetchall() if machine_of(slot) == name}
            db.execute("DELETE FROM machines WHERE name = ?", [name])
            for slot in slots:
                for table in ("leases", "workers", "slot_pictures"):
                    db.execute(f"DELETE FROM {table} WHERE slot = ?", [slot])
        return sorted(slots)

    def state(self, slot: str) -> str:
        with self._database.read() as db:
            return db.scalar("SELECT state FROM machines WHERE name = :name", name=machine_of(slot)) or ACTIVE

    def resting(self, slot: str) -> Message | None:
        """Why a slot gets no jobs now by its machine's settings; None if it gets jobs."""
        return self.standing(slot)[1]

    def standing(self, slot: str) -> tuple[str, Message | None]:
        """(state of the slot's machine, why the slot gets no jobs now or None)."""
        now = datetime.now(UTC)
        settings = (
            "SELECT state, hours, gpu_share, (SELECT shared_at FROM leases WHERE slot = :slot) AS shared_at "
            "FROM machines WHERE name = :name"
        )
        for row in self._database.fetch(settings, {"slot": slot, "name": machine_of(slot)}):
            return str(row["state"]), reason(row, row["shared_at"], now, self._zone)
        return ACTIVE, None

    def all(self, name: str | None = None) -> list[Machine]:
        """All machines by name, or only one."""
        now = datetime.now(UTC)
        with self._database.read() as db:
            condition = "" if name is None else "WHERE name = :name"
            machines = list(
                db.query(f"SELECT * FROM machines {condition} ORDER BY name", {} if name is None else {"name": name})
            )
            if not machines:
                return []
            slots = read_slots(db, now)
        return [
            self._built(row, [each for each in slots if machine_of(each[0].slot) == row["name"]], now)
            for row in machines
        ]

    def get(self, name: str) -> Machine:
        """Raises NotFound."""
        for found in self.all(name):
            return found
        raise no_machine(name)

    def _built(self, row: dict[str, Any], slots_shared: list[tuple[MachineSlot, str | None]], now: datetime) -> Machine:
        slots = [slot for slot, _ in slots_shared]
        reasons = [reason(row, shared_at, now, self._zone) for _, shared_at in slots_shared]
        held = next((each for each in reasons if each), None) if all(reasons) else None
        known = {name: row[name] for name in ("name", "state", "hours", "gpu_share", "account", "version", "protocol")}
        return Machine(
            **known,
            joined_at=row["joined_at"],
            connected=any(slot.connected for slot in slots),
            seen_at=max((slot.seen_at for slot in slots), default=""),
            resting=held or reason(row | {"gpu_share": IGNORE}, None, now, self._zone) or "",
            pictures_per_hour=sum(slot.pictures_per_hour for slot in slots),
            slots=slots,
        )

    @staticmethod
    def _joined_at(db: Transaction, name: str) -> str:
        return db.scalar("SELECT joined_at FROM machines WHERE name = :name", name=name) or utc_now()


def reason(row: dict[str, Any], shared_at: str | None, now: datetime, zone: tzinfo) -> Message | None:
    """Why a slot gets no jobs by its machine's settings (``row``); None if it gets jobs.

    ``shared_at``: time at which another program was last seen on its GPU.
    """
    if row["state"] != ACTIVE:
        return message(f"machine_state_{row['state']}")
    if row["hours"] and not schedule.parse_window(row["hours"]).is_open(now, zone):
        return message("machine_hours", hours=row["hours"])
    if row["gpu_share"] == WAIT and is_shared(shared_at, now):
        return message("machine_shared")
    return None


def is_shared(shared_at: str | None, now: datetime) -> bool:
    """Whether another program used the GPU within FREE_TIME. A future time is ignored: the clock was wrong."""
    return bool(shared_at) and timedelta() <= now - datetime.fromisoformat(str(shared_at)) < FREE_TIME


def read_slots(db: Transaction, now: datetime) -> list[tuple[MachineSlot, str | None]]:
    """All slots of machines, each with the time at which another program was last seen on its GPU."""
    running: dict[str, list[str]] = {}
    for job, slot in db.execute("SELECT id, worker FROM jobs WHERE state = 'running'").fetchall():
        running.setdefault(slot, []).append(job)
    leases = {row["slot"]: row for row in db.query("SELECT * FROM leases")}
    slots = []
    for row in db.query("SELECT * FROM workers ORDER BY slot"):
        if not machine_of(row["slot"]):
            continue
        lease = leases.get(row["slot"], {"temperature": None, "shared_at": None, "problem": ""})
        slot = MachineSlot(
            slot=row["slot"],
            device=row["device"],
            status=row["status"],
            model=row["model"],
            memory_bytes=row["memory_bytes"],
            free_bytes=row["free_bytes"] or 0,
            temperature=lease["temperature"],
            shared=is_shared(lease["shared_at"], now),
            problem=read_problem(lease["problem"]),
            connected=row["slot"] in leases,
            seen_at=row["seen_at"],
            pictures_per_hour=pictures_per_hour(db, row["slot"], now),
            jobs=running.get(row["slot"], []),
        )
        slots.append((slot, lease["shared_at"]))
    return slots


def stored_problem(problem: str) -> str:
    return to_json(problem) or problem


def read_problem(stored: str) -> str:
    return from_json(stored, stored) if stored.startswith("{") else stored


# -- picture counts ----------------------------------------------------------------------------------------------------


def hour_of(moment: datetime) -> str:
    return utc_text(moment)[:13]


def count_picture(db: Transaction, slot: str) -> None:
    """Count a finished picture of a slot."""
    now = datetime.now(UTC)
    db.execute(
        "INSERT INTO slot_pictures (slot, hour, pictures) VALUES (:slot, :hour, 1) "
        "ON CONFLICT (slot, hour) DO UPDATE SET pictures = slot_pictures.pictures + 1",
        {"slot": slot, "hour": hour_of(now)},
    )


def pictures_per_hour(db: Transaction, slot: str, now: datetime) -> int:
    """Pictures of the last 60 minutes: those of this clock hour, and a proportional share of the previous hour's."""
    query = "SELECT hour, pictures FROM slot_pictures WHERE slot = :slot AND hour >= :hour"
    before = hour_of(now - timedelta(hours=1))
    counts = dict(db.execute(query, {"slot": slot, "hour": before}).fetchall())
    passed = (now.minute * 60 + now.second) / 3600
    return round(counts.get(hour_of(now), 0) + counts.get(before, 0) * (1 - passed))


def delete_old_counts(database: Database) -> None:
    """Delete hourly counts of pictures older than KEPT_HOURS."""
    with database.write() as db:
        db.execute("DELETE FROM slot_pictures WHERE hour < ?", [hour_of(datetime.now(UTC) - KEPT_HOURS)])


def no_machine(name: str) -> NotFound:
    return NotFound(message("no_machine", name=echo(name)))
