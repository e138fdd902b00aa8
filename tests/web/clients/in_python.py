"""Calls of Python's clients: ``python in_python.py URL PICTURE.png`` prints one line of JSON for each.

It has the name of the call, and its value or error."""

import asyncio
import json
import os
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

url, picture = sys.argv[1:]
os.environ |= {"OPENAI_API_KEY": "none", "OPENAI_API_BASE": f"{url}/v1", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}

import litellm  # noqa: E402
from langchain_community.utilities.dalle_image_generator import DallEAPIWrapper  # noqa: E402
from PIL import Image as PIL  # noqa: E402
from sd_backend_client import (  # noqa: E402
    A1111Webservice,
    ComfyUiWebservice,
    DiffusionParams,
    GenerationProgress,
    connect_to_backend,
)

PROMPT = "a red apple"
TO_US: dict[str, Any] = {"prompt": PROMPT, "api_base": f"{url}/v1", "api_key": "none"}


def call(name: str, work: Callable[[], Any]) -> None:
    result: dict[str, Any] = {"name": name}
    try:
        result["value"] = work()
    except Exception as error:
        result["error"] = f"{type(error).__name__}: {error}"[:500]
    print(json.dumps(result), flush=True)


def are_pictures(addresses: str) -> list[bool]:
    return [urllib.request.urlopen(each).read(4) == b"\x89PNG" for each in addresses.split()]


def pictures() -> list[Any]:
    return [Path(picture).open("rb"), Path(picture).open("rb")]


call("litellm", lambda: len(litellm.image_generation(model="openai/gpt-image-1", quality="high", **TO_US).data))
call("litellm hd", lambda: len(litellm.image_generation(model="openai/dall-e-3", quality="hd", **TO_US).data))
call("litellm async", lambda: len(asyncio.run(litellm.aimage_generation(model="openai/starter", n=2, **TO_US)).data))
call("litellm edit", lambda: len(litellm.image_edit(image=pictures(), model="openai/gpt-image-1", **TO_US).data))
call("langchain", lambda: are_pictures(DallEAPIWrapper().run(PROMPT)))
call(
    "langchain hd",
    lambda: are_pictures(DallEAPIWrapper(model="dall-e-3", quality="hd", size="1024x1024", n=2).run(PROMPT)),
)
call("sd-backend probe", lambda: type(connect_to_backend(url)).__name__)
image = PIL.open(picture).convert("RGB").resize((256, 256))
mask = PIL.new("L", (256, 256), 255)
a1111, comfyui = A1111Webservice(url), ComfyUiWebservice(url)
START = DiffusionParams(prompt=PROMPT, steps=20, width=512, height=512, seed=42)


def asked(**more: Any) -> DiffusionParams:
    return DiffusionParams(prompt=PROMPT, steps=4, width=256, height=256, seed=42, **more)


def sizes(handle: Any) -> list[tuple[int, int]]:
    seen: list[GenerationProgress] = []
    return [each.size for each in handle.wait(timeout=60, on_progress=seen.append).images]


call("sd-backend quick start", lambda: sizes(connect_to_backend(url).submit_txt2img(START)))
call("sd-backend capabilities", lambda: [each.get_capabilities().scheduler for each in (a1111, comfyui)])
call("sd-backend a1111", lambda: sizes(a1111.submit_txt2img(asked(batch_size=2))))
call("sd-backend a1111 img2img", lambda: sizes(a1111.submit_img2img(asked(init_images=[image], batch_size=2))))
call("sd-backend a1111 inpaint", lambda: sizes(a1111.submit_inpaint(asked(init_images=[image], mask=mask))))
call("sd-backend a1111 upscale", lambda: sizes(a1111.submit_upscale(image, 512, 300)))
call("sd-backend comfyui", lambda: sizes(comfyui.submit_txt2img(asked(batch_size=2))))
