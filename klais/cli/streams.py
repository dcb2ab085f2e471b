"""Standard streams that the caller closed, as ``klais ... >&-`` or a service manager does."""

import os
import sys

_NAMES = ("stdin", "stdout", "stderr")


def open_closed_streams() -> None:
    """Connect closed standard streams with the null device: input is empty, output is discarded.

    Python sets a closed stream to None, which every use of it would have to check. A file or socket that is opened
    later would also get the free descriptor, and output of a library or a child process would be written into it.
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
