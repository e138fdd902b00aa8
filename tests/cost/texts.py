"""Texts that make careless parsers slow: one thing many times, alone, or between a beginning and an end."""

from collections.abc import Iterator

#: What is repeated, by name.
UNITS = {
    "spaces": " ",
    "tabs": "\t",
    "newlines": "\n",
    "carriage returns": "\r",
    "round brackets": "(",
    "square brackets": "[",
    "braces": "{",
    "angle brackets": "<",
    "closing brackets": ")]}>",
    "pairs of brackets": "()[]{}<>",
    "words in brackets": "(a",
    "weights": "(a:1",
    "digits": "1",
    "dots": ".",
    "numbers": "1.1-",
    "commas": ",",
    "semicolons": ";",
    "colons": ":",
    "pairs": "a: b, ",
    "open pairs": "a:",
    "quoted pairs": 'a:"b,',
    "double quotes": '"',
    "single quotes": "'",
    "backquotes": "`a",
    "backslashes": "\\",
    "escaped quotes": '\\"',
    "choices": "{a|",
    "closed choices": "{a|b}",
    "amounts": "{2$$",
    "variables": "${",
    "open tags": "<lora:",
    "tags in tags": "<lora:a:",
    "tags": "<lora:a:1>",
    "wildcards": "__a",
    "underscores": "_",
    "hyphens": "-",
    "flags": "--a ",
    "negated words": "-a ",
    "known columns": "w,",
    "slashes": "/",
    "parents": "../",
    "windows paths": "a:\\b",
    "addresses": "http://a,",
    "percents": "%61",
    "parameters": "a=b&",
    "cookies": "a=b; ",
    "ranges": "0-1,",
    "sentences": "must be at most 1 (got ",
    "letters": "a",
    "words": "a b ",
    "combining": "e\u0301\u0302",
    "surrogates": "\ud800",
    "han": "\u6f22",
    "emoji": "\U0001f600\u200d",
    "mixed": "a:\"(b [1.5{c|d}<lora:e:-2>__f__, \\'\n\t -g--h ",
}
#: What comes before and after, so that a match begins and does not end.
AROUND = (
    ("x", " ", "!"),
    ("(a:", "1", "x"),
    (": ", "1", "x)"),
    ('a: "', "x", "!"),
    ("data:", "a", "!"),
    ("bytes=", "0-1,", "x"),
    ("1-", "1", "x"),
    ("[slow:", "1", "x"),
    ("--prompt '", "a", "x"),
    ("mon", "-a,", "!"),
    ("/", "a", " "),
    ('{"a": ', "[", ""),
    ('["', "a", ""),
)


def texts(length: int) -> Iterator[tuple[str, str]]:
    """(name, text) of each kind, every text with ``length`` characters."""
    for name, unit in UNITS.items():
        yield name, (unit * (length // len(unit) + 1))[:length]
    for before, unit, after in AROUND:
        middle = length - len(before) - len(after)
        yield f"{before}{unit}…{after}", before + (unit * (middle // len(unit) + 1))[:middle] + after
