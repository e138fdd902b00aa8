"""A studio on another machine, over its HTTP API: the same sentences as ``Studio``, for the command line."""
