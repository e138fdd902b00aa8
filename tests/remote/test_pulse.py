"""What a remote worker exchanges with its studio about running jobs, and how often."""

from collections.abc import Sequence

import pytest

from diffusion_local.dispatch import ProgressReport
from diffusion_local.domain import Claim, Flags
from diffusion_local.errors import DatabaseProblem
from diffusion_local.remote import pulse
from diffusion_local.remote.pulse import Pulse

FIRST, SECOND = Claim("first", "attic.cpu0", 1), Claim("second", "attic.cpu0", 1)


class Exchanges:
    """Keeps what was sent; every job is cancelled, except while the studio is ``away``."""

    def __init__(self) -> None:
        self.sent: list[tuple[list[tuple[Claim, int]], list[Claim]]] = []
        self.away = False

    def __call__(self, reports: Sequence[ProgressReport], silent: Sequence[Claim]) -> list[Flags | None]:
        if self.away:
            raise DatabaseProblem("away")
        self.sent.append(([(each.claim, each.step) for each in reports], list(silent)))
        return [Flags(cancel=True)] * (len(reports) + len(silent))


@pytest.fixture
def exchanges() -> Exchanges:
    return Exchanges()


@pytest.fixture
def watching(exchanges: Exchanges, monkeypatch: pytest.MonkeyPatch) -> Pulse:
    """A pulse without its thread, with two jobs whose claims are old enough."""
    monkeypatch.setattr(Pulse, "_run", lambda self: None)
    monkeypatch.setattr(pulse, "PULSE_SECONDS", 0.0)
    monkeypatch.setattr(pulse, "WAITING_SECONDS", 0.0)
    found = Pulse(exchanges)
    found.watch([FIRST, SECOND])
    return found


def test_one_request_reports_some_jobs_and_asks_about_the_others(watching: Pulse, exchanges: Exchanges) -> None:
    watching.note([ProgressReport(SECOND, 3), ProgressReport(SECOND, 4)])
    watching._exchange_once()
    assert exchanges.sent == [([(SECOND, 4)], [FIRST])]
    assert watching.flags([FIRST, SECOND]) == [Flags(cancel=True)] * 2


def test_a_job_that_waits_for_its_turn_is_asked_about_later_than_one_that_runs(
    watching: Pulse, exchanges: Exchanges, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulse, "WAITING_SECONDS", 1000.0)
    watching.watch([FIRST, SECOND])
    watching.note([ProgressReport(FIRST, 0)])
    watching._exchange_once()
    assert exchanges.sent == [([(FIRST, 0)], [])]


def test_a_job_that_ends_soon_after_its_claim_costs_no_request(
    watching: Pulse, exchanges: Exchanges, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulse, "PULSE_SECONDS", 1000.0)
    watching.note([ProgressReport(FIRST, 3)])
    watching._exchange_once()
    watching.forget(FIRST)
    assert exchanges.sent == []
    monkeypatch.setattr(pulse, "PULSE_SECONDS", 0.0)
    watching._exchange_once()
    assert exchanges.sent == [([], [SECOND])]


def test_a_report_that_did_not_arrive_is_sent_again_unless_there_is_a_newer_one(
    watching: Pulse, exchanges: Exchanges
) -> None:
    watching.note([ProgressReport(FIRST, 1), ProgressReport(SECOND, 1)])
    exchanges.away = True
    with pytest.raises(DatabaseProblem):
        watching._exchange_once()
    exchanges.away = False
    watching.note([ProgressReport(SECOND, 2)])
    watching._exchange_once()
    assert exchanges.sent == [([(FIRST, 1), (SECOND, 2)], [])]
