"""What a route answers is what the OpenAPI document says of it, field by field."""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.routing import APIRoute
from pydantic import TypeAdapter

from diffusion_local.operations.operation import API_ROOT
from diffusion_local.web.api.http import derived, jobs, library, lists
from tests.web.authority import route_calls
from tests.web.authority.scene import Scene, scene

#: Routes whose whole answer is a file, or a stream.
FILES = ("/zip", "/sheet.webp", "/export", "/file")


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with pytest.MonkeyPatch.context() as patch, scene(tmp_path_factory, patch, "own") as found:
        yield found


def described(studio: Scene) -> dict[str, dict[int, Any]]:
    """By method and path, the type of the answer of each status."""
    watch = studio.client.app.state.watch  # type: ignore[attr-defined]
    parts = [jobs.router(studio.services.studio, watch)]
    parts += [each.router(studio.services.studio) for each in (lists, library)]
    parts.append(derived.router(studio.services.studio, watch))
    found = {}
    for route in (each for part in parts for each in part.routes if isinstance(each, APIRoute)):
        types = {status: each["model"] for status, each in route.responses.items() if "model" in each}
        found[f"{next(iter(route.methods))} {API_ROOT}{route.path}"] = types
    return found


def test_answers_have_the_fields_of_their_types_and_no_others(studio: Scene) -> None:
    compared = 0
    for name, types in described(studio).items():
        if not types:
            assert name.endswith(FILES), f"{name} says nothing of its answer"
            continue
        call = route_calls.ROUTES[name]
        answer = studio.client.request(
            name.split()[0],
            studio.filled(call.url) or name.split()[1],
            json=studio.filled(call.body) if call.body is not None else None,
            content=studio.filled((call.content or b"").decode("latin-1")).encode("latin-1") or None,
            headers=studio.admin.headers,
        )
        studio.pristine.restore()
        if answer.status_code in call.fine:
            continue
        assert answer.status_code in types, (name, answer.text)
        adapter = TypeAdapter(types[answer.status_code])
        read = adapter.dump_python(adapter.validate_python(answer.json()), mode="json")
        assert read == answer.json(), name
        compared += 1
    assert compared > 50
