"""``/docs``: the HTTP API on one page, rendered on the server from ``/openapi.json``, with a form to try each route.

The page loads no other files. Its forms call only this server, with the visitor's session or a token.
"""

import html
import json
from typing import Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

from diffusion_local.options.types import format_number

Json = dict[str, Any]

DOCS_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "h2{margin-top:2.5rem;text-transform:capitalize}section{border-top:1px solid #8884;padding:.75rem 0}"
    "code,pre,textarea{font:14px ui-monospace,monospace}b{display:inline-block;min-width:4.5rem}p{margin:.25rem 0}"
    "table{border-collapse:collapse;font-size:14px}td,th{padding:.1rem 1rem .1rem 0;vertical-align:top;text-align:left}"
    "pre{overflow:auto;max-height:20rem;background:#8882;padding:.5rem;white-space:pre-wrap}"
    "summary{cursor:pointer}textarea{width:100%;box-sizing:border-box}label{display:block;margin:.25rem 0}"
    ".needed{color:#b00}@media(prefers-color-scheme:dark){body{background:#111;color:#ddd}a{color:#9cf}.needed{color:#f88}}"
)
ERRORS = '{"error": {"code", "message", "field", "id", "params", "errors": [{"field", "message"}]}}'
#: Sends a form as a request, its fields as path, query and headers, and shows the response below it.
TRY_SCRIPT = """
addEventListener("submit", async (event) => {
  const form = event.target, output = form.querySelector("pre");
  event.preventDefault();
  let path = form.dataset.path, query = new URLSearchParams(), headers = {};
  for (const field of form.elements) {
    if (!field.name || !field.value) continue;
    if (field.dataset.in === "path") path = path.replace(`{${field.name}}`, encodeURIComponent(field.value));
    if (field.dataset.in === "query") query.append(field.name, field.value);
    if (field.dataset.in === "header") headers[field.name] = field.value;
  }
  const token = document.getElementById("token").value, body = form.elements.body?.value;
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body) headers["Content-Type"] = form.dataset.type;
  output.textContent = "…";
  try {
    const url = "." + path + (query.size ? `?${query}` : "");
    const answer = await fetch(url, {method: form.dataset.method, headers, body: body || undefined});
    const text = await answer.text();
    let shown = text;
    try { shown = JSON.stringify(JSON.parse(text), null, 2); } catch {}
    output.textContent = `${answer.status} ${answer.statusText}\\n${shown.slice(0, 20000)}`;
  } catch (error) { output.textContent = String(error); }
});
"""
EXAMPLE_DEPTH = 5
MOST_EXAMPLE = 4000  # characters


def add(app: FastAPI) -> None:
    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        return HTMLResponse(draw(app.openapi()))


def draw(document: Json) -> str:
    page = Page(document)
    groups: dict[str, list[str]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            tag = (operation.get("tags") or ["other"])[0]
            groups.setdefault(tag, []).append(page.section(method.upper(), path, operation))
    for event, methods in document.get("webhooks", {}).items():
        groups.setdefault("webhooks", []).append(page.event(event, methods["post"]))
    title = f"{text(document['info']['title'])} {text(document['info']['version'])}"
    parts = "".join(f"<h2>{text(tag)}</h2>{''.join(sections)}" for tag, sections in groups.items())
    schemes = "; ".join(
        f"<code>{text(name)}</code>: {text(each.get('description', ''))}"
        for name, each in document["components"].get("securitySchemes", {}).items()
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}: HTTP API</title>'
        f'<meta name="viewport" content="width=device-width"><style>{DOCS_STYLE}</style></head><body><h1>{title}</h1>'
        f'<p>For programs: <a href="openapi.json">openapi.json</a>. Errors are '
        f"<code>{text(ERRORS)}</code>. Where there are accounts, sign in by {schemes}.</p>"
        '<label>Token for trying: <input id="token" type="password" autocomplete="off"></label>'
        f"{parts}<script>{TRY_SCRIPT}</script></body></html>"
    )


