"""The attacks, one row each: what is tried, at which door, and what must come back."""

import json
from dataclasses import dataclass, field
from typing import Any

JSON = {"Content-Type": "application/json"}
JOB = '{"prompt": "a tree", "width": 128, "height": 128, "steps": 4}'
EVIL = "http://evil.example"


@dataclass(frozen=True)
class Attack:
    """One request. ``who`` is an account's token, ``cookie`` a signed-in browser, neither somebody unknown.

    ``{image}``, ``{job}`` and ``{batch}`` in ``path`` and ``body`` are ann's.
    """

    what: str
    path: str
    refused: tuple[int, ...]
    how: str
    method: str = "GET"
    who: str = ""
    cookie: bool = False
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None

    @property
    def tried(self) -> str:
        text = ", ".join(f"{name}: {value[:60]}" for name, value in self.headers.items() if name != "Content-Type")
        who = f" as {self.who}" if self.who else " with a session" if self.cookie else ""
        return f"{self.method} {self.path}{who}{f' ({text})' if text else ''}"


def post(what: str, path: str, refused: int, how: str, body: Any = JOB, **more: Any) -> Attack:
    headers = JSON | more.pop("headers", {})
    return Attack(what, path, (refused,), how, "POST", body=body, headers=headers, **more)


WRITES = (
    "/api/v1/jobs",
    "/gradio_api/run/submit",
    "/gradio_api/queue/join",
    "/sdapi/v1/txt2img",
    "/predictions",
    "/logout",
)
ORIGINS = (EVIL, "null", "http://127.0.0.1:1", "https://127.0.0.1:7860.evil.example", "")
FOREIGN = [
    *(
        post("cross-origin write", path, 403, "Origin is not ours", cookie=True, headers={"Origin": EVIL})
        for path in WRITES
    ),
    *(
        post("cross-origin write", "/api/v1/jobs", 403, "Origin is not ours", cookie=True, headers={"Origin": origin})
        for origin in ORIGINS
    ),
    Attack(
        "cross-origin write, simple request",
        "/api/v1/queue/pause",
        (403,),
        "Origin is not ours",
        "POST",
        cookie=True,
        headers={"Origin": EVIL, "Content-Type": "text/plain"},
    ),
    post(
        "cross-site write without Origin",
        "/api/v1/jobs",
        403,
        "Sec-Fetch-Site",
        cookie=True,
        headers={"Sec-Fetch-Site": "cross-site"},
    ),
    post(
        "cross-site write without Origin", "/api/v1/jobs", 403, "Referer", cookie=True, headers={"Referer": EVIL + "/x"}
    ),
]
PREFLIGHTS = [
    Attack(
        "preflight from another page",
        path,
        (400,),
        "no Access-Control-Allow-Origin",
        "OPTIONS",
        headers={"Origin": EVIL, "Access-Control-Request-Method": "POST"},
    )
    for path in ("/api/v1/jobs", "/gradio_api/run/submit", "/v1/images/generations", "/login")
]
REBINDING = [
    Attack("DNS rebinding", path, (400,), "Host is not ours", headers={"Host": host})
    for path in ("/", "/api/v1/jobs", "/images/{image}.png", "/gradio_api/info")
    for host in (
        "evil.example",
        "127.0.0.1.evil.example:7860",
        "localhost.evil.example",
        "10.0.0.7",
        "127.1",
        "2130706433",
        "localhost@evil.example",
        "localhost#.evil.example",
    )
]
PLACES = (
    "/images/{0}.png",
    "/thumbnails/{0}.webp",
    "/previews/{0}.webp",
    "/sources/{0}.png",
    "/assets/icons/{0}",
    "/assets/fonts/{0}",
    "/api/v1/images/{0}",
    "/gradio_api/file={0}",
    "/file={0}",
    "/static/{0}",
    "/assets/{0}",
    "/model-previews/loras/{0}",
    "/replicate/v1/files/{0}",
    "/view?type=output&filename={0}",
    "/view?type=input&subfolder=..&filename={0}",
)
OUTSIDE = (
    "../../app.db",
    "..%2f..%2fapp.db",
    "%2e%2e/%2e%2e/app.db",
    "..%252f..%252fapp.db",
    "..%c0%af..%c0%afapp.db",
    "..\\..\\app.db",
    "/etc/passwd",
    "%2fetc%2fpasswd",
    "{home}/app.db",
    "{home}/config.toml",
    "file:///etc/passwd",
)
TRAVERSAL = [
    Attack(
        "path traversal", place.format(outside), (400, 403, 404, 405, 410, 422), "files by known id only", who="root"
    )
    for place in PLACES
    for outside in OUTSIDE
]
OTHERS = [
    *(
        Attack("another's things", path, (404,), "not there for others", who="bob")
        for path in (
            "/images/{image}.png",
            "/thumbnails/{image}.webp",
            "/previews/{job}.webp",
            "/api/v1/images/{image}",
            "/api/v1/images/{image}/recipe",
            "/api/v1/jobs/{job}",
            "/api/v1/jobs/{job}/events",
            "/api/v1/jobs/{job}/stream",
            "/api/v1/batches/{batch}",
            "/api/v1/batches/{batch}/stream",
            "/api/v1/batches/{batch}/export",
            "/predictions/{batch}",
            "/view?filename={image}.png&type=output",
            "/history/{batch}",
        )
    ),
    *(
        post("another's things", path, 404, "not there for others", None, who="bob")
        for path in (
            "/api/v1/jobs/{job}/cancel",
            "/api/v1/jobs/{job}/again",
            "/api/v1/batches/{batch}/cancel",
            "/api/v1/batches/{batch}/pause",
            "/api/v1/images/{image}/restore",
            "/predictions/{batch}/cancel",
        )
    ),
    *(
        post("another's things", f"/api/v1/jobs/{verb}", 404, "not there for others", body, who="bob")
        for verb, body in (
            ("cancel", '{"job_ids": ["{job}"]}'),
            ("again", '{"job_ids": ["{job}"]}'),
            ("move", '{"to": "top", "job_ids": ["{job}"]}'),
            ("priority", '{"value": 100, "job_ids": ["{job}"]}'),
            ("forget", '{"job_ids": ["{job}"]}'),
        )
    ),
    Attack("another's things", "/api/v1/images/{image}", (404,), "not there for others", "DELETE", who="bob"),
]
SCOPES = [
    post("more than a token may", "/api/v1/jobs", 403, "scope submit", who="reader"),
    post("more than a token may", "/v1/images/generations", 403, "scope submit", '{"prompt": "a tree"}', who="reader"),
    post("more than a token may", "/sdapi/v1/txt2img", 403, "scope submit", '{"prompt": "a tree"}', who="eve"),
    post("more than a token may", "/predictions", 403, "scope submit", '{"input": {"prompt": "a tree"}}', who="eve"),
    post("more than a token may", "/api/v1/jobs/cancel", 403, "scope control", '{"waiting": true}', who="submitter"),
    post("more than a token may", "/api/v1/queue/pause", 403, "scope admin", None, who="quiet root"),
    post("more than a token may", "/api/v1/queue/pause", 403, "role admin", None, who="ann"),
    post("a token makes tokens", "/account/tokens", 403, "sessions only", "name=x&scope=admin", who="root"),
    Attack("no token", "/api/v1/jobs", (401,), "sign in first"),
    Attack("another method at a door that is open", "/api/v1/machines/join", (401,), "open to POST only"),
    Attack("another method at a door that is open", "/api/v1/machines/join", (401,), "open to POST only", "DELETE"),
    *(
        Attack("an account named by a header", "/api/v1/jobs", (401,), "no header names an account", headers=headers)
        for headers in ({"X-Remote-User": "root"}, {"X-Forwarded-User": "root"}, {"X-Forwarded-For": "127.0.0.1"})
    ),
    Attack("a made-up token", "/api/v1/jobs", (401,), "digest not known", headers={"Authorization": "Bearer dl_guess"}),
    Attack(
        "a made-up session",
        "/api/v1/jobs",
        (401,),
        "digest not known",
        headers={"Cookie": "diffusion_local_7860=guess"},
    ),
]
TOO_LARGE = [
    post("oversize body", path, 413, "declared length", "x" * 200, who="ann", headers={"Content-Length": "9" * 12})
    for path in (
        "/api/v1/jobs",
        "/api/v1/lists",
        "/api/v1/sources",
        "/v1/images/edits",
        "/sdapi/v1/img2img",
        "/predictions",
    )
]


