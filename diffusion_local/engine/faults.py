"""Translates errors of the libraries to EngineErrors."""

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from diffusion_local.engine import Part
from diffusion_local.errors import DeviceLost, EngineError, ModelUnavailable, OutOfMemory
from diffusion_local.messages import message
from diffusion_local.models.catalog import Model


def to_engine_error(error: Exception, otherwise: Callable[[Exception], EngineError]) -> EngineError:
    """The EngineError for a library's error: OutOfMemory, DeviceLost or ``otherwise(error)``.

    Clears the traceback's frames, whose local variables would keep tensors alive.
    """
    traceback.clear_frames(error.__traceback__)
    if isinstance(error, EngineError):
        return error
    problem = OutOfMemory() if is_out_of_memory(error) else DeviceLost() if is_device_lost(error) else otherwise(error)
    problem.__cause__ = error
    return problem


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error means that memory, of the device or of the machine, is exhausted."""
    words = ("out of memory", "can't allocate memory", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


def is_device_lost(error: Exception) -> bool:
    """Whether this is a CUDA or HIP driver error, after which every call in this process fails."""
    return isinstance(error, RuntimeError) and any(word in str(error) for word in ("CUDA error", "HIP error"))


def loading_error(model: Model, error: Exception) -> ModelUnavailable:
    return ModelUnavailable(
        message(
            "model_cannot_load_again", model=model.id, error=first_line(error).replace(str(model.path), model.path.name)
        )
    )


def making_error(error: Exception) -> EngineError:
    return EngineError(message("not_made", error=first_line(error)))


def first_line(error: Exception) -> str:
    """The first line of an error's text (its type if empty), at most 300 characters, ending in a full stop."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300].rstrip(".") + "."


@contextmanager
def ending_only(part: Part) -> Iterator[None]:
    """Let an error end only this part, except OutOfMemory and DeviceLost, which are raised for the whole pass."""
    try:
        yield
    except Exception as error:
        problem = to_engine_error(error, making_error)
        if isinstance(problem, OutOfMemory | DeviceLost):
            raise problem from error
        part.problem = problem
