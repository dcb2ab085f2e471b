"""``klais devices``: what operators ask of single devices' rows."""

import time

import click

REASON = click.option("--reason", default="", metavar="TEXT", help="The reason, kept with the request.")


@click.group()
def devices() -> None:
    """Manage what the workers remember of devices."""


@devices.command()
@click.argument("device_id")
@REASON
@click.option("--json", "as_json", is_flag=True, help="The record written as one JSON object.")
def forget(device_id: str, reason: str, as_json: bool) -> None:
    """Forget a device: its counters, sequence window and learned profile.

    The worker that owns its lane does so within a second. Frames of it that wait in the queue are still let out, and
    its next frame makes it a new device. Blocks and limits of its own stay.

    \b
    Example:
      klais devices forget dev-7 --reason "taken out of service"
    """
    from klais.cli.control import scope_of_device, write_override

    changes = {"forget_ms": time.time_ns() // 1_000_000}
    write_override(scope_of_device(device_id), changes, reason, as_json, f"asked to forget {device_id}")
