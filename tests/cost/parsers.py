"""Everything of the package that reads a text from outside: each as a function of one text.

A module that uses regular expressions is named by one of them, or stands in EXEMPT with the reason.
"""

import contextlib
import io
import json
import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from PIL import Image as PIL
from PIL.PngImagePlugin import PngInfo
from pydantic import ValidationError
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import FileResponse

from diffusion_local import domain, machines, manual, prompt_helper, styles
from diffusion_local.accounts import service as accounts
from diffusion_local.batches import service
from diffusion_local.db.search import fts_query
from diffusion_local.dispatch import leased, slots
from diffusion_local.domain import Batch, Image, new_job
from diffusion_local.engine import adapter_names, fake
from diffusion_local.errors import DiffusionLocalError
from diffusion_local.gallery import contact_sheet, foreign_recipes, quality, recipes
from diffusion_local.gallery import service as pictures
from diffusion_local.gallery.images import GalleryFilter
from diffusion_local.grammar import prompt_weights, schedules, tags
from diffusion_local.hub import downloads, fetcher, file_urls
from diffusion_local.hub.client import RemoteFile
from diffusion_local.lists import encoding, entries, grid, list_formats, queue_file, wildcards
from diffusion_local.messages import deserialize, message, serialize, translate
from diffusion_local.models import (
    adapters,
    curated,
    directories,
    distilled,
    headers,
    loras,
    probe,
    prompt_limits,
    starter_words,
)
from diffusion_local.models import service as models_service
from diffusion_local.models.weights import TensorView, quantisation_of
from diffusion_local.notify import dispatcher, hooks, outbound_hosts
from diffusion_local.options import a1111 as a1111_recipe
from diffusion_local.options import detailer_text, inpaint, samplers, types, validate, values
from diffusion_local.options.table import LONG_NAMES
from diffusion_local.queue import groups, schedule
from diffusion_local.remote import models as remote_models
from diffusion_local.remote import server
from diffusion_local.reports import report, wording
from diffusion_local.settings import Settings
from diffusion_local.system import logs
from diffusion_local.web import authentication, files, host_check, proxies, requests
from diffusion_local.web.api import http_headers, request_limits, uploads
from diffusion_local.web.api import schemas as bodies
from diffusion_local.web.api.dialects import adapting, cog, prefixes
from diffusion_local.web.api.dialects.a1111 import reading as a1111
from diffusion_local.web.api.dialects.a1111 import scripts
from diffusion_local.web.api.dialects.comfyui import files as comfyui_files
from diffusion_local.web.api.dialects.comfyui import submitting
from diffusion_local.web.api.dialects.openai import reading
from diffusion_local.web.api.dialects.openai import reading as openai
from diffusion_local.web.api.gradio import call_checks
from diffusion_local.web.api.gradio.uploads import Uploads
from diffusion_local.web.api.mcp import pictures as mcp
from diffusion_local.web.ui import templates, view, view_history, words
from diffusion_local.web.ui.page_urls import GalleryState, QueueState
from tests.support import params

LATIN: Any = SimpleNamespace(scripts=("LATIN",))  # a model that reads no Chinese
UPLOADS = Uploads(Settings.load(environ={}, home=Path(tempfile.mkdtemp(prefix="uploads-"))))
ANY: Any = None  # in the place of an argument that no text of ours leads to
NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
FOLDER = Path(tempfile.mkdtemp(prefix="parsers-"))
#: What a parser may raise for a text that it refuses.
REFUSALS = (DiffusionLocalError, UnicodeError, ValidationError)


@dataclass(frozen=True)
class Parser:
    """``module`` is where the text is read, as a path below the package."""

    name: str
    module: str
    read: Callable[[str], object]


def image(text: str) -> Image:
    return Image("id", "job", "2026/01/02/id", params(prompt=text), 64, 64, 1, "2026-01-02T03:04:05.000Z", 1.0)


def job(text: str) -> domain.Job:
    return new_job(Batch("b", "test", "", domain.Lane.BATCH, 1, domain.utc_now()), 0, params(prompt=text))


def logged(text: str) -> object:
    return logs.RepeatFilter().filter(logging.LogRecord("test", logging.ERROR, "", 0, "%s", (text,), None))


