import pytest
from PIL import Image, ImageChops, ImageStat

from diffusion_local.engine import samplers
from diffusion_local.engine.diffusers_engine import DiffusersEngine
from diffusion_local.options.samplers import FLOW, SAMPLERS, SCHEDULES, TRIGFLOW
from tests.engine.conftest import Draw
from tests.support import tiers


def test_the_table_holds_the_names_of_the_catalogue_in_their_order() -> None:
    assert (*samplers.TABLE, *samplers.ANGULAR) == tuple(SAMPLERS)
    assert (tuple(samplers.FLOW_TABLE), tuple(samplers.ANGULAR)) == (FLOW.samplers, TRIGFLOW.samplers)
    assert tuple(samplers.SPACINGS) == tuple(SCHEDULES)


#: The first tier has one with noise and one of few steps; Heun draws in test_prompts and test_passes.
FIRST = ["Euler a", "LCM"]


@pytest.mark.parametrize("name", tiers(samplers.TABLE, first=FIRST))
def test_each_sampler_draws(diffusers_engine: DiffusersEngine, name: str) -> None:
    draw = Draw(diffusers_engine)
    picture = draw(sampler=name, steps=4)  # fewer leave some of them far from a picture
    assert draw.steps == [1, 2, 3, 4]
    assert picture.facts["scheduler"] == samplers.TABLE[name][0]
    assert max(ImageStat.Stat(picture.image).stddev) > 20  # not a flat picture
    # The previews show the estimate of the finished picture: the last one is it, but for its size.
    assert difference(draw.previews[-1]()(), picture.image) < 20


def test_lcm_takes_more_than_fifty_steps(diffusers_engine: DiffusersEngine) -> None:
    config = diffusers_engine._loaded.scheduler_config  # type: ignore[union-attr]
    scheduler = samplers.scheduler("LCM", config)
    scheduler.set_timesteps(150)
    assert len(scheduler.timesteps) == 150


def test_a_models_own_scheduler_settings_do_not_leak_into_another_sampler() -> None:
    config = {"prediction_type": "v_prediction", "use_karras_sigmas": True, "algorithm_type": "sde-dpmsolver++"}
    plain = samplers.scheduler("DPM++ 2M", config).config
    assert plain.prediction_type == "v_prediction"
    assert (plain.use_karras_sigmas, plain.algorithm_type) == (False, "dpmsolver++")


ZERO_SNR = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}


@pytest.mark.parametrize("name", samplers.TABLE)
def test_a_model_trained_on_pure_noise_begins_with_it_whatever_the_sampler(name: str) -> None:
    scheduler = samplers.scheduler(name, ZERO_SNR)
    scheduler.set_timesteps(10)
    assert (int(scheduler.timesteps[0]), scheduler.config.prediction_type) == (999, "v_prediction")
    assert float(scheduler.alphas_cumprod[-1]) < 1e-6  # nothing of the picture
    if hasattr(scheduler, "sigmas"):
        assert float(scheduler.sigmas[0]) > 4000


def test_schedulers_space_their_own_levels_where_a_pipeline_hands_them_others() -> None:
    """As pipelines of flow matching do, which most of their samplers refuse."""
    for name in samplers.FLOW_TABLE:
        made = samplers.scheduler(name, {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0})
        made.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25], device="cpu", mu=0.7)
        assert len(made.timesteps) == 4
        assert float(made.timesteps[0]) > 990
        assert sorted(made.timesteps.tolist(), reverse=True) == made.timesteps.tolist()


def difference(one: Image.Image, other: Image.Image) -> float:
    """Mean absolute difference of two pictures (0 to 255) at 32x32."""
    small = (image.resize((32, 32), Image.Resampling.BOX) for image in (one, other))
    return sum(ImageStat.Stat(ImageChops.difference(*small)).mean) / 3
