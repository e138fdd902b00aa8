"""The tools themselves, without the protocol: what they take, what they ask of the Studio, and how long they wait."""

import asyncio
import base64
from typing import Any

import pytest

from diffusion_local import families
from diffusion_local.actor import LOCAL, NOBODY, SCOPES, Actor, Role, acting
from diffusion_local.compose import Services
from diffusion_local.domain import Kind
from diffusion_local.errors import Conflict, Forbidden, InvalidParams, LimitReached, NotFound, UserError
from diffusion_local.messages import message
from diffusion_local.options.table import OPTIONS, PICTURES
from diffusion_local.prompt_helper import HelpedPrompt, PromptHelper
from diffusion_local.web.api.mcp import waiting
from diffusion_local.web.api.mcp.tools import Result, Tools
from diffusion_local.web.api.mcp.waiting import Context
from tests.support import claimed
from tests.web.api.conftest import SMALL, Hands, draw_next, fail_next
from tests.web.authority.scene import png

TOOLS = Tools()
NAMES = [
    *("generate_image", "edit_image", "upscale", "get_job", "wait", "cancel"),
    *("list_models", "search_gallery", "queue", "submit_list", "help_prompt"),
]


def called(services: Services, name: str, /, stopping: bool = False, **options: Any) -> tuple[Result, list[Any]]:
    """(result, reported progress) of a tool."""
    reported: list[Any] = []

    async def report(*progress: Any) -> None:
        reported.append(progress)

    tool = TOOLS.get(name)
    assert tool is not None
    context = Context(services.studio, report, lambda: stopping)
    return asyncio.run(TOOLS.call(tool, context, options)), reported


def test_every_option_of_a_picture_is_offered_with_its_limits() -> None:
    taken = TOOLS.inputs["generate_image"]["properties"]
    expected = {name for name, each in OPTIONS.items() if Kind.TXT2IMG in each.kinds} - {"kind"}
    assert expected <= set(taken)
    assert not set(PICTURES) & set(taken)
    for name in expected:
        option = OPTIONS[name]
        assert "null" not in str(taken[name].get("type")) + str(taken[name].get("anyOf"))
        if option.is_number:
            low = -1 if "seed" in name else option.low
            assert (taken[name]["minimum"], taken[name]["maximum"]) == (low, option.high), name
        if option.choices:
            assert taken[name]["enum"] == [str(each) for each in option.choices]
    assert {"image", "mask", "strength"} <= set(TOOLS.inputs["edit_image"]["properties"])
    assert {"upscaler", "scale", "image"} <= set(TOOLS.inputs["upscale"]["properties"])
    assert {"text", "window", "start_at", "webhook"} <= set(TOOLS.inputs["submit_list"]["properties"])


@pytest.mark.parametrize(
    ("role", "refused"),
    [
        (Role.ADMIN, set()),
        (Role.USER, set()),
        (Role.VIEWER, {"generate_image", "edit_image", "upscale", "cancel", "submit_list", "help_prompt"}),
    ],
)
def test_only_tools_within_the_scopes_are_listed_and_the_others_are_refused(
    services: Services, role: Role, refused: set[str]
) -> None:
    with acting(Actor("ann", role, SCOPES[role], sees_all=False, source="token")):
        assert [each.name for each in TOOLS.offered()] == [each for each in NAMES if each not in refused]
        needed = {"edit_image": {"image": base64.b64encode(png("red")).decode()}, "submit_list": {"text": "a"}}
        for name in refused:
            options = {"prompt": "x"} if name in ("generate_image", "edit_image", "help_prompt") else {}
            options |= {"image": "0" * 64} if name == "upscale" else needed.get(name, {})
            options |= {"waiting": True} if name == "cancel" else {}
            with pytest.raises(Forbidden):
                called(services, name, **options)
    with acting(NOBODY):
        assert TOOLS.offered() == []


