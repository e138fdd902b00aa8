r"""Prompt grammar, in levels that are processed in this order. Pure text functions: no files, no model.

1. ``templates``: wildcards ``__animal__`` and choices ``{red|blue}``, drawn at submit.
2. ``tags``: ``<lora:ink:0.8>``, extracted at submit.
3. ``schedules``: ``[cat:dog:0.5]`` and ``[cat|dog]``, which change the text per step.
4. ``weights``: ``(word:1.2)``, ``[word]`` and ``BREAK``, interpreted by the engine when it encodes the text.

Each level leaves the syntax of later ones untouched. ``\`` escapes a character, as in A1111. Every level parses in
linear time, and printing its result and parsing it again gives an equal result.
"""
