"""ComfyUI's API for graphs of its standard nodes: prompts, queue, history, pictures, uploads, and events.

A graph is translated to a single submit (``graph``); its jobs wait in the studio's own queue and survive restarts.
Queue, history, pictures and events are separate for each caller. The routes are served at the root and below ``/api``,
as in ComfyUI, and below ``/comfyui`` (``dialects.paths``).
"""

import io
import os
import platform
import re
import sys
from typing import Any

import anyio.to_thread
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from PIL import Image as PIL

from diffusion_local import __version__, authority, image_decoding
from diffusion_local.actor import Scope as Scopes
from diffusion_local.actor import current
from diffusion_local.errors import InvalidParams, NotFound, UserError, echo
from diffusion_local.gallery.blobs import StoredFile
from diffusion_local.gallery.formats import TYPE_BY_SUFFIX
from diffusion_local.messages import message
from diffusion_local.options.values import SOURCE_ID
from diffusion_local.serializers import Json
from diffusion_local.settings import Settings
from diffusion_local.studio import Studio
from diffusion_local.web.api.dialects.adapting import Aliases
from diffusion_local.web.api.dialects.calls import PerAccount, refusing
from diffusion_local.web.api.dialects.comfyui import checking, nodes, records, socket
from diffusion_local.web.api.dialects.comfyui.graph import read
from diffusion_local.web.api.dialects.comfyui.submitting import (
    SHORT_ID,
    Uploads,
    form_of,
    ids_of,
    json_of,
    names_of,
    options_of,
    parsed,
    refused,
    text_of,
    with_alpha,
)
from diffusion_local.web.api.dialects.comfyui.values import Refused
from diffusion_local.web.api.watch import Watch
from diffusion_local.web.error_responses import NOT_CACHED, headers_of, sentence, status_of
from diffusion_local.web.files import StoredResponse

MOST_GRAPH_CHARS = 400_000
MOST_NAMES = 500  # of uploads, per account
MOST_HISTORY = 64  # prompts; max_items may lower it
#: The ComfyUI release whose API this implements, as reported to clients.
COMFYUI_VERSION = "0.3.60"
FILE_NAME = re.compile(r"(?P<id>[0-9A-HJKMNP-TV-Z]{26}|[0-9a-f]{64})\.(?:png|jpg|webp)")
FILE_LISTS = {"checkpoints": "models", "diffusion_models": "models", "loras": "loras", "vae": "vaes"}
FILE_LISTS |= {"upscale_models": "upscalers", "controlnet": "controls", "text_encoders": "clips"}
#: Folders of ComfyUI that clients list and that are always empty here.
NO_FILES = (
    *(
        "audio_encoders",
        "classifiers",
        "clip_vision",
        "configs",
        "custom_nodes",
        "diffusers",
        "gligen",
        "hypernetworks",
    ),
    *("latent_upscale_models", "model_patches", "photomaker", "style_models", "vae_approx"),
)


def info(name: str, names: nodes.Names) -> Json:
    """A node's description in ComfyUI's format."""
    node = nodes.NODES[name]
    inputs: dict[str, dict[str, Any]] = {"required": {}}
    for key, each in node.inputs.items():
        part = inputs.setdefault("required" if each.required else "optional", {})
        part[key] = described(each, names)
    return {
        "input": inputs,
        "input_order": {part: list(each) for part, each in inputs.items()},
        "output": list(node.outputs),
        "output_is_list": [False] * len(node.outputs),
        "output_name": list(node.outputs),
        "name": name,
        "display_name": node.title,
        "description": "",
        "python_module": "nodes",
        "category": node.category,
        "output_node": node.is_output,
    }


def described(each: nodes.Input, names: nodes.Names) -> list[Any]:
    if each.kind == "COMBO":
        return [list(names.of(each)), {} if each.default is None else {"default": each.default}]
    if each.kind not in nodes.WIDGET_TYPES:
        return [each.kind]
    limits = {"default": each.default, "min": each.low, "max": each.high}
    return [each.kind, {name: value for name, value in limits.items() if value is not None}]


