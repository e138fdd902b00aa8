"""Commands for reports and webhooks."""

from pathlib import Path
from typing import Annotated

import typer

from diffusion_local.cli.terminal import AnyStudio, AsJson, Home, print_result, with_studio
from diffusion_local.compose import open_studio
from diffusion_local.disk import inherited_umask_restored
from diffusion_local.errors import InvalidParams, echo
from diffusion_local.messages import message
from diffusion_local.reports.service import REPORT_FORMATS
from diffusion_local.settings import Settings

app = typer.Typer()
webhook = typer.Typer(no_args_is_help=True, help="Webhooks: secret, delivery log, test messages.")
app.add_typer(webhook, name="webhook")


@app.command()
@with_studio
def report(
    studio: AnyStudio,
    batch: Annotated[str | None, typer.Argument(help="Id of a batch; by default the last 12 hours.")] = None,
    since: Annotated[
        str | None, typer.Option(help="Start: 23:00 (the most recent), yesterday 23:00 or 2026-11-22T23:00.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="End, in the same forms.")] = None,
    form: Annotated[str, typer.Option("--format", help=", ".join(REPORT_FORMATS))] = "md",
    output: Annotated[Path | None, typer.Option(help="File to write, instead of standard output.")] = None,
) -> None:
    """Report on a batch or a night: pictures done, failures by reason, time."""
    if form not in REPORT_FORMATS:
        raise InvalidParams("format", message("one_of", known=list(REPORT_FORMATS), got=echo(form)))
    if batch and (since or until):
        raise InvalidParams("batch", message("without_since"))
    text = studio.reports.written(form, batch, since, until)
    if output is None:
        print(text, end="")
        return
    try:
        with inherited_umask_restored():
            output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidParams("output", message("cannot_be_written", error=error)) from None


@app.command("stay-awake")
@with_studio
def stay_awake(studio: AnyStudio, as_json: AsJson = False) -> None:
    """Cancel the planned sleep or shutdown; it is planned again after the next list."""
    studio.queue.stay_awake()
    print_result({"sleep_at": ""}, as_json, ["the machine stays awake"])


@webhook.command()
def secret(home: Home = None) -> None:
    """Print the secret that verifies webhook signatures. Servers do not disclose it: run this on the
    server's machine.
    """
    print(open_studio(Settings.load(home=home)).webhooks.secret())


@webhook.command("list")
@with_studio
def list_deliveries(
    studio: AnyStudio,
    limit: Annotated[int, typer.Option(help="Deliveries to list.")] = 20,
    state: Annotated[str, typer.Option(help="Only waiting, sending, delivered or failed ones.")] = "",
    as_json: AsJson = False,
) -> None:
    """List webhook deliveries, newest first."""
    deliveries = studio.webhooks.deliveries(limit, None, state or None)
    lines = [
        f"{each.id}  {each.state:<9} {each.event:<12} {each.receiver}"
        + (f"  ({each.error}{f'; again at {each.next_try_at}' if each.next_try_at else ''})" if each.error else "")
        for each in deliveries
    ]
    print_result(deliveries, as_json, lines or ["no deliveries yet"])


@webhook.command()
@with_studio
def resend(studio: AnyStudio, delivery_id: str, as_json: AsJson = False) -> None:
    """Send a delivery again, through `serve`."""
    found = studio.webhooks.resend(delivery_id)
    print_result(found, as_json, [f"to be sent again: {found.id}"])


@webhook.command("test")
@with_studio
def send_test(
    studio: AnyStudio,
    webhook: Annotated[str, typer.Argument(metavar="URL", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Send a test message to an address, through `serve`; `webhook list` shows the result."""
    found = studio.webhooks.test(webhook)
    print_result(found, as_json, [f"to be sent: {found.id}"])
