"""Sends UDP with many datagrams per system call: ``sendmmsg(2)`` on columns of addresses and lengths, no copies."""

import ctypes
import errno
import os
import socket
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from klais.errors import KlaisError

SLICE_FRAMES = 1024  # the kernel's limit of one sendmmsg (UIO_MAXIOV)
SEND_BUFFER_BYTES = 4 << 20

# struct mmsghdr and struct iovec of 64-bit Linux; the gaps are the compiler's padding
MMSGHDR = np.dtype(
    {
        "names": ["name", "namelen", "iov", "iovlen", "control", "controllen", "flags", "sent"],
        "formats": ["<u8", "<u4", "<u8", "<u8", "<u8", "<u8", "<i4", "<u4"],
        "offsets": [0, 8, 16, 24, 32, 40, 48, 56],
        "itemsize": 64,
    }
)
IOVEC = np.dtype([("base", "<u8"), ("length", "<u8")])

_libc = ctypes.CDLL(None, use_errno=True)
_libc.sendmmsg.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int]
_libc.sendmmsg.restype = ctypes.c_int


class SendError(KlaisError):
    """Frames cannot be sent: unknown host, no route, or no permission."""


class Sender:
    """Connected UDP sockets to one address, each with its own source port.

    ``sent`` frames and ``sent_bytes`` are handed to the kernel; ``refused`` counts "port unreachable" responses (the
    frame in flight is then lost, as always with UDP); ``full`` counts waits for a full queue of the network device.
    ``stop`` ends such a wait, which otherwise lasts as long as the queue is full.

    Raises
    ------
    SendError
        If the host is unknown or cannot be reached.
    """

    def __init__(self, host: str, port: int, source_ports: int = 1, stop: Callable[[], bool] = lambda: False) -> None:
        self._stop, self._handed = stop, np.zeros(0, np.bool_)
        self.sent = self.sent_bytes = self.refused = self.full = 0
        self._sockets: list[socket.socket] = []
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
            for _ in range(source_ports):
                sock = socket.socket(family, kind, protocol)
                self._sockets.append(sock)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
                sock.connect(address)
        except OSError as error:
            self.close()
            raise SendError(f"cannot send to {host}:{port}: {error.strerror or error}") from error
        self._iov = np.zeros(SLICE_FRAMES, IOVEC)
        self._headers = np.zeros(SLICE_FRAMES, MMSGHDR)
        self._headers["iov"] = self._iov.ctypes.data + IOVEC.itemsize * np.arange(SLICE_FRAMES, dtype=np.uint64)
        self._headers["iovlen"] = 1

    @property
    def source_ports(self) -> int:
        """Number of sockets."""
        return len(self._sockets)

    @property
    def unsent(self) -> npt.NDArray[np.int64]:
        """Places of the frames of the last :meth:`send` that it did not send, because of ``stop`` or an error."""
        return np.flatnonzero(~self._handed)

    def send(
        self,
        buf: npt.NDArray[np.uint8],
        starts: npt.NDArray[np.int64],
        lengths: npt.NDArray[np.int64],
        lane: npt.NDArray[np.int32] | None = None,
    ) -> None:
        """Send n frames (at most SLICE_FRAMES), frame i being ``buf[starts[i] : starts[i] + lengths[i]]``.

        With several sockets, frames of one ``lane`` (int32 [n], the device) are always sent by the same one, so that a
        device keeps its source address and its order.

        Raises
        ------
        SendError
            If the kernel refuses to send (no route, a firewall).
        """
        self._handed = np.zeros(len(starts), np.bool_)
        if lane is None or len(self._sockets) == 1:
            self._send_by(self._sockets[0], buf, starts, lengths, np.arange(len(starts)))
            return
        which = lane % len(self._sockets)
        for number, sock in enumerate(self._sockets):
            mine = np.flatnonzero(which == number)
            self._send_by(sock, buf, starts[mine], lengths[mine], mine)
            if not self._handed[mine].all():
                return

    def _send_by(
        self,
        sock: socket.socket,
        buf: npt.NDArray[np.uint8],
        starts: npt.NDArray[np.int64],
        lengths: npt.NDArray[np.int64],
        places: npt.NDArray[np.int64],
    ) -> None:
        """Send frames, which have these ``places`` in the slice."""
        n = len(starts)
        self._iov["base"][:n] = buf.ctypes.data + starts.astype(np.uint64)
        self._iov["length"][:n] = lengths
        done = 0
        try:
            while done < n:
                headers = self._headers.ctypes.data + MMSGHDR.itemsize * done
                sent = _libc.sendmmsg(sock.fileno(), headers, n - done, 0)
                if sent >= 0:
                    done += sent
                else:
                    self._wait_after(ctypes.get_errno())
                if done < n and self._stop():
                    break
        finally:  # also the frames before one that the kernel refused are sent
            self._handed[places[:done]] = True
            self.sent += done
            self.sent_bytes += int(lengths[:done].sum())

    def _wait_after(self, error: int) -> None:
        """Count an error of the kernel, and wait until it is worth another try."""
        if error == errno.ECONNREFUSED:
            self.refused += 1  # the response to an earlier frame; reading it clears it
        elif error in (errno.ENOBUFS, errno.EAGAIN):
            self.full += 1
            time.sleep(0.001)
        elif error != errno.EINTR:
            raise SendError(f"sending failed: {os.strerror(error)}")

    def close(self) -> None:
        """Close the sockets."""
        for sock in self._sockets:
            sock.close()
