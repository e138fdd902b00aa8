"""The grammar of prompts, in the order in which a prompt passes through it. Pure text: no files, no model.

1. ``templates``: wildcards ``__animal__`` and choices ``{red|blue}``, drawn when a prompt is submitted.
2. ``tags``: ``<lora:ink:0.8>``, taken out of the text at the submit.
3. ``schedules``: ``[cat:dog:0.5]`` and ``[cat|dog]``, which change the text from step to step.
4. ``weights``: ``(word:1.2)``, ``[word]`` and ``BREAK``, read by the engine as it encodes the text.

Each of them leaves the signs of the later ones as they are. ``\\`` before a sign takes the sign as it is, as in A1111.
Every level is parsed in linear time, and what it parses can be printed so that it parses to the same again.
"""
