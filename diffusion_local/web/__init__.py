"""The web process: page, API and picture routes. It imports no torch and holds no state of its own."""

import orjson

from diffusion_local.lazy_imports import (
    defer_import,
    forwarding_module,
    hidden_imports,
    import_with_stand_ins,
    replace_at_import,
)

# Parts of libraries for which this process has no use until a request needs them, if ever: together 60 MB.
with hidden_imports("numpy"):
    # Looks up numpy's types once, and would keep the attributes of the stand-in.
    orjson.dumps([object()], default=str, option=orjson.OPT_SERIALIZE_NUMPY)
defer_import("pandas")  # which gradio imports for tables and plots; this page has none
defer_import("numpy", "ndarray")  # which gradio imports for pictures and sounds that are arrays
import_with_stand_ins("httpx", {"httpx._main": None})  # its command line
import_with_stand_ins(
    "gradio",
    {
        "mcp": None,  # gradio's own MCP server; ours imports it at the first request
        "gradio.cli": forwarding_module("gradio.cli", "deploy"),
        "hf_gradio.cli": forwarding_module("hf_gradio.cli", "_condense_info", "generate_cli_snippet"),
    },
)
# Half of the time that gradio takes to import goes into comparing type stubs of all components with their source files.
replace_at_import("gradio.component_meta", create_or_modify_pyi=lambda component_class, class_name, events: None)
