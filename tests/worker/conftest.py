"""Workers in this process run twice: with the stores themselves, and by way of JSON."""

from collections.abc import Iterator

import pytest

from tests.dispatch.wire import Wire
from tests.workers import connect


@pytest.fixture(params=["local", "wire"])
def connection(request: pytest.FixtureRequest) -> Iterator[None]:
    """For modules whose workers are to run over both."""
    if request.param == "local":
        yield
        return
    token = connect.set(Wire)
    yield
    connect.reset(token)
