"""The pace of a pass that may be interrupted, on a simulated device."""

from collections.abc import Callable

import pytest

from diffusion_local.engine.steps import Pace

#: Seconds that a report takes once the step is launched.
REPORTING = 0.005


class Device:
    """Runs launched steps one after another; the clock moves only by what the host does."""

    def __init__(self, step: float, launching: float, late: float) -> None:
        self.now = self.busy_until = 0.0
        self.step, self.launching, self.late = step, launching, late
        self.idle = 0.0
        self.waits: list[float] = []

    def launch(self, pace: Pace) -> None:
        self.now += self.launching
        self.idle += max(0.0, self.now - self.busy_until)
        self.busy_until = max(self.now, self.busy_until) + self.step
        pace.launched()
        self.now += REPORTING

    def mark(self) -> Callable[[], None]:
        end = self.busy_until

        def wait() -> None:
            self.now = max(self.now, end + self.late)

        return wait

    def sleep(self, seconds: float) -> None:
        self.now += seconds + self.late


@pytest.mark.parametrize("step", [0.02, 0.1, 0.4])
@pytest.mark.parametrize("launching", [0.001, 0.012, 0.06])
@pytest.mark.parametrize("late", [0.0, 0.003])
def test_the_device_never_waits_and_no_step_is_launched_long_before(step: float, launching: float, late: float) -> None:
    device = Device(step, launching, late)
    pace = Pace(device.mark, lambda: device.now, device.sleep)
    for number in range(40):
        device.launch(pace)
        if number == 10:
            device.idle = 0.0  # what launching takes is known by now
        pace.wait()
        device.waits.append(device.busy_until - device.now)
    if launching + REPORTING < step:
        assert device.idle == pytest.approx(0.0, abs=1e-9)
    assert max(device.waits[10:]) <= max(step, launching + REPORTING) + 1e-9  # a newcomer waits for one step at most
    if launching + REPORTING + 4 * late < step / 2:
        assert max(device.waits[10:]) < launching + 3 * late + 0.01


def test_launching_that_takes_longer_for_a_while_is_followed_and_forgotten() -> None:
    device = Device(0.1, 0.002, 0.0)
    pace = Pace(device.mark, lambda: device.now, device.sleep)
    waits = []
    for number in range(60):
        device.launching = 0.03 if 20 <= number < 30 else 0.002
        before = device.idle
        device.launch(pace)
        if number > 21 or 2 < number < 20:
            assert device.idle == before
        pace.wait()
        waits.append(device.busy_until - device.now)
    assert waits[18] < 0.01 < waits[28]
    assert waits[59] < 0.01
