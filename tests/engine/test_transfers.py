"""Schedulers that wait for nothing take the same steps."""

from inspect import signature

import pytest
import torch

from diffusion_local.engine import conditioning, samplers

CONFIG = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
CUDA = torch.device("cuda")


@pytest.mark.parametrize("sampler", samplers.TABLE)
@pytest.mark.parametrize("schedule", ["", "Karras", "SGM Uniform"])
def test_steps_are_the_same(sampler: str, schedule: str) -> None:
    found = []
    for spared in (False, True):
        scheduler = samplers.scheduler(sampler, CONFIG, schedule)
        if spared:
            conditioning.avoid_synchronisation(scheduler, CUDA)
        scheduler.set_timesteps(7, device="cpu")
        x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)) * scheduler.init_noise_sigma
        generator = torch.Generator().manual_seed(2)
        options = {"generator": generator} if "generator" in signature(scheduler.step).parameters else {}
        for timestep in scheduler.timesteps:
            guess = scheduler.scale_model_input(x, timestep).sin()
            x = scheduler.step(guess, timestep, x, **options).prev_sample
        found.append(x)
    assert torch.equal(*found)


def test_a_scheduler_is_not_asked_to_search_for_its_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = samplers.scheduler("Euler", CONFIG)
    conditioning.avoid_synchronisation(scheduler, CUDA)
    scheduler.set_timesteps(4, device="cpu")
    monkeypatch.setattr(scheduler, "index_for_timestep", lambda *_: pytest.fail("it would wait for the device"))
    scheduler.scale_model_input(torch.ones(1, 4, 2, 2), scheduler.timesteps[0])


def test_elsewhere_nothing_changes() -> None:
    scheduler = samplers.scheduler("Euler", CONFIG)
    conditioning.avoid_synchronisation(scheduler, torch.device("cpu"))
    assert "set_timesteps" not in scheduler.__dict__
    module = torch.nn.Linear(2, 2)
    with conditioning.AsyncCopies(torch.device("cpu")) as prelude:
        prelude.end_at(module)
        module(torch.ones(2))
    assert not module._forward_pre_hooks


def test_a_prelude_ends_at_the_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[str] = []

    class Noted:
        def __enter__(self) -> None:
            entered.append("begun")

        def __exit__(self, *_: object) -> None:
            entered.append("ended")

    monkeypatch.setattr(conditioning, "PinnedCopies", Noted)
    module = torch.nn.Linear(2, 2)
    with conditioning.AsyncCopies(CUDA) as prelude:
        prelude.end_at(module)
        module(torch.ones(2))
        assert entered == ["begun", "ended"]
        assert not module._forward_pre_hooks
    assert entered == ["begun", "ended"]
    with conditioning.AsyncCopies(CUDA) as prelude:  # one that is interrupted before
        prelude.end_at(module)
    assert not module._forward_pre_hooks
