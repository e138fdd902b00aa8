"""``/docs``: the routes as one plain page, drawn from ``/openapi.json`` on the server. It loads nothing at all."""

import html
from typing import Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "h2{margin-top:2.5rem;text-transform:capitalize}section{border-top:1px solid #8884;padding:.75rem 0}"
    "code{font:14px ui-monospace,monospace}b{display:inline-block;min-width:4.5rem}p{margin:.25rem 0}"
    "table{border-collapse:collapse;font-size:14px}td{padding:.1rem 1rem .1rem 0;vertical-align:top}"
    "@media(prefers-color-scheme:dark){body{background:#111;color:#ddd}a{color:#9cf}}"
)
ERRORS = '{"error": {"code", "message", "field", "id", "params"}}'


def add(app: FastAPI) -> None:
    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        return HTMLResponse(draw(app.openapi()))


def draw(document: dict[str, Any]) -> str:
    groups: dict[str, list[str]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            tag = (operation.get("tags") or ["other"])[0]
            groups.setdefault(tag, []).append(section(method.upper(), path, operation, document))
    title = f"{text(document['info']['title'])} {text(document['info']['version'])}"
    parts = "".join(f"<h2>{text(tag)}</h2>{''.join(sections)}" for tag, sections in groups.items())
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}: HTTP API</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body><h1>{title}</h1>'
        f'<p>For programs: <a href="openapi.json">openapi.json</a>. Errors are '
        f"<code>{text(ERRORS)}</code>.</p>{parts}</body></html>"
    )


def section(method: str, path: str, operation: dict[str, Any], document: dict[str, Any]) -> str:
    rows = [(each["name"], each["in"], each.get("description", "")) for each in operation.get("parameters", [])]
    rows += [(name, "body", meaning) for name, meaning in fields(operation, document)]
    table = "".join(f"<tr><td><code>{text(name)}</code><td>{text(where)}<td>{text(say)}" for name, where, say in rows)
    told = operation.get("description") or operation.get("summary", "")
    return f"<section><code><b>{method}</b>{text(path)}</code><p>{text(told)}</p><table>{table}</table></section>"


def fields(operation: dict[str, Any], document: dict[str, Any]) -> list[tuple[str, str]]:
    """Names and meanings of the fields of a request's body."""
    found: dict[str, str] = {}
    for content in operation.get("requestBody", {}).get("content", {}).values():
        schema = content["schema"]
        for option in [schema, *schema.get("anyOf", [])]:
            if "$ref" in option:
                option = document["components"]["schemas"][option["$ref"].rpartition("/")[2]]
            found |= {name: each.get("description", "") for name, each in option.get("properties", {}).items()}
    return list(found.items())


def text(value: Any) -> str:
    return html.escape(str(value))
