"""A call of each route.

``{job}``, ``{image}`` and the like are the owner's (``scene.THINGS``). A route that is missing here fails the walk.
"""

import base64
from dataclasses import dataclass, field
from typing import Any

from diffusion_local.web.api.dialects import DIALECT_METHODS, DIALECT_PREFIXES
from diffusion_local.web.api.dialects.a1111.choices import EMPTY_ANSWERS
from tests.web.api.comfyui.graphs import TXT2IMG
from tests.web.authority.scene import PASSWORD, SMALL, png


@dataclass(frozen=True)
class Call:
    """``url`` if it is not the route's own path; ``body`` is JSON, ``content`` bytes, ``form`` a form's fields.

    ``less``: whoever may not say all its sentences is given less, instead of being refused.
    ``own``: it concerns the caller's own account, also of an admin.
    """

    url: str = ""
    body: Any = None
    content: bytes | None = None
    form: dict[str, Any] | None = None
    files: dict[str, bytes] | None = None
    headers: dict[str, str] = field(default_factory=dict)
    less: bool = False
    own: bool = False
    fine: tuple[int, ...] = ()  # answers beside success that are no refusal

    @property
    def named(self) -> list[Any]:
        return [self.url, self.body, self.form, (self.content or b"").decode("latin-1")]


def body(**fields: Any) -> Call:
    return Call(body=fields)


