"""Lines of a list to entries: text with flags, CSV or TSV, JSONL, a JSON array. Each is an Entry or a BadLine.

In every format blank lines say nothing, nor do lines that begin with ``#``; quotation marks around such a text make it
a prompt. What is no list is refused as a whole.
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import PurePath
from typing import Any

from diffusion_local.errors import InvalidParams, echo
from diffusion_local.lists.encoding import MAX_LINE_CHARS, decoded, lines
from diffusion_local.lists.entries import FIELDS, BadLine, Entry, entry, field_name, known
from diffusion_local.messages import changed, message

Parsed = Iterator[Entry | BadLine]

#: Prompt and negative prompt at their longest, quoted, are more than a line of plain text may have.
MAX_ROW_CHARS = 5 * MAX_LINE_CHARS
SHOWN_CHARS, REASON_CHARS = 80, 500
SUFFIXES = {".csv": "csv", ".tsv": "csv", ".tab": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json"}
DELIMITERS = "\t,;|"
COMMENTS = ("#", "//")  # the second one only in JSON, where no value can begin so
#: The line by which Excel names the delimiter of a CSV file.
SEPARATOR = re.compile(r'\s*"?sep=(.)"?[\s,;]*', re.IGNORECASE)
#: Beginnings of files that hold text and are no list of prompts.
NO_LISTS = ("{\\rtf", "<!doctype", "<html", "<?xml", "<svg", "%pdf", "---\n")
ARRAY = re.compile(r'\[\s*("(?:[^"\\]|\\.){0,200}"?\s*[,\]]|"(?:[^"\\]|\\.){150}|\{\s*["}]|\])')
OBJECT = re.compile(r'\{\s*"[^"\\]{1,40}"\s*:.*\}')
SPACES = re.compile(r"\s*")
COMMA = re.compile(r"\s*,\s*")
FLAG = re.compile(r"(?:^|(?<=\s))--([A-Za-z][\w-]*)(?:\s*=\s*|\s+|$)")
QUOTED = re.compile(r"""("[^"\\]*(?:\\.[^"\\]*)*"|'[^'\\]*(?:\\.[^'\\]*)*')(?=\s|$)""", re.DOTALL)


def format_of(name: str) -> str:
    """The format that a file's name tells."""
    return SUFFIXES.get(PurePath(name).suffix.lower(), "text")


def parse(data: bytes, form: str) -> Parsed:
    """The list's lines, as they are read. Raises InvalidParams where the whole cannot be read."""
    if form not in FORMATS:
        raise InvalidParams("format", message("one_of", known=list(FORMATS), got=echo(form)))
    return FORMATS[form](data)


def parse_text(data: bytes) -> Parsed:
    """One prompt a line, with ``--flags`` behind it. JSON that is taken for text is read as what it is."""
    head = beginning(data)
    if head.lower().startswith(NO_LISTS) or first_line(head) == "{":
        raise InvalidParams("list", message("no_list", start=echo(head[:20])))
    if is_array(data, head) or OBJECT.match(first_line(head)):
        yield from parse_jsonl(data)
        return
    for number, line, problem in lines(data):
        text = line.strip()
        if problem:
            yield bad(number, problem, text)
        elif text and not text.startswith("#"):
            yield checked(number, text, text_values)


def parse_jsonl(data: bytes) -> Parsed:
    """A JSON object a line, with the fields of Params; or a JSON string, which is a prompt. Or an array of such."""
    if is_array(data, beginning(data)):
        yield from parse_array(data)
        return
    for number, line, problem in lines(data, MAX_ROW_CHARS):
        text = line.strip()
        if problem:
            yield bad(number, problem, text)
        elif text and not text.startswith(COMMENTS):
            yield checked(number, text, lambda text: json_values(json_in(text)))


def parse_json(data: bytes) -> Parsed:
    """A JSON array of objects with the fields of Params, and of strings, which are prompts."""
    if not beginning(data).startswith("["):
        raise InvalidParams("list", message("json_array"))
    yield from parse_array(data)


def parse_array(data: bytes) -> Parsed:
    """The items of a JSON array, each under the number of the line on which it begins. Raises InvalidParams.

    An array is broken at the first fault in its syntax: where the next item would begin is not known.
    """
    text = "".join("\n" if line.lstrip().startswith(COMMENTS) else line for _, line, _ in lines(data, len(data)))
    decoder, place, number, counted = json.JSONDecoder(), text.index("[") + 1, 1, 0
    following = SPACES.match(text, place).end()  # type: ignore[union-attr]
    while not text.startswith("]", following):
        number += text.count("\n", counted, following)
        counted = following
        try:
            found, place = decoder.raw_decode(text, following)
        except (ValueError, RecursionError) as error:
            raise InvalidParams("list", message("json_from_line", line=number, error=str(error)[:100])) from None
        shown = text[following : following + SHOWN_CHARS]
        yield checked(number, shown, lambda _: json_values(found))  # noqa: B023
        comma = COMMA.match(text, place)
        if not comma and not text.startswith("]", SPACES.match(text, place).end()):  # type: ignore[union-attr]
            raise InvalidParams("list", message("json_comma", line=number))
        following = (comma or SPACES.match(text, place)).end()  # type: ignore[union-attr]
    if text[following + 1 :].strip():
        raise InvalidParams("list", message("json_end"))


def is_array(data: bytes, head: str) -> bool:
    """Whether it is a JSON array of strings or objects, and no prompt such as ``[red|blue] car``."""
    return first_line(head) == "[" or bool(ARRAY.match(head) and decoded(data).rstrip().endswith("]"))


def first_line(text: str) -> str:
    return text.partition("\n")[0].strip()


def beginning(data: bytes) -> str:
    """The first lines that say something, up to some hundred characters."""
    head = ""
    for _, line, _ in lines(data, MAX_ROW_CHARS):
        if line.strip() and not (not head and line.lstrip().startswith(COMMENTS)):
            head += line[:200]
            if len(head) >= 100:
                break
    return head.lstrip()


def parse_csv(data: bytes) -> Parsed:
    """A header with the fields of Params, then a row a prompt; comma, semicolon or tab. An empty cell says nothing."""
    table = Table(data)
    names: list[str] = []
    for row in table.rows():
        if isinstance(row, BadLine):
            yield row
        elif not names:
            names = [field_name(name) for name in row]
            yield from header_problems(table.first, row, names)
        elif any(row[len(names) :]):
            yield bad(table.first, f"has {len(row)} cells; the header has {len(names)}.", ",".join(row))
        else:
            yield checked(table.first, ",".join(row), dict(zip(names, row, strict=False)))


def header_problems(number: int, header: list[str], names: list[str]) -> Iterator[BadLine]:
    """The columns that are not known. Raises InvalidParams if no row could be read by such a header."""
    if "prompt" not in names:
        raise InvalidParams("list", message("column_prompt", columns=", ".join(header)[:200]))
    if twice := sorted(name for name, times in Counter(names).items() if times > 1 and known(name)):
        raise InvalidParams("list", message("column_twice", column=list(twice)))
    if strange := [shown for name, shown in zip(names, header, strict=True) if not known(name)]:
        yield bad(number, f"unknown columns: {', '.join(strange)[:200]}. Known: {', '.join(FIELDS)}.", ",".join(header))


class Table:
    """The rows of a CSV file. A cell may hold line ends, so ``first`` is the line on which the newest row began."""

    def __init__(self, data: bytes) -> None:
        self.first = self._last = 0
        self._torn = False
        self._lines = lines(data, MAX_ROW_CHARS)
        self._bad: list[BadLine] = []

    def rows(self) -> Iterator[list[str] | BadLine]:
        texts = self._texts()
        head = next((line for line in texts if line.strip()), "")
        delimiter = "\t" if "\t" in head else max(DELIMITERS, key=head.count)
        if named := SEPARATOR.fullmatch(head):
            delimiter, self.first = named[1], 0
            head = next((line for line in texts if line.strip()), "")
        self.first = self._last
        # strict: else a quotation mark that is not closed swallows the rest of the list without a word
        reader = csv.reader(chain([head], texts), delimiter=delimiter, strict=True)
        while True:
            try:
                row = next(reader)
            except StopIteration:
                yield from self._bad
                return
            except csv.Error as error:
                yield bad(self.first, f"is not CSV up to line {self._last}: {error}.", "")
                self.first, self._torn = 0, False
                continue
            yield from self._bad
            self._bad.clear()
            if any(cell.strip() for cell in row) and not self._torn:
                yield row
            self.first, self._torn = 0, False

    def _texts(self) -> Iterator[str]:
        for number, line, problem in self._lines:
            self._last = number
            if problem:
                self._bad.append(bad(number, problem, line))
                self._torn = self.first > 0  # it is within a cell, so its row is not whole
            elif self.first or not line.lstrip().startswith("#"):  # within a row a line is part of a quoted cell
                self.first = self.first or number
                yield line


def text_values(text: str) -> dict[str, Any]:
    """The fields of a line of text. Raises InvalidParams."""
    values: dict[str, Any] = {}
    whole = QUOTED.match(text)
    if whole and (not text[whole.end() :].strip() or FLAG.match(text[whole.end() :].lstrip())):
        values["prompt"], text = unquoted(whole[0]), text[whole.end() :].lstrip()  # a quoted prompt may hold --flags
        found = FLAG.match(text)
    else:
        found = FLAG.search(text)
        prompt = text[: found.start()].strip() if found else text
        if prompt:
            values["prompt"] = prompt
    while found:
        shown, name = found[1], field_name(found[1])
        if name not in FIELDS:
            raise InvalidParams(f"--{shown}", message("not_a_flag", known=["--" + each for each in FIELDS]))
        if name in values:
            raise InvalidParams(f"--{shown}", message("flag_twice"))
        following = FLAG.search(text, found.end())
        if text[found.end() : found.end() + 1] in ("'", '"'):
            value = QUOTED.match(text, found.end())
            if not value:
                raise InvalidParams(f"--{shown}", message("quotation"))
            values[name] = unquoted(value[0])
            following = FLAG.search(text, value.end())
            if text[value.end() : following.start() if following else None].strip():
                raise InvalidParams(f"--{shown}", message("flag_text"))
        else:
            values[name] = text[found.end() : following.start() if following else None].strip()
        if not values[name] and name != "negative":
            raise InvalidParams(f"--{shown}", message("flag_value"))
        found = following
    return values


def unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1])


