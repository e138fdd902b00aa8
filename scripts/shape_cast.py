"""The home and the options of ``shape_kills.py`` and ``shape_pairs.py``: every feature that shapes a picture.

All models but the starter and its ControlNet are tiny ones with random weights.
"""

import io
import json
import os
import platform
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from PIL import Image as PIL
from PIL import ImageDraw
from safetensors.torch import save_file

from diffusion_local.compose import Services, open_services
from diffusion_local.engine import upscale
from diffusion_local.models.catalog import Model, read_folder
from diffusion_local.paths import assets
from diffusion_local.settings import Settings

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from tests.engine import test_controls, test_ip_adapters, test_references  # noqa: E402
from tests.engine.home import make_lora  # noqa: E402
from tests.engine.vision_models import caption_model, detector_model, saliency_weights  # noqa: E402

SIZE = 128
#: Size of the picture that is upscaled: more than a tile.
WIDE = (560, 540)
#: Width of the text that the starter's UNet attends to.
STARTER_WIDTH = 256
SD1_WIDTH = 768
#: As SD 1's UNet, it reads the text in all levels but the last.
SMALL_UNET = {
    "block_out_channels": (16, 32, 32),
    "attention_head_dim": 2,
    "norm_num_groups": 8,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
}


def features(services: Services) -> dict[str, dict[str, Any]]:
    """Options by feature, with the pictures to begin from added to the home."""
    circle, mask = PIL.new("RGB", (SIZE, SIZE), "#3060a0"), PIL.new("L", (SIZE, SIZE), 0)
    ImageDraw.Draw(circle).ellipse((30, 30, 98, 98), fill="#e8c040")
    mask.paste(255, (32, 32, 80, 96))
    source, masked, wide = add(services, circle), add(services, mask), add(services, circle.resize(WIDE))
    soft = add(services, PIL.linear_gradient("L").resize((SIZE, SIZE)))
    box = {"x": 0, "y": 0, "width": 0.5, "height": 1, "weight": 0.8}
    inpaint = {"kind": "inpaint", "source": source, "mask": masked, "strength": 0.9}
    steered = {"image": source, "type": "canny", "weight": 0.8}
    return {
        "second pass": {"hires_scale": 1.5, "hires_steps": 3, "hires_upscaler": "Lanczos"},
        "second pass in tiles": {"hires_scale": 2, "hires_steps": 2, "hires_tile": 192, "hires_upscaler": "Latent"},
        "upscaling in tiles": {"kind": "upscale", "source": wide, "upscaler": "tiny", "scale": 1.5},
        "ControlNet": {"controls": [steered | {"model": "starter-edges"}]},
        "T2I-Adapter": {"model": "sd1", "controls": [steered | {"model": "adapter"}]},
        "img2img": {"kind": "img2img", "source": source, "strength": 0.9},
        "inpaint only masked": inpaint | {"inpaint_area": "Only masked", "mask_padding": 16, "mask_blur": 4},
        "outpaint": {"kind": "inpaint", "source": source, "strength": 1.0, "outpaint": "left:64"},
        "soft mask": inpaint | {"mask": soft, "mask_edges": "Soft"},
        "details": {"details": [{"target": "person", "confidence": 0, "steps": 2, "limit": 1}]},
        "cut-out": {"background": "transparent"},
        "regions": {"regions": [box | {"prompt": "a green tree"}, box | {"x": 0.5, "prompt": "a red car"}]},
        "IP-Adapter": {"references": [{"image": source, "use": "style", "weight": 0.6, "mask": masked}]},
        "InstructPix2Pix": {"model": "instruct", "references": [{"image": source}], "image_guidance": 2.0},
        "Kontext": {"model": "kontext", "references": [{"image": source}], "guidance": 3.0},
        "prompt helper": {"original": ""},  # filled in by ``helped``
    }


def helped(services: Services, options: dict[str, Any]) -> dict[str, Any]:
    """The options with the prompt that the helper makes of theirs, where they ask for it."""
    if "original" not in options:
        return options
    [prompt] = services.studio.prompts.help(options["prompt"]).prompts
    return options | {"prompt": prompt, "original": options["prompt"]}


