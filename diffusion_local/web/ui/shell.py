"""The HTML around Gradio's page: it is there, in the reader's language, before Gradio has loaded."""

from diffusion_local.actor import current
from diffusion_local.web.ui import addresses
from diffusion_local.web.ui.templates import render


def shell(path: str, url: str = "") -> str:
    """For the page at this path; ``url`` is where a phone of the network finds the server, if it can."""
    view = path.removeprefix(addresses.PREFIX).strip("/").split("/")[0]
    person = current()
    return render(
        "shell.html",
        views=[each for each in addresses.VIEWS if each != "queue"],
        open_view=view if view in addresses.VIEWS else "create",
        now="",
        unknown=not addresses.known(path),
        phone_url=url,
        who=person.name if person.source == "session" else "",
    )
