"""README's tables of routes and dialects are the program's."""

import re

from fastapi.testclient import TestClient

from tests.support import REPOSITORY

ROUTE = re.compile(r"`((?:GET|POST|PUT|PATCH|DELETE) /[^`]+)`")


def test_every_route_is_told_and_no_other(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    there = {
        f"{method.upper()} {re.sub(r'{[^}]+}', '{id}', path)}"
        for path, methods in document["paths"].items()
        for method in methods
    }
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert {re.sub(r"{[^}]+}", "{id}", route) for route in ROUTE.findall(readme)} == there