def called(text: str) -> object:
    return call_checks.Calls(UPLOADS).body(call_checks.RouteKind.CALL, json.dumps({"data": [text]}).encode(), "ann")


def raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def written(name: str, data: bytes) -> Path:
    path = FOLDER / name
    path.write_bytes(data)
    return path


def header_file(content: dict[str, Any]) -> Path:
    head = json.dumps(content).encode()
    return written("model.safetensors", len(head).to_bytes(8, "little") + head)


def tensors(text: str, length: int = headers.MAX_NAME) -> headers.Header:
    """A file whose tensors are named by the parts of the text, each of so many characters."""
    parts = (text[at : at + length] for at in range(0, len(text), length))
    return headers.read_header(
        header_file({part: {"dtype": "F16", "shape": [0], "data_offsets": [0, 0]} for part in parts})
    )


def png(text: str) -> bytes:
    info, file = PngInfo(), io.BytesIO()
    info.add_itxt("parameters", text.encode("utf-8", "replace").decode(), zip=True)
    info.add_itxt(recipes.JSON_KEY, text.encode("utf-8", "replace").decode(), zip=True)
    PIL.new("L", (1, 1)).save(file, "PNG", pnginfo=info)
    return file.getvalue()


def webp(text: str) -> bytes:
    exif, file = PIL.Exif(), io.BytesIO()
    exif.get_ifd(34665)[recipes.USER_COMMENT] = b"UNICODE\0" + text.encode("utf-16-le", "replace")
    PIL.new("L", (1, 1)).save(file, "WEBP", exif=exif)
    return file.getvalue()


def foreign_texts(text: str) -> object:
    graph = {"1": {"class_type": text, "inputs": {"sampler_name": text, "steps": 1, "cfg": 1, "seed": text}}}
    named: list[dict[str, str]] = [
        *({name: text} for name in ("prompt", "parameters", "Dream", "sd-metadata", "invokeai_metadata")),
        {"Dream": f'"{text}" {text}'},
        {"prompt": json.dumps(graph)},
        {"workflow": text},
        {"workflow": json.dumps({"nodes": [{"id": 1, "type": text, "widgets_values": [text]}], "links": []})},
        {"parameters": json.dumps({"sui_image_params": {"prompt": text, "sampler": text, text: text}})},
        {"XML:com.adobe.xmp": f"exif:UserComment{{{text}</rdf:li>"},
        {"Software": "NovelAI", "Source": text, "Description": text, "Comment": json.dumps({"sampler": text})},
    ]
    found = [foreign_recipes.read(each) for each in named]
    return [foreign_recipes.to_settings(each) for each in found if each]


def request(**options: str) -> Request:
    found = [(name.replace("_", "-").encode(), text.encode("latin-1", "replace")) for name, text in options.items()]
    return Request({"type": "http", "headers": found, "method": "GET", "path": "/"})


def searched(text: str) -> object:
    asked = GalleryFilter.parse({"search": text})
    return asked.where(), fts_query(asked.search)


def forwarded(text: str) -> object:
    scope = {"type": "http", "client": ("127.0.0.1", 1), "scheme": "http", "path": "/"}
    result = proxies.Proxies(None, Settings(home=FOLDER, trusted_proxies="127.0.0.1, 10.0.0.0/8"))  # type: ignore[arg-type]
    return result._trusted_scope(scope | {"headers": [(b"x-forwarded-for", text.encode("latin-1", "replace"))]})


def ranged(text: str) -> object:
    try:
        return FileResponse._parse_range_header(text, 1000)
    except Exception as refused:  # its own private errors
        return refused


def composed(text: str) -> object:
    result = message("not_ready", model=text, problem=message("wildcard_line", name=text, line=3, problem=text))
    return [translate("zh", result), deserialize(text, serialize(result))]


def wildcard(text: str) -> object:
    written("nasty.txt", raw(text))
    return wildcards.Expander(FOLDER).parse("__nasty__").count


def expanded(text: str) -> object:
    return wildcards.Expander(FOLDER).parse(text).count


def listed(form: str) -> Callable[[str], object]:
    return lambda text: list(list_formats.parse(raw(text), form))


def axis(text: str) -> object:
    for field in ("steps", "guidance", "prompt", "size", "lora ink"):
        with contextlib.suppress(DiffusionLocalError):
            grid.parse_grid(f"{field}: {text}")
    return grid.parse_grid(text)


