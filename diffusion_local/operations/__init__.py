"""The registry of operations: everything that callers can request from the Studio, each declared once.

``operation`` defines the form of declarations, ``registry`` looks them up, and the other modules contain them by noun.
Authorization, HTTP routes, Gradio endpoints and the remote client derive from them.
"""
