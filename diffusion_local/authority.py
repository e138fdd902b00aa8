"""The authority that each sentence of the Studio takes: one table, applied to the Studio and its parts by ``guarded``.

A sentence is a public method (or property) of the Studio, such as ``submit``, or of a part of it, such as
``lists.check``. The table names the scope that the actor must have, and whose things the sentence reads or changes. The
scope, and the account where an account is concerned, are checked here before a sentence is carried out; ownership of
rows is checked where the rows are read (``store.ownership``). A class with a public method that the table does not
name cannot be imported, so there is no sentence without authority.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from diffusion_local import actor
from diffusion_local.actor import Scope
from diffusion_local.errors import Forbidden
from diffusion_local.messages import message

C = TypeVar("C", bound=type)


class Whose(StrEnum):
    """What a sentence reads or changes."""

    NOTHING = "nobody's"  # the catalogue, a calculation: nothing that belongs to anybody
    SEEN = "what the actor may see"
    OWN = "the actor's own; an admin's authority covers everybody's"
    ACCOUNT = "the actor's own account, not by a token; an admin's authority covers all accounts"
    ALL = "everybody's"


@dataclass(frozen=True, slots=True)
class Sentence:
    """``scope`` is None where nobody needs to have signed in."""

    scope: Scope | None
    whose: Whose


OPEN, READ, SUBMIT, CONTROL, ADMIN = None, Scope.READ, Scope.SUBMIT, Scope.CONTROL, Scope.ADMIN
NOTHING, SEEN, OWN, ACCOUNT, ALL = Whose.NOTHING, Whose.SEEN, Whose.OWN, Whose.ACCOUNT, Whose.ALL

#: By the part of the Studio, "" for the Studio itself, and the name of its method.
_TABLE: dict[str, dict[str, tuple[Scope | None, Whose]]] = {
    "": {
        "submit": (SUBMIT, OWN),
        "again": (SUBMIT, OWN),
        "wait": (READ, SEEN),
        "job": (READ, SEEN),
        "place": (READ, SEEN),
        "places": (READ, SEEN),
        "jobs": (READ, SEEN),
        "jobs_of_batches": (READ, SEEN),
        "counts_of_batches": (READ, SEEN),
        "unfinished": (READ, SEEN),
        "events": (READ, SEEN),
        "events_after": (READ, SEEN),
        "batch": (READ, SEEN),
        "submitted_under": (READ, OWN),
        "snapshot": (READ, SEEN),
        "revision": (OPEN, NOTHING),
        "moment": (READ, NOTHING),
        "workers": (READ, NOTHING),
        "tally": (READ, NOTHING),
        "check_open": (READ, NOTHING),
        "image": (READ, SEEN),
        "images_of": (READ, SEEN),
        "gallery": (READ, SEEN),
        "gallery_count": (READ, SEEN),
        "picture_file": (READ, SEEN),
        "picture_data": (READ, SEEN),
        "thumbnail_file": (READ, SEEN),
        "preview_file": (READ, SEEN),
        "star": (CONTROL, OWN),
        "trash": (CONTROL, OWN),
        "restore": (CONTROL, OWN),
        "models": (READ, NOTHING),
        "adapters": (READ, NOTHING),
        "cancel": (CONTROL, OWN),
        "cancel_waiting": (CONTROL, OWN),
        "pause_batch": (CONTROL, OWN),
        "resume_batch": (CONTROL, OWN),
        "set_priority": (CONTROL, OWN),
        "move": (CONTROL, OWN),
        "move_batch": (CONTROL, OWN),
        "forget": (CONTROL, OWN),
        "stay_awake": (CONTROL, ALL),
        "pause": (ADMIN, ALL),
        "resume": (ADMIN, ALL),
        "set_window": (ADMIN, ALL),
    },
    "batches": {
        "page": (READ, SEEN),
        "get": (READ, SEEN),
        "late": (READ, SEEN),
        "warning": (READ, SEEN),
        "foreseen": (READ, NOTHING),
        "times": (READ, NOTHING),
        "images": (READ, SEEN),
        "zip": (READ, SEEN),
        "contact_sheet": (READ, SEEN),
        "rename": (CONTROL, OWN),
        "edit": (CONTROL, OWN),
        "duplicate": (SUBMIT, SEEN),
    },
    "grids": {"check": (SUBMIT, NOTHING), "submit": (SUBMIT, OWN)},
    "lists": {"check": (SUBMIT, NOTHING), "submit": (SUBMIT, OWN), "export": (READ, SEEN)},
    "queue_file": {"export": (READ, SEEN), "take": (SUBMIT, OWN)},
    "groups": {
        "live": (READ, SEEN),
        "ended": (READ, SEEN),
        "window": (READ, SEEN),
        "others_waiting": (READ, NOTHING),
        "models": (READ, SEEN),
        "owners": (READ, SEEN),
    },
    "sources": {
        "add": (SUBMIT, OWN),
        "from_image": (SUBMIT, SEEN),
        "file": (READ, SEEN),
        "size": (READ, SEEN),
    },
    "pictures": {
        "page": (READ, SEEN),
        "models": (READ, SEEN),
        "owners": (READ, SEEN),
        "repeated": (READ, SEEN),
        "alike": (READ, SEEN),
        "zip": (READ, SEEN),
        "star": (CONTROL, OWN),
        "trash": (CONTROL, OWN),
        "restore": (CONTROL, OWN),
        "delete": (CONTROL, OWN),
    },
    "boards": {
        "all": (READ, SEEN),
        "get": (READ, SEEN),
        "of_image": (READ, SEEN),
        "create": (CONTROL, OWN),
        "rename": (CONTROL, OWN),
        "delete": (CONTROL, OWN),
        "add": (CONTROL, OWN),
        "take": (CONTROL, OWN),
    },
    "reports": {
        "batch": (READ, SEEN),
        "night": (READ, SEEN),
        "written": (READ, SEEN),
        "text": (READ, NOTHING),
        "page": (READ, NOTHING),
        "again": (SUBMIT, OWN),
        "keep": (ADMIN, ALL),
    },
    "webhooks": {
        "check": (READ, NOTHING),
        "deliveries": (ADMIN, ALL),
        "delivery": (ADMIN, ALL),
        "resend": (ADMIN, ALL),
        "test": (ADMIN, ALL),
        "secret": (ADMIN, ALL),
    },
    "library": {
        "models": (READ, NOTHING),
        "model": (READ, NOTHING),
        "adapters": (READ, NOTHING),
        "samples": (READ, SEEN),
        "fits": (READ, NOTHING),
        "plans": (READ, NOTHING),
        "largest": (READ, NOTHING),
        "known": (READ, NOTHING),
        "downloads": (READ, NOTHING),
        "one_download": (READ, NOTHING),
        "add": (ADMIN, ALL),
        "remove": (ADMIN, ALL),
        "download": (ADMIN, ALL),
        "cancel_download": (ADMIN, ALL),
    },
    "styles": {"all": (READ, NOTHING), "apply": (READ, NOTHING)},
    "preferences": {
        "mark": (READ, NOTHING),
        "settings": (ADMIN, ALL),
        "all": (ADMIN, ALL),
        "change": (ADMIN, ALL),
        "reset": (ADMIN, ALL),
    },
    "health": {
        "looking": (READ, NOTHING),
        "findings": (READ, NOTHING),
        "versions": (READ, NOTHING),
        "shows_paths": (READ, NOTHING),
        "vitals": (ADMIN, ALL),
        "look": (ADMIN, ALL),
    },
    "storage": {"fault": (READ, NOTHING)},
    "accounts": {
        "any": (OPEN, NOTHING),
        "sign_in": (OPEN, NOTHING),
        "check_password": (OPEN, NOTHING),
        "by_token": (OPEN, NOTHING),
        "by_session": (OPEN, NOTHING),
        "get": (READ, ACCOUNT),
        "allowance": (READ, ACCOUNT),
        "used_today": (READ, ACCOUNT),
        "tokens": (READ, ACCOUNT),
        "sessions": (READ, ACCOUNT),
        "add_token": (READ, ACCOUNT),
        "remove_token": (READ, ACCOUNT),
        "set_password": (READ, ACCOUNT),
        "sign_out": (READ, ACCOUNT),
        "all": (ADMIN, ALL),
        "add": (ADMIN, ALL),
        "set_role": (ADMIN, ALL),
        "set_limits": (ADMIN, ALL),
        "remove": (ADMIN, ALL),
        "store": (ADMIN, ALL),
    },
}
SENTENCES: dict[str, Sentence] = {
    f"{part}.{verb}".lstrip("."): Sentence(*taken) for part, verbs in _TABLE.items() for verb, taken in verbs.items()
}
PARTS = tuple(part for part in _TABLE if part)


def check(name: str, account: Any = None) -> None:
    """Raises Forbidden unless the current actor may say the sentence; ``account`` is the one that it concerns."""
    sentence, who = SENTENCES[name], actor.current()
    if sentence.scope is not None:
        who.require(sentence.scope)
    if sentence.whose is Whose.ACCOUNT and (who.source == "token" or not (who.rules_all or who.name == account)):
        raise Forbidden(message("own_account"))


def guarded(part: str) -> Callable[[C], C]:
    """A class decorator that puts ``check`` before every public method and property of a part of the Studio.

    Raises TypeError where the class and the table do not name the same sentences.
    """

    def guard(cls: C) -> C:
        public = {name for name in dir(cls) if not name.startswith("_")}
        if public != set(_TABLE[part]):
            raise TypeError(f"{cls.__name__} and the table of authority differ: {sorted(public ^ set(_TABLE[part]))}")
        for name in public:
            setattr(cls, name, checked(f"{part}.{name}".lstrip("."), inspect.getattr_static(cls, name)))
        return cls

    return guard


def checked(name: str, found: Any) -> Any:
    """A method or property with the check before it."""
    if isinstance(found, property) and found.fget:
        return property(checked(name, found.fget))
    if not inspect.isfunction(found):
        raise TypeError(f"{name} must be a method or a property to have authority.")

    @functools.wraps(found)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        check(name, args[0] if args else kwargs.get("name"))
        return found(self, *args, **kwargs)

    return call
