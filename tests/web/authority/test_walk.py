"""Every sentence, at every door, by everybody: what is not allowed is refused and changes nothing, all else is done.

What a door takes is not written down here: an admin's call tells which sentences it says, and the table
(``diffusion_local.authority``) what those take. So a door that says more than it did is held to more.
"""

import inspect
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Mount

from diffusion_local import authority
from diffusion_local.actor import LOCAL, Scope, acting
from diffusion_local.compose import Services
from diffusion_local.errors import Conflict, Forbidden, InvalidParams, NotFound, UserError
from diffusion_local.operations.operation import DataScope
from diffusion_local.operations.registry import OPERATIONS
from diffusion_local.studio import Studio
from diffusion_local.web.api import endpoints
from diffusion_local.web.authentication import is_open_path
from diffusion_local.web.page_delta import TABS
from diffusion_local.web.ui import actions
from tests.support import tiers
from tests.web.authority import operation_calls, page_calls, route_calls
from tests.web.authority.route_calls import Call
from tests.web.authority.scene import (
    SECRETS,
    Person,
    Scene,
    allowed,
    names_things,
    png,
    scene,
)

RECORD = Path(__file__).parents[3] / "scripts" / "results" / "authority.md"
#: Said for every request, to find out whose it is.
AT_THE_GATE = {"accounts.any", "accounts.by_token", "accounts.by_session", "accounts.by_link"}
REFUSED = re.compile(
    r"(A viewer|A user|An admin|This token) may not|: only its owner|Only an admin|There is no |toast warn"
)
#: How the Studio refuses what it may not do for somebody, or must not tell that it is there.
REFUSALS = (Forbidden, NotFound, InvalidParams, Conflict)
FORBIDDEN = re.compile(r"(A viewer|A user|An admin|This token) may not|: only its owner|Only an admin")


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Whose accounts see only their own."""
    with pytest.MonkeyPatch.context() as patch, scene(tmp_path_factory, patch, "own") as found:
        yield found


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Whose accounts see everybody's."""
    with pytest.MonkeyPatch.context() as patch, scene(tmp_path_factory, patch, "shared") as found:
        yield found


# -- the doors as the program has them ---------------------------------------------------------------------------------


def routes(application: Any) -> set[str]:
    """``GET /path`` of every route, those of routers within routers too; gradio's own are below a mount."""
    found: set[str] = set()

    def look(candidates: Any) -> None:
        for each in candidates:
            if hasattr(each, "effective_candidates"):
                look(each.effective_candidates())
            elif not isinstance(each, Mount):
                found.update(f"{verb} {each.path}" for verb in getattr(each, "methods", None) or () if verb != "HEAD")

    look(application.routes)
    return found


def blocks_of(application: Any) -> Any:
    found = next(each.app for each in application.routes if isinstance(each, Mount))
    while not hasattr(found, "get_blocks"):
        found = found._app
    return found.get_blocks()


def handlers(application: Any) -> dict[str, tuple[int, list[Any]]]:
    """The page's own handlers by name: (number of one event that calls it, the values that its page begins with)."""
    found = {}
    for number, each in blocks_of(application).fns.items():
        if each.fn is not None and each.api_name not in operation_calls.ENDPOINTS:
            found[each.fn.__name__] = (number, [getattr(part, "value", None) for part in each.inputs])
    return found


#: No operations of the Studio: who may call them is in tests/remote.
WORKERS = {"POST /api/v1/worker", "GET /api/v1/worker/file"}


def test_every_door_is_walked_through(studio: Scene) -> None:
    application = studio.client.app
    assert routes(application) - WORKERS == set(route_calls.ROUTES)
    assert set(operation_calls.ENDPOINTS) == set(endpoints.names())
    assert set(page_calls.BUTTONS) | page_calls.PLAIN_BUTTONS == set(actions.VERBS)
    assert set(page_calls.TABS) == set(TABS)
    acts = {"act", "act_without_form"}  # what the buttons call
    assert {*page_calls.HANDLERS, *acts} == set(handlers(application))


def test_the_table_has_every_public_method_of_the_studio_and_of_its_parts(services: Services) -> None:
    found = {name for name in dir(Studio) if not name.startswith("_")}
    for part, each in vars(services.studio).items():
        if not part.startswith("_"):
            found |= {f"{part}.{name}" for name in dir(each) if not name.startswith("_")}
    assert found == set(OPERATIONS)


def test_a_public_method_that_the_table_does_not_name_cannot_be_called() -> None:
    class Styles:
        def all(self) -> None: ...
        def apply(self) -> None: ...
        def burn(self) -> None: ...

    with pytest.raises(TypeError, match=r"differ: \['burn'\]"):
        authority.guarded("styles")(Styles)


# -- to call a door ----------------------------------------------------------------------------------------------------


