"""Patches, reads and tuning of Gradio's internals, checked against the installed version.

Gradio may change any of this in a minor release. If a patch with a protective purpose would no longer take effect, the
program does not start.
"""

import copy
import inspect
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import gradio as gr
from fastapi import FastAPI
from gradio import processing_utils, queueing, route_utils
from gradio.routes import App
from gradio.state_holder import SessionState
from gradio.utils import LRUCache
from gradio_client.utils import traverse
from starlette.routing import Mount
from starlette.types import ASGIApp

from diffusion_local.actor import NOBODY, Actor, acting
from diffusion_local.errors import UserError
from diffusion_local.messages import message
from diffusion_local.web.authentication import ACTOR_KEY
from diffusion_local.web.gradio_compat import TESTED
from diffusion_local.web.gradio_compat.running import Running

MAX_SESSIONS = 20_000  # sessions with results to be fetched, of all callers
PREDICT = "predict"  # the endpoint name in the page's calls, which give the function's index
QUEUE_ATTRIBUTES = ("pending_messages_per_session", "pending_event_ids_session", "event_ids_to_events", "clean_events")
TUNED = ("sleep_when_free", "progress_update_sleep_when_free", "max_thread_count", "ANAYLTICS_CACHE_FREQUENCY")

POLL_SECONDS = 0.1  # between two looks for callers
#: Between two looks for progress bars of Gradio's, which no handler has. By default it looks a hundred times a second.
PROGRESS_SECONDS = 10.0


log = logging.getLogger(__name__)

ADVICE = f"Install the tested version: pip install gradio=={TESTED}"

#: Functions that are replaced or relied on, with the parameters they must have.
GRADIO_SIGNATURES: tuple[tuple[Any, str, tuple[str, ...]], ...] = (
    (gr.Blocks, "process_api", ("self", "block_fn", "inputs", "state", "request", "session_hash", "event_id")),
    (queueing.Queue, "clean_events", ("self", "session_hash", "event_id")),
    (gr.Blocks, "validate_inputs", ("self", "block_fn", "inputs")),
    (gr.Blocks, "postprocess_data", ("self", "block_fn", "predictions", "state")),
    (processing_utils, "_check_allowed", ("path", "check_in_upload_folder")),
)
#: Functions that call the replaced ones, with text that their source must contain.
CALLERS: tuple[tuple[Any, str, str], ...] = (
    (route_utils, "call_process_api", ".process_api("),
    (gr.Blocks, "preprocess_data", "self.validate_inputs("),
    (gr.Blocks, "process_api", "self.postprocess_data("),
    (processing_utils, "_check_allowed", "has_launched"),
)


class UnsupportedGradio(UserError):
    """The installed Gradio does not fit this program."""


def check(blocks: gr.Blocks) -> None:
    """Raises UnsupportedGradio, naming each difference that matters; another version that fits is only logged."""
    differs = [
        f"{owner.__name__}.{name}"
        for owner, name, parameters in GRADIO_SIGNATURES
        if not accepts_parameters(getattr(owner, name, None), parameters)
    ]
    differs += [
        f"{owner.__name__}.{name}" for owner, name, text in CALLERS if text not in source(getattr(owner, name, None))
    ]
    queue = getattr(blocks, "_queue", None)
    differs += [f"Queue.{name}" for name in QUEUE_ATTRIBUTES if not hasattr(queue, name)]
    differs += [f"Blocks.{name}" for name in ("has_launched", "fns") if not hasattr(blocks, name)]
    if differs:
        raise UnsupportedGradio(
            message(
                "gradio_differs",
                version=gr.__version__,
                tested=TESTED,
                parts=list(dict.fromkeys(differs)),
                advice=ADVICE,
            )
        )
    if gr.__version__ != TESTED:
        log.warning("Gradio %s is installed; tested with %s.", gr.__version__, TESTED)


def accepts_parameters(function: Any, parameters: tuple[str, ...]) -> bool:
    return callable(function) and set(parameters) <= set(inspect.signature(function).parameters)


def source(function: Any) -> str:
    try:
        return inspect.getsource(function)
    except (TypeError, OSError):
        return ""


@contextmanager
def unserved() -> Iterator[None]:
    """Context in which a page is built without web applications of its own. Gradio would create three, each with all
    routes, and only use the one created when the page is mounted.
    """
    create = getattr(App, "create_app", None)
    if create is None:  # built in another way: startup only takes longer
        yield
        return
    App.create_app = staticmethod(lambda *_, **__: None)
    try:
        yield
    finally:
        App.create_app = create


