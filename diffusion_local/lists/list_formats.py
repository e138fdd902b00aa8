"""Parses list formats to entries: text with flags, CSV or TSV, JSONL, JSON array. Each line is an Entry or a BadLine.

In every format blank lines and lines that start with ``#`` are ignored; quotation marks around such a line make it a
prompt. Content that is not a list is refused as a whole.
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import PurePath
from typing import Any

from diffusion_local.errors import InvalidParams, echo, replace_surrogates
from diffusion_local.lists.encoding import MAX_LINE_CHARS, decode, decoded_lines
from diffusion_local.lists.entries import (
    LIST_OPTIONS,
    OPTION_SPELLINGS,
    BadLine,
    Entry,
    field_name,
    is_known,
    make_entry,
)
from diffusion_local.messages import map_params, message

Parsed = Iterator[Entry | BadLine]

#: Longest prompt and negative prompt, quoted, exceed the limit of a plain text line.
MAX_ROW_CHARS = 5 * MAX_LINE_CHARS
SHOWN_CHARS, REASON_CHARS = 80, 500
FORMAT_BY_SUFFIX = {".csv": "csv", ".tsv": "csv", ".tab": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json"}
DELIMITERS = "\t,;|"
COMMENTS = ("#", "//")  # ``//`` only in JSON, where no value can start with it
#: Excel's line that declares the delimiter of a CSV file.
SEPARATOR_LINE = re.compile(r'\s*"?sep=(.)"?[\s,;]*', re.IGNORECASE)
#: Other columns that tables of prompts often have.
IGNORED_COLUMNS = frozenset(
    ("", "category", "comment", "date", "description", "file_name", "filename", "group", "id", "image", "index",
     "name", "no", "no.", "nr", "nr.", "note", "notes", "number", "row", "style", "tag", "tags", "title", "type")
)  # fmt: skip
#: Starts of text files that are not lists of prompts.
NO_LISTS = ("{\\rtf", "<!doctype", "<html", "<?xml", "<svg", "%pdf", "---\n")
ARRAY = re.compile(r'\[\s*(\[\s*["{\[]|"(?:[^"\\]|\\.){0,200}"?\s*[,\]]|"(?:[^"\\]|\\.){150}|\{\s*["}]|\])')
OBJECT = re.compile(r'\{\s*"[^"\\]{1,40}"\s*:.*\}')
WHITESPACE = re.compile(r"\s*")
COMMA = re.compile(r"\s*,\s*")
FLAG_NAMES = "|".join(sorted({*LIST_OPTIONS, *OPTION_SPELLINGS}, key=len, reverse=True)).replace("_", "[-_]")
#: Text programs replace ``--`` by a dash; before other words it is one.
COMMAND_FLAG = re.compile(rf"(?:^|(?<=\s))(?:--|[–—](?=(?:{FLAG_NAMES})\b))([A-Za-z][\w-]*)(?:\s*=\s*|\s+|$)")
#: A line of YAML, or of a recipe pasted from another program.
NAMED_VALUE = re.compile(r"(?:-\s+)?([A-Za-z][\w ]{0,19})\s*:(?:\s|$)")
#: Names that begin no prompt.
NO_PROMPTS = frozenset(("prompt", "prompts", "negative", "seed", "steps", "sampler", "guidance"))
#: Characters are escaped by a backslash, quotation marks also by doubling as in CSV.
QUOTED = re.compile(r"""("[^"\\]*(?:(?:\\.|"")[^"\\]*)*"|'[^'\\]*(?:(?:\\.|'')[^'\\]*)*')(?=\s|$)""", re.DOTALL)


def format_of(name: str) -> str:
    """The format by file extension."""
    return FORMAT_BY_SUFFIX.get(PurePath(name).suffix.lower(), "text")


def parse(data: bytes, form: str) -> Parsed:
    """Parse a list lazily. Raises InvalidParams if it cannot be read as a whole."""
    if form not in LIST_PARSERS:
        raise InvalidParams("format", message("one_of", known=list(LIST_PARSERS), got=echo(form)))
    return LIST_PARSERS[form](data)


def parse_text(data: bytes) -> Parsed:
    """One prompt per line, optionally followed by ``--flags``. JSON or CSV mistaken for text is read as such."""
    head = read_start(data)
    if head.lower().startswith(NO_LISTS) or first_line(head) == "{":
        raise InvalidParams("list", message("no_list", start=echo(head[:20])))
    whole = whole_first_line(data)
    if is_array(data, head) or OBJECT.match(whole):
        yield from parse_jsonl(data)
        return
    if is_header(whole):
        yield from parse_csv(data)
        return
    for number, line, problem in decoded_lines(data):
        text = line.strip()
        if problem:
            yield bad_line(number, problem, text)
        elif text and not text.startswith("#"):
            yield parse_entry(number, text, text_values)


def parse_jsonl(data: bytes) -> Parsed:
    """One JSON object per line with fields of Params, or a JSON string as prompt; or an array of these."""
    if is_array(data, read_start(data)):
        yield from parse_array(data)
        return
    for number, line, problem in decoded_lines(data, MAX_ROW_CHARS):
        text = line.strip()
        if problem:
            yield bad_line(number, problem, text)
        elif text and not text.startswith(COMMENTS):
            yield parse_entry(number, text, lambda text: json_values(parse_json_text(text.removesuffix(","))))


def parse_json(data: bytes) -> Parsed:
    """A JSON array of objects with fields of Params, or of strings as prompts."""
    if not read_start(data).startswith("["):
        raise InvalidParams("list", message("json_array"))
    yield from parse_array(data)


def parse_array(data: bytes) -> Parsed:
    """The items of a JSON array, each under the number of its first line. Raises InvalidParams.

    A syntax error ends the array: the start of the next item is unknown.
    """
    text = "".join(
        "\n" if line.lstrip().startswith(COMMENTS) else line for _, line, _ in decoded_lines(data, len(data))
    )
    decoder, place, number, counted = json.JSONDecoder(object_pairs_hook=note_twice), text.index("[") + 1, 1, 0
    following = WHITESPACE.match(text, place).end()  # type: ignore[union-attr]
    while not text.startswith("]", following):
        number += text.count("\n", counted, following)
        counted = following
        try:
            value, place = decoder.raw_decode(text, following)
        except (ValueError, RecursionError) as error:
            raise InvalidParams("list", message("json_from_line", line=number, error=json_problem(error))) from None
        excerpt = text[following : following + SHOWN_CHARS]
        yield parse_entry(number, excerpt, lambda _: json_values(value))  # noqa: B023
        comma = COMMA.match(text, place)
        if not comma and not text.startswith("]", WHITESPACE.match(text, place).end()):  # type: ignore[union-attr]
            raise InvalidParams("list", message("json_comma", line=number))
        following = (comma or WHITESPACE.match(text, place)).end()  # type: ignore[union-attr]
    if text[following + 1 :].strip():
        raise InvalidParams("list", message("json_end"))


def is_array(data: bytes, head: str) -> bool:
    """Whether the data is a JSON array of strings or objects, rather than a prompt such as ``[red|blue] car``."""
    return first_line(head) == "[" or bool(ARRAY.match(head) and decode(data).rstrip().endswith("]"))


def is_header(line: str) -> bool:
    """Whether a line is the header of a CSV file, or Excel's line before one, rather than a prompt."""
    if SEPARATOR_LINE.fullmatch(line):
        return True
    for delimiter in DELIMITERS:
        names = [field_name(cell.strip().strip('"')) for cell in line.split(delimiter)]
        named = sum(map(is_known, names))
        if (
            "prompt" in names
            and (named > 1 or len(names) > 1)
            and all(is_known(each) or each in IGNORED_COLUMNS for each in names)
        ):
            return True
    return False


def whole_first_line(data: bytes) -> str:
    """The first line that is neither blank nor a comment."""
    texts = (line.strip() for _, line, _ in decoded_lines(data, MAX_ROW_CHARS))
    return next((text for text in texts if text and not text.startswith(COMMENTS)), "")


def first_line(text: str) -> str:
    return text.partition("\n")[0].strip()


def read_start(data: bytes) -> str:
    """The first non-blank lines, up to some hundred characters."""
    head = ""
    for _, line, _ in decoded_lines(data, MAX_ROW_CHARS):
        if line.strip() and not (not head and line.lstrip().startswith(COMMENTS)):
            head += line[:200]
            if len(head) >= 100:
                break
    return head.lstrip()


def parse_csv(data: bytes) -> Parsed:
    """A header with fields of Params, then one row per prompt; comma, semicolon or tab. Empty cells are ignored."""
    table = Table(data)
    names: list[str] = []
    for row in table.rows():
        if isinstance(row, BadLine):
            yield row
        elif not names:
            names = [field_name(name) for name in row]
            yield from header_problems(table.first, row, names)
        elif any(cell.strip() for cell in row[len(names) :]):
            yield bad_line(table.first, f"has {len(row)} cells; the header has {len(names)}.", ",".join(row))
        elif stray := next((cell for name, cell in zip(names, row, strict=False) if not name and cell.strip()), ""):
            yield bad_line(table.first, message("column_nameless", text=echo(stray.strip())), ",".join(row))
        else:
            yield parse_entry(table.first, ",".join(row), dict(zip(names, row, strict=False)))


def header_problems(number: int, header: list[str], names: list[str]) -> Iterator[BadLine]:
    """BadLine for unknown columns. Raises InvalidParams if the header makes every row unreadable."""
    if "prompt" not in names:
        raise InvalidParams("list", message("column_prompt", columns=", ".join(header)[:200]))
    if duplicates := sorted(name for name, times in Counter(names).items() if times > 1 and is_known(name)):
        raise InvalidParams("list", message("column_twice", column=list(duplicates)))
    if unknown := [title for name, title in zip(names, header, strict=True) if name and not is_known(name)]:
        yield bad_line(
            number, f"unknown columns: {', '.join(unknown)[:200]}. Known: {', '.join(LIST_OPTIONS)}.", ",".join(header)
        )


class Table:
    """The rows of a CSV file. Cells may contain line ends, so ``first`` is the line on which the current
    row started.
    """

    def __init__(self, data: bytes) -> None:
        self.first = self._last = 0
        self._torn = False
        self._lines = decoded_lines(data, MAX_ROW_CHARS)
        self._bad: list[BadLine] = []

    def rows(self) -> Iterator[list[str] | BadLine]:
        texts = self._texts()
        head = next((line for line in texts if line.strip()), "")
        delimiter = "\t" if "\t" in head else max(DELIMITERS, key=head.count)
        if named := SEPARATOR_LINE.fullmatch(head):
            delimiter, self.first = named[1], 0
            head = next((line for line in texts if line.strip()), "")
        self.first = self._last
        # strict: otherwise an unclosed quotation mark silently swallows the rest of the list
        reader = csv.reader(chain([head], texts), delimiter=delimiter, strict=True)
        while True:
            try:
                row = next(reader)
            except StopIteration:
                yield from self._bad
                return
            except csv.Error as error:
                yield bad_line(self.first, f"is not CSV up to line {self._last}: {error}.", "")
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
                self._bad.append(bad_line(number, problem, line))
                self._torn = self.first > 0  # inside a cell, so its row is incomplete
            elif self.first or not line.lstrip().startswith("#"):  # inside a row the line is part of a quoted cell
                self.first = self.first or number
                yield line


def text_values(text: str) -> dict[str, Any]:
    """The fields of a text line. Raises InvalidParams."""
    values: dict[str, Any] = {}
    named = NAMED_VALUE.match(text)
    if named and field_name(named[1]) in NO_PROMPTS:
        raise InvalidParams("line", message("line_named", start=echo(named[0].strip())))
    quoted = QUOTED.match(text)
    if quoted and (not text[quoted.end() :].strip() or COMMAND_FLAG.match(text[quoted.end() :].lstrip())):
        values["prompt"], text = (
            unquote(quoted[0]),
            text[quoted.end() :].lstrip(),
        )  # a quoted prompt may contain --flags
        flag_match = COMMAND_FLAG.match(text)
    else:
        flag_match = COMMAND_FLAG.search(text)
        prompt = text[: flag_match.start()].strip() if flag_match else text
        if prompt:
            values["prompt"] = prompt
    while flag_match:
        flag, name = flag_match[1], field_name(flag_match[1])
        if name not in LIST_OPTIONS:
            raise InvalidParams(f"--{flag}", message("not_a_flag", known=["--" + each for each in LIST_OPTIONS]))
        if name in values:
            raise InvalidParams(f"--{flag}", message("flag_twice"))
        following = COMMAND_FLAG.search(text, flag_match.end())
        if text[flag_match.end() : flag_match.end() + 1] in ("'", '"'):
            value = QUOTED.match(text, flag_match.end())
            if not value:
                raise InvalidParams(f"--{flag}", message("quotation"))
            values[name] = unquote(value[0])
            following = COMMAND_FLAG.search(text, value.end())
            if text[value.end() : following.start() if following else None].strip():
                raise InvalidParams(f"--{flag}", message("flag_text"))
        else:
            values[name] = text[flag_match.end() : following.start() if following else None].strip()
        if not values[name] and name != "negative":
            raise InvalidParams(f"--{flag}", message("flag_value"))
        flag_match = following
    return values


def unquote(text: str) -> str:
    return re.sub(rf"\\(.)|({text[0]}){text[0]}", r"\1\2", text[1:-1], flags=re.DOTALL)


def parse_json_text(text: str) -> Any:
    """Parse JSON. Raises InvalidParams."""
    try:
        return json.loads(text, object_pairs_hook=note_twice)
    except (ValueError, RecursionError) as error:
        raise InvalidParams("line", message("not_json", error=json_problem(error))) from None


class Twice(dict[str, Any]):
    """A JSON object with a duplicate name, of which only the last value would be kept."""


def note_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else Twice(found)


def json_problem(error: ValueError | RecursionError) -> str:
    """Describe a JSON error, without mentioning the interpreter's limits and settings."""
    if isinstance(error, RecursionError):
        return "nested too deep"
    return str(error)[:100] if isinstance(error, json.JSONDecodeError) else "a number has too many digits"


def json_values(content: Any) -> dict[str, Any]:
    """The fields of a JSON value. Raises InvalidParams."""
    if isinstance(content, str):
        return {"prompt": content}
    if not isinstance(content, dict):
        raise InvalidParams("line", message("json_line", example='{"prompt": "a castle", "seed": 7}'))
    values = {field_name(name): value for name, value in content.items()}
    if unknown := [name for name in content if not is_known(field_name(name))]:
        raise InvalidParams("line", message("json_fields", fields=", ".join(unknown)[:200], known=list(LIST_OPTIONS)))
    if len(values) < len(content) or isinstance(content, Twice):
        raise InvalidParams("line", message("field_twice"))
    return values


def parse_entry(
    number: int, text: str, read: Callable[[str], Mapping[str, Any]] | Mapping[str, Any]
) -> Entry | BadLine:
    try:
        return make_entry(number, read(text) if callable(read) else read)
    except InvalidParams as error:
        return bad_line(number, error.message, text)


def bad_line(number: int, reason: str, text: str) -> BadLine:
    clean = map_params(reason, replace_surrogates)
    short = clean if len(clean) <= REASON_CHARS else truncate(clean, REASON_CHARS)
    return BadLine(number, short, truncate(text.strip(), SHOWN_CHARS))


def truncate(text: str, length: int) -> str:
    """The start of the text, printable."""
    return replace_surrogates(text if len(text) <= length else text[: length - 1] + "…")


LIST_PARSERS: dict[str, Callable[[bytes], Parsed]] = {
    "text": parse_text,
    "csv": parse_csv,
    "jsonl": parse_jsonl,
    "json": parse_json,
}
