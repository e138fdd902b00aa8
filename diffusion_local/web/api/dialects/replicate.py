"""Other requests of Replicate's clients: uploaded files, models with their versions, the account."""

import json
from datetime import UTC, datetime
from typing import Any

import anyio.to_thread
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from starlette.datastructures import UploadFile

from diffusion_local import __version__, authority
from diffusion_local.actor import current
from diffusion_local.domain import utc_text
from diffusion_local.errors import InvalidParams, NotFound
from diffusion_local.gallery.sources import Source
from diffusion_local.messages import message
from diffusion_local.models.catalog import Model
from diffusion_local.notify.predictions import full_name, version_of
from diffusion_local.serializers import Json
from diffusion_local.settings import Settings
from diffusion_local.studio import Studio
from diffusion_local.web.api.dialects.adapting import Aliases, model_named
from diffusion_local.web.api.dialects.calls import error_route, root_of
from diffusion_local.web.api.dialects.cog import Input, replicate_error
from diffusion_local.web.api.schemas import FILE_SCHEMA
from diffusion_local.web.api.uploads import media_type
from diffusion_local.web.api.watch import Watch

METADATA_BYTES = 64 * 1024
UPLOAD_FORM = {
    "type": "object",
    "required": ["content"],
    "properties": {"content": FILE_SCHEMA, "metadata": {"type": "string"}},
}
BODY = {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": UPLOAD_FORM}}}}
ITEMS_PER_PAGE = 100
#: Lists that clients request and that are always empty here.
EMPTY_LISTS = ("/collections", "/deployments", "/trainings")
LONG_AGO = "2020-01-01T00:00:00.000Z"  # models have no date of their own


def router(studio: Studio, watch: Watch, settings: Settings) -> APIRouter:
    api = APIRouter(prefix="/replicate/v1", tags=["Replicate"], route_class=error_route(replicate_error))
    aliases = Aliases.parse(settings.model_aliases)

    def model_of(owner: str, name: str) -> Model:
        try:
            return model_named(studio.models(), f"{owner}/{name}", aliases)[0]
        except InvalidParams as error:
            raise NotFound(error.problem) from None

    @api.post("/files", status_code=201, openapi_extra=BODY)
    async def upload(request: Request) -> JSONResponse:
        """Store a picture (a form with `content`); its `urls.get` can be an input of predictions."""
        authority.check("sources.add")  # before the body is read
        if media_type(request) != "multipart/form-data":
            raise InvalidParams("content", message("form_file"))
        async with request.form(max_files=2, max_fields=5, max_part_size=METADATA_BYTES) as form:
            content, metadata = form.get("content"), form.get("metadata")
            if not isinstance(content, UploadFile):
                raise InvalidParams("content", message("form_file"))
            text = await metadata.read() if isinstance(metadata, UploadFile) else metadata
            source = await anyio.to_thread.run_sync(studio.sources.add, await content.read(), "content")
            name = content.filename or "file"
        shape = await anyio.to_thread.run_sync(file_shape, studio, request, source, name)
        return JSONResponse(shape | {"metadata": model_description(text)}, 201)

    @api.get("/files")
    def files(request: Request, cursor: str = "") -> Json:
        """The caller's uploaded pictures; `next` is the next page."""
        found = studio.sources.page(ITEMS_PER_PAGE, cursor)
        shapes = [file_shape(studio, request, each, f"{each.id}.png") for each in found]
        following = (
            f"{root_of(request)}/replicate/v1/files?cursor={found[-1].id}" if len(found) == ITEMS_PER_PAGE else None
        )
        return page_of(shapes, following)

    @api.get("/files/{file_id}")
    def file(file_id: str, request: Request) -> Json:
        """An uploaded picture, stored as PNG."""
        return file_shape(studio, request, studio.sources.own_source(file_id), f"{file_id}.png")

    @api.delete("/files/{file_id}", status_code=204, response_class=Response)
    def delete(file_id: str) -> Response:
        """Remove an uploaded picture from the list; predictions that use it keep it."""
        studio.sources.remove(file_id)
        return Response(status_code=204)

    @api.get("/models")
    def models(request: Request) -> Json:
        return page_of([model_shape(request, each) for each in studio.models()])

    @api.api_route("/models", methods=["QUERY"], include_in_schema=False)
    async def search(request: Request) -> Json:
        """Models whose name contains the text of the body."""
        words = (
            (await request.body()).decode("utf-8", "replace").strip('" \n').casefold()
        )  # the JavaScript client quotes it
        found = await anyio.to_thread.run_sync(studio.models)
        named = [each for each in found if words in f"{full_name(each.id, each.hub_id)} {each.name}".casefold()]
        return page_of([model_shape(request, each) for each in named])

    @api.get("/models/{owner}/{name}")
    def one_model(owner: str, name: str, request: Request) -> Json:
        return model_shape(request, model_of(owner, name))

    @api.get("/models/{owner}/{name}/versions")
    def versions(owner: str, name: str) -> Json:
        return page_of([version_shape(model_of(owner, name))])

    @api.get("/models/{owner}/{name}/versions/{version_id}")
    def version(owner: str, name: str, version_id: str) -> Json:
        """Each model has a single version, which every id refers to; as in predictions, an unknown id means the default
        model's.
        """
        try:
            return version_shape(model_of(owner, name))
        except NotFound:
            return version_shape(studio.models()[0])

    @api.get("/account")
    def account() -> Json:
        name = current().name or "local"
        return {"type": "user", "username": name, "name": name, "github_url": None}

    @api.get("/hardware")
    def hardware() -> list[Json]:
        """A single kind: this machine."""
        return [{"name": "This machine", "sku": "local"}]

    for path in EMPTY_LISTS:
        api.add_api_route(path, nothing, methods=["GET"], name=path.strip("/"))

    @api.get("/webhooks/default/secret", include_in_schema=False)
    def webhook_secret() -> Json:
        return {"key": studio.webhooks.secret()}

    return api


def nothing() -> Json:
    """Always empty: this feature does not exist here."""
    return page_of([])


def page_of(results: list[Json], following: str | None = None) -> Json:
    return {"next": following, "previous": None, "results": results}


def model_description(metadata: Any) -> Json:
    try:
        fields = json.loads(metadata or "{}")
    except (ValueError, RecursionError):
        raise InvalidParams("metadata", message("json_object")) from None
    if not isinstance(fields, dict):
        raise InvalidParams("metadata", message("json_object"))
    return fields


def file_shape(studio: Studio, request: Request, source: Source, name: str) -> Json:
    """A source picture as Replicate's file. Raises NotFound."""
    stat = studio.sources.file(source.id).stat()
    return {
        "id": source.id,
        "name": name,
        "content_type": "image/png",
        "size": stat.size,
        "etag": source.id,
        "checksums": {"sha256": source.id},
        "metadata": {},
        "created_at": utc_text(datetime.fromtimestamp(stat.modified, UTC)),
        "expires_at": None,
        "urls": {"get": f"{root_of(request)}/replicate/v1/files/{source.id}"},
    }


def model_shape(request: Request, model: Model) -> Json:
    name = full_name(model.id, model.hub_id)
    owner, _, short = name.partition("/")
    return {
        "url": f"{root_of(request)}/replicate/v1/models/{name}",
        "owner": owner,
        "name": short,
        "description": model.problem or model.name,
        "visibility": "private",
        "github_url": None,
        "paper_url": None,
        "license_url": None,
        "run_count": 0,
        "cover_image_url": None,
        "default_example": None,
        "latest_version": version_shape(model) if model.ready else None,
    }


def version_shape(model: Model) -> Json:
    output = {"type": "array", "items": {"type": "string", "format": "uri"}, "title": "Output"}
    schemas = {"Input": Input.model_json_schema(ref_template="#/components/schemas/{model}"), "Output": output}
    info = {"title": model.name, "version": __version__}
    return {
        "id": version_of(model.id),
        "created_at": LONG_AGO,
        "cog_version": "0.16.0",
        "openapi_schema": {"openapi": "3.1.0", "info": info, "paths": {}, "components": {"schemas": schemas}},
    }