def file(path: str) -> dict[str, Any]:
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


PASSWD = file("/etc/passwd")
GRADIO = [
    *(
        post(
            "a file of the machine as FileData", path, 404, "only the caller's own uploads", json.dumps(body), who="eve"
        )
        for path, body in (
            ("/gradio_api/run/gallery", {"data": [PASSWD]}),
            ("/gradio_api/run/gallery", {"data": [{"a": [[PASSWD]]}]}),
            ("/gradio_api/run/add_source", {"data": [file("{home}/app.db")]}),
            ("/gradio_api/run/add_source", {"data": [file("http://93.184.216.34/")]}),
            ("/gradio_api/call/gallery", {"data": [PASSWD]}),
            ("/gradio_api/call/v2/gallery", {"limit": PASSWD}),
            ("/gradio_api/queue/join", {"fn_index": 0, "session_hash": "x", "data": [PASSWD]}),
        )
    ),
    *(
        Attack("a route of Gradio that nobody needs", path, (404,), "not in the list of allowed routes", who="root")
        for path in (
            "/gradio_api/proxy=http://93.184.216.34/",
            "/gradio_api/file/etc/passwd",
            "/gradio_api/deep_link?session_hash=x",
            "/gradio_api/dev/reload",
            "/gradio_api/heartbeat/x",
            "/gradio_api/vibe-code",
            "/gradio_api/token",
            "/monitoring/summary",
            "/svelte/x.js",
        )
    ),
    post("a route of Gradio that nobody needs", "/gradio_api/component_server", 404, "not allowed", "{}", who="root"),
    post("an upload by a viewer", "/gradio_api/upload", 403, "scope submit", "x" * 100, who="eve"),
    Attack("another's results", "/gradio_api/queue/data?session_hash=x", (404,), "sessions by account", who="bob"),
    Attack("another's results", "/gradio_api/call/jobs/" + "0" * 32, (404,), "events by account", who="bob"),
]
ATTACKS = [*GRADIO, *FOREIGN, *PREFLIGHTS, *REBINDING, *TRAVERSAL, *OTHERS, *SCOPES, *TOO_LARGE]