def test_a_prompt_is_improved(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    helped = HelpedPrompt("vary", "an apple", ["a red apple", "a green apple"], "tiny")
    asked: list[Any] = []
    monkeypatch.setattr(PromptHelper, "help", lambda helper, *value, **more: asked.append((value, more)) or helped)
    result, _ = called(services, "help_prompt", prompt="an apple", task="vary", count=2)
    assert (result.content["prompts"], result.content["original"]) == (helped.prompts, "an apple")
    assert "an apple" in str(asked)


def test_without_a_helper_a_prompt_stays_as_it_is(services: Services) -> None:
    with pytest.raises(Conflict, match="prompt_helper_url"):
        called(services, "help_prompt", prompt="an apple")
    with pytest.raises(InvalidParams, match="task"):
        called(services, "help_prompt", prompt="an apple", task="sing")


def test_pictures_are_made_and_waited_for(services: Services, drawing: Hands) -> None:
    result, reported = called(services, "generate_image", prompt="a red apple", count=2, seed=7, **SMALL)
    assert (result.content["finished"], len(result.images), result.picture) == (True, 2, "preview")
    assert [each["params"]["seed"] for each in result.content["jobs"]] == [7, 8]
    assert reported[-1][:2] == (2.0, 2.0)


def test_a_wait_is_bounded_and_can_be_taken_up_again(services: Services) -> None:
    result, reported = called(services, "generate_image", prompt="a red apple", seconds=0, **SMALL)
    assert (result.content["finished"], result.images) == (False, [])
    assert reported[0][2] == message("mcp_progress_waiting", done=0, total=1)
    draw_next(services)
    again, _ = called(services, "wait", job_ids=result.content["job_ids"])
    assert (again.content["finished"], len(again.images)) == (True, 1)
    whole, reported = called(services, "wait", batch_id=result.content["batch_id"], picture="full")
    assert (whole.content["finished"], whole.picture, reported[-1][:2]) == (True, "full", (1.0, 1.0))


def test_a_wait_ends_with_the_server(services: Services) -> None:
    result, _ = called(services, "generate_image", stopping=True, prompt="a red apple", seconds=600, **SMALL)
    assert not result.content["finished"]


def test_progress_grows_only(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that is given back begins again; what was reported stays."""
    monkeypatch.setattr(waiting, "POLL_SECONDS", 0.01)
    receipt = services.studio.submit("a red apple", **SMALL)
    job = claimed(services.jobs)
    services.jobs.report(job.claim, 2)
    reported: list[float] = []

    async def report(done: float, total: float, words: str) -> None:
        reported.append(done)
        if len(reported) == 1:
            services.jobs.requeue(job.claim, "test")
        elif len(reported) == 2:
            draw_next(services)

    tool = TOOLS.get("wait")
    assert tool
    context = Context(services.studio, report, lambda: False)
    result = asyncio.run(TOOLS.call(tool, context, {"job_ids": receipt.job_ids}))
    assert result.content["finished"]
    assert reported == [0.5, 0.5, 1.0]


def test_waits_of_one_account_are_limited(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "MOST_WAITS", 0)
    with pytest.raises(LimitReached):
        called(services, "generate_image", prompt="a red apple", **SMALL)
    assert services.studio.jobs("queued") == []
    assert waiting._waits == {}


def test_a_picture_is_named_by_its_id_or_sent_itself(services: Services, drawing: Hands) -> None:
    made, _ = called(services, "generate_image", prompt="a red apple", **SMALL)
    image_id = made.images[0].id
    source = services.studio.sources.from_image(image_id).id
    sent = "data:image/png;base64," + base64.b64encode(png("green")).decode()
    for each in (image_id, source, sent):
        result, _ = called(services, "edit_image", prompt="a green apple", image=each, strength=0.5, **SMALL)
        assert result.content["jobs"][0]["params"]["kind"] == "img2img"
    mask = base64.b64encode(png("white")).decode()
    result, _ = called(services, "edit_image", prompt="a pear", image=image_id, mask=mask, strength=0.5, steps=4)
    assert result.content["jobs"][0]["params"]["kind"] == "inpaint"
    result, _ = called(services, "upscale", image=image_id, scale=2)
    params = result.content["jobs"][0]["params"]
    assert (params["kind"], params["scale"], params["source"]) == ("upscale", 2.0, source)


def test_a_model_that_reads_pictures_gets_them_as_references(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(families, "references_of", lambda architecture: 3)
    image, other = (base64.b64encode(png(colour)).decode() for colour in ("red", "blue"))
    called(services, "edit_image", prompt="make it winter", image=image, references=[{"image": other}], seconds=0)
    params = services.studio.jobs(limit=1)[0].params
    assert (params.kind, params.source, len(params.references)) == (Kind.TXT2IMG, "", 2)
    called(services, "edit_image", prompt="as both", references=[{"image": other}], seconds=0)
    assert services.studio.jobs(limit=1)[0].params.references == params.references[1:]
    called(services, "edit_image", prompt="a bit", image=image, strength=0.5, seconds=0)
    assert services.studio.jobs(limit=1)[0].params.kind is Kind.IMG2IMG
    with pytest.raises(InvalidParams, match="image"):
        called(services, "edit_image", prompt="nothing", seconds=0)


@pytest.mark.parametrize(
    ("name", "given", "field"),
    [
        ("generate_image", {}, "prompt"),
        ("generate_image", {"prompt": "x", "width": 77}, "width"),
        ("generate_image", {"prompt": "x", "steps": "many"}, "steps"),
        ("generate_image", {"prompt": "x", "widht": 512}, "widht"),
        ("generate_image", {"prompt": ["x"]}, "prompt"),
        ("generate_image", {"prompt": "x", "count": 10**9}, "count"),
        ("generate_image", {"prompt": "x", "seconds": 601}, "seconds"),
        ("generate_image", {"prompt": "x", "seconds": -1}, "seconds"),
        ("generate_image", {"prompt": "x", "picture": "huge"}, "picture"),
        ("generate_image", {"prompt": "x", "loras": [{"name": 7}]}, "loras"),
        ("edit_image", {"prompt": "x", "image": "nothing"}, "image"),
        ("edit_image", {"prompt": "x", "image": "https://example.com/a.png"}, "image"),
        ("edit_image", {"prompt": "x", "image": "0" * 64, "strength": 0.5}, "image"),
        ("upscale", {"image": base64.b64encode(b"no picture").decode()}, "image"),
        ("wait", {}, "job_ids"),
        ("wait", {"job_ids": ["a"], "batch_id": "b"}, "job_ids"),
        ("wait", {"job_ids": ["a"] * 101}, "job_ids"),
        ("cancel", {}, "job_ids"),
        ("search_gallery", {"limit": 101}, "limit"),
        ("search_gallery", {"shape": "round"}, "shape"),
        ("submit_list", {"text": "a", "format": "xml"}, "format"),
    ],
)
def test_a_wrong_argument_is_refused_by_the_name_it_has_here(
    services: Services, name: str, given: dict[str, Any], field: str
) -> None:
    before = len(services.studio.jobs(limit=1000))
    with pytest.raises(InvalidParams) as refused:
        called(services, name, **given)
    assert refused.value.field.partition(".")[0] == field
    assert len(services.studio.jobs(limit=1000)) == before


@pytest.mark.parametrize("given", [[], "text", 7, None])
def test_arguments_that_are_no_object_are_refused(services: Services, given: Any) -> None:
    tool = TOOLS.get("generate_image")
    assert tool

    async def report(*progress: Any) -> None: ...

    with pytest.raises(UserError):
        asyncio.run(TOOLS.call(tool, Context(services.studio, report, lambda: False), given))


def test_a_failed_job_tells_why(services: Services, failing: Hands) -> None:
    result, _ = called(services, "generate_image", prompt="a red apple", **SMALL)
    assert result.content["jobs"][0]["error"]["message"] == "it broke"
    with pytest.raises(NotFound):
        called(services, "get_job", job_id="nothing")


def test_what_is_anothers_is_not_found(services: Services) -> None:
    receipt = services.studio.submit("a secret apple", owner="bob", **SMALL)
    with acting(Actor("ann", Role.USER, SCOPES[Role.USER], sees_all=False, source="token")):
        with pytest.raises(NotFound):
            called(services, "get_job", job_id=receipt.job_ids[0])
        with pytest.raises(NotFound):
            called(services, "wait", batch_id=receipt.batch_id, seconds=0)
        assert "secret" not in str(called(services, "queue")[0].content)
        assert called(services, "search_gallery")[0].content["images"] == []
    with acting(LOCAL):
        assert called(services, "get_job", job_id=receipt.job_ids[0])[0].content["owner"] == "bob"
    fail_next(services)
