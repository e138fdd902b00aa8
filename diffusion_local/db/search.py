"""Full-text search over prompts and captions: SQLite's FTS5, or a tsvector of the same words in PostgreSQL.

Every word must occur in one of the two, as a whole word or as a prefix. "Quoted words" must occur in this order;
-word excludes pictures that have the word. Scripts written without spaces, and texts without letters, are searched by
substring instead; an index of pairs of characters leaves few pictures to look at.
"""

import re
import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

from diffusion_local.db.database import Transaction
from diffusion_local.db.dialect import as_list, in_numbers

MOST_PINNED = 2000  # if at most this many pictures match the other filters, the search visits only these
PHRASE = re.compile(r'(-?)"([^"]*)"|(-?)(\S+)')
SEARCH_WORD = re.compile(r"\w+")
#: Scripts without word spaces (Han, kana, Hangul, Thai, Lao, Khmer, Burmese): FTS5 would treat a sentence as one word.
UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")

#: Pictures of an index, newest first. FTS5 can walk its index backwards, so even a very common word needs no sort.
NEWEST_FIRST = "images_text.rowid DESC"
#: Pictures after the picture ``:before`` in this order.
AFTER = "images_text.rowid < (SELECT number FROM images AS last WHERE last.id = :before)"


FIRST_PAIRED = "\u0e00"  # a pair has at least one character from here on
MOST_PAIRS = 40  # of a search
INDEXES = ("images_text", "images_text_unspaced")  # FTS5 tables
WORDS_INDEX = "images_text CROSS JOIN images ON images.number = images_text.rowid"

#: (consecutive words, whether the last one is a prefix).
Phrase = tuple[list[str], bool]
#: Must equal the tokenizer in the migration that creates the index.
TOKENIZER = "unicode61 remove_diacritics 2"


@dataclass(frozen=True, slots=True)
class Lookup:
    """How to find pictures by an index: FROM clause, condition, and its value ``:words``."""

    source: str
    match: str
    words: str


def lookup(db: Transaction, search: str) -> Lookup | None:
    """The index for a search text: that of words, or that of pairs of characters, which may find too many (a search by
    substring checks them); None if neither holds all that has the text.
    """
    if words := match_query(db, search):
        return Lookup(WORDS_INDEX, "images_text MATCH :words", words)
    if max(search, default="") < FIRST_PAIRED:
        return None
    first = len(search) == 1  # a single character begins a pair
    found = [digits(search)] if first else list(islice(pairs(search), MOST_PAIRS))
    if db.translated:  # the pairs are among the words
        query = " & ".join(f"'{PAIR_MARK}{pair}'" + ":*" * first for pair in found)
        return Lookup(WORDS_INDEX, "images_text MATCH :words", query)
    source = "images_text_unspaced AS images_text CROSS JOIN images ON images.number = images_text.rowid"
    query = " AND ".join(f'"{pair}"' + " *" * first for pair in found)
    return Lookup(source, "images_text.images_text_unspaced MATCH :words", query)


def word_count(search: str) -> int:
    return len(SEARCH_WORD.findall(search.replace("_", " ")))


def match_query(db: Transaction, search: str) -> str:
    """The search text as a query of the database's index, or "" if it must be searched by substring."""
    return tsquery(search) if db.translated else fts_query(search)


def fts_query(search: str) -> str:
    """The search text as an FTS5 query, or "" if it must be searched by substring."""
    included, excluded = phrases(search)
    if not included:
        return ""
    first, others = (
        ['"' + " ".join(words) + '"' + " *" * prefix for words, prefix in each] for each in (included, excluded)
    )
    return " AND ".join(first) + "".join(f" NOT {each}" for each in others)


def phrases(search: str) -> tuple[list[Phrase], list[Phrase]]:
    """(required phrases, excluded phrases) of a search text; both empty if it must be searched by substring."""
    if UNSPACED.search(search):
        return [], []
    included: list[Phrase] = []
    excluded: list[Phrase] = []
    for minus, phrase, bare_minus, word in PHRASE.findall(search):
        words = SEARCH_WORD.findall((phrase or word).replace("_", " "))
        if words:
            (excluded if minus or bare_minus else included).append((words, not phrase))
    return included, excluded


def pairs(text: str) -> dict[str, None]:
    """The distinct pairs of neighbouring characters that are indexed for a text, as hexadecimal digits."""
    lower = "".join(each.lower() if each.isascii() else each for each in text)
    return dict.fromkeys(digits(one + other) for one, other in pairwise(lower) if max(one, other) >= FIRST_PAIRED)


