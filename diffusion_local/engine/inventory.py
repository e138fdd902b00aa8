"""This machine's devices, listed by a child process because only workers may import torch."""

import json
import subprocess
import sys
from typing import Any

from diffusion_local.errors import UserError
from diffusion_local.messages import deserialize, message
from diffusion_local.settings import Settings

FAKE = {"slot": "cpu0", "words": message("found_fake")}


def devices(settings: Settings) -> list[dict[str, Any]]:
    """One entry (``slot``, ``words``, ...) per device that should run a worker. Raises UserError with the remedy."""
    return inspect_devices(settings)[0]


def inspect_devices(settings: Settings) -> tuple[list[dict[str, Any]], str]:
    """The devices, and a warning (or "") if a better one exists but cannot be used."""
    if settings.engine == "fake":
        return [FAKE], ""
    child = subprocess.run(
        [sys.executable, "-m", "diffusion_local.engine.devices", settings.device],
        env=settings.child_environ(),
        capture_output=True,
        text=True,
    )
    try:
        answer = json.loads(child.stdout)
    except ValueError:
        last = (child.stderr.strip().splitlines() or [f"exit code {child.returncode}"])[-1]
        raise UserError(message("torch_starts", error=last)) from None
    if "problem" in answer:
        raise UserError(deserialize(answer["problem"]["message"], answer["problem"]))
    warning = answer["warning"]
    return answer["devices"], deserialize(warning["message"], warning) if warning else ""