#: Addresses that a webhook must not be sent to, however they are written.
INSIDE = (
    "http://127.0.0.1/",
    "http://localhost/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0177.0.0.1/",
    "http://127.1/",
    "http://[::1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[64:ff9b::7f00:1]/",
    "http://0.0.0.0/",
    "http://10.0.0.1/",
    "http://192.168.1.1/",
    "http://172.16.0.1/",
    "http://169.254.169.254/latest/meta-data/",
    "http://[::ffff:169.254.169.254]/",
    "http://192.0.0.192/opc/v2/",
    "http://[2002:7f00:1::]/",
    "http://127\u30020\u30020\u30021/",
    "http://localhost./",
    "http://example.com\\@127.0.0.1/",
    "http://[fe80::1]/",
    "http://[fd00::1]/",
    "http://user@127.0.0.1/",
    "ftp://example.org/",
    "file:///etc/passwd",
    "gopher://127.0.0.1:6379/_",
)
#: Tests of attacks that take more than one request, by their name in test_attacks.py.
LONGER = {
    "test_a_script_is_text_wherever_it_is_shown": (
        "script in prompt, batch name, owner, file name",
        "page, JSON, sign-in, reports",
        "escaped; JSON is not HTML; nosniff",
    ),
    "test_guessing_a_password_is_stopped": (
        "brute force sign-in",
        "POST /login, 30 guesses",
        "429 from the 6th on, same words and time for unknown names",
    ),
    "test_a_key_of_another_account_gives_nothing_away": (
        "replayed idempotency key of another account",
        "POST /api/v1/jobs as bob",
        "each account has keys of its own",
    ),
    "test_a_bomb_is_refused_before_it_is_unpacked": (
        "decompression bomb, broken and disguised files",
        "POST /api/v1/sources",
        "pixels are checked before decoding",
    ),
    "test_metadata_cannot_run_away": (
        "endless metadata in a PNG",
        "POST /api/v1/sources, /sdapi/v1/png-info",
        "bounded reading",
    ),
    "test_gradios_upload_takes_nothing_large": (
        "large upload by Gradio's route",
        "POST /gradio_api/upload",
        "max_source_mb, for who may submit, before the body is read",
    ),
    "test_the_page_answers_during_a_flood": (
        "request flood from one address",
        "1,000 POST /api/v1/jobs",
        "429 after the burst; reads of others go on",
    ),
    "test_no_answer_tells_a_path_of_the_machine": (
        "paths of the machine in answers",
        "every open door, and errors",
        "none",
    ),
}
