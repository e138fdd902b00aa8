"""The Model Context Protocol server, on the official SDK: tools, and the gallery's pictures as resources."""

import base64
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import anyio.to_thread
import mcp_types as types
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError

from diffusion_local import __version__, disk
from diffusion_local.domain import Image
from diffusion_local.errors import InvalidParams, NotFound, Overloaded, UserError, echo
from diffusion_local.gallery.image_formats import TYPE_BY_SUFFIX
from diffusion_local.gallery.sources import provisional
from diffusion_local.messages import map_params, message, serialize
from diffusion_local.web.api.mcp import pictures
from diffusion_local.web.api.mcp.tools import Result, Tool, Tools
from diffusion_local.web.api.mcp.waiting import Context
from diffusion_local.web.error_responses import printable

log = logging.getLogger(__name__)

SERVER_NAME = "diffusion-local"
SERVER_INSTRUCTIONS = (
    "Makes pictures on this machine. generate_image waits for its pictures up to `seconds` and then leaves them in the "
    "queue: call wait with the job ids until `finished` is true. list_models has the models with their sizes and "
    "defaults; leave options out to take those. Pictures come as previews; their resource links have the whole files."
)
RESOURCES_PER_PAGE = 50

Within = Callable[[Any], AbstractContextManager[Any]]