def prepare(blocks: gr.Blocks, endpoints: tuple[str, ...], most_waiting: int) -> None:
    """Apply every patch to a page; ``endpoints`` are those for programs. Raises UnsupportedGradio."""
    blocks.queue(max_size=most_waiting)
    check(blocks)
    tune_queue(blocks._queue, most_waiting)
    fill_in_defaults(blocks, endpoints)
    act_for_callers(blocks, stop_with_readers(blocks._queue))
    skip_unchanged(blocks)
    refuse_files(blocks)
    keep_no_configs()


class NoConfigs(dict[int, Any]):
    """Has a configuration without contents for every key, and keeps none."""

    def __contains__(self, key: object) -> bool:
        return True

    def __getitem__(self, key: int) -> Any:
        return {}

    def __setitem__(self, key: int, value: Any) -> None:
        pass


def keep_no_configs() -> None:
    """Let Gradio's sessions keep no copy of the page's configuration and values.

    They are for deep links, which this page does not have, and take 2 MB for each open tab.
    """
    SessionState.config_values = property(lambda self: NoConfigs(), lambda self, value: None)


def keep_signatures(blocks: gr.Blocks) -> None:
    """Compute the signature of each kind of component once.

    Gradio computes it for every component of the page at the first call of a session and at each call without one,
    which is half of such a call's time. ``inspect`` returns a signature that a function carries.
    """
    for kind in {type(each) for each in blocks.blocks.values()}:
        init: Any = kind.__init__
        init.__signature__ = inspect.signature(init)


def tune_queue(queue: Any, most_waiting: int) -> None:
    """The queue only serves callers of ``wait``, ``generate`` and ``watch``.

    By default it polls for them a thousand times per second (5 % of a core when idle), takes forty at once, and
    computes statistics with pandas after each.
    """
    missing = [name for name in TUNED if not hasattr(queue, name)]
    if missing:
        log.warning("Gradio's queue has no %s: it may use more of the processor.", ", ".join(missing))
    queue.sleep_when_free = POLL_SECONDS
    queue.progress_update_sleep_when_free = PROGRESS_SECONDS
    queue.max_thread_count = most_waiting
    queue.ANAYLTICS_CACHE_FREQUENCY = sys.maxsize
    queue.pending_messages_per_session = LRUCache(MAX_SESSIONS)  # the limit per account is calls.MAX_EVENTS


def fill_in_defaults(blocks: gr.Blocks, endpoints: tuple[str, ...]) -> None:
    """Let callers over plain HTTP omit trailing arguments that have a default.

    Gradio's own client fills them in; without this an endpoint could take no new parameter without breaking other
    clients.
    """
    validate = blocks.validate_inputs

    def filled(block_fn: Any, inputs: list[Any]) -> None:
        if block_fn.api_name in endpoints:
            rest = list(inspect.signature(block_fn.fn).parameters.values())[len(inputs) :]
            if all(each.default is not each.empty for each in rest):
                inputs.extend(each.default for each in rest)
        if len(inputs) < len(block_fn.inputs):  # Gradio's own message would repeat all values
            raise gr.Error(f"data: must have {len(block_fn.inputs)} values (got {len(inputs)}).", print_exception=False)
        validate(block_fn, inputs)

    blocks.validate_inputs = filled


def act_for_callers(blocks: gr.Blocks, running: Running) -> None:
    """Run handlers on behalf of their caller, including those that the queue runs outside of the request.

    Every event passes this one function, so no handler can be missed.
    """
    process = blocks.process_api

    async def process_for(*args: Any, **kwargs: Any) -> dict[str, Any]:
        who, event = caller(kwargs.get("request")), kwargs.get("event_id")
        with acting(who):
            try:
                if event is None:
                    return await process(*args, **kwargs)
                with running.until_stopped(event, kwargs.get("session_hash"), who.name):
                    return await process(*args, **kwargs)
            except anyio.get_cancelled_exc_class():
                if event is None:  # Gradio would print a traceback and respond to a caller that has left
                    raise gr.Error(message("nobody_waits"), print_exception=False) from None
                raise
            except UserError as error:
                raise gr.Error(error.message, print_exception=False) from None

    blocks.process_api = process_for


