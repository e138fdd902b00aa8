"""OpenAI's images API as server-sent events: previews while a picture is made, then the picture."""

import base64
import io
import json
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass

import anyio.to_thread
from fastapi.responses import Response, StreamingResponse
from PIL import Image as PIL

from diffusion_local import image_decoding
from diffusion_local.domain import Image, Job, Receipt
from diffusion_local.errors import NotFound
from diffusion_local.serializers import Json
from diffusion_local.studio import Studio
from diffusion_local.web.api.dialects.calls import base64_picture, ended_jobs, why_not
from diffusion_local.web.api.dialects.pictures import encode
from diffusion_local.web.api.http_headers import EVENT_STREAM_HEADERS
from diffusion_local.web.api.watch import Watch

POLL_SECONDS = 5.0  # jobs are read this often even if no event arrives
MOST_WARNING = 2000  # characters of the header
USAGE = {
    "input_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "output_tokens": 0,
    "total_tokens": 0,
}


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """How the pictures of a stream are shown. ``event``: prefix of event names; ``partial``: maximum previews per
    picture; ``quality`` and ``size``: the request's.
    """

    event: str
    form: str
    quality_of_form: int
    partial: int
    quality: str | None
    size: str | None

    def fields(self, name: str, picture: str, size: str) -> Json:
        return {
            "type": f"{self.event}.{name}",
            "b64_json": picture,
            "created_at": int(time.time()),
            "background": "opaque",
            "output_format": self.form,
            "quality": self.quality or "auto",
            "size": size,
        }


def warning_header(warnings: Sequence[str]) -> dict[str, str]:
    """The header with warnings (RFC 7234, section 5.5); empty without any."""
    if not warnings:
        return {}
    text = " ".join(warnings)[:MOST_WARNING].encode("ascii", "replace").decode()
    text = "".join(each if each.isprintable() else " " for each in text)
    return {"Warning": '299 diffusion-local "' + text.replace("\\", "/").replace('"', "'") + '"'}


def stream_response(studio: Studio, watch: Watch, receipt: Receipt, shown: StreamOptions) -> Response:
    headers = EVENT_STREAM_HEADERS | warning_header(receipt.warnings)
    return StreamingResponse(events(studio, watch, receipt, shown), media_type="text/event-stream", headers=headers)


async def events(studio: Studio, watch: Watch, receipt: Receipt, shown: StreamOptions) -> AsyncIterator[str]:
    left, previews, seen = list(receipt.job_ids), dict.fromkeys(receipt.job_ids, 0), (-1, -1)

    def poll() -> list[Json]:
        """New events; removes the jobs that have ended from ``left``."""
        jobs = [studio.job(job_id) for job_id in left]
        left[:] = [job.id for job in jobs if not job.final]
        return [
            *partial_events(studio, jobs, previews, shown),
            *completed_events(studio, [job for job in jobs if job.final], receipt, shown),
        ]

    while left:
        for event in await anyio.to_thread.run_sync(poll):
            yield encode_event(event)
        if left:
            moment = await watch.until(lambda now, seen=seen: now != seen, POLL_SECONDS)  # type: ignore[misc]
            seen = moment or seen
            if watch.stopping():
                return


def partial_events(
    studio: Studio, jobs: Sequence[Job], previews: dict[str, int], shown: StreamOptions
) -> Iterator[Json]:
    """A preview of each running picture with enough progress since its last one; counts them in ``previews``."""
    for job in jobs:
        number = previews[job.id]
        if (
            job.final
            or number >= shown.partial
            or job.step * (shown.partial + 1) < job.params.total_steps * (number + 1)
        ):
            continue
        try:
            data = studio.preview_file(job.id).read_bytes()
        except (NotFound, FileNotFoundError):
            continue
        previews[job.id] += 1
        with PIL.open(io.BytesIO(data), formats=("WEBP",)) as picture, image_decoding.share(picture):
            text = base64.b64encode(encode(picture, shown.form, shown.quality_of_form)).decode("ascii")
        size = f"{job.params.width}x{job.params.height}"
        yield shown.fields("partial_image", text, size) | {"partial_image_index": number}


def completed_events(studio: Studio, jobs: Sequence[Job], receipt: Receipt, shown: StreamOptions) -> Iterator[Json]:
    made, missed = ended_jobs(studio, [job.id for job in jobs])
    for _, image in made:
        yield completed_event(studio, image, shown) | ({"warnings": receipt.warnings} if receipt.warnings else {})
    for job in missed:
        code = job.failure.kind if job.failure else "cancelled"
        fault = {"type": "server_error", "code": code, "message": why_not(job), "param": None}
        yield {"type": "error", "error": fault} | fault


def completed_event(studio: Studio, image: Image, shown: StreamOptions) -> Json:
    text = base64_picture(studio, image, shown.form, shown.quality_of_form)
    return shown.fields("completed", text, f"{image.width}x{image.height}") | {"usage": USAGE}


def encode_event(event: Json) -> str:
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n"
