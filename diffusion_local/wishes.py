"""What a submit may say of a picture beside its prompt: one table for every door.

What is left out, or null, is as the model has it. Limits are checked in ``completion``; here are names, types, words.
"""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Wish:
    type: Any
    meaning: str
    example: Any = None


WISHES: dict[str, Wish] = {
    "negative": Wish(str, "what the picture must not show", "blurry"),
    "model": Wish(str, "id of a model, as `models` lists them", "starter"),
    "width": Wish(int, "in pixels", 256),
    "height": Wish(int, "in pixels", 256),
    "steps": Wish(int, "denoising steps", 12),
    "guidance": Wish(float, "classifier-free guidance scale", 3.5),
    "sampler": Wish(str, "such as Euler a, or DPM++ 2M", "Euler a"),
    "seed": Wish(int, "of the first picture, the others count up; none or -1 draws one", 7),
    "kind": Wish(str, "txt2img, img2img, inpaint or upscale; left out, the pictures given speak of it", "txt2img"),
    "source": Wish(str, "source picture to begin from: its id"),
    "mask": Wish(str, "source picture whose white is painted anew: its id"),
    "strength": Wish(float, "0 to 1: how far from the source"),
    "loras": Wish(list[Any], 'each `{"name": "ink", "weight": 0.8}`, or "ink:0.8"'),
    "vae": Wish(str, "name of a file in vae/"),
    "clip_skip": Wish(int, "as A1111 counts: 2 leaves out the text encoder's last layer"),
    "schedule": Wish(str, "spacing of the noise levels, such as Karras"),
    "variation_seed": Wish(int, "seed of the noise that is mixed in; none or -1 draws one"),
    "variation_strength": Wish(float, "0 to 1: how much of the variation seed's noise"),
    "upscaler": Wish(str, "name of a file in upscalers/; Lanczos needs none"),
    "scale": Wish(float, "of upscaling, 1 to 8"),
    "rung": Wish(str, "forces a memory policy, such as vae_tiling"),
}

#: What a submit may say of the batch that its pictures make.
OF_BATCH: dict[str, Wish] = {
    "start_at": Wish(str, "not before this moment: ISO 8601, or 23:00 in local time"),
    "window": Wish(str, "only at these times, such as 23:00-07:00 or mon-fri 22:00-06:00"),
    "finish_by": Wish(str, "a moment that is warned of if it cannot be kept"),
    "webhook": Wish(str, "address that is told of the end"),
}

Spell = Callable[[str, Wish], inspect.Parameter]


def plain(name: str, wish: Wish) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=wish.type | None)


def taking_wishes(
    spell: Spell = plain, without: Iterable[str] = (), of_batch: bool = False, last: bool = False
) -> Callable[[F], F]:
    """Spell out the ``**wishes`` of a function for tools that read signatures.

    They stand behind what it requires or, with ``last``, behind all of its own.
    """
    left_out = set(without)
    table = WISHES | (OF_BATCH if of_batch else {})
    spelled = [spell(name, wish) for name, wish in table.items() if name not in left_out]

    def decorate(function: F) -> F:
        before = inspect.signature(function, eval_str=True)
        own = [each for each in before.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
        first = len(own) if last else sum(each.default is each.empty for each in own)
        signature = before.replace(parameters=[*own[:first], *spelled, *own[first:]])

        @functools.wraps(function)
        def call(*args: Any, **named: Any) -> Any:
            return function(**signature.bind(*args, **named).arguments)

        returns = {name: hint for name, hint in function.__annotations__.items() if name == "return"}
        call.__signature__ = signature  # type: ignore[attr-defined]
        call.__annotations__ = hints(signature.parameters) | returns
        return call  # type: ignore[return-value]

    return decorate


def hints(parameters: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    return {name: each.annotation for name, each in parameters.items() if each.annotation is not each.empty}
