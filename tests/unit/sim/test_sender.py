"""What a sender does when the kernel accepts only some frames: it stops when asked, and counts exactly what it sent."""

import ctypes
import errno
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from klais.sim import sender as module
from klais.sim.manifest import read_manifest
from klais.sim.run import Plan, run
from klais.sim.sender import Sender, SendError
from klais.sim.stream import FrameStream, StreamOptions
from klais.sim.traffic import SteadyRate

Kernel = Callable[..., None]


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """``kernel(3, errno.ENOBUFS)``: the kernel takes 3 datagrams, and then always answers with the error."""

    def answers(room: int, error: int) -> None:
        left = [room]

        def sendmmsg(_fd: int, _headers: int, count: int, _flags: int) -> int:
            took = min(count, left[0])
            left[0] -= took
            if took:
                return took
            ctypes.set_errno(error)
            return -1

        monkeypatch.setattr(module._libc, "sendmmsg", sendmmsg)

    return answers


@pytest.mark.parametrize("ports", [1, 3])
@pytest.mark.parametrize("error", [errno.ENOBUFS, errno.EAGAIN, errno.EINTR, errno.ECONNREFUSED])
def test_a_full_queue_does_not_keep_a_sender_from_its_end(kernel: Kernel, error: int, ports: int) -> None:
    kernel(4, error)
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > 5

    sender = Sender("127.0.0.1", 9, ports, stop)
    lane = np.arange(9, dtype=np.int32)
    sender.send(np.zeros(900, np.uint8), np.arange(9) * 100, np.full(9, 100), lane)
    sender.close()
    assert (sender.sent, sender.sent_bytes, len(sender.unsent)) == (4, 400, 5)
    if ports == 1:
        assert sender.unsent.tolist() == [4, 5, 6, 7, 8]


@pytest.mark.parametrize("ports", [1, 4])
def test_frames_before_a_refusal_are_counted_and_recorded(kernel: Kernel, ports: int, tmp_path: Path) -> None:
    kernel(1500, errno.EPERM)
    stream = FrameStream(StreamOptions(devices=10, seed=1), SteadyRate(float("inf")))
    with pytest.raises(SendError, match="Operation not permitted"):
        run(stream, Plan("127.0.0.1", 9, ports, count=4000, manifest=tmp_path / "m"))
    manifest = read_manifest(tmp_path / "m")
    assert manifest.totals is not None
    assert manifest.count == manifest.totals["frames"] == sum(manifest.totals["kinds"].values()) == 1500


def test_the_manifest_of_a_run_that_stops_while_the_queue_is_full(kernel: Kernel, tmp_path: Path) -> None:
    kernel(4096 + 7, errno.ENOBUFS)  # in the second chunk
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > 30

    stream = FrameStream(StreamOptions(devices=10, seed=1), SteadyRate(float("inf")))
    summary = run(stream, Plan("127.0.0.1", 9, count=9000, manifest=tmp_path / "m", stop=stop))
    manifest = read_manifest(tmp_path / "m")
    assert summary["frames"] == manifest.count == 4096 + 7
    first = FrameStream(StreamOptions(devices=10, seed=1), SteadyRate(float("inf"))).next_chunk()
    assert (manifest.hashes[: first.count] == first.hashes).all()
