"""Commands for machines that work for the studio."""

from typing import Annotated

import typer

from diffusion_local.cli.terminal import AnyStudio, AsJson, print_result, with_studio
from diffusion_local.queue.machines import Machine

app = typer.Typer()
machine = typer.Typer(no_args_is_help=True, help="Other machines that work for this studio.")
app.add_typer(machine, name="machine")

Name = Annotated[str, typer.Argument(help="The machine's name.")]


@machine.command("list")
@with_studio
def list_machines(studio: AnyStudio, as_json: AsJson = False) -> None:
    """List machines: state, what they run, pictures per hour, when they were last seen."""
    found = studio.machines.all()
    print_result(found, as_json, [line for each in found for line in format_machine(each)] or ["no machine has joined"])


@machine.command()
@with_studio
def code(studio: AnyStudio, as_json: AsJson = False) -> None:
    """Create a pairing code for one machine; it is valid for five minutes and five attempts."""
    made = studio.machines.invite()
    lines = [made.code, f"expires at {made.expires_at}; at the other machine run", made.command]
    if made.unreachable:
        lines.append("the studio listens on this machine only: restart it with `diffusion-local serve --lan` first")
    print_result(made, as_json, lines)


@machine.command("set")
@with_studio
def set_machine(
    studio: AnyStudio,
    name: Name,
    hours: Annotated[
        str | None, typer.Option(help="Hours in which it gets jobs, such as 22:00-07:00; '': always.")
    ] = None,
    gpu_share: Annotated[
        str | None, typer.Option(help="wait: no jobs while another program uses its GPU; else ignore.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Change a machine's hours, or whether it waits while another program uses its GPU."""
    changed = studio.machines.change(name, hours=hours, gpu_share=gpu_share)
    print_result(changed, as_json, format_machine(changed))


@machine.command()
@with_studio
def pause(studio: AnyStudio, name: Name, as_json: AsJson = False) -> None:
    """Pause a machine: its jobs are requeued at their next step, and it gets no more."""
    changed = studio.machines.pause(name)
    print_result(changed, as_json, format_machine(changed))


@machine.command()
@with_studio
def drain(studio: AnyStudio, name: Name, as_json: AsJson = False) -> None:
    """Drain a machine: it finishes its jobs and gets no more."""
    changed = studio.machines.drain(name)
    print_result(changed, as_json, format_machine(changed))


@machine.command()
@with_studio
def resume(studio: AnyStudio, name: Name, as_json: AsJson = False) -> None:
    """Resume a machine: it gets jobs again."""
    changed = studio.machines.resume(name)
    print_result(changed, as_json, format_machine(changed))


@machine.command("remove")
@with_studio
def remove_machine(studio: AnyStudio, name: Name, as_json: AsJson = False) -> None:
    """Remove a machine and revoke its token; its jobs are requeued."""
    studio.machines.remove(name)
    print_result({"removed": True}, as_json, [f"removed {name}"])


def format_machine(machine: Machine) -> list[str]:
    """A line for the machine, and one for each of its slots."""
    state = machine.state if machine.connected else f"{machine.state}, not connected"
    about = [state, f"{machine.pictures_per_hour} pictures/h", f"version {machine.version or '?'}"]
    about += [f"hours {machine.hours}"] * bool(machine.hours) + [machine.resting] * bool(machine.resting)
    lines = [f"{machine.name:<16} {', '.join(about)}"]
    for slot in machine.slots:
        parts = [slot.status if slot.connected else f"gone since {slot.seen_at}", slot.model or "no model"]
        parts += [f"{slot.temperature} °C"] * (slot.temperature is not None) + [slot.problem] * bool(slot.problem)
        lines.append(f"  {slot.slot:<18} {slot.device:<24} {', '.join(parts)}")
    return lines
