"""Shortens the import of Gradio: what it imports and this program does not need is hidden or deferred."""

from importlib.metadata import version

from diffusion_local.lazy_imports import defer_import, forwarding_module, import_with_stand_ins, replace_at_import
from diffusion_local.web.gradio_compat import TESTED


def shorten_import() -> bool:
    """Prepare the import of Gradio, and return whether that was done.

    Another version than the tested one is imported as it is: it may need what is hidden here. That costs 1 s and 50 MB;
    ``patches.check`` then refuses or reports the version.
    """
    if version("gradio") != TESTED:
        return False
    defer_import("pandas")  # for tables and plots, of which this page has none
    defer_import("numpy", "ndarray")  # for pictures and sounds that are arrays
    import_with_stand_ins(
        "gradio",
        {
            "mcp": None,  # gradio's own MCP server; ours imports it at the first request
            "gradio.cli": forwarding_module("gradio.cli", "deploy"),
            "hf_gradio.cli": forwarding_module("hf_gradio.cli", "_condense_info", "generate_cli_snippet"),
        },
    )
    # Half of the import's time goes into comparing type stubs of all components with their source files.
    replace_at_import("gradio.component_meta", create_or_modify_pyi=lambda component_class, class_name, events: None)
    return True
