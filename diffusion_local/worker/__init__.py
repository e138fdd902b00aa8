"""The process that makes pictures: one per device, apart from the web."""
