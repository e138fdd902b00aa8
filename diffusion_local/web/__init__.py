"""The web process: page, API and picture routes. It imports no torch and holds no state of its own."""

from diffusion_local.lazy_imports import defer_import

defer_import("pandas")  # 30 MB, which gradio imports for tables and plots; this page has none
