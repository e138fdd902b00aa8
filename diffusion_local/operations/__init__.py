"""The registry of operations: everything that callers can request of the Studio, each declared once.

``operation`` defines declarations, ``registry`` looks them up, and the other modules are the table, by noun.
Authorization, HTTP routes, Gradio endpoints and the remote client derive from it.
"""
