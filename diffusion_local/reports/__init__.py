"""The morning report: what a batch, or a night, came to; as data, as Markdown and as one HTML file."""