def open_home(home: Path, like: Services | None = None, **more: Any) -> Services:
    """The services of a new home with the tiny models, perhaps copies of those of another home."""
    words: dict[str, Any] = {"engine": "diffusers", "device": "cpu", "threads": 1, "batch_size": "1", "port": 0}
    settings = Settings.load({}, home=home, **words | {"log_level": "info"} | more)
    if like is None:
        torch.manual_seed(3)
        write_models(settings)
    else:
        for folder in ("models", "loras", "controlnet", "ip_adapters", "clip_vision", "upscalers", "preprocessors"):
            shutil.copytree(like.settings.home / folder, home / folder)
    return open_services(settings)


def write_models(settings: Settings) -> None:
    """Tiny models with random weights, in the folders of a home."""
    starter = read_folder(assets() / "starter", "starter", "Starter")
    for name, make in (("instruct", test_references.instruct), ("kontext", test_references.kontext)):
        make(starter).save_pretrained(settings.models / name)
    adapter = test_ip_adapters.plain(STARTER_WIDTH) | test_ip_adapters.attention(starter.folder, STARTER_WIDTH)
    settings.ip_adapters.mkdir(parents=True)
    save_file(adapter, settings.ip_adapters / "plain.safetensors")
    test_ip_adapters.write_encoder(settings.clip_vision / "image_encoder")
    detector_model(settings.preprocessors)
    caption_model(settings.preprocessors / "caption", starter.folder / "tokenizer")
    folder = settings.preprocessors / "background"
    folder.mkdir(parents=True)
    save_file(saliency_weights(), folder / "u2netp.safetensors")
    write_sd1(starter, settings)
    config = json.loads((starter.folder / "unet/config.json").read_text(encoding="utf-8"))
    config.pop("quantization_config", None)
    make_lora(settings.loras / "ink.safetensors", diffusers.UNet2DConditionModel.from_config(config))
    write_upscaler(settings.upscalers)


def write_sd1(starter: Model, settings: Settings) -> None:
    """A small SD 1 as model, because published T2I-Adapters are for that width of text, and an adapter for it."""
    config = json.loads((starter.folder / "unet/config.json").read_text(encoding="utf-8"))
    config.pop("quantization_config", None)
    unet = diffusers.UNet2DConditionModel.from_config(config | SMALL_UNET | {"cross_attention_dim": SD1_WIDTH})
    config = json.loads((starter.folder / "text_encoder/config.json").read_text(encoding="utf-8"))
    config |= {"hidden_size": SD1_WIDTH, "projection_dim": SD1_WIDTH, "num_hidden_layers": 1}
    vae = json.loads((starter.folder / "vae/config.json").read_text(encoding="utf-8"))
    vae |= {"block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4}  # an eighth of the size, which adapters expect
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(
        starter.folder,
        unet=unet,
        vae=diffusers.AutoencoderKL.from_config(vae),
        text_encoder=transformers.CLIPTextModel(transformers.CLIPTextConfig.from_dict(config)),
        safety_checker=None,
        dtype=torch.float32,
    )
    pipe.save_pretrained(settings.models / "sd1")
    test_controls.t2i_adapter(unet).save_pretrained(settings.controlnet / "adapter")


def write_upscaler(folder: Path) -> None:
    """A small ESRGAN that doubles the size."""
    upscale.import_spandrel()
    RRDBNet = sys.modules["spandrel.architectures.ESRGAN.__arch.RRDB"].RRDBNet
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        RRDBNet(in_nc=3, out_nc=3, num_filters=8, num_blocks=1, scale=2).state_dict(), folder / "tiny.safetensors"
    )


def conditions(script: str) -> dict[str, Any]:
    """What a record says about the run that made it."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "command": " ".join([f"python scripts/{script}", *sys.argv[1:]]),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in ("torch", "diffusers", "transformers")},
        "platform": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores",
    }


def add(services: Services, picture: PIL.Image) -> str:
    data = io.BytesIO()
    picture.save(data, "PNG")
    return services.sources.add(data.getvalue()).id


@contextmanager
def language_model() -> Iterator[str]:
    """The address of an OpenAI-compatible API whose model adds a few words to each prompt."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Completions)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


class Completions(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        text = f"{asked['messages'][-1]['content']}, soft light"
        answer = json.dumps({"model": "words", "choices": [{"message": {"content": text}}]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        pass
