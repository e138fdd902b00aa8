"""The stored record of a graph, and its representation in ComfyUI's queue and history."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from diffusion_local.actor import current
from diffusion_local.domain import Image, Job, State
from diffusion_local.errors import NotFound
from diffusion_local.queue.batches import Graph
from diffusion_local.serializers import Json
from diffusion_local.studio import MAX_JOBS_BY_ID, Studio
from diffusion_local.web.api.dialects.calls import why_not
from diffusion_local.web.api.dialects.comfyui import checking

KEY_PREFIX = "comfyui:"


@dataclass(frozen=True, slots=True)
class Record:
    """A prompt in ComfyUI's sense: a submitted graph. ``id``: the client's own if given, else the batch's. ``worker``:
    the node that does the work; ``outputs``: the nodes that show the pictures.
    """

    id: str
    batch_id: str
    client_id: str
    graph: Json
    outputs: list[str]
    worker: str
    created_at: str
    finished: bool

    @property
    def number(self) -> int:
        """Increases with time, like ComfyUI's numbers."""
        return milliseconds(self.created_at)

    def entry(self) -> list[Any]:
        """The prompt as /queue and /history list it."""
        return [self.number, self.id, self.graph, {"client_id": self.client_id}, self.outputs]


def to_json(prompt_id: str, client_id: str, graph: Json, outputs: list[str], worker: str) -> str:
    content = {"id": prompt_id, "client_id": client_id, "graph": graph, "outputs": outputs, "worker": worker}
    return json.dumps(content, ensure_ascii=False)


def from_json(graph: Graph) -> Record:
    content = json.loads(graph.graph)
    return Record(
        content["id"] or graph.batch_id,
        graph.batch_id,
        content["client_id"],
        content["graph"],
        content["outputs"],
        content["worker"],
        graph.created_at,
        graph.finished,
    )


def find(studio: Studio, prompt_id: str) -> Record:
    """The caller's prompt with this id. Raises NotFound."""
    try:
        batch_id = studio.submitted_under(KEY_PREFIX + prompt_id)
    except NotFound:
        batch_id = prompt_id
    return from_json(studio.graphs.get(batch_id))


def jobs_of(studio: Studio, each: Record) -> list[Job]:
    return studio.jobs(batch_id=each.batch_id, limit=MAX_JOBS_BY_ID)


def history_entry(studio: Studio, each: Record) -> Json:
    """An ended prompt."""
    jobs = jobs_of(studio, each)
    images = studio.images_of(jobs)
    made = [images[job.id] for job in jobs if job.id in images]
    missed = [job for job in jobs if job.id not in images]
    started = min((job.started_at or job.created_at for job in jobs), default=each.created_at)
    ended = max((job.finished_at or job.created_at for job in jobs), default=each.created_at)
    messages: list[Any] = [
        ["execution_start", {"prompt_id": each.id, "timestamp": milliseconds(started)}],
        ["execution_cached", {"nodes": [], "prompt_id": each.id, "timestamp": milliseconds(started)}],
    ]
    end = {"timestamp": milliseconds(ended)}
    if made:
        messages.append(["execution_success", {"prompt_id": each.id} | end])
    elif missed and missed[0].state is State.CANCELLED:
        messages.append(["execution_interrupted", interrupted_status(each) | end])
    else:
        messages.append(["execution_error", error_status(each, missed) | end])
    return {
        "prompt": each.entry(),
        "outputs": outputs(each, made) if made else {},
        "status": {
            "status_str": "success" if made else "error",
            "completed": bool(made),
            "messages": messages,
        },
        "meta": {
            node: {"node_id": node, "display_node": node, "parent_node": None, "real_node_id": node}
            for node in each.outputs
        },
    }


def node_fields(node: str) -> Json:
    return {"node_id": node, "display_node": node, "parent_node": None, "real_node_id": node}


def outputs(each: Record, made: Sequence[Image]) -> Json:
    """The pictures by output node."""
    return {node: {"images": [file_of(image, saves(each, node)) for image in made]} for node in each.outputs}


def saves(each: Record, node: str) -> bool:
    return checking.class_of(each.graph.get(node)) == "SaveImage"


def file_of(image: Image, saved: bool = True) -> Json:
    return {"filename": f"{image.id}{image.suffix}", "subfolder": "", "type": "output" if saved else "temp"}


def interrupted_status(each: Record) -> Json:
    kind = checking.class_of(each.graph.get(each.worker))
    return {"prompt_id": each.id, "node_id": each.worker, "node_type": kind, "executed": []}


def error_status(each: Record, missed: Sequence[Job]) -> Json:
    reason = why_not(missed[0]) if missed else "The jobs were deleted."
    kind = missed[0].failure.kind if missed and missed[0].failure else "deleted"
    content = {"exception_message": str(reason), "exception_type": kind, "traceback": []}
    return interrupted_status(each) | content | {"current_inputs": {}, "current_outputs": []}


def milliseconds(moment: str) -> int:
    return int(datetime.fromisoformat(moment).timestamp() * 1000)


def is_own(image: Image) -> bool:
    """Whether a picture belongs to the caller, even if the caller may see others' pictures."""
    return image.owner == current().name
