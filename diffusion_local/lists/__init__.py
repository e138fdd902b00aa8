"""Prompt lists: thousands of lines that run while you sleep.

bytes -> ``encoding`` (text, line by line) -> ``formats`` (an Entry or a BadLine for each line) -> ``plan`` (wildcards
by ``expansion``, the catalogue's check, sums) -> ``prompt_lists`` (check, submit, export).
Everything is a stream: a list is never in memory as jobs.
"""
