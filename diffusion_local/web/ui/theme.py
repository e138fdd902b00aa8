"""Colours, type and spacing: a quiet stone palette with one green accent. The rest is ``assets/app.css``."""

from pathlib import Path

import gradio as gr

SCRIPT = "\n".join(
    (Path(__file__).parent / name).read_text(encoding="utf-8")
    for name in ("page.js", "look.js", "live.js", "viewer.js", "source.js", "loras.js", "lists.js", "queue.js")
)
HEAD = f"""
<link rel="icon" type="image/svg+xml" href="assets/icons/mark.svg">
<meta name="color-scheme" content="light dark">
<script>{SCRIPT}</script>
"""

FONT = [
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

THEME = gr.themes.Base(
    primary_hue=gr.themes.colors.teal,
    secondary_hue=gr.themes.colors.teal,
    neutral_hue=gr.themes.colors.stone,
    radius_size=gr.themes.sizes.radius_lg,
    spacing_size=gr.themes.sizes.spacing_lg,
    text_size=gr.themes.sizes.text_md,
    font=FONT,
    font_mono=MONO,
).set(
    body_background_fill="*neutral_50",
    body_background_fill_dark="#141312",
    body_text_color="*neutral_900",
    body_text_color_dark="#ece9e6",
    body_text_color_subdued="*neutral_600",
    body_text_color_subdued_dark="*neutral_400",
    background_fill_primary="#ffffff",
    background_fill_primary_dark="#1c1b1a",
    background_fill_secondary="*neutral_100",
    background_fill_secondary_dark="#252321",
    block_background_fill="#ffffff",
    block_background_fill_dark="#1c1b1a",
    block_border_width="0px",
    block_border_width_dark="0px",
    block_label_text_color="*neutral_600",
    block_title_text_color="*neutral_600",
    block_title_text_color_dark="*neutral_400",
    block_title_text_weight="500",
    block_shadow="none",
    block_shadow_dark="none",
    border_color_primary="*neutral_200",
    border_color_primary_dark="#34312e",
    input_background_fill="*neutral_50",
    input_background_fill_dark="#252321",
    input_border_color="*neutral_200",
    input_border_color_dark="#34312e",
    input_border_color_focus="*primary_600",
    input_border_color_focus_dark="*primary_400",
    input_shadow_focus="none",
    input_shadow_focus_dark="none",
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_dark="*primary_700",
    button_primary_background_fill_hover_dark="*primary_800",
    button_primary_text_color="#ffffff",
    button_secondary_background_fill="*neutral_100",
    button_secondary_background_fill_hover="*neutral_200",
    button_secondary_background_fill_dark="#2c2a27",
    button_secondary_background_fill_hover_dark="#3a3733",
    checkbox_label_background_fill="*neutral_100",
    checkbox_label_background_fill_dark="#2c2a27",
    checkbox_label_background_fill_selected="*primary_100",
    checkbox_label_background_fill_selected_dark="*primary_900",
    checkbox_background_color_selected="*primary_700",
    checkbox_background_color_selected_dark="*primary_500",
    slider_color="*primary_700",
    slider_color_dark="*primary_500",
)
