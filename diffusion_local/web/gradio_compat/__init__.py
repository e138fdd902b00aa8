"""Everything that depends on Gradio's internals, with a check of the installed version.

``imports`` acts before Gradio is imported, ``patches`` on a page, ``page`` on its HTML. Only this package names
private parts of Gradio.
"""

TESTED = "6.31.0"
