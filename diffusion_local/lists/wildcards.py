"""Wildcard files, and templates that use them."""

from functools import cached_property
from pathlib import Path

from diffusion_local.errors import InvalidParams
from diffusion_local.grammar.prompt_templates import MAX_DEPTH, make_choice, parse, parse_weight
from diffusion_local.grammar.trees import Node, Text, Wildcard
from diffusion_local.lists.encoding import decoded_lines, read_bounded
from diffusion_local.messages import message
from diffusion_local.models.directories import walk
from diffusion_local.options.values import MAX_PROMPT_CHARS

MAX_TREE = 100  # depth limit of a wildcard's tree, where cached wildcards escape the limit MAX_DEPTH
MAX_WILDCARD_MB = 5


MOST_NAMES = 1000
SHOWN_NAMES = 30  # in an error message
#: Problems that name their file.
OF_OTHER_FILES = frozenset(
    ("wildcard_file", "wildcard_line", "wildcard_empty", "wildcard_none", "wildcard_loop", "wildcard_deep")
)


class Expander:
    """Parses templates. Caches wildcard files, so that a list sees one state of each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, Wildcard] = {}

    def parse(self, template: str, field: str = "prompt") -> Node:
        """The tree of a prompt. Raises InvalidParams for unbalanced braces, loops and unknown wildcards."""
        try:
            node = parse(template, lambda name: self._wildcard(name, ()))
        except InvalidParams as error:
            raise InvalidParams(field, error.problem) from None
        if not isinstance(node, Text) and node.max_length > 2 * MAX_PROMPT_CHARS:
            raise InvalidParams(field, message("expand_long", most=MAX_PROMPT_CHARS))
        return node

    def _wildcard(self, name: str, above: tuple[str, ...]) -> Wildcard:
        if name in above:
            raise InvalidParams("prompt", message("wildcard_loop", loop=" > ".join((*above, name))))
        if name not in self._files:
            node = self._read(name, above) if len(above) < MAX_DEPTH else None
            if node is None or node.depth > MAX_TREE:
                raise InvalidParams("prompt", message("wildcard_deep", most=MAX_DEPTH))
            self._files[name] = node
        return self._files[name]

    def _read(self, name: str, above: tuple[str, ...]) -> Wildcard:
        try:
            entries = list(decoded_lines(read_bounded(self._path(name), MAX_WILDCARD_MB)))
        except InvalidParams as error:
            if error.field == "prompt":
                raise
            raise InvalidParams("prompt", message("wildcard_file", name=name, problem=error.problem)) from None
        options: list[tuple[float, Node]] = []
        for number, line, problem in entries:
            text = line.strip()
            if problem:
                raise InvalidParams("prompt", message("wildcard_line", name=name, line=number, problem=problem))
            if text and not text.startswith("#"):
                options.append(self._option(text, number, (*above, name)))
        if not options:
            raise InvalidParams("prompt", message("wildcard_empty", name=name))
        return Wildcard(name, make_choice(options))

    def _option(self, text: str, number: int, above: tuple[str, ...]) -> tuple[float, Node]:
        """(weight, tree) of a line of the last file of ``above``."""
        try:
            weight, text = parse_weight(text)
            return weight, parse(text, lambda each: self._wildcard(each, above))
        except InvalidParams as error:
            if error.problem.id in OF_OTHER_FILES:
                raise
            raise InvalidParams(
                "prompt", message("wildcard_line", name=above[-1], line=number, problem=error.problem)
            ) from None

    def _path(self, name: str) -> Path:
        try:
            inside = not any(part in ("", ".", "..") for part in name.split("/"))
            path = self._folder / f"{name}.txt"  # symbolic links are followed, as in folders of models
            if inside and path.is_file():
                return path
            if inside and len(alike := self._alike.get(name.casefold(), [])) == 1:
                return alike[0]
        except PermissionError as error:
            problem = message("cannot_be_read", error=error.strerror)
            raise InvalidParams("prompt", message("wildcard_file", name=name, problem=problem)) from None
        except OSError:  # not a valid file name
            pass
        raise InvalidParams(
            "prompt", message("wildcard_none", name=name, known=", ".join(self.known_names[:SHOWN_NAMES]) or "none")
        )

    @cached_property
    def _alike(self) -> dict[str, list[Path]]:
        """Files by their names in lower case: a home may come from a system that does not tell cases apart."""
        files: dict[str, list[Path]] = {}
        for name, path in self._walked:
            files.setdefault(name.casefold(), []).append(path)
        return files

    @cached_property
    def _walked(self) -> list[tuple[str, Path]]:
        files = walk(self._folder, (".txt",)) if self._folder.is_dir() else ()
        return [("/".join((*each.below, each.path.stem)), each.path) for each in files if not each.folder]

    @cached_property
    def known_names(self) -> list[str]:
        """Names of the wildcard files, at most MOST_NAMES."""
        return sorted(name for name, _ in self._walked)[:MOST_NAMES]
