"""Machines that work for the studio, as HTML. Pure, like ``view``."""

from collections.abc import Sequence

from markupsafe import Markup

from diffusion_local.machines import PairingCode
from diffusion_local.models.service import format_size
from diffusion_local.queue.machines import Machine
from diffusion_local.web.ui.templates import render
from diffusion_local.web.ui.view import moment, text
from diffusion_local.web.ui.view_help import dialog
from diffusion_local.web.ui.words import say


def machines(found: Sequence[Machine]) -> str:
    def time(at: str) -> Markup:
        return Markup(moment(at))

    return render("machines.html", machines=found, moment=time, size=format_size)


def invitation(made: PairingCode) -> str:
    """The dialog that shows a pairing code."""
    lines = (
        f'<p class="code"><b><code>{text(made.code)}</code></b></p>'
        f"<p>{say('machines.code_how')}</p><pre>{text(made.command)}</pre>"
        f'<p class="quiet">{say("machines.code_until", time=moment(made.expires_at, exact=True))}</p>'
    )
    return dialog("machine-code", say("machines.code"), lines)