class McpServer:
    """``within`` sets the actor for the call of a request (None on stdio)."""

    def __init__(
        self, studio: Any, within: Within, stopping: Callable[[], bool], files: bool = False, home: str = ""
    ) -> None:
        """``files``: responses contain paths of picture files, for callers on the same machine. ``home``: a path to
        remove from error messages.
        """
        self._studio = studio
        self._within = within
        self._stopping = stopping
        self._files = files
        self._home = home
        self._tools = Tools()
        self.sdk: Server[Any] = Server(
            SERVER_NAME,
            version=__version__,
            title="diffusion-local",
            instructions=SERVER_INSTRUCTIONS,
            get_tool_input_schema=self._tools.inputs.get,
            on_list_tools=self._list_tools,
            on_call_tool=self._call_tool,
            on_list_resources=self._list_resources,
            on_list_resource_templates=self._list_templates,
            on_read_resource=self._read_resource,
        )

    # -- tools ---------------------------------------------------------------------------------------------------------

    async def _list_tools(self, context: Any, params: Any) -> types.ListToolsResult:
        with self._within(context.request):
            return types.ListToolsResult(tools=[self._described(each) for each in self._tools.offered()])

    def _described(self, tool: Tool) -> types.Tool:
        hints = types.ToolAnnotations(
            title=tool.title,
            read_only_hint=tool.reads_only,
            destructive_hint=tool.name == "cancel",
            open_world_hint=False,
        )
        return types.Tool(
            name=tool.name,
            title=tool.title,
            description=tool.doc,
            input_schema=self._tools.inputs[tool.name],
            output_schema=self._tools.outputs[tool.name],
            annotations=hints,
        )

    async def _call_tool(self, context: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        tool = self._tools.get(params.name)
        if tool is None:
            raise MCPError(types.INVALID_PARAMS, message("no_tool", tool=echo(params.name)))
        with self._within(context.request):
            try:
                with disk.storage_errors(), provisional(self._studio.sources):
                    call_context = Context(self._studio, context.session.report_progress, self._stopping)
                    result = await self._tools.call(tool, call_context, params.arguments)
                    return await anyio.to_thread.run_sync(self._answer, result)
            except UserError as error:
                return self._refusal(error)
            except Exception:
                log.exception("the tool %s failed", tool.name)
                return types.CallToolResult(content=[text_of(message("tool_failed"))], is_error=True)

    def _answer(self, result: Result) -> types.CallToolResult:
        content: list[Any] = [text_of(json.dumps(result.content, ensure_ascii=False, default=str))]
        if result.picture != "none":
            content += self._picture_blocks(result)
        content += [link_to(each) for each in result.images]
        return types.CallToolResult(content=content, structured_content=result.content)

    def _picture_blocks(self, result: Result) -> Iterator[Any]:
        for image in result.images[: pictures.MOST_PICTURES]:
            try:
                data, kind = pictures.response_picture(self._studio.picture_data(image.id), result.picture == "full")
            except (NotFound, Overloaded, OSError) as error:  # deleted meanwhile, or overloaded: the link remains
                yield text_of(f"{image.id}: {error}")
                continue
            yield types.ImageContent(data=base64.b64encode(data).decode("ascii"), mime_type=kind)
            if self._files:
                yield text_of(f"{image.id}: {self._studio.picture_file(image.id)}")

    def _refusal(self, error: UserError) -> types.CallToolResult:
        """Convert an error to a tool result: a sentence for people, and JSON with its code and field."""
        text = self._clean(error.message)
        fault: dict[str, Any] = {"code": error.code, "message": text}
        if isinstance(error, InvalidParams):
            fault["field"] = printable(error.field)
        fault |= serialize(map_params(error.problem, self._clean))
        content: list[Any] = [text_of(text), text_of(json.dumps({"error": fault}, ensure_ascii=False, default=str))]
        return types.CallToolResult(content=content, is_error=True)

    def _clean(self, text: str) -> str:
        return printable(text.replace(self._home, "home") if self._home else text)

    # -- resources -----------------------------------------------------------------------------------------------------

    async def _list_resources(self, context: Any, params: Any) -> types.ListResourcesResult:
        cursor = params.cursor if params else None
        with self._within(context.request):
            try:
                images = await anyio.to_thread.run_sync(lambda: self._studio.pictures.page(RESOURCES_PER_PAGE, cursor))
            except UserError as error:
                raise MCPError(types.INVALID_PARAMS, self._clean(error.message)) from None
        following = images[-1].id if len(images) == RESOURCES_PER_PAGE else None
        return types.ListResourcesResult(resources=[resource_of(each) for each in images], next_cursor=following)

    async def _list_templates(self, context: Any, params: Any) -> types.ListResourceTemplatesResult:
        template = types.ResourceTemplate(
            name="image",
            title="A picture of the gallery",
            uri_template=pictures.SCHEME + "{image_id}",
            description="The file of a picture, with the recipe inside.",
        )
        return types.ListResourceTemplatesResult(resource_templates=[template])

    async def _read_resource(self, context: Any, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
        uri = str(params.uri)
        image_id = pictures.image_id_of(uri)
        if image_id is None:
            raise MCPError(types.INVALID_PARAMS, message("no_resource", uri=echo(uri)), {"uri": uri})
        with self._within(context.request):
            try:
                data = await anyio.to_thread.run_sync(self._studio.picture_data, image_id)
            except UserError as error:
                raise MCPError(types.INVALID_PARAMS, self._clean(error.message), {"uri": uri}) from None
        blob = base64.b64encode(data).decode("ascii")
        contents = types.BlobResourceContents(uri=uri, mime_type=pictures.media_type(data), blob=blob)
        return types.ReadResourceResult(contents=[contents])


def text_of(text: str) -> types.TextContent:
    return types.TextContent(text=str(text))


def facts_of(image: Image) -> dict[str, Any]:
    kind = TYPE_BY_SUFFIX.get(image.suffix, "application/octet-stream")
    about = image.params.prompt or str(image.params.kind)
    size = {"size": image.bytes} if image.bytes else {}  # unknown for a job's picture on another machine
    facts = {"uri": pictures.uri_of(image), "name": f"{image.id}{image.suffix}", "mime_type": kind}
    return facts | {"description": f"{about[:200]} ({image.width} x {image.height})"} | size


def link_to(image: Image) -> types.ResourceLink:
    return types.ResourceLink(**facts_of(image))


def resource_of(image: Image) -> types.Resource:
    return types.Resource(**facts_of(image))
