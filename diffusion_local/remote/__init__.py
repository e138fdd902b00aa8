"""A studio on another machine, over its HTTP API, for the command line."""
