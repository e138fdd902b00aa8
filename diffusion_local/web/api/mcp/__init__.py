"""The Model Context Protocol: the Studio's operations as tools for agents, over HTTP at ``/mcp`` and over stdio.

``tools`` declares the tools and knows nothing of the protocol; ``pictures`` prepares pictures for a model's context;
``server`` speaks the protocol through the official SDK; ``serving`` runs the server on a transport. The SDK is imported
at the first request, so it costs nothing if no agent calls.
"""
