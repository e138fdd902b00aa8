"""The web process: page, API and picture routes. It imports no torch and holds no state of its own."""

from diffusion_local.lazy_imports import defer_import, replace_at_import

defer_import("pandas")  # 30 MB, which gradio imports for tables and plots; this page has none
# Half of the time that gradio takes to import goes into comparing type stubs of all components with their source files.
replace_at_import("gradio.component_meta", create_or_modify_pyi=lambda component_class, class_name, events: None)
