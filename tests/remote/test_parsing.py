"""Shapes read back are the nouns they were made from; other versions' shapes do no harm."""

from dataclasses import replace

import pytest

from diffusion_local import serializers
from diffusion_local.compose import Services
from diffusion_local.domain import State
from diffusion_local.queue.jobs import JobStore
from diffusion_local.remote import studio
from tests.support import claimed, image_of, in_state


@pytest.mark.parametrize("state", State)
def test_a_job(store: JobStore, state: State) -> None:
    job = in_state(store, state)
    back = studio.parse_job(serializers.job(job, position=3))
    known_there = {"position": 0, "crashes": 0}
    if job.failure:
        known_there["failure"] = replace(job.failure, detail="")  # type: ignore[assignment]
    assert back == replace(job, **known_there)


def test_a_picture(services: Services) -> None:
    services.studio.submit("x")
    image = image_of(claimed(services.jobs), starred=True)
    assert studio.parse_image(serializers.image(image)) == replace(image, key="")


def test_a_model(services: Services) -> None:
    model = services.studio.models()[0]
    from diffusion_local.models.catalog import Model

    assert serializers.model(studio.parse(Model, serializers.model(model))) == serializers.model(model)


def test_names_of_a_newer_server_are_passed_over_and_of_an_older_one_left_empty(store: JobStore) -> None:
    result = serializers.job(in_state(store, State.QUEUED))
    assert studio.parse_job(result | {"colour": "red"}) == studio.parse_job(result)
    del result["owner"], result["lane"], result["step"]
    assert studio.parse_job(result).owner == ""