class Page:
    """HTML sections of an OpenAPI document."""

    def __init__(self, document: Json) -> None:
        self._document = document

    def section(self, method: str, path: str, operation: Json) -> str:
        description = operation.get("description") or operation.get("summary", "")
        return (
            f"<section><code><b>{method}</b>{text(path)}</code><p>{text(description)}</p>"
            f"{self._table(operation)}{self._answers(operation)}{self._form(method, path, operation)}</section>"
        )

    def event(self, name: str, operation: Json) -> str:
        return f"<section><code><b>event</b>{text(name)}</code><p>{text(operation.get('summary', ''))}</p></section>"

    def _table(self, operation: Json) -> str:
        rows = [
            (each["name"], each["in"], each.get("schema", {}), each.get("required", False), each.get("description", ""))
            for each in operation.get("parameters", [])
        ]
        rows += [
            (name, "body", schema, needed, schema.get("description", ""))
            for name, schema, needed in self.fields(operation)
        ]
        cells = "".join(
            f"<tr><td><code>{text(name)}</code>{needed_mark(needed)}<td>{text(where)}<td>{text(self.type_of(schema))}"
            f"<td>{text(meaning)}"
            for name, where, schema, needed, meaning in rows
        )
        head = "<tr><th>name<th>in<th>type<th>meaning" if cells else ""
        return f"<table>{head}{cells}</table>"

    def _answers(self, operation: Json) -> str:
        """An example of a successful response, and the status codes of errors."""
        good: Json = next((each for status, each in operation["responses"].items() if status.startswith("2")), {})
        refusals = ", ".join(status for status in operation["responses"] if not status.startswith("2"))
        schema = good.get("content", {}).get("application/json", {}).get("schema")
        sample = json.dumps(self.example(schema), indent=1)[:MOST_EXAMPLE] if schema else ""
        sample_html = f"<details><summary>answer</summary><pre>{text(sample)}</pre></details>" if sample else ""
        return sample_html + (f"<p>Refusals: {text(refusals)}</p>" if refusals else "")

    def _form(self, method: str, path: str, operation: Json) -> str:
        inputs = "".join(
            f"<label>{text(each['name'])}{needed_mark(each.get('required', False))} "
            f'<input name="{text(each["name"])}" data-in="{text(each["in"])}"></label>'
            for each in operation.get("parameters", [])
            if each["in"] in ("path", "query", "header")
        )
        contents = operation.get("requestBody", {}).get("content", {})
        kind = next((each for each in contents if each in ("application/json", "text/plain", "application/jsonl")), "")
        body = ""
        if kind:
            schema = contents[kind].get("schema", {})
            sample = json.dumps(self.request(schema), indent=1) if kind == "application/json" else ""
            body = f'<textarea name="body" rows="6" aria-label="body">{text(sample)}</textarea>'
        return (
            f'<details><summary>try it</summary><form data-method="{method}" data-path="{text(path)}" '
            f'data-type="{text(kind)}">{inputs}{body}<button>Send</button><pre></pre></form></details>'
        )

    def fields(self, operation: Json) -> list[tuple[str, Json, bool]]:
        """(name, schema, whether it is required) of the fields in a request's body."""
        by_name: dict[str, tuple[Json, bool]] = {}
        for content in operation.get("requestBody", {}).get("content", {}).values():
            for option in self._options(content.get("schema", {})):
                needed = option.get("required", [])
                by_name |= {name: (each, name in needed) for name, each in option.get("properties", {}).items()}
        return [(name, schema, needed) for name, (schema, needed) in by_name.items()]

    def _options(self, schema: Json) -> list[Json]:
        return [self.resolved(each) for each in [schema, *schema.get("anyOf", [])]]

    def resolved(self, schema: Json) -> Json:
        if "$ref" not in schema:
            return schema
        found: Json = self._document["components"]["schemas"].get(schema["$ref"].rpartition("/")[2], {})
        return found

    def type_of(self, schema: Json) -> str:
        """A schema's type in words, such as ``integer 1 to 100``, ``queued | done``, ``list of string``, ``Job``."""
        if "$ref" in schema:
            return str(schema["$ref"].rpartition("/")[2])
        if "enum" in schema:
            return " | ".join(map(str, schema["enum"]))
        if "const" in schema:
            return str(schema["const"])
        low, high = schema.get("minimum"), schema.get("maximum")
        bounds = f" {format_number(low)} to {format_number(high)}" if low is not None and high is not None else ""
        if options := schema.get("anyOf"):
            kinds = dict.fromkeys(self.type_of(each) for each in options if each.get("type") != "null")
            return " or ".join(kinds) + bounds
        if schema.get("type") == "array":
            return f"list of {self.type_of(schema.get('items', {})) or 'values'}"
        return str(schema.get("type", "")) + bounds

    def request(self, schema: Json) -> Any:
        """An example body: the required fields, and those with examples in the document."""
        for option in self._options(schema):
            if properties := option.get("properties"):
                needed = option.get("required", [])
                return {
                    name: self.example(each)
                    for name, each in properties.items()
                    if name in needed or each.get("examples")
                }
        return {}

    def example(self, schema: Json, depth: int = 0) -> Any:
        """An example value that matches a schema."""
        if examples := schema.get("examples"):
            return examples[0]
        if "default" in schema:
            return schema["default"]
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return schema["enum"][0]
        if "$ref" in schema:
            return self.example(self.resolved(schema), depth + 1) if depth < EXAMPLE_DEPTH else {}
        if options := schema.get("anyOf"):
            return self.example(options[0], depth)
        kind = schema.get("type")
        if kind == "object" or "properties" in schema:
            return {name: self.example(each, depth + 1) for name, each in schema.get("properties", {}).items()}
        if kind == "array":
            return [self.example(schema.get("items", {}), depth + 1)] if depth < EXAMPLE_DEPTH else []
        return {"string": "text", "integer": 1, "number": 1.0, "boolean": False}.get(str(kind))


def needed_mark(needed: bool) -> str:
    return '<span class="needed" title="required">*</span>' if needed else ""


def text(value: Any) -> str:
    return html.escape(str(value))