def router(studio: Studio, watch: Watch, settings: Settings) -> APIRouter:
    api = APIRouter(tags=["ComfyUI"], route_class=refusing(comfyui_error), include_in_schema=False)
    uploads = Uploads(PerAccount(MOST_NAMES))
    aliases, strict = Aliases.of(settings.model_aliases), settings.fit == "strict"
    api.add_api_websocket_route("/ws", socket.Endpoint(studio, watch).serve)

    # -- prompts -------------------------------------------------------------------------------------------------------

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
        plan = read(graph, names_of(studio, aliases))
        options, warnings = options_of(studio, plan, uploads, strict)
        record = records.written(prompt_id, client_id, graph, plan.outputs, plan.work.node_id)
        if len(record) > MOST_GRAPH_CHARS:
            raise Refused("invalid_prompt", f"A graph must have at most {MOST_GRAPH_CHARS:,} characters.")
        key = records.KEY_PREFIX + prompt_id if prompt_id else None
        try:
            receipt = studio.submit(**options, graph=record, idempotency_key=key)
        except InvalidParams as error:
            raise refused(plan, graph, error) from None
        number = records.record(studio.graphs.get(receipt.batch_id)).number
        answer_json = {"prompt_id": prompt_id or receipt.batch_id, "number": number, "node_errors": {}}
        differs = [*warnings, *map(str, receipt.warnings)]
        return JSONResponse(answer_json | ({"warnings": differs} if differs else {}), headers=NOT_CACHED)

    @api.get("/prompt")
    def waiting() -> Json:
        """Number of the caller's unfinished prompts."""
        return {"exec_info": {"queue_remaining": len(studio.graphs.unfinished())}}

    @api.get("/queue")
    def queue() -> Json:
        """The caller's prompts: those with a running picture, and those that wait."""
        each = [records.record(graph) for graph in reversed(studio.graphs.unfinished())]
        busy = running()
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
        busy = running()
        for graph in studio.graphs.unfinished():
            each = records.record(graph)
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
        busy = running()
        for graph in studio.graphs.unfinished():
            each = records.record(graph)
            if each.batch_id in busy and prompt_id in ("", each.id, each.batch_id):
                studio.queue.cancel(batch_id=each.batch_id)

    def running() -> set[str]:
        """Batches with a running picture."""
        return {job.batch_id for job in studio.jobs("running", limit=1000) if job.owner == current().name}

    @api.get("/history")
    def history(max_items: int = MOST_HISTORY) -> Json:
        """The caller's ended prompts, oldest first."""
        limit = max(0, min(max_items, MOST_HISTORY))
        each = [records.record(graph) for graph in reversed(studio.graphs.page(limit)) if graph.finished]
        return {one.id: records.history(studio, one) for one in each}

    @api.get("/history/{prompt_id}")
    def history_of(prompt_id: str) -> Response:
        """An ended prompt; an empty object while it waits or runs, with status 404 if it is unknown."""
        try:
            each = records.named(studio, prompt_id[:SHORT_ID])
        except NotFound:
            return JSONResponse({}, 404, headers=NOT_CACHED)
        content = {each.id: records.history(studio, each)} if each.finished else {}
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
            each = records.record(graph)
            if each.finished and (body.get("clear") or listed & {each.id, each.batch_id}):
                studio.queue.forget(batch_id=each.batch_id)

    # -- files ---------------------------------------------------------------------------------------------------------

    @api.get("/view")
    def view(filename: str = "", preview: str = "", channel: str = "") -> Response:
        """A picture of the caller by its `filename`; with `preview` (such as `webp;90`) in a smaller format."""
        stored, suffix = file_named(filename)
        if not preview:
            return StoredResponse(stored, TYPE_BY_SUFFIX[suffix], {"Cache-Control": "private, max-age=3600"})
        form, _, quality = preview.partition(";")
        form = form if form in ("webp", "jpeg") else "webp"
        data = converted(stored, form, int(quality) if quality.isdecimal() and len(quality) < 4 else 90)
        return Response(data, media_type=f"image/{form}")

    def file_named(filename: str) -> tuple[StoredFile, str]:
        """(file, suffix) of a gallery picture, or of an upload under our name or the caller's."""
        found = FILE_NAME.fullmatch(filename)
        if found and not SOURCE_ID.fullmatch(found["id"]):
            image = studio.image(found["id"])
            if records.own(image):
                return studio.picture_file(image.id), image.suffix
        source_id = uploads.source_id(studio, filename) if not found or SOURCE_ID.fullmatch(found["id"]) else None
        if source_id is None:
            raise NotFound(message("no_such_picture", id=echo(filename)))
        return studio.sources.file(source_id), ".png"

    @api.post("/upload/image")
    async def upload(request: Request) -> Json:
        """Store the picture in a form (`image`). LoadImage accepts the returned `name`, and the original file name."""
        authority.check("sources.add")  # before the body is read
        name, data, _ = await form_of(request)
        return await anyio.to_thread.run_sync(kept_upload, name, data)

    @api.post("/upload/mask")
    async def upload_mask(request: Request) -> Json:
        """Store a picture (`original_ref`) with the alpha channel of another (`image`): transparent parts are
        repainted.
        """
        authority.check("sources.add")
        name, data, reference = await form_of(request)
        return await anyio.to_thread.run_sync(kept_mask, name, data, reference)

    def kept_upload(name: str, data: bytes) -> Json:
        source = studio.sources.add(data, "image")
        if name:
            uploads.remembered[name] = source.id
        return {"name": f"{source.id}.png", "subfolder": "", "type": "input"}

    def kept_mask(name: str, data: bytes, reference: str) -> Json:
        original = parsed(reference, "original_ref")
        stored, _ = file_named(str(original.get("filename", "")))
        mask = studio.sources.file(studio.sources.add(data, "image").id).read_bytes()  # checked against our limits
        return kept_upload(name, with_alpha(stored.read_bytes(), mask))

    # -- about the server ----------------------------------------------------------------------------------------------

    @api.get("/object_info")
    @api.get("/object_info/")
    def object_info() -> Json:
        """All supported nodes, with the values that their choices offer."""
        names = names_of(studio, aliases)
        return {name: info(name, names) for name in nodes.NODES}

    @api.get("/object_info/{node}")
    def one_object_info(node: str) -> Json:
        return {node: info(node, names_of(studio, aliases))} if node in nodes.NODES else {}

    @api.get("/models")
    def folders() -> list[str]:
        return [*FILE_LISTS, "embeddings", *NO_FILES]

    @api.get("/models/{folder}")
    def files(folder: str) -> list[str]:
        if folder == "embeddings":
            return embeddings()
        if folder in NO_FILES:
            return []
        if folder not in FILE_LISTS:
            raise NotFound(message("no_address"))
        return list(names_of(studio, aliases).lists[FILE_LISTS[folder]])

    @api.get("/embeddings")
    def embeddings() -> list[str]:
        return [each.name for each in studio.adapters("embedding")]

    @api.get("/extensions")
    def extensions() -> list[str]:
        return []

    @api.get("/features")
    def features() -> Json:
        return {"supports_preview_metadata": False}

    @api.post("/free")
    def free() -> Response:
        """A no-op: models are unloaded when others need their memory, or after an idle time."""
        authority.check("sources.add")
        return Response(status_code=200)

    @api.get("/system_stats")
    def system_stats() -> Json:
        """The server, and the workers' devices. Memory sizes are shown to admins only."""
        vitals = studio.health.vitals() if Scopes.ADMIN in current().scopes else None
        used, total = vitals.memory if vitals else (0, 0)
        devices = [
            {
                "name": f"{each.slot} {each.device}",
                "type": each.room.type or "cpu",
                "index": index,
                "vram_total": each.room.bytes,
                "vram_free": each.free_bytes,
                "torch_vram_total": each.room.bytes,
                "torch_vram_free": each.free_bytes,
            }
            for index, each in enumerate(studio.workers())
        ]
        system = {
            "os": os.name,
            "ram_total": total,
            "ram_free": total - used,
            "comfyui_version": COMFYUI_VERSION,
            "python_version": sys.version,
            "pytorch_version": "",
            "embedded_python": False,
            "argv": [],
            "diffusion_local_version": __version__,
            "machine": platform.machine(),
        }
        return {"system": system, "devices": devices}

    return api


