"""A server with accounts that see only their own, what it keeps, and the attackers' table.

Each attack is a row ``Attack(what, tried, refused, how)``; ``scripts/attacks_table.py`` writes them as a table, so the
table tells what was really run.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
from fastapi.testclient import TestClient

from diffusion_local.actor import LOCAL, acting
from diffusion_local.compose import Services
from tests.web.conftest import client_of, made, services_of

PASSWORD = "correct horse"
SMALL = {"width": 128, "height": 128, "steps": 4}


@dataclass(frozen=True)
class Victim:
    """What ann has, and bob wants."""

    services: Services
    image: str
    job: str
    batch: str
    tokens: dict[str, str]

    def headers(self, who: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens[who]}"}


@pytest.fixture(scope="session")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Victim:
    services = services_of(tmp_path_factory, share="own")
    accounts = services.studio.accounts
    accounts.add("root", PASSWORD)
    tokens = {}
    for name, role, scopes in (
        ("ann", "user", ["submit", "control"]),
        ("bob", "user", ["submit", "control"]),
        ("reader", "user", []),
        ("submitter", "user", ["submit"]),
        ("eve", "viewer", []),
    ):
        accounts.add(name, PASSWORD, role)
        tokens[name] = accounts.add_token(name, "test", scopes)[1]
    tokens["root"] = accounts.add_token("root", "test", ["submit", "control", "admin"])[1]
    tokens["quiet root"] = accounts.add_token("root", "test", ["submit", "control"])[1]
    with acting(replace(LOCAL, name="ann")):
        image = made(services, "a secret garden")
        job = services.studio.submit("a secret hill", **SMALL, idempotency_key="anns-key")
    return Victim(services, image.id, job.job_ids[0], job.batch_id, tokens)


@pytest.fixture(scope="session")
def application(victim: Victim) -> TestClient:
    return client_of(victim.services)


@pytest.fixture
def client(application: TestClient) -> Iterator[TestClient]:
    application.cookies.clear()
    yield application
    application.cookies.clear()
