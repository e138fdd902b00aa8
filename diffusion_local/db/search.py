"""Full-text search over prompts (SQLite FTS5).

Every word must occur in the prompt, as a whole word or as a prefix. "Quoted words" must occur in this order, and -word
must not occur. Scripts written without spaces, and texts without letters, are searched by substring instead.
"""

import re
from collections.abc import Sequence
from typing import Any

from diffusion_local.db.database import Transaction
from diffusion_local.db.dialect import as_list, in_list

MOST_PINNED = 2000  # up to so many pictures that match the other filters, the search visits only these
PHRASE = re.compile(r'(-?)"([^"]*)"|(-?)(\S+)')
WORD = re.compile(r"\w+")
#: Scripts without word spaces (Han, kana, Hangul, Thai, Lao, Khmer, Burmese): FTS5 would take a sentence for one word.
UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")

#: Pictures that match ``:words``, newest first. FTS5 can walk its index backwards, so even a very common word needs no
#: sort.
SOURCE = "images_text CROSS JOIN images ON images.number = images_text.rowid"
MATCH = "images_text MATCH :words"
ORDER = "images_text.rowid DESC"
#: Pictures behind the picture ``:before`` in this order.
AFTER = "images_text.rowid < (SELECT number FROM images AS last WHERE last.id = :before)"


def word_count(search: str) -> int:
    return len(WORD.findall(search.replace("_", " ")))


def match_query(search: str) -> str:
    """The search text as an FTS5 query, or "" if it must be searched by substring."""
    if UNSPACED.search(search):
        return ""
    included: list[str] = []
    excluded: list[str] = []
    for minus, phrase, bare_minus, word in PHRASE.findall(search):
        tokens = WORD.findall((phrase or word).replace("_", " "))
        if tokens:
            text = '"' + " ".join(tokens) + '"' + ("" if phrase else " *")
            (excluded if minus or bare_minus else included).append(text)
    if not included:
        return ""
    return " AND ".join(included) + "".join(f" NOT {each}" for each in excluded)


def index_bounds(db: Transaction, conditions: Sequence[str], values: dict[str, Any]) -> list[str]:
    """Further conditions that bound the index walk to the pictures matching ``conditions``. Adds their values to
    ``values``.
    """
    filters = " AND ".join(conditions)
    numbers_read = db.execute(f"SELECT number FROM images WHERE {filters} LIMIT {MOST_PINNED + 1}", values).fetchall()
    if len(numbers_read) <= MOST_PINNED:
        numbers = [number for (number,) in numbers_read]
        values |= {"few": as_list(numbers), "low": min(numbers, default=0), "high": max(numbers, default=0)}
        # The plus keeps FTS5 from running one look-up per list element; it filters while it walks instead.
        return ["images_text.rowid BETWEEN :low AND :high", in_list("+images_text.rowid", ":few")]
    if "until" in values:
        return ["images_text.rowid <= (SELECT max(+number) FROM images WHERE created_at < :until)"]
    return []
