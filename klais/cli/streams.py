"""Standard streams as commands need them, whatever the caller closed or set."""

import io
import os
import sys

_NAMES = ("stdin", "stdout", "stderr")


def prepare_streams() -> None:
    """Open closed standard streams, and escape what the encoding of the output lacks."""
    _open_closed()
    encoding = str(getattr(sys.stdout, "encoding", "")).lower()
    if isinstance(sys.stdout, io.TextIOWrapper) and not encoding.startswith("utf"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a device_id may have any character


def _open_closed() -> None:
    """Connect closed standard streams with the null device: input is empty, output is discarded.

    The caller closes them as in ``klais ... >&-``. Python sets such a stream to None, which every use of it would have
    to check. A file or socket that is opened later would also get the free descriptor, and output of a library or a
    child process would be written into it.
    """
    for fd, name in enumerate(_NAMES):
        if getattr(sys, name) is not None:
            continue
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != fd:
            os.dup2(opened, fd)
            os.close(opened)
        os.set_inheritable(fd, True)
        setattr(sys, name, open(fd, "r" if fd == 0 else "w", encoding="utf-8", closefd=False))  # noqa: SIM115
