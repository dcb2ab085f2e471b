"""``klais send``: one frame, as a device sends it."""

import json
import select
import socket
import time

import click

from klais.cli.auth import newest
from klais.cli.printing import say, say_json
from klais.cli.settings import load
from klais.config.auth_keys import read_key_ring
from klais.core.wire.constants import encode_frame
from klais.core.wire.signing import sign_frame, signed_id
from klais.errors import KlaisError
from klais.system.address import destination

ANSWER_S = 0.05  # on one machine "port unreachable" comes back within microseconds


@click.command()
@click.argument("payload")
@click.option("--device", required=True, help="Device id: 1 to 16 bytes of UTF-8.")
@click.option(
    "--seq", type=click.IntRange(0, 2**32 - 1), help="Sequence number; default: milliseconds of the clock, which grow."
)
@click.option("--auth", is_flag=True, help="Sign the frame, under the key that KLAIS_AUTH_KEY_FILE gives the device.")
@click.option("--epoch", type=click.IntRange(0, 2**32 - 1), help="Epoch of a signed frame; default: the clock, in s.")
@click.option("--generation", type=click.IntRange(0, 3), help="Key generation of a signed frame; default: the newest.")
@click.option("--to", "target", help="host:port of the edge (default: this machine, the port of KLAIS_UDP_BIND).")
@click.option("--no-check", is_flag=True, help="Send the payload as it is, also when it is no JSON object or too long.")
@click.option("--json", "as_json", is_flag=True, help="Print what was sent as one JSON object.")
def send(
    payload: str,
    device: str,
    seq: int | None,
    auth: bool,
    epoch: int | None,
    generation: int | None,
    target: str | None,
    no_check: bool,
    as_json: bool,
) -> None:
    """Send one frame with PAYLOAD, a JSON object (- reads it from standard input).

    UDP gives no receipt: see it arrive with `klais tail iot_telemetry`.

    \b
    Examples:
      klais send --device dev-1 --seq 7 '{"t":21.5}'
      klais send --device dev-1 --to 10.0.0.5:5000 '{"t":21.5}'
      echo '{"t":21.5}' | klais send --device dev-1 -
      klais send --auth --device dev-1 '{"t":21.5}'
    """
    text = click.get_text_stream("stdin").read().strip() if payload == "-" else payload
    if not no_check:
        _check(text)
    number = seq if seq is not None else time.time_ns() // 1_000_000 & 0xFFFFFFFF
    try:
        frame = encode_frame(device, number, text.encode("utf-8", "surrogateescape"))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    settings = load()
    if len(frame) > settings.frame_max_bytes and not no_check:
        raise click.UsageError(
            f"this frame has {len(frame)} bytes and KLAIS_FRAME_MAX_BYTES is {settings.frame_max_bytes}: "
            "an edge drops it as too_long. --no-check sends it all the same"
        )
    if auth:
        frame = _signed(frame, epoch, generation)
    elif epoch is not None or generation is not None:
        raise click.UsageError("--epoch and --generation need --auth")
    try:
        host, port = destination(target or settings.udp_bind)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    _send(frame, host, port)
    if as_json:
        say_json({"device_id": device, "seq": number, "bytes": len(frame), "to": f"{host}:{port}"})
    else:
        say(f"sent {len(frame)} bytes to {host}:{port}: device {device}, sequence {number}")


def _signed(frame: bytes, epoch: int | None, generation: int | None) -> bytes:
    ring = read_key_ring(load())
    number = generation if generation is not None else newest(ring)
    key = ring.key(signed_id(frame), number)
    try:
        return sign_frame(frame, key, int(time.time()) if epoch is None else epoch, number)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _check(text: str) -> None:
    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON (RFC 8259)")

    try:
        good = isinstance(json.loads(text, parse_constant=refuse), dict)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"PAYLOAD is not JSON: {error}. --no-check sends it all the same") from None
    if not good:
        raise click.UsageError('PAYLOAD must be a JSON object, like {"t": 21.5}. --no-check sends it all the same')


def _send(frame: bytes, host: str, port: int) -> None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as sock:
            sock.connect(address)
            sock.send(frame)
            if select.select([sock], [], [], ANSWER_S)[0]:
                sock.recv(1)  # a connected socket learns of "port unreachable" here
    except ConnectionRefusedError:
        raise KlaisError(
            f"nothing receives on {host}:{port}: is the edge up? (`klais edge`; --to names another)"
        ) from None
    except OSError as error:
        raise KlaisError(f"cannot send to {host}:{port}: {error.strerror or error}") from None
