"""Every way in which options come in: each function submits a picture with these options and returns its Params.

``given`` has a value for each option that applies to the kind of work. What a way cannot say is left out by the table
itself: a way that has no place for an option at all says so in ``CANNOT``, with the reason.
"""

import asyncio
import csv
import io
import json
from collections.abc import Callable
from typing import Any

from fastapi.testclient import TestClient

from diffusion_local.compose import Services
from diffusion_local.domain import Kind, Params
from diffusion_local.options.table import OPTIONS
from diffusion_local.web.api.dialects.a1111 import reading
from diffusion_local.web.api.dialects.adapting import Aliases
from diffusion_local.web.api.dialects.openai import reading as openai
from diffusion_local.web.api.mcp.tools import Tools
from diffusion_local.web.api.mcp.waiting import Context
from diffusion_local.web.ui import form, form_lists, tab_lists
from tests.support import gradio_endpoint

Given = dict[str, Any]
Door = Callable[[Services, TestClient, Given], Params]


def newest(services: Services) -> Params:
    return services.studio.jobs(limit=1)[0].params


def studio(services: Services, client: TestClient, given: Given) -> Params:
    services.studio.submit(**given)
    return newest(services)


def http(services: Services, client: TestClient, given: Given) -> Params:
    answer = client.post("/api/v1/jobs", json=given)
    assert answer.status_code == 202, answer.text
    return newest(services)


def gradio(services: Services, client: TestClient, given: Given) -> Params:
    gradio_endpoint(services.studio, "submit")(**given)
    return newest(services)


def cog(services: Services, client: TestClient, given: Given) -> Params:
    answer = client.post("/predictions", json={"input": given}, headers={"Prefer": "respond-async"})
    assert answer.status_code == 202, answer.text
    return newest(services)


def cog_spelled(services: Services, client: TestClient, given: Given) -> Params:
    """By the last of the spellings that an option has in other tools."""
    named = {(*OPTIONS[name].spellings, name)[0] if name != "prompt" else name: each for name, each in given.items()}
    return cog(services, client, named)


def a1111(services: Services, client: TestClient, given: Given) -> Params:
    kind = given["kind"]
    by_other_ways = {"prompt", *reading.ITS_OWN}
    body = {reading.name_of(OPTIONS[name]): each for name, each in given.items() if name not in by_other_ways}
    tags = "".join(f"<lora:{each['name']}:{each['weight']}>" for each in given["loras"])
    body |= {"prompt": given["prompt"] + tags}
    body["enable_hr"] = "hires_scale" in given
    body["override_settings"] = {"sd_model_checkpoint": given["model"], "sd_vae": given["vae"]}
    if kind == Kind.TXT2IMG:
        requested = reading.Wanted(**body)
    else:
        pictures = {name: encoded(services, given[name]) for name in ("source", "mask") if name in given}
        requested = reading.Changed(**body, init_images=[pictures["source"]], mask=pictures.get("mask"))
    aliases = Aliases.parse(services.settings.model_aliases)
    services.studio.submit(**reading.translate(services.studio, services.settings, aliases, requested, {}).options)
    return newest(services)


def encoded(services: Services, source_id: str) -> str:
    import base64

    return base64.b64encode(services.sources.file(source_id).read_bytes()).decode()


def openai_(services: Services, client: TestClient, given: Given) -> Params:
    body = {name: each for name, each in given.items() if name not in openai.ITS_OWN}
    size = {"size": f"{given['width']}x{given['height']}"}
    aliases = Aliases.parse(services.settings.model_aliases)
    requested = openai.Generation(**body, **size)
    services.studio.submit(**openai.translate(services.studio, services.settings, aliases, requested).options)
    return newest(services)


def written(value: Any) -> str:
    """A value as text."""
    if not isinstance(value, list):
        return str(value)
    return ", ".join(f"{each['name']}:{each['weight']}" if "name" in each else record_text(each) for each in value)


def record_text(record: Given) -> str:
    """An entry of an option that is a list of records, as text; its leading value comes first."""
    lead, *others = record.items()
    return ":".join([lead[1], *(f"{name}={each}" for name, each in others)])


def list_text(services: Services, client: TestClient, given: Given) -> Params:
    flags = "".join(f' --{name} "{written(each)}"' for name, each in given.items() if name != "prompt")
    return listed(services, given["prompt"] + flags, "text")


