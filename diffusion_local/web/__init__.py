"""The web process: page, API and picture routes. It imports no torch and holds no state of its own."""

import orjson

from diffusion_local.lazy_imports import hidden_imports, import_with_stand_ins
from diffusion_local.web.gradio_compat.imports import shorten_import

# Parts of libraries for which this process has no use until a request needs them, if ever: together 60 MB.
with hidden_imports("numpy"):
    # Looks up numpy's types once, and would keep the attributes of the stand-in.
    orjson.dumps([object()], default=str, option=orjson.OPT_SERIALIZE_NUMPY)
import_with_stand_ins("httpx", {"httpx._main": None})  # its command line
shorten_import()
