"""A picture that its device is still at work on."""

import threading

import pytest
from PIL import Image as PIL

from diffusion_local.engine import Picture
from diffusion_local.errors import EngineError


def test_one_that_is_there_is_given_at_once() -> None:
    image = PIL.new("RGB", (2, 2))
    picture = Picture(image, {"device": "CPU"})
    assert picture.image is image
    assert (picture.facts, picture.ready_at) == ({"device": "CPU"}, None)


def test_one_that_comes_later_is_waited_for_once_by_whoever_asks() -> None:
    there, asked = threading.Event(), []

    def finish() -> tuple[PIL.Image, dict[str, object]]:
        asked.append(1)
        assert there.wait(30)
        return PIL.new("RGB", (2, 2)), {"denoise_seconds": 1.0}

    picture = Picture(finish, {"device": "GPU"})
    assert asked == []
    found: list[PIL.Image] = []
    threads = [threading.Thread(target=lambda: found.append(picture.image)) for _ in range(3)]
    for thread in threads:
        thread.start()
    there.set()
    for thread in threads:
        thread.join(30)
    assert len(found) == 3
    assert len(asked) == 1
    assert picture.facts == {"device": "GPU", "denoise_seconds": 1.0}
    assert picture.ready_at is not None


def test_one_that_is_unusable_says_so_each_time() -> None:
    def finish() -> tuple[PIL.Image, dict[str, object]]:
        raise EngineError("The prompt made the fake engine fail.")

    picture = Picture(finish)
    for _ in range(2):
        with pytest.raises(EngineError, match="made the fake engine fail"):
            picture.image  # noqa: B018
