"""Gradio's part of the HTTP surface: its reachable routes, its calls, uploaded files, and the patches of Gradio."""
