"""Declarations and methods fit each other, and no two operations claim one address or name."""

import re
from collections import Counter

import pytest

from diffusion_local.operations import registry
from diffusion_local.operations.operation import After, File, Paged
from diffusion_local.operations.registry import OPERATIONS
from diffusion_local.studio import Studio
from diffusion_local.web.api import endpoints
from diffusion_local.web.api.http import derived
from diffusion_local.web.api.schemas import answer_schema

ROUTES = [(operation, route) for operation in OPERATIONS.values() for route in operation.routes]


def test_every_declared_argument_is_one_of_the_method() -> None:
    assert Studio  # its methods are known once it is imported
    for operation, route in ROUTES:
        registry.arguments(operation, route.takes)
        registry.arguments(operation, " ".join(registry.path_arguments(route)))
    for operation in OPERATIONS.values():
        if operation.endpoint:
            registry.endpoint(operation)


def test_an_argument_that_the_method_does_not_take_is_an_error() -> None:
    with pytest.raises(LookupError, match=r"boards\.get offers colour"):
        registry.arguments(OPERATIONS["boards.get"], "colour")


def test_an_address_and_a_name_are_one_operations() -> None:
    served = Counter((route.method, re.sub("{.*?}", "{}", route.path)) for _, route in derived.routes())
    ids = Counter(derived.operation_id(operation, route) for operation, route in derived.routes())
    names = Counter(endpoints.names())
    assert [each for found in (served, ids, names) for each, count in found.items() if count > 1] == []


def test_what_a_route_offers_is_documented_and_typed() -> None:
    for operation, route in derived.routes():
        assert operation.doc, operation.name
        answer = route.answer or operation.answer
        if isinstance(answer, After):
            assert OPERATIONS[answer.operation].routes
        if isinstance(answer, Paged):
            assert "limit" in registry.signature(operation.name).parameters
        if not isinstance(answer, File):
            assert answer_schema(operation, answer, route.status) is not None
    assert [name for name, each in endpoints.derived().items() if not each.doc] == []


def test_operation_ids_are_stable() -> None:
    """Generated clients name their methods by them."""
    ids = {derived.operation_id(operation, route): route.path for operation, route in derived.routes()}
    assert ids["batches_page"] == "/batches"
    assert ids["cancel"] == "/jobs/cancel"
    assert ids["cancel_of_job"] == "/jobs/{job_id}/cancel"
    assert ids["cancel_of_batch"] == "/batches/{batch_id}/cancel"
    assert ids["lists_export_queue"] == "/queue/export"