PNG = base64.b64encode(png("blue")).decode()
AT_ONCE = {"prompt": "at once", **SMALL}
LIST = b"a tree\na hill"
A1111_SAYS_NOTHING = {
    *(f"GET /sdapi/v1{path}" for path in (*EMPTY_ANSWERS, "/cmd-flags", "/memory", "/latent-upscale-modes")),
    *(f"POST /sdapi/v1/{path}" for path in ("refresh-embeddings", "unload-checkpoint", "reload-checkpoint")),
    *(f"GET /controlnet/{path}" for path in ("version", "settings", "module_list")),
    "GET /internal/ping",
}
#: Routes that say nothing to the Studio: words about the program, or a calculation from what was sent.
SAY_NOTHING = {
    "GET /openapi.json",
    "GET /docs",
    "GET /manual",
    *(f"GET /replicate/v1/{path}" for path in ("account", "hardware", "collections", "deployments", "trainings")),
    "GET /manual/search",
    "GET /manual/{topic:path}",
    "GET /login",
    "on_preset",
    "GET /assets/icons/{name}",
    "GET /assets/fonts/{name}",
    "GET /assets/gradio.css",
    "POST /v1/images/variations",
    "GET /gradio_api/file={path:path}",
    "POST /sdapi/v1/png-info",
    *A1111_SAYS_NOTHING,
    "GET /models",
    "GET /extensions",
    "GET /features",
    "POST /sdapi/v1/refresh-checkpoints",
    "POST /sdapi/v1/refresh-loras",
    "POST /sdapi/v1/refresh-vae",
    *(f"{verb} /api/v1/{{rest:path}}" for verb in ("GET", "POST", "PUT", "PATCH", "DELETE")),
    *(f"{verb} {prefix}/{{rest:path}}" for prefix in DIALECT_PREFIXES for verb in DIALECT_METHODS if verb != "HEAD"),
}
ROUTES: dict[str, Call] = {
    "GET /openapi.json": Call(),
    "GET /docs": Call(),
    "GET /manual": Call(),
    "GET /manual/search": Call("/manual/search?q=queue"),
    "GET /manual/{topic:path}": Call("/manual/accounts"),
    "GET /login": Call(),
    "POST /login": Call(form={"username": "eve", "password": PASSWORD}),
    "POST /logout": Call(),
    "GET /account": Call(own=True),
    "POST /account/tokens": Call(own=True, form={"name": "new"}),
    "POST /account/tokens/remove": Call(own=True, form={"id": "{token}"}),
    "POST /account/sessions/end": Call(own=True, form={"id": "{session}"}),
    "POST /account/password": Call(own=True, form={"old": PASSWORD, "new": "another horse"}),
    "GET /images/{image_id}.{suffix}": Call("/images/{image}.png"),
    "GET /thumbnails/{image_id}.webp": Call("/thumbnails/{image}.webp"),
    "GET /model-previews/{folder}/{name}": Call("/model-previews/loras/ink", fine=(404,)),
    "GET /sources/{source_id}.png": Call("/sources/{source}.png"),
    "GET /previews/{job_id}.webp": Call("/previews/{running}.webp"),
    "GET /assets/icons/{name}": Call("/assets/icons/mark.svg"),
    "GET /assets/fonts/{name}": Call("/assets/fonts/inter.woff2"),
    "GET /assets/gradio.css": Call(),
    "POST /look": body(seen="", tab="queue", asked=["", "", "", "", ""]),
    "GET /healthz": Call(),
    "GET /readyz": Call(fine=(503,)),
    "GET /metrics": Call(),
    "POST /reports/again": Call(form={"reason": "{reason}", "batch_id": "{failed_batch}"}),
    "GET /reports/batch/{batch_id}.html": Call("/reports/batch/{done_batch}.html"),
    "GET /reports/night.html": Call(),
    "POST /gradio_api/upload": Call(files={"files": png("green")}),
    "GET /gradio_api/file={path:path}": Call("/gradio_api/file=uploads/0", fine=(404,)),
    # -- A1111's ControlNet extension
    "GET /controlnet/version": Call(),
    "GET /controlnet/settings": Call(),
    "GET /controlnet/model_list": Call(),
    "GET /controlnet/module_list": Call(),
    "GET /controlnet/control_types": Call(),
    "POST /controlnet/detect": body(controlnet_module="canny", controlnet_input_images=[PNG]),
    "POST /api/v1/sources/describe": Call(body={"image": "{source}"}, fine=(422,)),
    "POST /api/v1/sources/control": body(image="{source}", type="canny", width=64, height=64),
    # -- ComfyUI
    "POST /prompt": body(prompt=TXT2IMG),
    "GET /prompt": Call(),
    "GET /queue": Call(),
    "POST /queue": body(clear=True),
    "POST /interrupt": body(),
    "GET /history": Call(),
    "GET /history/{prompt_id}": Call("/history/{done_batch}", own=True),
    "POST /history": body(clear=True),
    "GET /view": Call("/view?filename={image}.png", own=True),
    "POST /upload/image": Call(files={"image": png("green")}),
    "POST /upload/mask": Call(files={"image": png("green")}, form={"original_ref": '{"filename": "{source}.png"}'}),
    "GET /object_info": Call(),
    "GET /object_info/": Call(),
    "GET /object_info/{node}": Call("/object_info/KSampler"),
    "GET /models": Call(),
    "GET /models/{folder}": Call("/models/checkpoints"),
    "GET /embeddings": Call(),
    "GET /extensions": Call(),
    "GET /features": Call(),
    "POST /free": body(),
    "GET /system_stats": Call(less=True),
    # -- the native API
    "POST /api/v1/jobs": Call(body=SMALL | {"prompt": "a tree", "source": "{source}"}),
    "GET /api/v1/jobs": Call("/api/v1/jobs?batch_id={batch}&id={job}"),
    "GET /api/v1/jobs/{job_id}": Call("/api/v1/jobs/{job}"),
    "POST /api/v1/jobs/{job_id}/cancel": Call("/api/v1/jobs/{job}/cancel"),
    "POST /api/v1/jobs/{job_id}/again": Call("/api/v1/jobs/{done}/again"),
    "DELETE /api/v1/jobs/{job_id}": Call("/api/v1/jobs/{done}"),
    "POST /api/v1/prompts/help": body(prompt="a tree"),
    "POST /api/v1/jobs/preview": body(prompt="a {red|blue} tree", **SMALL),
    "POST /api/v1/jobs/cancel": body(job_ids=["{job}", "{running}"]),
    "POST /api/v1/jobs/again": body(batch_id="{failed_batch}", failed=True),
    "POST /api/v1/jobs/move": body(to="top", job_ids=["{job2}"]),
    "POST /api/v1/jobs/priority": body(value=9, batch_id="{batch}"),
    "POST /api/v1/jobs/forget": body(job_ids=["{done}"]),
    "GET /api/v1/jobs/{job_id}/stream": Call("/api/v1/jobs/{done}/stream"),
    "GET /api/v1/jobs/{job_id}/events": Call("/api/v1/jobs/{job}/events"),
    "GET /api/v1/batches/{batch_id}/stream": Call("/api/v1/batches/{batch}/stream"),
    "GET /api/v1/batches/{batch_id}/events": Call("/api/v1/batches/{batch}/events"),
    "GET /api/v1/queue/stream": Call(headers={"Last-Event-ID": "0"}),
    "GET /api/v1/queue/events": Call(),
    "POST /api/v1/lists": Call(content=LIST),
    "POST /api/v1/lists/check": Call(content=LIST),
    "GET /api/v1/batches/{batch_id}/export": Call("/api/v1/batches/{batch}/export"),
    "GET /api/v1/queue/export": Call(),
    "POST /api/v1/sources": Call(content=png("green")),
    "POST /api/v1/images/{image_id}/source": Call("/api/v1/images/{image}/source"),
    "GET /api/v1/batches": Call(),
    "GET /api/v1/batches/{batch_id}": Call("/api/v1/batches/{batch}"),
    "PATCH /api/v1/batches/{batch_id}": Call("/api/v1/batches/{batch}", {"name": "other", "steps": 5}),
    "POST /api/v1/batches/{batch_id}/duplicate": Call("/api/v1/batches/{done_batch}/duplicate"),
    "POST /api/v1/batches/{batch_id}/cancel": Call("/api/v1/batches/{batch}/cancel"),
    "POST /api/v1/batches/{batch_id}/pause": Call("/api/v1/batches/{batch}/pause"),
    "POST /api/v1/batches/{batch_id}/resume": Call("/api/v1/batches/{batch}/resume"),
    "GET /api/v1/batches/{batch_id}/images": Call("/api/v1/batches/{done_batch}/images"),
    "GET /api/v1/batches/{batch_id}/zip": Call("/api/v1/batches/{done_batch}/zip"),
    "GET /api/v1/batches/{batch_id}/sheet.webp": Call("/api/v1/batches/{done_batch}/sheet.webp"),
    "POST /api/v1/grids": body(prompt="a tree", x="steps: 4,5", source="{source}", **SMALL),
    "POST /api/v1/grids/check": body(prompt="a tree", x="steps: 4,5", source="{source}"),
    "GET /api/v1/images": Call(),
    "GET /api/v1/images/zip": Call(),
    "POST /api/v1/images/{image_id}/caption": Call("/api/v1/images/{image}/caption", body={}, fine=(422,)),
    "POST /api/v1/images/star": body(image_ids=["{image}"]),
    "POST /api/v1/images/trash": body(image_ids=["{image}"]),
    "POST /api/v1/images/restore": body(image_ids=["{trashed}"]),
    "POST /api/v1/images/delete": body(image_ids=["{trashed}"]),
    "GET /api/v1/images/{image_id}": Call("/api/v1/images/{image}"),
    "GET /api/v1/images/{image_id}/recipe": Call("/api/v1/images/{image}/recipe"),
    "PATCH /api/v1/images/{image_id}": Call("/api/v1/images/{image}", {"starred": True}),
    "DELETE /api/v1/images/{image_id}": Call("/api/v1/images/{image}"),
    "POST /api/v1/images/{image_id}/restore": Call("/api/v1/images/{trashed}/restore"),
    "GET /api/v1/boards": Call(),
    "POST /api/v1/boards": body(name="new", image_ids=["{image}"]),
    "GET /api/v1/boards/{board_id}": Call("/api/v1/boards/{board}"),
    "PATCH /api/v1/boards/{board_id}": Call("/api/v1/boards/{board}", {"name": "other"}),
    "DELETE /api/v1/boards/{board_id}": Call("/api/v1/boards/{board}"),
    "POST /api/v1/boards/{board_id}/images": Call("/api/v1/boards/{board}/images", {"image_ids": ["{image2}"]}),
    "POST /api/v1/boards/{board_id}/images/remove": Call(
        "/api/v1/boards/{board}/images/remove", {"image_ids": ["{image}"]}
    ),
    "GET /api/v1/queue": Call(),
    "POST /api/v1/queue/pause": Call(),
    "POST /api/v1/queue/resume": Call(),
    "POST /api/v1/queue/stay-awake": Call(),
    "PUT /api/v1/queue/window": body(window="23:00-07:00"),
    "GET /api/v1/queue/file": Call(),
    "POST /api/v1/queue/import": Call(content=b"{file}"),
    "GET /api/v1/machines": Call(),
    "GET /api/v1/machines/{machine}": Call("/api/v1/machines/attic"),
    "PATCH /api/v1/machines/{machine}": Call("/api/v1/machines/attic", {"hours": "22:00-07:00"}),
    "DELETE /api/v1/machines/{machine}": Call("/api/v1/machines/attic"),
    "POST /api/v1/machines/code": Call(),
    "POST /api/v1/machines/join": Call(body={"machine": "cellar", "proof": "0" * 64, "nonce": "0" * 32}, fine=(422,)),
    "POST /api/v1/machines/{machine}/pause": Call("/api/v1/machines/attic/pause"),
    "POST /api/v1/machines/{machine}/drain": Call("/api/v1/machines/attic/drain"),
    "POST /api/v1/machines/{machine}/resume": Call("/api/v1/machines/attic/resume"),
    "GET /api/v1/models": Call(),
    "GET /api/v1/models/{model_id}": Call("/api/v1/models/starter"),
    "POST /api/v1/models": Call(body={"path": "/nowhere"}, fine=(422,)),
    "PATCH /api/v1/models/{model_id}": Call("/api/v1/models/starter", {"precision": "auto"}),
    "DELETE /api/v1/models/{model_id}": Call("/api/v1/models/starter", fine=(409,)),
    "POST /api/v1/models/scan": Call(),
    "GET /api/v1/adapters": Call(),
    "GET /api/v1/tasks": Call(),
    "GET /api/v1/known-models": Call(),
    "GET /api/v1/downloads": Call(),
    "GET /api/v1/downloads/{download_id}": Call("/api/v1/downloads/{download}"),
    "POST /api/v1/downloads": body(repo="another/one"),
    "POST /api/v1/downloads/{download_id}/cancel": Call("/api/v1/downloads/{download}/cancel"),
    "GET /api/v1/reports/batch/{batch_id}": Call("/api/v1/reports/batch/{failed_batch}"),
    "GET /api/v1/reports/night": Call(),
    "GET /api/v1/reports/night.{_}": Call("/api/v1/reports/night.md"),
    "POST /api/v1/reports/again": body(reason="{reason}", batch_id="{failed_batch}"),
    "GET /api/v1/webhooks/deliveries": Call(),
    "GET /api/v1/webhooks/deliveries/{delivery_id}": Call("/api/v1/webhooks/deliveries/{delivery}"),
    "POST /api/v1/webhooks/deliveries/{delivery_id}/resend": Call("/api/v1/webhooks/deliveries/{delivery}/resend"),
    "POST /api/v1/webhooks/test": body(url="https://93.184.216.34/"),
    **{
        f"{verb} /api/v1/{{rest:path}}": Call("/api/v1/nowhere", fine=(404,))
        for verb in ("GET", "POST", "PUT", "PATCH", "DELETE")
    },
    **{
        f"{verb} {prefix}/{{rest:path}}": Call(f"{prefix}/nowhere/at/all", fine=(404,))
        for prefix in DIALECT_PREFIXES
        for verb in DIALECT_METHODS
        if verb != "HEAD"
    },
    # -- the dialects
    "POST /v1/images/generations": body(prompt="at once", size="128x128", steps=4),
    "POST /v1/images/edits": Call(form={"prompt": "at once", "steps": "4"}, files={"image": png("blue")}),
    "POST /v1/images/variations": Call(fine=(501,)),
    "GET /v1/models": Call(),
    "GET /v1/models/{model_id}": Call("/v1/models/starter"),
    "POST /sdapi/v1/txt2img": Call(body=AT_ONCE),
    "POST /sdapi/v1/img2img": Call(body=AT_ONCE | {"init_images": [PNG]}),
    "POST /sdapi/v1/extra-single-image": Call(body={"image": PNG, "upscaling_resize": 2}, fine=(503,)),
    "POST /sdapi/v1/png-info": body(image=PNG),
    "GET /sdapi/v1/latent-upscale-modes": Call(),
    "GET /sdapi/v1/options": Call(),
    "POST /sdapi/v1/options": body(CLIP_stop_at_last_layers=2, sd_model_checkpoint="starter"),
    "GET /sdapi/v1/progress": Call(less=True),  # of what this caller made last
    "POST /sdapi/v1/interrupt": Call(less=True),
    "POST /sdapi/v1/skip": Call(less=True),
    "GET /sdapi/v1/sd-models": Call(),
    "GET /sdapi/v1/samplers": Call(),
    "GET /sdapi/v1/schedulers": Call(),
    "GET /sdapi/v1/sd-vae": Call(),
    "GET /sdapi/v1/upscalers": Call(),
    "GET /sdapi/v1/loras": Call(),
    "GET /sdapi/v1/embeddings": Call(),
    "POST /sdapi/v1/extra-batch-images": Call(body={"imageList": [{"data": PNG}], "upscaling_resize": 2}, fine=(503,)),
    "POST /sdapi/v1/interrogate": Call(body={"image": PNG}, fine=(422,)),
    "GET /sdapi/v1/sd-modules": Call(),
    "GET /sdapi/v1/prompt-styles": Call(),
    **{verb: Call() for verb in sorted(A1111_SAYS_NOTHING)},
    "POST /sdapi/v1/refresh-checkpoints": Call(),
    "POST /sdapi/v1/refresh-loras": Call(),
    "POST /sdapi/v1/refresh-vae": Call(),
    "POST /predictions": Call(body={"input": AT_ONCE}),
    "PUT /predictions/{prediction_id}": Call("/predictions/mine", {"input": AT_ONCE | {"source": "{source}"}}),
    "GET /predictions": Call(),
    "GET /predictions/{prediction_id}": Call("/predictions/{batch}"),
    "POST /predictions/{prediction_id}/cancel": Call("/predictions/{batch}/cancel"),
    "GET /predictions/{prediction_id}/stream": Call("/predictions/{done_batch}/stream"),
    "POST /replicate/v1/models/{owner}/{name}/predictions": Call(
        "/replicate/v1/models/local/starter/predictions", {"input": AT_ONCE}
    ),
    "POST /replicate/v1/files": Call(files={"content": png("green")}),
    "GET /replicate/v1/files": Call(),
    "GET /replicate/v1/files/{file_id}": Call("/replicate/v1/files/{source}", own=True),
    "DELETE /replicate/v1/files/{file_id}": Call("/replicate/v1/files/{source}", own=True),
    "QUERY /replicate/v1/models": Call(content=b"starter"),
    "GET /replicate/v1/hardware": Call(),
    "GET /replicate/v1/collections": Call(),
    "GET /replicate/v1/deployments": Call(),
    "GET /replicate/v1/trainings": Call(),
    "GET /sdapi/v1/draw-things": Call(),
    "GET /replicate/v1/models": Call(),
    "GET /replicate/v1/models/{owner}/{name}": Call("/replicate/v1/models/local/starter"),
    "GET /replicate/v1/models/{owner}/{name}/versions": Call("/replicate/v1/models/local/starter/versions"),
    "GET /replicate/v1/models/{owner}/{name}/versions/{version_id}": Call(
        "/replicate/v1/models/local/starter/versions/x"
    ),
    "GET /replicate/v1/account": Call(),
    "GET /replicate/v1/webhooks/default/secret": Call(),
    "GET /health-check": Call(),
}
