"""Gradio's part of the HTTP surface: its reachable routes, its calls, and uploaded files."""
