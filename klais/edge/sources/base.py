"""Where frames come from: every source shares one small interface, "fill the next batch".

A source owns preallocated memory and columns that say where each frame lies in it. :meth:`Source.fill` overwrites
both: copy a frame that you need longer. A frame lies in one piece at ``head[starts[i]:]``, except that one longer
than ``head_size`` continues at ``tail[tail_starts[i]:]``; its header is always in ``head``. A source that receives in
two ways may have other memory and columns after each ``fill``: read the attributes again.

What each source is, needs and costs is in ``docs/sources.md``; :mod:`klais.edge.sources.choose` opens one.
"""

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt


class Frames(Protocol):
    """Frames that were received together.

    Attributes
    ----------
    head, tail : uint8 [bytes]
        Memory the frames lie in.
    starts, lengths, tail_starts : int64 [at least n]
        Where frame i lies, and how long it is.
    head_size : int
        Bytes of a frame that lie in ``head``; the rest lies in ``tail``.
    """

    head: npt.NDArray[np.uint8]
    tail: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.int64]
    tail_starts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    head_size: int

    def sources(self, n: int) -> npt.NDArray[np.uint8]:
        """Where the first ``n`` frames came from, as in KFB1: uint8 [n, 18], IPv6 or v4-mapped address, port big-
        endian.
        """

    def times(self, n: int) -> npt.NDArray[np.int64] | None:
        """When the kernel received the first ``n`` frames: int64 [n], CLOCK_MONOTONIC ns; None
        where it does not say.
        """


class Source(Frames, Protocol):
    """What the spine needs of a source: the frames of its last ``fill``, and these.

    Attributes
    ----------
    name : str
        For logs and ``/stats``.
    capacity : int
        Frames that one ``fill`` can give at most: the columns' length.
    port : int
        UDP port it receives on.
    granted_bytes : int
        Receive buffer of its UDP socket.
    buffer_bytes : int
        What the kernel may hold for us between two calls, by its own accounting.
    """

    name: str
    port: int
    granted_bytes: int
    capacity: int
    buffer_bytes: int

    def fill(self, wait_ns: int) -> int:
        """Put the next frames into the columns, waiting at most ``wait_ns`` for the first; returns how many."""

    def kernel_drops(self) -> int:
        """Frames that the kernel dropped since the source was opened, because nobody took them in time."""

    def details(self) -> dict[str, Any]:
        """What people may want to know of it, for logs and ``/stats``."""

    def begin_drain(self) -> None:
        """Prepare the last calls of ``fill``: leave to the next process what it can receive."""

    def close(self) -> None:
        """Stop receiving and give the memory back."""
