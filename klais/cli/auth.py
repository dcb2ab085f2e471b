"""``klais auth``: keys of authenticated frames. Keys are printed only on request."""

import os
import secrets
from pathlib import Path

import click

from klais.cli.groups import SuggestingGroup
from klais.cli.printing import say, say_json
from klais.cli.settings import load
from klais.config.auth_keys import KEY_FILE, KeyRing, read_key_ring, read_lines
from klais.core.wire.constants import HEADER_SIZE, ID_OFFSET, ID_RULE, ID_SIZE, is_device_id
from klais.core.wire.signing import (
    GENERATIONS,
    MIN_SECRET_BYTES,
    MIN_SIGNED_BYTES,
    SIGNED_MAGIC_BYTES,
    SUITE_SIPHASH,
    TAG_SIZE,
    siphash24,
    trailer,
)
from klais.errors import ConfigError, KlaisError
from klais.system.private_files import write_own

RELOAD = "give the file to all edges, then reload them: systemctl reload klais-edge, or kill -HUP"
FILE = click.option("--file", "path", type=click.Path(dir_okay=False, path_type=Path), help=f"Instead of {KEY_FILE}.")
GENERATION = click.option(
    "--generation", type=click.IntRange(0, GENERATIONS - 1), help="Key generation.  [default: the newest]"
)


@click.group(cls=SuggestingGroup)
def auth() -> None:
    """Create keys of authenticated frames, and check frames.

    docs/operations.md explains the roll-out, rotation, and how to revoke the key of one device.
    """


def _path(path: Path | None) -> Path:
    found = path or load().auth_key_file
    if found is None:
        raise click.UsageError(f"give the file with --file or {KEY_FILE}")
    return found


def _new_line(generation: int) -> str:
    return f"{generation} {secrets.token_hex(MIN_SECRET_BYTES)}\n"


@auth.command()
@FILE
def new(path: Path | None) -> None:
    """Create a file with a secret of generation 0.

    \b
    Example:
      klais auth new --file /etc/klais/auth.keys
    """
    where = _path(path)
    try:
        fd = os.open(where, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise KlaisError(f"{where} already exists: `klais auth add` adds a generation to it") from None
    except OSError as error:
        raise KlaisError(f"{where} cannot be created: {error.strerror}") from None
    with open(fd, "w") as file:
        file.write(
            "# Secrets of authenticated frames: generation, hex. A reader of this file can forge every device.\n"
        )
        file.write(_new_line(0))
    say(f"created {where} with generation 0: set {KEY_FILE} to it")


@auth.command()
@FILE
def add(path: Path | None) -> None:
    """Add the next generation, with a new secret: the first step of a rotation."""
    where = _path(path)
    lines = read_lines(where)
    generation = (KeyRing(lines).newest + 1) % GENERATIONS if lines else 0
    if generation in lines:
        raise KlaisError(f"{where} has all {GENERATIONS} generations: retire one first (`klais auth retire`)")
    _write(where, where.read_text().rstrip("\n") + "\n" + _new_line(generation))
    say(f"added generation {generation} to {where}: {RELOAD}")


@auth.command()
@click.argument("generation", type=click.IntRange(0, GENERATIONS - 1))
@FILE
def retire(generation: int, path: Path | None) -> None:
    """Remove a generation: frames under its keys are refused. The last step of a rotation.

    First see that klais_auth_frames_total{result="ok"} of this generation no longer grows on any edge.
    """
    where = _path(path)
    if generation not in read_lines(where):
        raise KlaisError(f"{where} has no generation {generation}")
    kept = [line for line in where.read_text().splitlines() if line.split()[:1] != [str(generation)]]
    _write(where, "\n".join(kept) + "\n")
    say(f"removed generation {generation} from {where}: {RELOAD}")


def _write(path: Path, text: str) -> None:
    try:
        write_own(path, text.encode())
    except OSError as error:
        raise KlaisError(f"{path} cannot be written: {error.strerror}") from None


@auth.command("device-key")
@click.argument("device_id")
@GENERATION
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def device_key_of(device_id: str, generation: int | None, as_json: bool) -> None:
    """Print the key of a device in hex, to be stored in it. With this key only this device can be forged.

    \b
    Example:
      klais auth device-key dev-1
    """
    ring = read_key_ring(load())
    name = device_id.encode()
    if not is_device_id(name):
        raise click.UsageError(f"{ID_RULE}: {device_id!r} does not")
    number = generation if generation is not None else newest(ring)
    key = ring.key(name, number).hex()
    if as_json:
        say_json({"device_id": device_id, "generation": number, "key": key})
    else:
        say(key)


def newest(ring: KeyRing) -> int:
    """The generation for signing."""
    return ring.newest if ring.masters else 0


@auth.command()
@click.argument("frame_hex")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_context
def check(ctx: click.Context, frame_hex: str, as_json: bool) -> None:
    """Check a signed frame, given in hex: exit code 0 if its tag is valid.

    \b
    Example:
      klais auth check aa566465762d31...
    """
    try:
        frame = bytes.fromhex(frame_hex)
    except ValueError:
        raise click.UsageError("the frame is not hex") from None
    found = examine(frame, read_key_ring(load()))
    if as_json:
        say_json(found)
    else:
        say(*(f"{name}: {value}" for name, value in found.items()))
    ctx.exit(0 if found["ok"] else 1)


def examine(frame: bytes, ring: KeyRing) -> dict[str, object]:
    """Parse a frame and check its tag: ``ok``, or ``why`` not."""
    if frame[:2] != SIGNED_MAGIC_BYTES or len(frame) < MIN_SIGNED_BYTES:
        why = f"{len(frame)} bytes that begin with {frame[:2].hex() or 'nothing'}: not AA 56 "
        why += f"and {MIN_SIGNED_BYTES} or more"
        return {"ok": False, "why": why}
    epoch, suite, generation, spare = trailer(frame)
    padded = frame[ID_OFFSET : ID_OFFSET + ID_SIZE]
    facts: dict[str, object] = {
        "device_id": padded.rstrip(b"\0").decode(errors="replace"),
        "sequence": int.from_bytes(frame[HEADER_SIZE - 4 : HEADER_SIZE], "big"),
        "epoch": epoch,
        "generation": generation,
    }
    why = ""
    if suite != SUITE_SIPHASH or spare:
        why = f"suite {suite} with reserved bits {spare:#x}: edges know suite {SUITE_SIPHASH} and no other bits"
    else:
        try:
            key = ring.key(padded.rstrip(b"\0"), generation)
            why = "" if siphash24(key, frame[:-TAG_SIZE]) == frame[-TAG_SIZE:] else "the tag is wrong for this key"
        except ConfigError as error:
            why = str(error)
    return {"ok": not why, **facts} | ({"why": why} if why else {})
