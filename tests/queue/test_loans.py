"""Loans of GPUs: who may borrow, what a recall waits for, and what the death of either side leaves."""

from datetime import timedelta

import pytest

from diffusion_local.compose import Services
from diffusion_local.domain import ASKED, LENT, RECALLED, USED, Loan, utc_text
from diffusion_local.queue import loans
from diffusion_local.queue.loans import LoanStore
from tests.support import enqueue, sql

DEVICE = "NVIDIA H200"


@pytest.fixture
def store(services: Services) -> LoanStore:
    for slot in ("gpu0", "gpu1"):
        services.workers.register(slot, 1, DEVICE)
        services.workers.update(slot, "idle")
    return services.loans


def used(store: LoanStore) -> Loan:
    store.request("gpu0", 100)
    store.answer("gpu1", "gpu0", True)
    loan = store.renew("gpu0", use=True)
    assert loan is not None
    return loan


def state(store: LoanStore) -> str:
    loan = store.renew("gpu0", use=False)
    return loan.state if loan else ""


def test_a_loan_is_asked_for_lent_used_and_given_back(store: LoanStore) -> None:
    asked = store.request("gpu0", 100)
    assert asked is not None
    assert (asked.slot, asked.borrower, asked.size, asked.state) == ("gpu1", "gpu0", 100, ASKED)
    assert store.requested("gpu1") == asked
    assert store.requested("gpu0") is None
    store.answer("gpu1", "gpu0", True)
    assert state(store) == LENT
    assert store.requested("gpu1") is None
    assert used(store).state == USED
    again = store.request("gpu0", 100)
    assert again is not None
    assert again.state == USED
    store.give_back("gpu0")
    assert state(store) == ""


def test_a_worker_refuses(store: LoanStore) -> None:
    store.request("gpu0", 100)
    store.answer("gpu1", "gpu0", False)
    assert state(store) == ""


def test_nothing_is_lent_while_a_job_is_due(services: Services, store: LoanStore) -> None:
    enqueue(services.jobs)
    assert store.request("gpu0", 100) is None
    services.jobs.claim("gpu0")
    assert store.request("gpu0", 100) is not None


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE workers SET status = 'busy' WHERE slot = 'gpu1'",
        "UPDATE workers SET device = 'another' WHERE slot = 'gpu1'",
        "UPDATE workers SET slot = 'machine.gpu1' WHERE slot = 'gpu1'",
        "UPDATE workers SET seen_at = '2020-01-01T00:00:00+00:00' WHERE slot = 'gpu1'",
    ],
)
def test_only_an_idle_worker_of_this_machine_with_an_equal_device_lends(
    services: Services, store: LoanStore, change: str
) -> None:
    with sql(services.settings) as db:
        db.execute(change)
    assert store.request("gpu0", 100) is None


def test_a_gpu_is_lent_once(services: Services, store: LoanStore) -> None:
    used(store)
    services.workers.register("gpu2", 1, DEVICE)
    services.workers.update("gpu2", "idle")
    assert store.request("gpu2", 100) is None


def test_a_recall_waits_only_for_a_borrower_that_uses_the_gpu(store: LoanStore) -> None:
    assert store.recall("gpu1") is None
    store.request("gpu0", 100)
    assert store.recall("gpu1") is None
    store.request("gpu0", 100)
    store.answer("gpu1", "gpu0", True)
    assert store.recall("gpu1") is None
    assert state(store) == ""
    used(store)
    assert store.recall("gpu1") is not None
    assert state(store) == RECALLED
    assert store.recall("gpu1") is not None
    store.give_back("gpu0")
    assert store.recall("gpu1") is None


def test_a_hung_borrower_blocks_for_a_bounded_time(store: LoanStore, monkeypatch: pytest.MonkeyPatch) -> None:
    used(store)
    monkeypatch.setattr(loans, "RECALL_TIME", timedelta(0))
    assert store.recall("gpu1") is not None
    store.renew("gpu0", use=True)  # does not extend it
    assert store.recall("gpu1") is None


def test_a_loan_that_nobody_renews_has_ended_and_one_that_is_renewed_lives(
    services: Services, store: LoanStore
) -> None:
    loan = used(store)
    with sql(services.settings) as db:
        db.execute("UPDATE loans SET expires_at = '2020-01-01T00:00:00+00:00'")
    renewed = store.renew("gpu0", use=True)
    assert renewed is not None
    assert renewed.expires_at >= loan.expires_at
    with sql(services.settings) as db:
        db.execute("UPDATE loans SET expires_at = '2020-01-01T00:00:00+00:00'")
    assert store.recall("gpu1") is None


def test_a_changed_clock_ends_a_loan(services: Services, store: LoanStore) -> None:
    used(store)
    with sql(services.settings) as db:
        db.execute("UPDATE loans SET expires_at = '2099-01-01T00:00:00+00:00'")
    assert store.recall("gpu1") is None


def test_the_death_of_the_borrower_ends_its_loan(store: LoanStore) -> None:
    used(store)
    store.end("gpu0")
    assert store.recall("gpu1") is None


def test_the_death_of_the_lending_worker_recalls_its_gpu(store: LoanStore) -> None:
    loan = used(store)
    store.end("gpu1")
    assert state(store) == RECALLED
    found = store.renew("gpu0", use=True)
    assert found is not None
    assert found.expires_at < utc_text(loans.datetime.fromisoformat(loan.expires_at))
    store.give_back("gpu0")
    store.request("gpu0", 100)
    store.end("gpu1")
    assert state(store) == ""
