"""Bodies of calls as Gradio gets them, and whose events are whose."""

import io
import json
from typing import Any

import pytest

from diffusion_local.compose import Services
from diffusion_local.errors import InvalidParams, NotFound
from diffusion_local.web.api.gradio.allowed_routes import RouteKind
from diffusion_local.web.api.gradio.call_checks import MAX_DEPTH, MAX_EVENTS, Calls, session_key
from diffusion_local.web.api.gradio.uploads import Uploads

PAGE = True  # of the client


@pytest.fixture
def uploads(services: Services) -> Uploads:
    return Uploads(services.settings)


@pytest.fixture
def calls(uploads: Uploads) -> Calls:
    return Calls(uploads)


def body(calls: Calls, kind: RouteKind, value: Any, owner: str = "ann") -> dict[str, Any]:
    return calls.body(kind, json.dumps(value).encode(), owner)


def test_an_own_upload_becomes_what_only_uploads_reads(calls: Calls, uploads: Uploads) -> None:
    with uploads.room("ann", 1):
        path = uploads.keep("ann", io.BytesIO(b"x"))
    file = {"path": path, "url": "http://x/", "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}}
    assert body(calls, RouteKind.CALL, {"data": [1, [{"a": file}]]})["data"] == [1, [{"a": {"upload": path}}]]
    assert body(calls, RouteKind.CALL_BY_NAME, {"picture": file}) == {"picture": {"upload": path}}
    with pytest.raises(NotFound):
        body(calls, RouteKind.CALL, {"data": [file]}, "bob")


def test_only_known_fields_reach_gradio(calls: Calls) -> None:
    more = {"event_id": "x", "oauth_token": "x", "simple_format": True, "batched": True, "request": {}, "more": 1}
    options = {"data": ["x"], "fn_index": 3, "trigger_id": 4, "event_data": {"do": "x"}}
    assert body(calls, RouteKind.CALL, options | more) == options


def test_values_keep_their_kind(calls: Calls) -> None:
    values = [None, True, 1, 1.5, "text", ["a", {"b": {"c": []}}], {}]
    assert body(calls, RouteKind.CALL, {"data": values})["data"] == values


def test_depth_is_bounded(calls: Calls) -> None:
    def nested(depth: int) -> Any:
        return [nested(depth - 1)] if depth else 1

    assert body(calls, RouteKind.CALL, {"data": [nested(MAX_DEPTH - 1)]})
    with pytest.raises(InvalidParams):
        body(calls, RouteKind.CALL, {"data": [nested(MAX_DEPTH)]})


@pytest.mark.parametrize(
    "text",
    [
        "[" + "{}," * 200_000 + "1]",
        "[" + "1," * 300_000 + "1]",
        "[" + '"",' * 200_000 + "1]",
        "[" + '"\\\\","\\"",' * 60_000 + "1]",
        " " * 600_000 + "[]",
    ],
    ids=["objects", "numbers", "texts", "escapes", "spaces"],
)
def test_many_small_values_are_refused_before_they_are_read(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(json, "loads", None)
    with pytest.raises(InvalidParams, match="outside of its strings"):
        calls.body(RouteKind.CALL, f'{{"data": {text}}}'.encode(), "ann")


def test_a_long_list_of_prompts_is_one_text(calls: Calls) -> None:
    prompts = 'a "red" apple \\ pear\n' * 100_000
    assert body(calls, RouteKind.CALL, {"data": [prompts]})["data"] == [prompts]


def test_another_encoding_is_refused(calls: Calls) -> None:
    with pytest.raises(InvalidParams, match="must be JSON"):
        calls.body(RouteKind.CALL, '{"data": []}'.encode("utf-16"), "ann")


def test_a_file_in_the_data_of_an_event_is_refused(calls: Calls) -> None:
    with pytest.raises(NotFound):
        body(calls, RouteKind.CALL, {"data": [], "event_data": {"value": {"path": "/etc/passwd"}}})


def test_a_session_of_one_account_is_not_anothers(calls: Calls) -> None:
    keys = {
        body(calls, RouteKind.CALL, {"data": [], "session_hash": "x"}, who)["session_hash"]
        for who in ("ann", "bob", "")
    }
    assert len(keys) == 3
    assert session_key("bob", session_key("ann", "x")) not in keys
    assert body(calls, RouteKind.CALL, {"data": [], "session_hash": "x"}) == body(
        calls, RouteKind.CALL, {"data": [], "session_hash": "x"}
    )


def test_events_are_their_callers(calls: Calls) -> None:
    calls.started("e1", None, "ann")
    calls.started("e2", "ann-s", "ann")
    assert (calls.results("e1", "ann"), calls.results("e2", "ann")) == ("e1", "ann-s")
    for event, who in (("e1", "bob"), ("e1", ""), ("e3", "ann"), (None, "ann"), (["e1"], "ann")):
        with pytest.raises(NotFound):
            calls.results(event, who)


def test_a_bounded_number_of_events_is_remembered_for_each_account(calls: Calls) -> None:
    calls.started("bobs", None, "bob")
    calls.started("old", None, "ann")
    calls.started("old of a session", "session", "ann")
    forgotten = [calls.started(f"e{number}", "session", "ann") for number in range(MAX_EVENTS)]
    assert [each for each in forgotten if each] == [["old"]]  # the session has newer events
    for event in ("old", "old of a session"):
        with pytest.raises(NotFound):
            calls.results(event, "ann")
    assert calls.results("e0", "ann") == "session"
    assert calls.results("bobs", "bob") == "bobs"
