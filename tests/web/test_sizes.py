"""Shapes: each is a size that the model takes."""

from typing import Any

import pytest

from diffusion_local.compose import Services
from diffusion_local.models import catalog
from diffusion_local.models.catalog import Model
from diffusion_local.options.limits import Defaults, Limits, check_size
from diffusion_local.web.ui import form

STARTER = (catalog.STARTER_DEFAULTS, catalog.STARTER_LIMITS)


def model(services: Services, defaults: Defaults, limits: Limits) -> Model:
    return Model("m", "M", services.settings.home, "sd", defaults, limits)


@pytest.mark.parametrize("lying", [False, True])
@pytest.mark.parametrize(
    ("defaults", "limits"),
    [
        STARTER,
        (Defaults(), Limits()),
        (Defaults(1024, 1024), Limits(multiple=64)),
        (Defaults(512, 512), Limits(max_pixels=512 * 512)),
    ],
)
def test_every_shape_is_a_size_the_model_takes(
    defaults: Defaults, limits: Limits, lying: bool, services: Services
) -> None:
    one = model(services, defaults, limits)
    found = form.sizes(one, lying)
    assert found[0] == ("1:1", f"{defaults.width}x{defaults.height}")
    for _, value in found:
        width, height = value.split("x")
        check_size(width, height, limits, "m")
        assert form.size_of(one, int(width), int(height)) == value
    assert form.size_of(one, 8, 8) is None


@pytest.mark.parametrize(
    ("size", "becomes"),
    [((256, 256), (512, 512)), ((296, 224), (592, 440)), ((304, 304), (304, 304)), ((None, "x"), (512, 512))],
)
def test_a_shape_stays_what_it_is_over_a_change_of_model(
    size: Any, becomes: tuple[int, int], services: Services
) -> None:
    before, after = model(services, *STARTER), model(services, Defaults(), Limits())
    assert form.moved(before, after, *size) == becomes
