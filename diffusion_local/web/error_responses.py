"""Error responses of the HTTP API: status codes, and a common format.

``{"error": {"code": "invalid_params", "message": "width: must be a multiple of 8 ...", "field": "width", "id":
"multiple", "params": {"multiple": 8, "got": 100, "low": 96, "high": 104}}}``
"""

import logging
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from diffusion_local import disk
from diffusion_local.errors import (
    Conflict,
    DatabaseProblem,
    DiskFull,
    Forbidden,
    Gone,
    InvalidParams,
    LimitReached,
    NotDone,
    NotFound,
    Overloaded,
    QueueBlocked,
    QueueFull,
    QueueUnavailable,
    StorageProblem,
    Unauthorized,
    UserError,
)
from diffusion_local.messages import map_params, message, serialize, verbatim
from diffusion_local.operations.registry import ARGUMENT_MEANINGS
from diffusion_local.options.table import BATCH_OPTIONS, OPTIONS
from diffusion_local.settings import Settings

log = logging.getLogger(__name__)

STATUS: dict[type[UserError], int] = {
    Unauthorized: 401,
    Forbidden: 403,
    NotFound: 404,
    Conflict: 409,
    Gone: 410,
    InvalidParams: 422,
    QueueFull: 429,
    LimitReached: 429,
    DatabaseProblem: 503,
    QueueBlocked: 503,
    QueueUnavailable: 503,
    NotDone: 503,
    Overloaded: 503,
    StorageProblem: 503,
    DiskFull: 503,
}
#: Value of ``Retry-After``: seconds after which a retry may succeed.
RETRY_AFTER: dict[type[UserError], int] = {
    QueueFull: 30,
    DatabaseProblem: 5,
    QueueBlocked: 60,
    QueueUnavailable: 5,
    NotDone: 1,
    Overloaded: 5,
    StorageProblem: 5,
    DiskFull: 60,
}
MOST_FAULTS = 20  # invalid fields in one response
UNION_MEMBERS = frozenset({"bool", "dict", "float", "int", "list", "str"})
NOT_CACHED = {"Cache-Control": "no-store"}


def add(app: FastAPI, settings: Settings) -> None:
    app.state.home = str(settings.home)

    @app.exception_handler(UserError)
    async def user_error(request: Request, error: UserError) -> JSONResponse:
        return JSONResponse(error_content(request, error), status_of(error), headers=headers_of(error))

    @app.exception_handler(OSError)
    async def storage_error(request: Request, error: OSError) -> JSONResponse:
        """Report an error of storage, such as a full disk. Re-raises any other OSError."""
        if not disk.is_storage_error(error):
            raise error
        log.error("%s %s: %s", request.method, request.url.path, error)
        return await user_error(request, disk.to_problem(error))

    @app.exception_handler(RequestValidationError)
    async def not_valid(request: Request, error: RequestValidationError) -> JSONResponse:
        return await user_error(request, of_validation(error))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
        return error_response(error.status_code, code, verbatim(error.detail), error.headers or {})

    @app.exception_handler(ClientDisconnect)
    async def hung_up(request: Request, error: ClientDisconnect) -> JSONResponse:
        """A response that nobody reads. Without it, each client that disconnects while it sends would be logged as an
        internal error.
        """
        return error_response(400, "bad_request", message("body_ended"))


def error_body(code: str, text: str, problem: str | None = None) -> dict[str, Any]:
    """The body of an error response. ``problem``: the text without the name of the field, if it has one."""
    return {"error": {"code": code, "message": text, **serialize(text if problem is None else problem)}}


def error_response(
    status: int, code: str, text: str, headers: Mapping[str, str] = MappingProxyType({}), problem: str | None = None
) -> JSONResponse:
    """An error response; arguments as of `error_body`. ``headers`` are added to those of every error."""
    return JSONResponse(error_body(code, text, problem), status, headers={**NOT_CACHED, **headers})


def status_of(error: UserError) -> int:
    return STATUS.get(type(error), 400)


def headers_of(error: UserError) -> dict[str, str]:
    seconds = error.retry_after if isinstance(error, LimitReached) else RETRY_AFTER.get(type(error))
    return NOT_CACHED | ({"Retry-After": str(seconds)} if seconds else {})


def error_content(request: Request, error: UserError) -> dict[str, Any]:
    content: dict[str, Any] = {"code": error.code, "message": sentence(request, error)}
    if isinstance(error, InvalidParams):
        content["field"] = printable(error.field)
        if error.also:
            content["errors"] = [fault(request, each) for each in (error, *error.also)]
    return {"error": content | message_parts(request, error)}


def fault(request: Request, error: InvalidParams) -> dict[str, Any]:
    """One of several invalid fields of a request."""
    return {"field": printable(error.field), "message": sentence(request, error), **message_parts(request, error)}


def sentence(request: Request, error: UserError) -> str:
    """The message without the path of the home, and with lone surrogates escaped, which UTF-8 cannot encode."""
    return clean(request, error.message)


def message_parts(request: Request, error: UserError) -> dict[str, Any]:
    """``id`` and ``params`` of the message (without the invalid field's name), sanitised like `sentence`."""
    return serialize(map_params(error.problem, lambda text: clean(request, text)))


def clean(request: Request, text: str) -> str:
    return printable(text.replace(request.app.state.home, "home"))


def printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def of_validation(error: RequestValidationError) -> InvalidParams:
    """Convert pydantic's errors: the first as InvalidParams, with the others in its ``also``."""
    first, *others = [of_detail(each) for each in list(error.errors())[:MOST_FAULTS]]
    first.also = tuple(others)
    return first


def of_detail(detail: Mapping[str, Any]) -> InvalidParams:
    # pydantic adds the member of a union, such as "str" or "list[any]"
    names = [
        part for part in detail["loc"][1:] if isinstance(part, str) and part.partition("[")[0] not in UNION_MEMBERS
    ]
    if detail["type"] == "json_invalid" or not names:
        return InvalidParams("body", message("not_valid", error=detail["msg"].rstrip(".")))
    if problem := detail.get("ctx", {}).get("problem"):  # a message of our own
        return InvalidParams(names[-1], problem)
    if detail["type"] == "extra_forbidden":
        near = nearest(names[-1])
        return InvalidParams(names[-1], message("field_near", near=near) if near else message("field_unknown"))
    return InvalidParams(names[-1], message("not_valid", error=detail["msg"].rstrip(".")))


@cache
def names_of_fields() -> dict[str, str]:
    """Our names of fields, by their names here and in other tools."""
    found = {name: each.name for each in [*OPTIONS.values(), *BATCH_OPTIONS.values()] for name in each.spellings}
    found |= {each.web_api: each.name for each in OPTIONS.values() if each.web_api}
    own_names = {*OPTIONS, *BATCH_OPTIONS, *ARGUMENT_MEANINGS, "limit", "state", "search", "count"}
    return {"num_outputs": "count", "n": "count", "batch_size": "count"} | found | {name: name for name in own_names}


def nearest(name: str) -> str:
    """Our field that an unknown name probably means; "" if none is similar."""
    known = names_of_fields()
    close = get_close_matches(name, known, 1, 0.75)
    return known[close[0]] if close else ""
