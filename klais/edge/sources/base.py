"""The interface of all sources of frames: "fill the next batch".

A source owns preallocated memory and columns with the position of each frame in it. :meth:`Source.fill` overwrites
both: copy frames that you need longer. A frame is in one piece at ``head[starts[i]:]``, except that one longer than
``head_size`` continues at ``tail[tail_starts[i]:]``; its header is always in ``head``. A source that receives in two
ways may have other memory and columns after each ``fill``: read the attributes again.

``docs/sources.md`` describes the sources, their requirements and costs; :mod:`klais.edge.sources.choose` opens one.
"""

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt


class Frames(Protocol):
    """Frames received together.

    Attributes
    ----------
    head, tail : uint8 [bytes]
        The memory of the frames.
    starts, lengths, tail_starts : int64 [at least n]
        Offset of frame i, and its length.
    head_size : int
        Maximum bytes of a frame in ``head``; the rest is in ``tail``.
    """

    head: npt.NDArray[np.uint8]
    tail: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.int64]
    tail_starts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    head_size: int

    def sources(self, n: int) -> npt.NDArray[np.uint8]:
        """Senders of the first ``n`` frames, as in KFB1: uint8 [n, 18], IPv6 or v4-mapped address, port big-
        endian.
        """

    def times(self, n: int) -> npt.NDArray[np.int64] | None:
        """When the kernel received the first ``n`` frames: int64 [n], CLOCK_MONOTONIC ns; None
        if unknown.
        """


class Source(Frames, Protocol):
    """The spine's view of a source: the frames of its last ``fill``, and these.

    Attributes
    ----------
    name : str
        Name in logs and ``/stats``.
    capacity : int
        Maximum number of frames of one ``fill``: the columns' length.
    port : int
        UDP port it receives on.
    granted_bytes : int
        Size of the receive buffer of its UDP socket.
    buffer_bytes : int
        Memory that the kernel may hold for us between two calls, by its own accounting.
    """

    name: str
    port: int
    granted_bytes: int
    capacity: int
    buffer_bytes: int

    def fill(self, wait_ns: int) -> int:
        """Put the next frames into the columns, waiting at most ``wait_ns`` for the first; returns their number."""

    def kernel_drops(self) -> int:
        """Frames that the kernel dropped since the source was opened, because they were not read in time."""

    def details(self) -> dict[str, Any]:
        """Additional facts for logs and ``/stats``."""

    def begin_drain(self) -> None:
        """Prepare the last calls of ``fill``: leave frames that the next process can receive to it."""

    def close(self) -> None:
        """Stop receiving and release the memory."""