def converted(stored: StoredFile, form: str, quality: int) -> bytes:
    file = io.BytesIO()
    with stored.open() as opened, PIL.open(opened) as picture, image_decoding.share(picture):
        picture.convert("RGB").save(file, form.upper(), quality=max(1, min(quality, 100)))
    return file.getvalue()


# -- errors ------------------------------------------------------------------------------------------------------------


def comfyui_error(request: Request, error: UserError) -> JSONResponse:
    status = 400 if isinstance(error, InvalidParams) else status_of(error)
    content = {"type": error.code, "message": sentence(request, error), "details": "", "extra_info": {}}
    return JSONResponse({"error": content, "node_errors": {}}, status, headers=headers_of(error))


def refused_shape(error: Refused, graph: Any) -> Json:
    """The error for a refused graph in ComfyUI's format: faults by node, and the output nodes that depend on them."""
    node_errors: dict[str, Json] = {}
    outputs = checking.output_nodes(graph) if isinstance(graph, dict) else []
    for fault in error.faults:
        empty = {"errors": [], "dependent_outputs": outputs, "class_type": checking.class_of(graph.get(fault.node_id))}
        node_errors.setdefault(fault.node_id, empty)["errors"].append(fault.shape())
    head = {"type": error.type, "message": error.message, "details": error.details, "extra_info": {}}
    return {"error": head, "node_errors": node_errors}
