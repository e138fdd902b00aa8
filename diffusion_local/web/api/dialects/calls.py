"""Shared by the dialects: identity of callers, errors in a dialect's own format, and pictures as text."""

import base64
import hashlib
from collections.abc import Callable, Coroutine, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute

from diffusion_local import disk
from diffusion_local.actor import current
from diffusion_local.domain import Image, Job, State
from diffusion_local.errors import InvalidParams, UserError, echo
from diffusion_local.gallery import recipes
from diffusion_local.messages import message
from diffusion_local.studio import MAX_WAIT, Studio
from diffusion_local.web.api.dialects.pictures import convert
from diffusion_local.web.error_responses import of_validation, sentence

CALL_SECONDS = MAX_WAIT  # seconds; limit of calls that have no time-out of their own
MOST_CALLERS = 32  # per account; a caller is a program at an address
MOST_ACCOUNTS = 1000

T = TypeVar("T")
V = TypeVar("V")


def error_route(
    say: Callable[[Request, UserError], JSONResponse], names: Mapping[str, Sequence[str]] = MappingProxyType({})
) -> type[APIRoute]:
    """A route class that returns errors in a dialect's own format. ``names``: a dialect's names for our fields; an
    error uses the one that the request contains.
    """

    class Refusing(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def call(request: Request) -> Response:
                try:
                    with disk.storage_errors():
                        return await handle(request)
                except RequestValidationError as error:
                    return say(request, of_validation(error))
                except InvalidParams as error:
                    errors = []
                    for each in (error, *error.also):
                        option = await name_given(request, each.option, names.get(each.option, ()))
                        field = option + each.field.removeprefix(each.option)
                        errors.append(InvalidParams(field, each.problem))
                    errors[0].also = tuple(errors[1:])
                    return say(request, errors[0])
                except UserError as error:
                    return say(request, error)

            return call

    return Refusing


def error_sentences(request: Request, error: UserError) -> str:
    """All faults of a request, one sentence each; for other errors the single sentence."""
    return " ".join(sentence(request, each) for each in (error, *getattr(error, "also", ())))


async def name_given(request: Request, field: str, names: Sequence[str]) -> str:
    """The name for a field that the JSON request uses; if it uses none, the first of the dialect's ``names``."""
    if not names:
        return field
    try:
        body = await request.json()
    except (ValueError, RuntimeError, RecursionError):  # a form, or no body
        body = {}
    sent = set(body) | set(body.get("input") or ()) if isinstance(body, dict) else set()
    return next((name for name in names if name in sent), field if field in sent else names[0])


def caller(request: Request) -> str:
    """A digest that identifies a caller by account, address, credentials and program, because several programs may
    share an account, or there may be no accounts.
    """
    identity = [current().name, request.client.host if request.client else ""]
    identity += [request.headers.get(name, "") for name in ("Authorization", "X-API-Key", "User-Agent")]
    return hashlib.sha256("\0".join(identity).encode()).hexdigest()


class PerAccount(Generic[T]):
    """One value for each key, kept apart by the current actor's account ("" for the local user).

    Only the last ``most`` keys of each account are kept. Callers choose much of their keys (User-Agent, request body),
    so one account's keys never displace another's. A restart loses all of them: keep nothing here that matters.
    """

    def __init__(self, most: int = MOST_CALLERS) -> None:
        self._most = most
        self._accounts: dict[str, dict[str, T]] = {}  # both levels: the least recently set first

    def __getitem__(self, key: str) -> T | None:
        return self._accounts.get(current().name, {}).get(key)

    def __setitem__(self, key: str, value: T) -> None:
        account = current().name
        found = self._accounts.pop(account, {})
        found.pop(key, None)
        put_last(found, key, value, self._most)
        put_last(self._accounts, account, found, MOST_ACCOUNTS)

    def pop(self, key: str) -> T | None:
        return self._accounts.get(current().name, {}).pop(key, None)


def put_last(entries: dict[str, V], key: str, value: V, most: int) -> None:
    """Insert a key at the end, and drop the oldest ones beyond ``most``."""
    entries[key] = value
    while len(entries) > most:
        del entries[next(iter(entries))]


def check_neutral(fields: dict[str, Any], neutrals: dict[str, tuple[Any, ...]]) -> None:
    """Raise InvalidParams for fields that would change the picture and are not supported; each name's ``neutrals`` are
    allowed.
    """
    for name, values in neutrals.items():
        value = fields.get(name)
        if value is not None and value not in values:
            raise InvalidParams(name, message("not_supported", got=echo(value)))


def ended_jobs(studio: Studio, job_ids: list[str]) -> tuple[list[tuple[Job, Image]], list[Job]]:
    """(jobs with their pictures, jobs without a picture)."""
    jobs = [studio.job(job_id) for job_id in job_ids]
    images = studio.images_of(jobs)
    return [(job, images[job.id]) for job in jobs if job.id in images], [job for job in jobs if job.id not in images]


def why_not(job: Job) -> str:
    """Why an ended job has no picture."""
    if job.failure:
        return job.failure.message
    return "The picture was deleted." if job.state is State.DONE else "The job was cancelled."


def base64_picture(studio: Studio, image: Image, form: str = "png", quality: int | None = None) -> str:
    """A picture as Base64 text, with its recipe."""
    texts = recipes.to_texts(image, image.facts)
    return base64.b64encode(convert(studio.picture_file(image.id), form, quality, texts)).decode("ascii")


def root_of(request: Request) -> str:
    """Base URL of this server as the caller sees it, including a proxy's path."""
    return str(request.base_url).rstrip("/")