def json_in(text: str) -> Any:
    """Raises InvalidParams."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidParams("line", message("not_json", error=str(error)[:100])) from None


def json_values(found: Any) -> dict[str, Any]:
    """The fields of a value of JSON. Raises InvalidParams."""
    if isinstance(found, str):
        return {"prompt": found}
    if not isinstance(found, dict):
        raise InvalidParams("line", message("json_line", example='{"prompt": "a castle", "seed": 7}'))
    values = {field_name(name): value for name, value in found.items()}
    if strange := [name for name in found if not known(field_name(name))]:
        raise InvalidParams("line", message("json_fields", fields=", ".join(strange)[:200], known=list(FIELDS)))
    if len(values) < len(found):
        raise InvalidParams("line", message("field_twice"))
    return values


def checked(number: int, text: str, read: Callable[[str], Mapping[str, Any]] | Mapping[str, Any]) -> Entry | BadLine:
    try:
        return entry(number, read(text) if callable(read) else read)
    except InvalidParams as error:
        return bad(number, error.message, text)


def bad(number: int, reason: str, text: str) -> BadLine:
    told = changed(reason, printable)
    short = told if len(told) <= REASON_CHARS else cut(told, REASON_CHARS)
    return BadLine(number, short, cut(text.strip(), SHOWN_CHARS))


def cut(text: str, length: int) -> str:
    """The text's beginning, printable."""
    return printable(text if len(text) <= length else text[: length - 1] + "…")


def printable(text: str) -> str:
    """With no half character, which JSON may hold."""
    return text.encode(errors="replace").decode()


FORMATS: dict[str, Callable[[bytes], Parsed]] = {
    "text": parse_text,
    "csv": parse_csv,
    "jsonl": parse_jsonl,
    "json": parse_json,
}