class Answer:
    """What came back: whether it was refused, and all that it says."""

    def __init__(self, status: int, text: str, fine: tuple[int, ...] = ()) -> None:
        self.status, self.text = status, text
        self.done = status < 400 or status in fine
        self.forbidden = status in (401, 403) or bool(FORBIDDEN.search(text))
        self.refused = not self.done or bool(REFUSED.search(text))

    def __repr__(self) -> str:
        return f"{self.status} {self.text[:600]}"


def ask_route(studio: Scene, person: Person, door: str) -> Answer:
    verb, path = door.split(" ", 1)
    call = route_calls.ROUTES[door]
    content = call.content.replace(b"{file}", studio.names["file"].encode()) if call.content else None
    form = studio.filled(call.form)
    found = studio.client.request(
        verb,
        studio.filled(call.url or path),
        headers=person.headers | call.headers,
        json=studio.filled(call.body) if call.body is not None else None,
        content=content,
        data=form,
        files=call.files,
        follow_redirects=False,
    )
    text = found.content.decode("utf-8", "replace")
    return Answer(found.status_code, text, call.fine)


def ask_endpoint(studio: Scene, person: Person, name: str) -> Answer:
    options = studio.filled(operation_calls.ENDPOINTS[name])
    if name == "add_source":
        sent = studio.client.post("/gradio_api/upload", files={"files": png("green")}, headers=person.headers)
        if sent.status_code != 200:
            return Answer(sent.status_code, sent.text)
        options["picture"] = {"path": sent.json()[0], "meta": {"_type": "gradio.FileData"}}
    if name in endpoints.SLOW + endpoints.STREAMED_ENDPOINTS:
        return ask_later(studio, person, name, options)
    blocks = blocks_of(studio.client.app)
    [function] = [each.fn for each in blocks.fns.values() if each.api_name == name]
    values = [options.get(each.name, each.default) for each in inspect.signature(function).parameters.values()]
    return run(studio, person, name, {"data": values})


def ask_later(studio: Scene, person: Person, name: str, given: dict[str, Any]) -> Answer:
    started = studio.client.post(f"/gradio_api/call/v2/{name}", json=given, headers=person.headers)
    if started.status_code != 200:
        return Answer(started.status_code, started.text)
    answer = studio.client.get(f"/gradio_api/call/{name}/{started.json()['event_id']}", headers=person.headers)
    return Answer(500 if "event: error" in answer.text else answer.status_code, answer.text)


def run(studio: Scene, person: Person, name: str, sent: dict[str, Any]) -> Answer:
    """Each person has one page open: for every new page Gradio copies all that the application consists of."""
    sent = sent | {"session_hash": "".join(filter(str.isalnum, person.name))}
    found = studio.client.post(f"/gradio_api/run/{name}", json=sent, headers=person.headers)
    return Answer(found.status_code, found.text)


def ask_handler(studio: Scene, person: Person, name: str) -> Answer:
    number, values = handlers(studio.client.app)[name]
    value = studio.filled(page_calls.HANDLERS[name])
    event = {"do": "queue_list", "id": ""} if name == "on_press" else {}
    return run(
        studio, person, "predict", {"fn_index": number, "data": value + values[len(value) :], "event_data": event}
    )


def ask_button(studio: Scene, person: Person, verb: str) -> Answer:
    number, values = handlers(studio.client.app)["act"]
    event = {"do": verb, "id": studio.filled(page_calls.BUTTONS[verb])}
    return run(studio, person, "predict", {"fn_index": number, "data": values, "event_data": event})


def ask_tab(studio: Scene, person: Person, tab: str) -> Answer:
    sent = {"seen": "", "tab": tab, "asked": studio.filled(page_calls.TABS[tab])}
    found = studio.client.post("/look", json=sent, headers=person.headers)
    return Answer(found.status_code, found.text)


ASK = {
    "route": ask_route,
    "endpoint": ask_endpoint,
    "handler": ask_handler,
    "button": ask_button,
    "tab": ask_tab,
}
DOORS = [
    *(("route", each) for each in route_calls.ROUTES),
    *(("endpoint", each) for each in operation_calls.ENDPOINTS),
    *(("handler", each) for each in page_calls.HANDLERS),
    *(("button", each) for each in page_calls.BUTTONS),
    *(("tab", each) for each in page_calls.TABS),
]


def named_by(kind: str, door: str) -> bool:
    """Whether the call names something of the owner's, so that others are refused it."""
    if kind == "route":
        return any(map(names_things, route_calls.ROUTES[door].named))
    if kind in ("endpoint", "button"):
        return names_things((operation_calls.ENDPOINTS if kind == "endpoint" else page_calls.BUTTONS)[door])
    return False


def open_to_all(kind: str, door: str) -> bool:
    return kind == "route" and is_open_path(route_calls.ROUTES[door].url or door.split(" ")[1], door.split(" ")[0])