def digits(text: str) -> str:
    return text.encode("utf-8", "replace").hex()


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
        return ["images_text.rowid BETWEEN :low AND :high", in_numbers("+images_text.rowid", ":few")]
    if "until" in values:
        return ["images_text.rowid <= (SELECT max(+number) FROM images WHERE created_at < :until)"]
    return []


# -- the same words in PostgreSQL --------------------------------------------------------------------------------------

#: Limits of a tsvector: bytes of a word, and the largest position; later positions are stored as this one.
MAX_WORD_BYTES, LAST_POSITION = 2046, 16_383
PAIR_MARK = "="  # begins a pair of characters in a tsvector; no word has it


class Tokenizer:
    """FTS5's own tokenizer, so that both databases find the same pictures in every script."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        self._connection.execute(f"CREATE VIRTUAL TABLE texts USING fts5(prompt, tokenize='{TOKENIZER}')")
        self._connection.execute("CREATE VIRTUAL TABLE words USING fts5vocab(texts, instance)")

    def words(self, text: str) -> list[str]:
        with self._lock:
            self._connection.execute("INSERT INTO texts VALUES (?)", [text])
            try:
                return [word for (word,) in self._connection.execute('SELECT term FROM words ORDER BY "offset"')]
            finally:
                self._connection.execute("DELETE FROM texts")


tokenizer = Tokenizer()


def add(db: Transaction, image_id: str, prompt: str, caption: str = "") -> None:
    """Add a picture to the index. In SQLite a trigger does this."""
    if db.translated:
        db.execute(
            "INSERT INTO images_text (number, words) SELECT number, CAST(:words AS tsvector) FROM images "
            "WHERE id = :id ON CONFLICT DO NOTHING",
            {"id": image_id, "words": tsvector(prompt, caption)},
        )


def set_caption(db: Transaction, image_id: str, caption: str) -> None:
    """Change the caption of a picture and update the index."""
    if db.translated:
        db.execute(
            "UPDATE images_text SET words = CAST(:words AS tsvector) "
            "WHERE number = (SELECT number FROM images WHERE id = :id)",
            {
                "id": image_id,
                "words": tsvector(db.scalar("SELECT prompt FROM images WHERE id = :id", id=image_id), caption),
            },
        )
        db.execute("UPDATE images SET caption = :caption WHERE id = :id", {"id": image_id, "caption": caption})
        return
    entries = {
        "images_text": ("prompt, caption", "SELECT number, prompt, caption FROM images WHERE id = :id"),
        "images_text_unspaced": ("pairs", "SELECT number, pairs FROM images_text_pairs WHERE id = :id"),
    }
    for index, (columns, entry) in entries.items():  # FTS5 needs the old text to remove it from its index
        db.execute(
            f"INSERT INTO {index} ({index}, rowid, {columns}) SELECT 'delete', * FROM ({entry})", {"id": image_id}
        )
    db.execute("UPDATE images SET caption = :caption WHERE id = :id", {"id": image_id, "caption": caption})
    for index, (columns, entry) in entries.items():
        db.execute(f"INSERT INTO {index} (rowid, {columns}) {entry}", {"id": image_id})


def tsvector(*texts: str) -> str:
    """The words of several texts with their positions, with gaps so that no phrase spans two texts, and their pairs of
    characters.
    """
    placed, start = list[tuple[int, str]](), 1
    for text in texts:
        placed += enumerate(tokenizer.words(text), start)
        start = placed[-1][0] + 2 if placed else start
    words = [f"'{clipped(word)}':{min(place, LAST_POSITION)}" for place, word in placed]
    return " ".join(words + [f"'{PAIR_MARK}{each}'" for each in pairs("\n".join((*texts, "")))])


def tsquery(search: str) -> str:
    """The search text as a tsquery, or "" if it must be searched by substring."""
    included, excluded = (
        [query for words, prefix in each if (query := tsquery_of(words, prefix))] for each in phrases(search)
    )
    return " & ".join([*included, *(f"!({each})" for each in excluded)]) if included else ""


def tsquery_of(words: list[str], prefix: bool) -> str:
    tokens = tokenizer.words(" ".join(words))
    return " <-> ".join(f"'{clipped(token)}'" for token in tokens) + ":*" * (prefix and bool(tokens))


def clipped(word: str) -> str:
    return word.encode()[:MAX_WORD_BYTES].decode(errors="ignore")
