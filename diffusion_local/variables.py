"""Environment variables that look like misspelt settings."""

import difflib
from collections.abc import Mapping, Sequence

from diffusion_local.errors import InvalidParams
from diffusion_local.messages import message

HOOK_EVENT = "EVENT"  # a fact that every command hook gets as a variable
PASSED = "ORIGINS"  # from a parent process to its child
SPELT_LIKE = 0.75  # of difflib; that of prot and port


def refuse_misspelt(environ: Mapping[str, str], prefix: str, known: Sequence[str]) -> None:
    """Raise InvalidParams for a variable named like a setting but for a misspelling.

    Others are not ours. In a hook all are left alone, because it gets facts in such variables.
    """
    if prefix + HOOK_EVENT in environ:
        return
    for variable in sorted(environ):
        name = variable.removeprefix(prefix).lower()
        if not variable.startswith(prefix) or variable == prefix + PASSED or name in known:
            continue
        for near in difflib.get_close_matches(name, known, 1, SPELT_LIKE):
            raise InvalidParams(variable, message("variable_name", near=prefix + near.upper()))