# -- the walk ----------------------------------------------------------------------------------------------------------


def identified(part: str) -> str:
    return part.replace(" ", "_")


#: Who calls a door: in the first tier those who are treated in different ways, in the second all who may do different
#: things.
WHO = pytest.mark.parametrize("who", tiers(["few", "all"], first=["few"]))


@WHO
@pytest.mark.parametrize(("kind", "door"), DOORS, ids=identified)
def test_a_door_gives_everybody_what_is_theirs_and_nothing_else(studio: Scene, kind: str, door: str, who: str) -> None:
    walk(studio, kind, door, who)


#: The first tier goes through all doors where accounts see only their own, and where everything is seen through the
#: routes; the second goes there through endpoints and buttons too, which say the same sentences.
SHARED_DOORS = [
    pytest.param(kind, door, marks=() if kind == "route" else pytest.mark.slow)
    for kind, door in DOORS
    if named_by(kind, door)
]


@WHO
@pytest.mark.parametrize(("kind", "door"), SHARED_DOORS, ids=identified)
def test_a_thing_that_is_seen_is_not_for_others_to_change(shared: Scene, kind: str, door: str, who: str) -> None:
    """Doors that name nothing of another's are as they are where nothing is shared."""
    walk(shared, kind, door, who)


def walk(studio: Scene, kind: str, door: str, called_by: str) -> None:
    call = (
        route_calls.ROUTES[door]
        if kind == "route"
        else Call(less=kind in ("tab", "handler") or door in page_calls.GIVE_LESS)
    )
    first, says = asked_first(studio, kind, door, call)
    assert says or door in route_calls.SAY_NOTHING, f"{door} says no sentence, so nothing tells who may ask for it"
    assert first.done, first
    assert not first.forbidden, (FORBIDDEN.search(first.text), first)
    naming = named_by(kind, door)
    for person in (few if called_by == "few" else different)(studio.people, says):
        with studio.heard():
            answer = ASK[kind](studio, person, door)
        who = f"{person.name}: {answer}"
        if not person.sees_it:
            assert not [each for each in (*SECRETS, studio.names["mask"]) if each in answer.text], who
        if open_to_all(kind, door):
            assert not answer.forbidden or "POST" in door, who
        elif not person.actor.scopes:
            assert answer.status == 401, who
            unchanged(studio, who)
        elif not call.less and not allowed(person, says):
            assert answer.refused, f"{who} {says}"
            assert kind != "route" or answer.status in (401, 403, 404), who
            unchanged(studio, who)
        elif (naming and call.own and not person.owner) or door in page_calls.GIVE_LESS:
            unchanged(studio, who)
        elif (door in page_calls.OF_ACCOUNTS and not person.changes_it) or (
            naming
            and not (person.changes_it or (person.sees_it and (door in operation_calls.USES or reads_only(says))))
        ):
            assert answer.refused, who
            unchanged(studio, who)
        elif not call.less:
            assert answer.done, who
            assert not answer.forbidden, who
        elif not allowed(person, set(studio.said) - AT_THE_GATE):
            unchanged(studio, who)
        studio.pristine.restore()


def asked_first(studio: Scene, kind: str, door: str, call: Call) -> tuple[Answer, set[str]]:
    """The answer to somebody who may do all of it, and the sentences that the door says for it."""
    with studio.heard():
        answer = ASK[kind](studio, studio.owner if call.own else studio.admin, door)
    says = set(studio.said) - AT_THE_GATE
    studio.pristine.restore()
    studio.doors[kind, door] = says
    return answer, says


def different(people: list[Person], says: set[str]) -> list[Person]:
    """One of those of an account whom the table lets say the same of these sentences, about the same things."""
    found: dict[Any, Person] = {}
    for person in people:
        found.setdefault((person.actor.name, person.changes_it, *map(person.may, sorted(says))), person)
    return list(found.values())


def few(people: list[Person], says: set[str]) -> list[Person]:
    """One without an account; of those to whom the things belong, and of others, one who lacks a scope; one other who
    does not.

    An admin or the owner, who may do all of it, has called before.
    """
    found: dict[Any, Person] = {}
    for person in people:
        mine, may = person.changes_it, allowed(person, says)
        if not (mine and may):
            found.setdefault((bool(person.actor.scopes), mine, may), person)
    return list(found.values())


def reads_only(sentences: set[str]) -> bool:
    """Whether whoever sees a thing may ask all of this about it."""
    result = [OPERATIONS[each] for each in sentences]
    return all(each.scope in (None, Scope.READ) or each.data in (DataScope.SEEN, DataScope.NOTHING) for each in result)


