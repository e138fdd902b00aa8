"""Gradio's theme in the colours of ``static/base.css``, and the styles and scripts for the page's head."""

import re
from pathlib import Path

import gradio as gr

#: Scripts of ``static``. The order matters: later ones use earlier ones.
SCRIPTS = (
    "calls", "look", "router", "live", "shell", "page", "early", "dock", "prompts", "viewer", "canvas", "source",
    "loras", "pictures", "regions", "lists", "queue", "gallery", "models", "settings"
)  # fmt: skip
PAGE_SCRIPT = "\n".join(
    (Path(__file__).parent / "static" / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS
)
STYLES = ("base", "rest", "create", "gallery", "models", "settings")
#: In the page's head and not in Gradio's ``css`` argument, which would load them later and rewrite their selectors.
#: Comments are left out, because the page's size is budgeted.
PAGE_STYLE = re.sub(
    r"/\*.*?\*/\n?",
    "",
    "\n".join((Path(__file__).parent / "static" / f"{name}.css").read_text(encoding="utf-8") for name in STYLES),
    flags=re.DOTALL,
)

FONT_STACK = [
    "ui-sans-serif",
    "system-ui",
    "-apple-system",
    "Segoe UI",
    "Roboto",
    "PingFang SC",
    "Microsoft YaHei",
    "Noto Sans CJK SC",
    "sans-serif",
]
MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]


def in_both_themes(**values: str) -> dict[str, str]:
    """Use the same values for the light and the dark theme; the CSS variables in ``static/base.css`` depend on it."""
    return values | {f"{name}_dark": value for name, value in values.items()}


THEME = gr.themes.Base(
    primary_hue=gr.themes.colors.teal,
    secondary_hue=gr.themes.colors.teal,
    neutral_hue=gr.themes.colors.zinc,
    radius_size=gr.themes.sizes.radius_md,
    spacing_size=gr.themes.sizes.spacing_md,
    text_size=gr.themes.sizes.text_sm,
    font=FONT_STACK,
    font_mono=MONO,
).set(
    **in_both_themes(
        body_background_fill="var(--page)",
        body_text_color="var(--ink)",
        body_text_color_subdued="var(--quiet)",
        background_fill_primary="var(--panel)",
        background_fill_secondary="var(--sunk)",
        block_background_fill="transparent",
        block_border_color="var(--line)",
        block_info_text_color="var(--quiet)",
        block_label_text_color="var(--quiet)",
        block_title_text_color="var(--quiet)",
        block_shadow="none",
        border_color_primary="var(--line)",
        border_color_accent="var(--accent)",
        input_background_fill="var(--sunk)",
        input_background_fill_focus="var(--sunk)",
        input_border_color="transparent",
        input_border_color_focus="var(--accent)",
        input_placeholder_color="var(--quiet)",
        input_shadow="none",
        input_shadow_focus="none",
        button_primary_background_fill="var(--accent-fill)",
        button_primary_background_fill_hover="var(--accent-fill)",
        button_primary_text_color="var(--on-accent)",
        button_secondary_background_fill="var(--sunk)",
        button_secondary_background_fill_hover="var(--hover)",
        button_secondary_text_color="var(--ink)",
        checkbox_label_background_fill="var(--sunk)",
        checkbox_label_background_fill_hover="var(--hover)",
        checkbox_label_background_fill_selected="var(--accent-soft)",
        checkbox_label_text_color="var(--ink)",
        checkbox_label_text_color_selected="var(--ink)",
        checkbox_background_color_selected="var(--accent-fill)",
        slider_color="var(--accent)",
        link_text_color="var(--accent)",
    ),
    block_label_text_weight="500",
    block_title_text_weight="500",
)
