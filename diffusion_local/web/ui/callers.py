"""Gradio's handlers act for whoever called them, also those that its queue runs outside of the request."""

from typing import Any

import gradio as gr

from diffusion_local.actor import NOBODY, Actor, acting
from diffusion_local.web.access import KEY


def act_for_callers(blocks: gr.Blocks) -> None:
    """Wraps the one function through which every event goes, so that no handler can be forgotten."""
    process = blocks.process_api

    async def process_for(*args: Any, **kwargs: Any) -> dict[str, Any]:
        with acting(caller(kwargs.get("request"))):
            return await process(*args, **kwargs)

    blocks.process_api = process_for


def caller(request: Any) -> Actor:
    """Who made a gradio request; nobody, if there is none."""
    first = request[0] if isinstance(request, list) else request
    scope = getattr(getattr(first, "request", None), "scope", None)
    found = scope.get(KEY) if scope else None
    return found if isinstance(found, Actor) else NOBODY
