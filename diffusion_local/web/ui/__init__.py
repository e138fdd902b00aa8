"""The web page: Gradio components, and HTML drawn by the server."""
