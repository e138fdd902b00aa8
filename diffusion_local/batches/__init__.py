"""Batches as a whole: looked at, changed, copied, taken away as files; and grids, which know their axes."""
