"""Full-text search over the prompts of pictures (SQLite FTS5).

Every word must be in the prompt, as a whole word or the beginning of one; "in quotes" means these words in this order,
-word means without it. Scripts that write without spaces are searched by plain comparison, as are texts without a
letter.
"""

import re
from collections.abc import Sequence
from typing import Any

from diffusion_local.db.database import Transaction
from diffusion_local.db.dialect import as_list, in_list

FEW = 2000  # pictures of a filter that a search is led to, instead of passing by all that have the word
PHRASE = re.compile(r'(-?)"([^"]*)"|(-?)(\S+)')
WORD = re.compile(r"\w+")
#: Han, kana, Hangul, Thai, Lao, Khmer, Burmese: FTS5 would take a whole sentence for one word.
UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")

#: Pictures that have the words ``:words``, in the order in which they came in, newest first. The index can be walked
#: backwards: no word is so common that its pictures must be sorted first.
SOURCE = "images_text CROSS JOIN images ON images.number = images_text.rowid"
MATCHES = "images_text MATCH :words"
ORDER = "images_text.rowid DESC"
#: Those that come after the picture ``:before``.
AFTER = "images_text.rowid < (SELECT number FROM images AS last WHERE last.id = :before)"


def word_count(search: str) -> int:
    return len(WORD.findall(search.replace("_", " ")))


def terms(search: str) -> str:
    """What a person searches for as a query of the index; empty if it must be done by plain comparison."""
    if UNSPACED.search(search):
        return ""
    with_: list[str] = []
    without: list[str] = []
    for minus, phrase, bare_minus, word in PHRASE.findall(search):
        tokens = WORD.findall((phrase or word).replace("_", " "))
        if tokens:
            text = '"' + " ".join(tokens) + '"' + ("" if phrase else " *")
            (without if minus or bare_minus else with_).append(text)
    if not with_:
        return ""
    return " AND ".join(with_) + "".join(f" NOT {each}" for each in without)


def bounds(db: Transaction, conditions: Sequence[str], values: dict[str, Any]) -> list[str]:
    """Where in the index the pictures of other conditions are, as further ones; their values are added."""
    asked = " AND ".join(conditions)
    found = db.execute(f"SELECT number FROM images WHERE {asked} LIMIT {FEW + 1}", values).fetchall()
    if len(found) <= FEW:
        numbers = [number for (number,) in found]
        values |= {"few": as_list(numbers), "low": min(numbers, default=0), "high": max(numbers, default=0)}
        # The plus: looked up in the list while it walks, not one search for each of the list.
        return ["images_text.rowid BETWEEN :low AND :high", in_list("+images_text.rowid", ":few")]
    if "until" in values:
        return ["images_text.rowid <= (SELECT max(+number) FROM images WHERE created_at < :until)"]
    return []
