"""Reports on a batch or a period, as data, Markdown and a single HTML file."""
