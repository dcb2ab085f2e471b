"""The simulator's frames as text of the same length: ``<134>``, id, a space, payload, for peers that corrupt binary.

python -m bench.cases.peers.programs.text_sender HOST:PORT RATE SECONDS DEVICES
"""

import json
import sys
from dataclasses import replace

import numpy as np

from klais.core.wire.constants import HEADER_SIZE, ID_SIZE
from klais.sim.run import Plan, run
from klais.sim.stream import Chunk, FrameStream, StreamOptions
from klais.sim.traffic import SteadyRate

PRIORITY = b"<134>"  # local0.info
SPACE = ord(" ")


def as_text(chunk: Chunk) -> Chunk:
    """The chunk with text in place of each binary header (22 bytes: 5 of priority, 16 of id, a space)."""
    at = chunk.starts[:, None] + np.arange(HEADER_SIZE)
    head = chunk.buf[at]
    ids = head[:, 2 : 2 + ID_SIZE]
    text = np.full_like(head, SPACE)
    text[:, : len(PRIORITY)] = np.frombuffer(PRIORITY, np.uint8)
    text[:, len(PRIORITY) : len(PRIORITY) + ID_SIZE] = np.where(ids == 0, SPACE, ids)
    buf = chunk.buf.copy()
    buf[at] = text
    return replace(chunk, buf=buf)


class TextStream(FrameStream):
    """The stream of frames, each as text."""

    def next_chunk(self) -> Chunk:
        """See FrameStream."""
        return as_text(super().next_chunk())


def main() -> None:
    """Send, and print the summary as the simulator does."""
    host, _, port = sys.argv[1].rpartition(":")
    rate, seconds, devices = float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
    stream = TextStream(StreamOptions(devices=devices, seed=1), SteadyRate(rate))
    print(json.dumps(run(stream, Plan(host, int(port), duration_s=seconds))))


if __name__ == "__main__":
    main()
