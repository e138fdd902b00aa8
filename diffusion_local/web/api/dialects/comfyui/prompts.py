"""Routes for prompts: submit a graph, list and edit the queue and the history. All of them concern the caller only."""

from typing import Any

import anyio.to_thread
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from diffusion_local import authority
from diffusion_local.actor import current
from diffusion_local.errors import InvalidParams, NotFound
from diffusion_local.serializers import Json
from diffusion_local.studio import Studio
from diffusion_local.web.api.dialects.adapting import Aliases
from diffusion_local.web.api.dialects.comfyui import checking, records
from diffusion_local.web.api.dialects.comfyui.graph import translate
from diffusion_local.web.api.dialects.comfyui.node_values import Refused
from diffusion_local.web.api.dialects.comfyui.submitting import (
    SHORT_ID,
    Uploads,
    graph_error,
    ids_of,
    json_of,
    names_of,
    options_of,
    text_of,
)
from diffusion_local.web.error_responses import NOT_CACHED

MOST_GRAPH_CHARS = 400_000
MOST_HISTORY = 64  # prompts; max_items may lower it


def add_submit(api: APIRouter, studio: Studio, uploads: Uploads, aliases: Aliases, strict: bool) -> None:
    @api.post("/prompt")
    async def submit(request: Request) -> Response:
        """Enqueue the pictures of a graph: `prompt_id`, `number`, `node_errors`, and `warnings`
        about adapted values.
        """
        authority.check("submit")  # before the body is read
        body = await json_of(request)
        try:
            return await anyio.to_thread.run_sync(submitted, body)
        except Refused as error:
            return JSONResponse(refused_shape(error, body.get("prompt")), 400, headers=NOT_CACHED)

    def submitted(body: Json) -> Response:
        graph = body.get("prompt")
        if graph is None:
            raise Refused("no_prompt", "No prompt provided", "No prompt provided")
        prompt_id, client_id = text_of(body, "prompt_id"), text_of(body, "client_id")
        plan = translate(graph, names_of(studio, aliases))
        options, warnings = options_of(studio, plan, uploads, strict)
        record = records.to_json(prompt_id, client_id, graph, plan.outputs, plan.work.node_id)
        if len(record) > MOST_GRAPH_CHARS:
            raise Refused("invalid_prompt", f"A graph must have at most {MOST_GRAPH_CHARS:,} characters.")
        key = records.KEY_PREFIX + prompt_id if prompt_id else None
        try:
            receipt = studio.submit(**options, graph=record, idempotency_key=key)
        except InvalidParams as error:
            raise graph_error(plan, graph, error) from None
        number = records.from_json(studio.graphs.get(receipt.batch_id)).number
        answer_json = {"prompt_id": prompt_id or receipt.batch_id, "number": number, "node_errors": {}}
        differs = [*warnings, *map(str, receipt.warnings)]
        return JSONResponse(answer_json | ({"warnings": differs} if differs else {}), headers=NOT_CACHED)


def add_queue(api: APIRouter, studio: Studio) -> None:
    @api.get("/prompt")
    def waiting() -> Json:
        """Number of the caller's unfinished prompts."""
        return {"exec_info": {"queue_remaining": len(studio.graphs.unfinished())}}

    @api.get("/queue")
    def queue() -> Json:
        """The caller's prompts: those with a running picture, and those that wait."""
        each = [records.from_json(graph) for graph in reversed(studio.graphs.unfinished())]
        busy = running(studio)
        return {
            "queue_running": [one.entry() for one in each if one.batch_id in busy],
            "queue_pending": [one.entry() for one in each if one.batch_id not in busy],
        }

    @api.post("/queue")
    async def edit_queue(request: Request) -> Response:
        """`clear` cancels all waiting prompts of the caller, `delete` the listed ones."""
        body = await json_of(request)
        await anyio.to_thread.run_sync(dequeue, body)
        return Response(status_code=200)

    def dequeue(body: Json) -> None:
        authority.check("queue.cancel")
        listed = set(ids_of(body))
        busy = running(studio)
        for graph in studio.graphs.unfinished():
            each = records.from_json(graph)
            if each.batch_id not in busy and (body.get("clear") or listed & {each.id, each.batch_id}):
                studio.queue.cancel(batch_id=each.batch_id)

    @api.post("/interrupt")
    async def interrupt(request: Request) -> Response:
        """Stop the caller's running prompt, or with `prompt_id` that one if it runs."""
        body = await json_of(request, empty=True)
        await anyio.to_thread.run_sync(stop, text_of(body, "prompt_id"))
        return Response(status_code=200)

    def stop(prompt_id: str) -> None:
        authority.check("queue.cancel")
        busy = running(studio)
        for graph in studio.graphs.unfinished():
            each = records.from_json(graph)
            if each.batch_id in busy and prompt_id in ("", each.id, each.batch_id):
                studio.queue.cancel(batch_id=each.batch_id)


def add_history(api: APIRouter, studio: Studio) -> None:
    @api.get("/history")
    def history(max_items: int = MOST_HISTORY) -> Json:
        """The caller's ended prompts, oldest first."""
        limit = max(0, min(max_items, MOST_HISTORY))
        each = [records.from_json(graph) for graph in reversed(studio.graphs.page(limit)) if graph.finished]
        return {one.id: records.history_entry(studio, one) for one in each}

    @api.get("/history/{prompt_id}")
    def history_of(prompt_id: str) -> Response:
        """An ended prompt; an empty object while it waits or runs, with status 404 if it is unknown."""
        try:
            each = records.find(studio, prompt_id[:SHORT_ID])
        except NotFound:
            return JSONResponse({}, 404, headers=NOT_CACHED)
        content = {each.id: records.history_entry(studio, each)} if each.finished else {}
        return JSONResponse(content, headers=NOT_CACHED)

    @api.post("/history")
    async def edit_history(request: Request) -> Response:
        """`clear` removes the caller's ended prompts from the history, `delete` the listed ones. Pictures are kept."""
        body = await json_of(request)
        await anyio.to_thread.run_sync(forget, body)
        return Response(status_code=200)

    def forget(body: Json) -> None:
        authority.check("queue.forget")
        listed = set(ids_of(body))
        for graph in studio.graphs.page():
            each = records.from_json(graph)
            if each.finished and (body.get("clear") or listed & {each.id, each.batch_id}):
                studio.queue.forget(batch_id=each.batch_id)


def running(studio: Studio) -> set[str]:
    """The caller's batches with a running picture."""
    return {job.batch_id for job in studio.jobs("running", limit=1000) if job.owner == current().name}


def refused_shape(error: Refused, graph: Any) -> Json:
    """The error for a refused graph in ComfyUI's format: faults by node, and the output nodes that depend on them."""
    node_errors: dict[str, Json] = {}
    outputs = checking.output_nodes(graph) if isinstance(graph, dict) else []
    for fault in error.faults:
        empty = {"errors": [], "dependent_outputs": outputs, "class_type": checking.class_of(graph.get(fault.node_id))}
        node_errors.setdefault(fault.node_id, empty)["errors"].append(fault.as_json())
    head = {"type": error.type, "message": error.message, "details": error.details, "extra_info": {}}
    return {"error": head, "node_errors": node_errors}