def unchanged(studio: Scene, who: str) -> None:
    changes = studio.pristine.changes()
    assert not changes, f"{who}\n{changes[:5]}"


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_sentence_is_said_by_whom_the_table_lets(studio: Scene, name: str) -> None:
    """Past all doors: the Studio itself."""
    say_to_all(studio, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_sentence_is_said_by_whom_the_table_lets_where_all_is_seen(shared: Scene, name: str) -> None:
    say_to_all(shared, name)


def say_to_all(studio: Scene, name: str) -> None:
    sentence = OPERATIONS[name]
    value = operation_calls.METHODS.get(name, ())
    found: dict[Any, Person] = {}
    for person in studio.people:
        found.setdefault((person.may(name), person.changes_it, person.sees_it, bool(person.actor.scopes)), person)
    for person in found.values():
        problem, result = said(studio, person, name, value)
        who = f"{person.name}: {problem or result}"
        if not person.may(name) or (sentence.data is DataScope.ACCOUNT and not person.changes_it):
            assert isinstance(problem, Forbidden), who
            unchanged(studio, who)
        elif names_things(value) and not (
            person.changes_it or (person.sees_it and (name in operation_calls.USES or sentence.data is DataScope.SEEN))
        ):
            assert isinstance(problem, REFUSALS) or name in operation_calls.ANSWER_NOTHING, who
            unchanged(studio, who)
        else:
            assert not isinstance(problem, Forbidden), who
        if not person.sees_it and not any(isinstance(each, str) and each.startswith("@") for each in value):
            assert not [each for each in SECRETS if each in f"{result}"], who
        studio.pristine.restore()


def said(studio: Scene, person: Person, name: str, given: tuple[Any, ...]) -> tuple[UserError | None, str]:
    """(why it was refused, what came back)."""
    asked = studio.services.studio
    with acting(LOCAL):
        things = {
            "@job": asked.job(studio.names["job"]),
            "@done": asked.job(studio.names["done"]),
            "@image": asked.image(studio.names["image"]),
            "@batch": asked.batch(studio.names["batch"])[0],
            "@report": asked.reports.batch(studio.names["failed_batch"]),
        }

    def thing(value: Any) -> Any:
        if isinstance(value, list):
            return [thing(each) for each in value]
        return things.get(value, studio.filled(value)) if isinstance(value, str) else value

    named = given[-1] if given and isinstance(given[-1], dict) else {}
    values = [thing(each) for each in given if each is not named]
    *parts, verb = name.split(".")
    with acting(person.actor):
        try:
            of = getattr(asked, parts[0]) if parts else asked
            found = getattr(of, verb)
            if callable(found):
                found = found(*values, **named)
            return None, repr(list(found) if isinstance(found, Iterator) else found)
        except UserError as error:
            return error, str(error)


# -- the record --------------------------------------------------------------------------------------------------------


def test_the_record_of_the_table_is_fresh(studio: Scene) -> None:
    """``WRITE_RECORDS=1 pytest tests/web/authority`` writes it."""
    written = record(studio)
    if os.environ.get("WRITE_RECORDS"):
        RECORD.write_text(written, encoding="utf-8")
    assert RECORD.read_text(encoding="utf-8") == written


#: Said by a snapshot only while workers are silent: whether a door does so depends on the moment.
NOW_AND_THEN = {"storage.fault"}


def record(studio: Scene) -> str:
    doors: dict[str, list[str]] = defaultdict(list)
    asked = 2 * len(studio.people) * len(OPERATIONS)
    for kind, door in DOORS:
        call = route_calls.ROUTES[door] if kind == "route" else Call()
        says = studio.doors.get((kind, door)) or asked_first(studio, kind, door, call)[1]
        says = says if door == "GET /readyz" else says - NOW_AND_THEN
        for name in sorted(says):
            doors[name].append(f"{kind} {door}".removeprefix("route "))
        asked += len(different(studio.people, says)) * (2 if named_by(kind, door) else 1)
    lines = [
        "# Authority",
        "",
        "Each sentence of the Studio, the scope it takes and whose things it touches (`diffusion_local/operations/`), "
        "and the doors that say it. Written by `WRITE_RECORDS=1 pytest tests/web/authority`, which walks through all "
        "of it.",
        "",
        f"{len(OPERATIONS)} sentences, {len(DOORS)} doors, {len(studio.people)} callers: {asked:,} calls, in a studio "
        "whose accounts see only their own and in one where they share. "
        "Of callers whom the table lets say the same at a door one calls it. "
        f"Callers: {'; '.join(each.name for each in studio.people)}.",
        "",
        "| sentence | scope | whose | doors |",
        "|---|---|---|---|",
    ]
    for name, sentence in OPERATIONS.items():
        text = ", ".join(f"`{each}`" for each in doors[name]) or "the command line, or none"
        lines.append(f"| `{name}` | {sentence.scope or 'open'} | {sentence.data} | {text} |")
    return "\n".join(lines) + "\n"