def list_csv(services: Services, client: TestClient, given: Given) -> Params:
    page = io.StringIO()
    rows = csv.DictWriter(page, list(given))
    rows.writeheader()
    rows.writerow({name: written(each) for name, each in given.items()})
    return listed(services, page.getvalue(), "csv")


def list_jsonl(services: Services, client: TestClient, given: Given) -> Params:
    return listed(services, json.dumps(given), "jsonl")


def list_spelled(services: Services, client: TestClient, given: Given) -> Params:
    """By the first of the spellings that an option has in other tools."""
    return list_jsonl(services, client, {(*OPTIONS[name].spellings, name)[0]: each for name, each in given.items()})


def list_defaults(services: Services, client: TestClient, given: Given) -> Params:
    """Options that hold for lines that say nothing."""
    prompt = given["prompt"] or "-"
    services.studio.lists.submit(prompt, **{name: each for name, each in given.items() if name != "prompt"})
    return newest(services)


def listed(services: Services, text: str, form: str) -> Params:
    services.studio.lists.submit(text, form)
    return newest(services)


def page(services: Services, client: TestClient, given: Given) -> Params:
    """Create's form, filled from a recipe and read again."""
    filled = form.fill(studio(services, client, given))
    values = form.read([given["model"] if isinstance(each, dict) else each for each in filled])
    for extra in ("count", "styles"):
        values.pop(extra)
    services.studio.submit(
        **values | ({"width": given["width"], "height": given["height"]} if "width" in given else {})
    )
    return newest(services)


def lists_page(services: Services, client: TestClient, given: Given) -> Params:
    """The form of the Lists tab."""
    fields: Given = dict.fromkeys(form_lists.LIST_FIELDS, "")
    fields |= {"mode": "list", "format": "text", "expand": "no", "count": 1, "priority": 0, "text": given["prompt"]}
    fields |= {name: written(each) for name, each in given.items() if name in form_lists.OF_PICTURES}
    fields["size"] = f"{given['width']}x{given['height']}"
    result = tab_lists.queue(services.studio, form_lists.read(list(fields.values())), "queue_list")
    assert "In the queue" in result
    return newest(services)


def edit(services: Services, client: TestClient, given: Given) -> Params:
    """A batch that waits, changed."""
    base = {name: given[name] for name in ("kind", "source", "mask") if name in given}
    receipt = services.studio.submit("something else", **base)
    services.studio.batches.edit(receipt.batch_id, **given)
    return services.studio.job(receipt.job_ids[0]).params


def mcp(services: Services, client: TestClient, given: Given) -> Params:
    """A tool for agents."""
    tools = Tools()
    tool = tools.get("generate_image" if given["kind"] == Kind.TXT2IMG else "edit_image")
    assert tool is not None
    names = {"source": "image"}
    arguments = {names.get(name, name): each for name, each in given.items() if name != "kind"}

    async def report(*progress: Any) -> None: ...

    asyncio.run(tools.call(tool, Context(services.studio, report, lambda: True), arguments | {"seconds": 0}))
    return newest(services)


DOORS: dict[str, Door] = {
    "studio": studio,
    "http": http,
    "gradio": gradio,
    "cog": cog,
    "cog by other names": cog_spelled,
    "a1111": a1111,
    "openai": openai_,
    "list as text": list_text,
    "list as csv": list_csv,
    "list as jsonl": list_jsonl,
    "list by other names": list_spelled,
    "defaults of a list": list_defaults,
    "create": page,
    "lists page": lists_page,
    "edit": edit,
    "mcp": mcp,
}
#: Kinds of work that a way does not know.
CANNOT: dict[str, tuple[Kind, ...]] = {
    "mcp": (Kind.UPSCALE,),  # the tool takes a picture, an upscaler and a factor, nothing else
    "a1111": (Kind.UPSCALE,),  # extra-single-image takes a factor and an upscaler, nothing else
    "openai": (Kind.IMG2IMG, Kind.INPAINT, Kind.UPSCALE),  # pictures come as files of a form; see test_openai
    "lists page": (Kind.IMG2IMG, Kind.INPAINT, Kind.UPSCALE),  # a list of prompts has no source pictures
}
