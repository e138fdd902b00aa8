"""The registry of operations: everything that a caller can ask of the Studio, each declared once.

``operation`` has the terms of a declaration, ``registry`` looks declarations up; the other modules are the table, by
noun. Authority, the HTTP routes, the Gradio endpoints and the client for another machine all derive from it.
"""