def stop_with_readers(queue: Any) -> Running:
    """Stop the handlers of a disconnected reader: Gradio only drops its events."""
    running, clean = Running(), queue.clean_events

    async def clean_events(*, session_hash: str | None = None, event_id: str | None = None) -> None:
        await clean(session_hash=session_hash, event_id=event_id)
        running.stop(session_hash, event_id)

    queue.clean_events = clean_events
    return running


def caller(request: Any) -> Actor:
    """The caller of a Gradio request; NOBODY if there is none."""
    first = request[0] if isinstance(request, list) else request
    scope = getattr(getattr(first, "request", None), "scope", None)
    found = scope.get(ACTOR_KEY) if scope else None
    return found if isinstance(found, Actor) else NOBODY


def refuse_files(blocks: gr.Blocks) -> None:
    """Keep Gradio from opening files for inputs or outputs.

    Inputs with files are replaced earlier (``calls``); this is the second line of defence: ``has_launched`` enables
    Gradio's own check of paths, which a mounted page skips, and an output that names a file is an error, because no
    handler returns one.
    """
    blocks.has_launched = True
    postprocess = blocks.postprocess_data

    async def without_files(block_fn: Any, predictions: Any, state: Any) -> Any:
        traverse(predictions, refuse, is_file)
        return await postprocess(block_fn, predictions, state)

    blocks.postprocess_data = without_files


def skip_unchanged(blocks: gr.Blocks) -> None:
    """Leave the outputs for which a handler returns ``gr.skip()`` alone.

    Gradio creates a new component for each of them, although nothing of it changes: after a press of a button for all
    fields of the form, which takes longer than everything else that the press does.
    """
    postprocess = blocks.postprocess_data

    async def of_changed(block_fn: Any, predictions: Any, state: Any) -> Any:
        outputs, several = block_fn.outputs, isinstance(predictions, list | tuple)
        if block_fn.batch or not several or len(outputs) < 2 or len(predictions) != len(outputs):
            return await postprocess(block_fn, predictions, state)
        changed = [
            place for place, value in enumerate(predictions) if outputs[place].stateful or not is_unchanged(value)
        ]
        outcome: list[Any] = [gr.skip() for _ in outputs]
        if changed:
            part, values = copy.copy(block_fn), [predictions[place] for place in changed]
            part.outputs = [outputs[place] for place in changed]
            results = await postprocess(part, values if len(values) > 1 else values[0], state)
            for place, result in zip(changed, results, strict=True):
                outcome[place] = result
        return outcome

    blocks.postprocess_data = of_changed


def is_unchanged(value: Any) -> bool:
    return isinstance(value, dict) and value == gr.skip()


def is_file(value: Any) -> bool:
    return isinstance(value, dict) and "path" in value and "meta" in value


def refuse(value: Any) -> None:
    raise RuntimeError("A handler returned a file; files are served by routes of our own.")


def enclose(app: FastAPI, blocks: gr.Blocks, around: Callable[[ASGIApp], ASGIApp]) -> None:
    """Insert ``around`` between the application and Gradio's, which was mounted last. Raises UnsupportedGradio."""
    mounted = app.routes[-1]
    if not isinstance(mounted, Mount) or getattr(mounted.app, "blocks", None) is not blocks:
        raise UnsupportedGradio(message("gradio_mounted", version=gr.__version__, advice=ADVICE))
    mounted.app = around(mounted.app)


class GradioSessions:
    """Implements ``surface.Sessions``: Gradio's endpoints, and results that wait to be fetched."""

    def __init__(self, blocks: gr.Blocks) -> None:
        self._blocks = blocks

    def has_endpoint(self, api_name: str, fn_index: object) -> bool:
        """Whether a call, by name or by the page's index, addresses an existing endpoint."""
        fns = self._blocks.fns
        if fn_index is not None:
            return isinstance(fn_index, int) and fn_index in fns and api_name in ("", PREDICT, fns[fn_index].api_name)
        return any(fn.api_name == api_name for fn in fns.values())

    def has_results(self, key: str) -> bool:
        return key in self._blocks._queue.pending_messages_per_session

    async def forget(self, key: str) -> None:
        """End the events of a session and drop its results."""
        queue = self._blocks._queue
        await queue.clean_events(session_hash=key)
        queue.pending_messages_per_session.pop(key, None)
        queue.pending_event_ids_session.pop(key, None)
