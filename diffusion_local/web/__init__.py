"""The web process: page, API and picture routes. It imports no torch and holds no state of its own."""
