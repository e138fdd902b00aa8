"""An image studio for the GPU under your desk, with a queue that never loses a picture."""

__version__ = "0.1.0"
