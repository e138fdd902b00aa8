"""``/openapi.json``: FastAPI's document, with authentication, webhooks, and the error formats of the dialects."""

from typing import Any

from fastapi import FastAPI

from diffusion_local import serializers
from diffusion_local.notify.deliveries import EVENTS
from diffusion_local.operations.operation import API_ROOT
from diffusion_local.web.api.dialects.prefixes import A1111, COG, OPENAI, REPLICATE, route_of
from diffusion_local.web.api.schemas import examples
from diffusion_local.web.authentication import PROBES

Json = dict[str, Any]

SECURITY: Json = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "a token, which the account page makes"},
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "the same token"},
    "basic": {"type": "http", "scheme": "basic", "description": "name and token, as clients of A1111 send them"},
}
#: Any one scheme suffices; the empty one is for servers without accounts.
ANY: list[Json] = [{}, *({name: []} for name in SECURITY)]
TEXT: Json = {"type": "string"}
READY: Json = {
    "type": "object",
    "title": "Ready",
    "required": ["ready"],
    "properties": {"ready": {"type": "boolean"}, "reason": TEXT},
}
MAYBE: Json = {"anyOf": [TEXT, {"type": "null"}]}
ERROR_SCHEMAS: dict[str, tuple[str, Json]] = {
    OPENAI: (
        "OpenAIError",
        {"error": {"type": "object", "properties": {"message": TEXT, "type": TEXT, "param": MAYBE, "code": MAYBE}}},
    ),
    A1111: ("A1111Error", {"error": TEXT, "detail": TEXT, "errors": TEXT}),
    REPLICATE: ("ReplicateError", {"title": TEXT, "detail": TEXT, "status": {"type": "integer"}}),
}
ERROR_SCHEMAS[COG] = ERROR_SCHEMAS[REPLICATE]
STATUS_MEANINGS = {
    "400": "malformed request, or an invalid field",
    "401": "not authenticated",
    "403": "not permitted",
    "404": "not found",
    "409": "its state does not allow this, or it was cancelled",
    "411": "the length is missing",
    "413": "the body is too long",
    "422": "a field is invalid",
    "429": "a limit is reached; `Retry-After` gives the seconds",
    "500": "a picture could not be made",
    "503": "temporarily unavailable; `Retry-After` gives the seconds",
}
#: Errors of the routes for files and health.
FILE_REFUSALS = {status: STATUS_MEANINGS[status] for status in ("400", "401", "403", "404", "422", "429", "503")}
EVENT_MEANINGS = {
    "batch.started": "The first picture of a batch has begun.",
    "batch.done": "The last picture of a batch has ended; with its addresses, and those of its pictures.",
    "job.failed": "A picture failed.",
    "queue.idle": "Nothing waits or runs any more.",
    "queue.paused": "The queue was paused, or holds itself back.",
}
MESSAGE: Json = {
    "type": "object",
    "title": "WebhookMessage",
    "required": ["type", "timestamp", "data"],
    "properties": {"type": TEXT, "timestamp": {"type": "string", "format": "date-time"}, "data": {"type": "object"}},
}


def add(app: FastAPI) -> None:
    """Make ``app.openapi()`` return the completed document."""
    derive = app.openapi

    def complete_document() -> Json:
        if not app.openapi_schema:
            app.openapi_schema = complete(derive())
        return app.openapi_schema | {"servers": [{"url": serializers.root() or "/"}]}

    app.openapi = complete_document  # type: ignore[method-assign]


def complete(document: Json) -> Json:
    components = document.setdefault("components", {})
    components["securitySchemes"] = SECURITY
    schemas = components.setdefault("schemas", {})
    for name, properties in ERROR_SCHEMAS.values():
        schemas[name] = {"type": "object", "title": name, "required": sorted(properties), "properties": properties}
    schemas["WebhookMessage"] = MESSAGE
    for name, example in examples().items():  # added here because FastAPI would drop their nulls
        schemas[name]["examples"] = [example]
    schemas["Ready"] = READY
    document["security"] = ANY
    document["webhooks"] = {event: webhook(event) for event in EVENT_MEANINGS if event in (*EVENTS, "batch.started")}
    for path, methods in document["paths"].items():
        dialect = route_of(path)[0]
        for operation in methods.values():
            if path in PROBES:
                operation["security"] = []
            if dialect:
                refused(operation["responses"], ERROR_SCHEMAS[dialect][0], STATUS_MEANINGS)
            elif not path.startswith(API_ROOT):
                refused(operation["responses"], "Problem", FILE_REFUSALS)
            if path == "/readyz":
                for status in ("200", "503"):
                    operation["responses"][status]["content"] = in_json("Ready")
    return document


def refused(responses: Json, schema: str, meanings: dict[str, str]) -> None:
    """Add errors, by status code, to the responses of an operation, all with the same schema."""
    for status, meaning in meanings.items():
        responses[status] = {"description": meaning, "content": in_json(schema)}


def in_json(schema: str) -> Json:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def webhook(event: str) -> Json:
    """A webhook as in the Standard Webhooks specification: signed, and resent until it gets a 2xx response."""
    body = {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/WebhookMessage"}}},
    }
    headers = [
        {"name": name, "in": "header", "required": True, "schema": TEXT}
        for name in ("webhook-id", "webhook-timestamp", "webhook-signature")
    ]
    return {
        "post": {
            "operationId": "webhook_" + event.replace(".", "_"),
            "summary": EVENT_MEANINGS[event],
            "tags": ["webhooks"],
            "parameters": headers,
            "requestBody": body,
            "responses": {"2XX": {"description": "heard; anything else is tried again"}},
        }
    }
