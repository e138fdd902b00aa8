"""Loans: the GPU of an idle worker, used by another worker of the same machine for a picture that it makes.

A loan is no claim: the picture's job stays with the borrower, and the lending worker claims jobs as before. When it has
claimed one it recalls its GPU. A loan ends with the borrower's life, and a recalled one ends after RECALL_TIME even if
the borrower hangs, so no loan blocks a worker.
"""

from datetime import UTC, datetime

from diffusion_local.db import rows
from diffusion_local.db.database import Database, Row, Transaction
from diffusion_local.domain import ASKED, LENT, LOAN_TIME, RECALL_TIME, RECALLED, Loan, utc_text
from diffusion_local.queue.order import OrderRules, QueueOrder
from diffusion_local.queue.workers import FRESH_SHARE, is_silent


class LoanStore:
    def __init__(self, database: Database, rules: OrderRules | None = None) -> None:
        self._database = database
        self._rules = rules or OrderRules()

    # -- for the borrower ----------------------------------------------------------------------------------------------

    def request(self, borrower: str, size: int) -> Loan | None:
        """Ask an idle worker with an equal device on the same machine for its GPU; returns the loan that there is now.

        None if there is no such worker, or a job is due that it could claim.
        """
        now = datetime.now(UTC)
        with self._database.write(patient=True) as db:
            mine = loan_where(db, "borrower", borrower)
            if mine is not None and not mine.expired(now):
                return mine
            db.execute("DELETE FROM loans WHERE borrower = ?", [borrower])
            if QueueOrder(db, now, self._rules).any_due():
                return None
            for slot in idle_slots(db, borrower, now):
                loan = Loan(slot, borrower, size, ASKED, utc_text(now + LOAN_TIME))
                values = {"slot": slot, "borrower": borrower, "size": size, "state": ASKED}
                db.upsert("loans", values | {"expires_at": loan.expires_at}, key=("slot",))
                return loan
        return None

    def renew(self, borrower: str, use: bool) -> Loan | None:
        """The borrower's loan, extended unless it was recalled. ``use``: a GPU that is lent is used from now on."""
        now = datetime.now(UTC)
        with self._database.read() as db:
            mine = loan_where(db, "borrower", borrower)
        if mine is None or mine.state == RECALLED:
            return mine
        begins = use and mine.state == LENT
        if not begins and FRESH_SHARE * LOAN_TIME < datetime.fromisoformat(mine.expires_at) - now <= LOAN_TIME:
            return mine
        values = {"expires_at": utc_text(now + LOAN_TIME), "borrower": borrower, "use": begins}
        with self._database.write(patient=True) as db:
            db.execute(
                "UPDATE loans SET expires_at = :expires_at, state = CASE WHEN :use = 1 THEN 'used' ELSE state END "
                "WHERE borrower = :borrower AND state != 'recalled'",
                values,
            )
            return loan_where(db, "borrower", borrower)

    def give_back(self, borrower: str) -> None:
        """End the borrower's loan: it has freed the GPU's memory."""
        with self._database.write(patient=True) as db:
            db.execute("DELETE FROM loans WHERE borrower = ?", [borrower])

    # -- for the lending worker ----------------------------------------------------------------------------------------

    def requested(self, slot: str) -> Loan | None:
        """The loan for which this slot's worker is asked."""
        with self._database.read() as db:
            loan = loan_where(db, "slot", slot)
        return loan if loan and loan.state == ASKED and not loan.expired(datetime.now(UTC)) else None

    def answer(self, slot: str, borrower: str, granted: bool) -> None:
        """Lend the slot's GPU to a borrower that asked for it, or refuse."""
        asked = "slot = ? AND borrower = ? AND state = 'asked'"
        change = f"UPDATE loans SET state = 'lent' WHERE {asked}" if granted else f"DELETE FROM loans WHERE {asked}"
        with self._database.write(patient=True) as db:
            db.execute(change, [slot, borrower])

    def recall(self, slot: str) -> Loan | None:
        """Ask the borrower for the slot's GPU; returns the loan until it has ended."""
        now = datetime.now(UTC)
        with self._database.read() as db:
            loan = loan_where(db, "slot", slot)
        if loan is None or (loan.state == RECALLED and not loan.expired(now)):
            return loan
        with self._database.write(patient=True) as db:
            loan = loan_where(db, "slot", slot)
            if loan is None or loan.state in (ASKED, LENT) or loan.expired(now):
                db.execute("DELETE FROM loans WHERE slot = ?", [slot])
                return None
            recall(db, slot, now)
        return loan

    # -- for recovery --------------------------------------------------------------------------------------------------

    def end(self, slot: str) -> None:
        """After a worker has died or stopped: its own loan ends, and its GPU is recalled from the borrower, if any."""
        with self._database.read() as db:
            if loan_where(db, "borrower", slot) is None and loan_where(db, "slot", slot) is None:
                return
        with self._database.write(patient=True) as db:
            db.execute(
                "DELETE FROM loans WHERE borrower = ? OR (slot = ? AND state IN ('asked', 'lent'))", [slot, slot]
            )
            recall(db, slot, datetime.now(UTC))


def recall(db: Transaction, slot: str, now: datetime) -> None:
    recalled = "UPDATE loans SET state = 'recalled', expires_at = ? WHERE slot = ? AND state = 'used'"
    db.execute(recalled, [utc_text(now + RECALL_TIME), slot])


def loan_where(db: Transaction, column: str, slot: str) -> Loan | None:
    """The loan whose literal ``column`` (slot or borrower) is this slot."""
    return next(map(to_loan, db.query(f"SELECT * FROM loans WHERE {column} = ?", [slot])), None)


def to_loan(row: Row) -> Loan:
    return Loan(row["slot"], row["borrower"], row["size"], row["state"], row["expires_at"])


def idle_slots(db: Transaction, borrower: str, now: datetime) -> list[str]:
    """Slots of the borrower's machine whose idle workers have an equal device and neither lend nor borrow one."""
    workers = [rows.to_worker(row) for row in db.query("SELECT * FROM workers ORDER BY slot")]
    mine = next((each for each in workers if each.slot == borrower), None)
    if mine is None:
        return []
    loans = [to_loan(row) for row in db.query("SELECT * FROM loans")]
    engaged = {slot for loan in loans if not loan.expired(now) for slot in (loan.slot, loan.borrower)}
    running = {row["worker"] for row in db.query("SELECT worker FROM jobs WHERE state = 'running'")}
    return [
        each.slot
        for each in workers
        if each.slot not in engaged | running | {borrower}
        and machine_of(each.slot) == machine_of(borrower)
        and (each.status, each.device) == ("idle", mine.device)
        and not is_silent(each, now)
    ]


def machine_of(slot: str) -> str:
    """The machine's name in a slot's name, "" for this machine."""
    return slot.rpartition(".")[0]
