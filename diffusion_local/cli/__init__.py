"""The command line. Works with or without a running server, because the jobs table is the source of truth."""

import os
import sys

import typer

from diffusion_local import disk
from diffusion_local.actor import LOCAL, run_as
from diffusion_local.cli import accounts, batches, jobs, lists, machines, models, pictures, reports, serving
from diffusion_local.cli.terminal import describe_error
from diffusion_local.disk import private_umask
from diffusion_local.errors import UserError

REFUSED_STATUS = 2  # exit status after a UserError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
for part in (accounts, jobs, lists, batches, models, machines, pictures, reports, serving):
    app.add_typer(part.app)


def main() -> None:
    run_as(LOCAL)  # a user who can run commands here has access to the files anyway
    try:
        with private_umask(), disk.storage_errors():
            app(prog_name="diffusion-local")
    except UserError as error:
        print(f"diffusion-local: {describe_error(error)}", file=sys.stderr)
        sys.exit(REFUSED_STATUS)
    except BrokenPipeError:  # the reader of our output has closed the pipe, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
