"""The list endpoints: the Studio's sentences about lists, as programs get them."""

import inspect

import pytest
from gradio_client import Client

from diffusion_local.compose import Services
from diffusion_local.domain import State
from diffusion_local.errors import InvalidParams
from tests.support import gradio_endpoint
from tests.web.conftest import Site

NAMES = ("check_list", "submit_list")


def test_check_list_answers_in_plain_values_and_enqueues_nothing(services: Services) -> None:
    check = gradio_endpoint(services.studio, "check_list")
    text = check("{red|blue} car\nx --mood 3", expand="all", width=128, height=128, steps=2, count=2)
    assert (text["pictures"], text["models"], text["first"][:3:2]) == (4, {"starter": 4}, ["red car", "blue car"])
    assert text["bad_lines"][0]["line"] == 2
    assert services.studio.jobs() == []


def test_submit_list_enqueues_one_batch(services: Services) -> None:
    text = "prompt,seed\na castle,7\n"
    result = gradio_endpoint(services.studio, "submit_list")(
        text, "csv", name="n", priority=5, idempotency_key="k", steps=3
    )
    [job] = services.studio.jobs()
    assert (result["count"], result["job_ids"], job.priority, job.params.steps, job.params.seed) == (
        1,
        [job.id],
        5,
        3,
        7,
    )
    with pytest.raises(InvalidParams, match="1 bad line"):
        gradio_endpoint(services.studio, "submit_list")("a\n--seed 1")
    assert gradio_endpoint(services.studio, "submit_list")("a\n--seed 1", skip_bad_lines=True)["bad_count"] == 1


@pytest.mark.parametrize("name", NAMES)
def test_an_endpoint_says_what_it_does_and_needs_the_text_only(name: str) -> None:
    endpoint = gradio_endpoint(None, name)
    assert endpoint.__doc__
    required = [each.name for each in inspect.signature(endpoint).parameters.values() if each.default is each.empty]
    assert required == ["text"]


def test_a_program_submits_a_list_and_its_pictures_are_made(site: Site) -> None:
    api = Client(site.url, verbose=False, httpx_kwargs={"timeout": 60})
    check = api.predict("a castle\na car", width=128, height=128, steps=2, api_name="/check_list")
    assert check["pictures"] == 2
    answer = api.predict("a castle\na car", width=128, height=128, steps=2, api_name="/submit_list")
    ended = site.services.studio.wait(answer["job_ids"], 60)
    assert [job.state for job in ended] == [State.DONE, State.DONE]