def replaced(text: str) -> object:
    asked = grid.parse_grid(f"prompt: a,{'b' * 9000}", f"negative: a,{'c' * 9000}")
    return list(asked.cells(text + "a", {"negative": text + "a"}))


def styled(text: str) -> object:
    written("styles.csv", b"name,prompt,negative_prompt\n" + raw(text))
    return styles.Styles(FOLDER).apply([text] * 3, text, text)


def settings_with(**changes: str) -> Settings:
    return Settings(home=FOLDER, **changes)


def downloaded(text: str) -> None:
    for source in (text, f"civitai:{text}", f"https://civitai.com/models/{text}"):
        downloads.is_link(source)
        downloads.shown_source(source)
        downloads.provisional_name(downloads.civitai_source(source))


def helped(text: str) -> None:
    """As an answer, and with its marks in front: open tags, fences and bullets."""
    prompt_helper.lines_of(prompt_helper.without_fence(prompt_helper.without_thinking(f"<think>{text}")))
    prompt_helper.lines_of(prompt_helper.without_fence(prompt_helper.without_thinking(f"```\n- {text}")))


def entries_of(text: str) -> None:
    """As entries of regions and of controls, and with a pair behind and between."""
    for value in (text, f"{text}:x=0.5", text.replace(",", ":x=1,"), ":a=1" * (len(text) // 4) + ":"):
        [types.Region.read(each) for each in types.Region.split(value)]
        types.Control.read(value)


PARSERS = [
    Parser(
        "what a prompt asks for",
        "gallery/quality.py",
        lambda text: [quality.is_requested(each, params(prompt=text)) for each in quality.BLEMISHES],
    ),
    Parser("account name", "accounts/service.py", accounts.check_name),
    Parser("password", "accounts/service.py", accounts.validate_password),
    Parser("slug of a picture", "gallery/service.py", lambda text: pictures.file_name(image(text))),
    Parser("slug of a download", "web/files.py", lambda text: files.download_name(image(text))),
    Parser("slug of a batch", "batches/service.py", lambda text: service.file_name(job(text), "a.png")),
    Parser("a ControlNet's hash", "web/api/dialects/a1111/scripts.py", lambda text: scripts.HASH.sub("", text)),
    Parser("entries of regions and controls", "options/types.py", entries_of),
    Parser("size, other programs", "web/api/dialects/adapting.py", adapting.SIZE_TEXT.fullmatch),
    Parser(
        "prompt of a detailer",
        "web/api/dialects/a1111/scripts.py",
        lambda text: scripts.detail_of({"ad_model": "face_yolov8n.pt", "ad_prompt": text}, "args"),
    ),
    Parser("an outpaint", "options/inpaint.py", lambda text: inpaint.check_outpaint("outpaint", text)),
    Parser("answer of a prompt helper", "prompt_helper.py", helped),
    Parser("source of a download", "hub/downloads.py", downloaded),
    Parser("name of a downloaded file", "hub/file_urls.py", file_urls.safe_name),
    Parser("path of a model's file", "remote/models.py", remote_models.is_safe),
    Parser("a machine's name", "dispatch/slots.py", slots.machine_name),
    Parser("a machine that joins", "machines.py", machines.MACHINE_NAME.fullmatch),
    Parser("Chinese of a prompt", "models/starter_words.py", lambda text: starter_words.understood(LATIN, f"树{text}")),
    Parser("names in a sentence", "web/ui/templates.py", templates.backticks),
    Parser("field of a warning", "web/ui/view.py", view.warned),
    Parser("language", "web/ui/words.py", lambda text: words.preferred("", text)),
    Parser("translated sentence", "web/ui/words.py", composed),
    Parser("paths of a traceback", "web/ui/view_history.py", view_history.shortened_paths),
    Parser("place in the gallery", "web/ui/page_urls.py", lambda text: GalleryState.parse(text).query_string()),
    Parser("place in the queue", "web/ui/page_urls.py", QueueState.parse),
    Parser(
        "size, OpenAI",
        "web/api/dialects/openai/reading.py",
        lambda text: openai.size_of(openai.Generation(prompt="", size=text), ANY),
    ),
    Parser(
        "unknown field, OpenAI",
        "web/api/dialects/openai/reading.py",
        lambda text: openai.extra_fields(openai.Generation(**{"prompt": "", text: 1}), strict=False),
    ),
    Parser("address of a picture, MCP", "web/api/mcp/pictures.py", lambda text: mcp.image_id_of(mcp.SCHEME + text)),
    Parser("hash behind a model's name", "web/api/dialects/a1111/reading.py", lambda text: a1111.HASH.sub("", text)),
    Parser(
        "path of a dialect",
        "web/api/dialects/prefixes.py",
        lambda text: [prefixes.route_of(text), prefixes.route_of(f"/v1/{text}")],
    ),
    Parser(
        "address of an own picture",
        "web/api/dialects/cog.py",
        lambda text: [cog.OWN_FILE.fullmatch(text), cog.OWN_IMAGE.fullmatch(f"/images/{text}")],
    ),
    Parser(
        "path with a model",
        "web/api/request_limits.py",
        lambda text: request_limits.BY_MODEL.fullmatch(f"/replicate/v1/models/{text}"),
    ),
    Parser("picture in Base64", "web/api/uploads.py", lambda text: uploads.decoded("image", text)),
    Parser("body of a submit", "web/api/schemas.py", lambda text: bodies.NewJobs.model_validate_json(raw(text))),
    Parser("Prefer", "web/api/http_headers.py", http_headers.read_prefer),
    Parser(
        "If-None-Match",
        "web/api/http_headers.py",
        lambda text: http_headers.known_already(request(if_none_match=text), "x"),
    ),
    Parser(
        "cookie",
        "web/authentication.py",
        lambda text: authentication.read_credentials(Headers({"cookie": text}), "session"),
    ),
    Parser(
        "Authorization",
        "web/authentication.py",
        lambda text: authentication.read_credentials(Headers({"authorization": f"Basic {text}"}), ""),
    ),
    Parser("Host", "web/host_check.py", host_check.host_name),
    Parser("Origin", "web/host_check.py", lambda text: host_check.same_origin(text, "localhost")),
    Parser("X-Forwarded-For", "web/proxies.py", forwarded),
    Parser("Range", "web/files.py", ranged),
    Parser("window", "queue/schedule.py", schedule.parse_window.__wrapped__),
    Parser("past moment", "queue/schedule.py", lambda text: schedule.parse_past("since", text, NOW, UTC)),
    Parser("moment", "queue/schedule.py", lambda text: schedule.parse_moment("start_at", text, NOW, UTC)),
    Parser("directives", "engine/fake.py", lambda text: fake._DIRECTIVE.findall(text)),
    Parser("variants", "hub/fetcher.py", lambda text: fetcher.variants_of(RemoteFile(text, 1, "", False))),
    Parser("words with weights", "models/prompt_limits.py", prompt_limits.first_weighted),
    Parser("hub id", "models/curated.py", curated.REPO.fullmatch),
    Parser("file of a shard", "models/directories.py", directories.is_later_shard),
    Parser(
        "name of a distilled model",
        "models/distilled.py",
        lambda text: (distilled.distillation_of(text), distilled.steps_of(text), distilled.lora_defaults("sdxl", text)),
    ),
    Parser("word of a textual inversion", "models/adapters.py", lambda text: adapters.contains_word(text, "ink")),
    Parser("tensors of a LoRA", "models/loras.py", lambda text: loras.read_lora(tensors(text))),
    Parser("name of a tensor", "models/lora_layers.py", lambda text: loras.read_lora(tensors(text, len(text)))),
    Parser("tensors of a UNet", "models/probe.py", lambda text: probe.read_unet(TensorView(tensors(text)))),
    Parser("quantised tensors", "models/weights.py", lambda text: quantisation_of(tensors(text))),
    Parser("name of a known model", "models/curated.py", lambda text: curated.closest_curated("sd1", "", text)),
    Parser(
        "metadata of a model",
        "models/headers.py",
        lambda text: headers.read_header(
            header_file({"__metadata__": {"ss_tag_frequency": text, "trigger_words": text}})
        ),
    ),
    Parser(
        "header of a model",
        "models/headers.py",
        lambda text: headers.read_header(written("a.safetensors", len(raw(text)).to_bytes(8, "little") + raw(text))),
    ),
    Parser(
        "words of a LoRA",
        "models/adapters.py",
        lambda text: adapters.trigger_words({"trigger_words": text, "ss_tag_frequency": text}),
    ),
    Parser("choices", "grammar/prompt_templates.py", expanded),
    Parser("wildcard file", "grammar/prompt_templates.py", wildcard),
    Parser("choices, printed", "grammar/trees.py", lambda text: wildcards.Expander(FOLDER).parse(text).to_text()),
    Parser("tags of a prompt", "grammar/tags.py", lambda text: (tags.find_tags(text), tags.remove_tags(text))),
    Parser("other tags", "grammar/tags.py", tags.find_other_tags),
    Parser("changing prompt", "grammar/schedules.py", lambda text: schedules.prompt_per_step(text, 3)),
    Parser(
        "weights of a prompt",
        "grammar/prompt_weights.py",
        lambda text: prompt_weights.to_text(prompt_weights.parse_parts(text)),
    ),
    Parser(
        "syntax of a prompt",
        "models/prompt_limits.py",
        lambda text: prompt_limits.BREAK.search(text) or prompt_limits.AND.search(text),
    ),
    Parser("JSON array", "lists/list_formats.py", listed("json")),
    Parser("axis", "lists/grid.py", axis),
    Parser("search and replace", "lists/grid.py", replaced),
    Parser("list of text", "lists/list_formats.py", listed("text")),
    Parser("list of CSV", "lists/list_formats.py", listed("csv")),
    Parser("list of JSON", "lists/list_formats.py", listed("jsonl")),
    Parser("line of a list", "lists/list_formats.py", list_formats.text_values),
    Parser(
        "list in another encoding",
        "lists/encoding.py",
        lambda text: encoding.decode(text.encode("latin-1", "replace") + b"\xe9\xff"),
    ),
    Parser(
        "line of a queue file", "lists/queue_file.py", lambda text: queue_file.parse_batch(queue_file.parse_line(text))
    ),
    Parser("name of a field", "lists/entries.py", entries.field_name),
    Parser("sampler", "options/samplers.py", samplers.check_sampler),
    Parser("sampler and schedule", "options/samplers.py", samplers.split_schedule),
    Parser("size of a recipe", "options/a1111.py", lambda text: a1111_recipe.parse_settings({"Size": text})),
    Parser("size", "lists/entries.py", entries.parse_size),
    Parser("address of a server", "remote/server.py", server.normalise_url),
    Parser("recipe as text", "gallery/recipes.py", recipes.read_text),
    Parser("pairs of a recipe", "gallery/recipes.py", lambda text: recipes.read_text(f"a\n{text}")),
    Parser("recipe in a PNG", "gallery/recipes.py", lambda text: recipes.read_picture(png(text))),
    Parser("recipe in EXIF", "gallery/recipes.py", lambda text: recipes.read_picture(webp(text))),
    Parser("recipe of another program", "gallery/foreign_recipes.py", foreign_texts),
    Parser(
        "recipe, written",
        "options/a1111.py",
        lambda text: a1111_recipe.format_recipe(params(prompt=text, negative=text, model=text)),
    ),
    Parser("search", "db/search.py", searched),
    Parser("filter of the gallery", "gallery/images.py", lambda text: GalleryFilter.parse({"model": text})),
    Parser("filter of the queue", "queue/groups.py", lambda text: groups.JobFilter(text=text).where()),
    Parser("webhooks", "notify/dispatcher.py", lambda text: dispatcher.check_settings(settings_with(webhooks=text))),
    Parser(
        "time of the report", "notify/dispatcher.py", lambda text: dispatcher.report_time(settings_with(report_at=text))
    ),
    Parser(
        "arguments of a hook",
        "notify/hooks.py",
        lambda text: hooks.fill_arguments(("run", text, "{name}"), {"name": text}, "on_batch_done"),
    ),
    Parser("webhook", "notify/outbound_hosts.py", outbound_hosts.parse_url),
    Parser("allowed networks", "notify/outbound_hosts.py", outbound_hosts.AllowedTargets.parse),
    Parser("number as an address", "notify/outbound_hosts.py", outbound_hosts.is_numeric_host),
    Parser("group of an error", "reports/report.py", lambda text: report.reason_of("kind", text)),
    Parser("Markdown", "reports/wording.py", wording.escape_markdown),
    Parser(
        "LoRAs of a prompt",
        "grammar/tags.py",
        lambda text: validate.extract_lora_tags(params(prompt=f"<lora:a:1>{text}")),
    ),
    Parser("prompt", "options/values.py", lambda text: values.check_prompt("prompt", text, required=True)),
    Parser("LoRAs", "options/values.py", lambda text: values.check_loras("loras", text)),
    Parser("file name", "options/values.py", lambda text: values.check_file_name("vae", text)),
    Parser("number", "options/values.py", lambda text: values.check_number("steps", text, 1, 150)),
    Parser("source id", "options/values.py", lambda text: values.check_needed_source("source", text, "img2img")),
    Parser("prompt of a detail", "options/detailer_text.py", lambda text: detailer_text.without_marks(text)),
    Parser("options' names in a message", "options/table.py", lambda text: LONG_NAMES.sub("", text)),
    Parser(
        "signs of other places",
        "models/prompt_limits.py",
        lambda text: (prompt_limits.shape_warnings("prompt", text), prompt_limits.weight_warnings("prompt", text)),
    ),
    Parser("foreign words", "models/prompt_limits.py", lambda text: prompt_limits.foreign_words(text, ("LATIN",))),
    Parser("styles", "styles.py", styled),
    Parser("log line", "system/logs.py", logged),
    Parser("words of the manual", "manual.py", manual.search),
    Parser("page of the manual", "manual.py", lambda text: manual.excerpt(text, ["word"])),
    Parser("heading of the manual", "manual.py", manual.slug),
    Parser("call of Gradio", "web/api/gradio/call_checks.py", called),
    Parser("session of Gradio", "web/api/gradio/call_checks.py", lambda text: call_checks.session_key("ann", text)),
    Parser("upload of Gradio", "web/api/gradio/uploads.py", lambda text: UPLOADS.file(text, "ann")),
    Parser("slot of a worker", "dispatch/leased.py", leased.SLOT_NAME.fullmatch),
    Parser(
        "layer of a LoRA", "engine/adapter_names.py", lambda text: adapter_names.Layers(("a",), "flux").with_name(text)
    ),
    Parser("address on the hub", "models/service.py", models_service.HUB_ADDRESS.fullmatch),
    Parser("file of ComfyUI", "web/api/dialects/comfyui/files.py", comfyui_files.FILE_NAME.fullmatch),
    Parser(
        "picture's name, ComfyUI",
        "web/api/dialects/comfyui/submitting.py",
        lambda text: [submitting.ANNOTATION.sub("", text), submitting.FACTOR.search(text)],
    ),
    Parser("tag of stable-diffusion.cpp", "web/api/dialects/openai/reading.py", reading.without_tags),
    Parser("X-Request-Id", "web/requests.py", requests.CLIENT_REQUEST_ID.fullmatch),
    Parser("label of a sheet", "gallery/contact_sheet.py", lambda text: contact_sheet.wrap_text(text, 200, 14, 3)),
]
#: Modules that use regular expressions, and the reason why no text of a caller reaches those.
EXEMPT = {
    "engine/single_file.py": "names of tensors, of at most 500 characters, by anchored patterns",
    "engine/kept_blocks.py": "names of tensors, of at most 500 characters",
    "engine/preview_decoders.py": "names of tensors, of at most 500 characters, by an anchored pattern",
    "models/known_layers.py": "names of tensors, of at most 500 characters",
    "accounts/pairings.py": "removes single characters",
    "db/translation.py": "the program's own SQL",
    "web/page_delta.py": "the gallery's HTML, as the program wrote it",
    "engine/devices.py": "the slot's name, which the supervisor chose",
    "operations/registry.py": "the paths of routes, as the program declares them",
    "web/page_html.py": "the page that gradio built",
    "web/gradio_compat/page.py": "the page that gradio built",
    "web/gradio_compat/frontend.py": "the scripts that gradio built",
    "web/ui/theme.py": "the program's own style sheets",
    "web/manual.py": "the path under which a proxy serves us, out of the settings",
    "web/ui/form.py": "a number of at most 20 digits",
}
