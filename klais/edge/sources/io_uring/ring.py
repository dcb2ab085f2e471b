"""An io_uring instance with plain system calls: rings mapped as numpy arrays, one request to submit, completions to
wait for.

The PyPI package ``liburing`` was tried and is not used: it creates one Python object per completion and needs one call
per returned buffer, which columns for a whole batch avoid.
"""

import ctypes
import errno
import mmap
import os
import struct

import numpy as np
import numpy.typing as npt

_SYS_SETUP, _SYS_ENTER, _SYS_REGISTER = 425, 426, 427  # same on all architectures
_SETUP_CQSIZE, _SETUP_SINGLE_ISSUER, _SETUP_DEFER_TASKRUN = 1 << 3, 1 << 12, 1 << 13
_ENTER_GETEVENTS, _ENTER_EXT_ARG = 1 << 0, 1 << 3
_REGISTER_PBUF_RING = 22
_OFF_SQ_RING, _OFF_SQES = 0, 0x10000000
_FEAT_SINGLE_MMAP, _FEAT_EXT_ARG = 1 << 0, 1 << 8
_SQE_BYTES, _CQE_BYTES, _BUFFER_BYTES = 64, 16, 16

_OP_RECVMSG = 10
_IOSQE_BUFFER_SELECT = 1 << 5
_RECV_MULTISHOT = 1 << 1

_libc = ctypes.CDLL(None, use_errno=True)


def _call(number: int, *arguments: object) -> int:
    """Make a system call; returns its result, or -errno. Numbers are passed as long, because the upper half of an int
    on the stack is undefined.
    """
    words = (ctypes.c_long(word) if isinstance(word, int) else word for word in arguments)
    result: int = _libc.syscall(ctypes.c_long(number), *words)
    return result if result >= 0 else -ctypes.get_errno()


class Uring:
    """One instance, used by the thread that created it: the kernel works for it only while that thread asks for
    completions.

    Parameters
    ----------
    completions : int
        Size of the completion ring, a power of two.

    Attributes
    ----------
    tail, head : uint32 [1]
        Indices of the completion ring.
    ring : uint32 [completions, 4]
        Its entries.

    Raises
    ------
    OSError
        If io_uring is not available, or older than Linux 6.1.
    """

    def __init__(self, completions: int) -> None:
        flags = _SETUP_CQSIZE | _SETUP_SINGLE_ISSUER | _SETUP_DEFER_TASKRUN
        params = (ctypes.c_uint32 * 30)()  # struct io_uring_params: ten words, then the offsets of both rings
        params[1], params[2] = completions, flags
        self.fd = _call(_SYS_SETUP, 1, ctypes.byref(params))
        if self.fd < 0:
            raise OSError(-self.fd, _why_not(-self.fd))
        try:
            self._map_rings(params)
        except BaseException:  # the next source is tried in this process
            self.close()
            raise
        self._timeout = (ctypes.c_int64 * 2)()
        self._wait = ctypes.create_string_buffer(struct.pack("=QIIQ", 0, 0, 0, ctypes.addressof(self._timeout)), 24)
        self._to_submit = 0

    def _map_rings(self, params: "ctypes.Array[ctypes.c_uint32]") -> None:
        features = params[5]
        if not features & _FEAT_SINGLE_MMAP or not features & _FEAT_EXT_ARG:
            raise OSError(errno.ENOSYS, "io_uring needs Linux 6.1 or newer")
        sq, cq = params[10:20], params[20:30]
        size = max(sq[6] + 4 * params[0], cq[5] + _CQE_BYTES * params[1])
        self._map = mmap.mmap(self.fd, size, mmap.MAP_SHARED | mmap.MAP_POPULATE, offset=_OFF_SQ_RING)
        self._sqes = mmap.mmap(self.fd, _SQE_BYTES * params[0], mmap.MAP_SHARED | mmap.MAP_POPULATE, offset=_OFF_SQES)
        self.head, self.tail = self._word(cq[0]), self._word(cq[1])
        self.ring = np.frombuffer(self._map, np.uint32, 4 * params[1], cq[5]).reshape(-1, 4)
        self._sq_tail, self._sq_array = self._word(sq[1]), self._word(sq[6])

    def _word(self, offset: int) -> npt.NDArray[np.uint32]:
        return np.frombuffer(self._map, np.uint32, 1, offset)

    def register_buffer_ring(self, entries: int) -> npt.NDArray[np.uint8]:
        """Register a ring of provided buffers as group 0; returns its memory, uint8 [16 * entries]."""
        self._buffer_ring = mmap.mmap(-1, max(_BUFFER_BYTES * entries, mmap.PAGESIZE))
        memory = np.frombuffer(self._buffer_ring, np.uint8, _BUFFER_BYTES * entries)
        request = struct.pack("=QIHH3Q", memory.ctypes.data, entries, 0, 0, 0, 0, 0)
        result = _call(_SYS_REGISTER, self.fd, _REGISTER_PBUF_RING, request, 1)
        if result < 0:
            raise OSError(
                -result, f"a ring of provided buffers was refused ({os.strerror(-result)}): it needs Linux 5.19"
            )
        return memory

    def receive_messages(self, socket_fd: int, message_at: int) -> None:
        """Prepare a multishot ``recvmsg`` into buffers of group 0; the next :meth:`enter` submits it.

        ``message_at`` is the address of a ``struct msghdr`` with the sizes for name and control data.
        """
        head = struct.pack("=BBHiQQIIQHHi", _OP_RECVMSG, _IOSQE_BUFFER_SELECT, _RECV_MULTISHOT, socket_fd,
                           0, message_at, 1, 0, 0, 0, 0, 0)  # fmt: skip
        self._sqes[:_SQE_BYTES] = head.ljust(_SQE_BYTES, b"\0")
        self._sq_array[0] = 0
        self._sq_tail[0] += np.uint32(1)  # read by the kernel in enter(), in this thread
        self._to_submit = 1

    def enter(self, wait_ns: int) -> int:
        """Submit the prepared request and let the kernel complete it; waits up to ``wait_ns`` for one completion.

        Returns
        -------
        int
            0, or errno of the error (EINTR, ETIME among them).
        """
        self._timeout[0], self._timeout[1] = divmod(wait_ns, 1_000_000_000)
        result = _call(
            _SYS_ENTER, self.fd, self._to_submit, 1 if wait_ns else 0, _ENTER_GETEVENTS | _ENTER_EXT_ARG, self._wait, 24
        )
        if result < 0:
            return -result
        self._to_submit = 0
        return 0

    def close(self) -> None:
        """End all requests. Arrays stay readable."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _why_not(code: int) -> str:
    if code == errno.ENOSYS:
        return "this kernel has no io_uring"
    if code == errno.EPERM:
        return "io_uring is switched off here (sysctl kernel.io_uring_disabled, or a seccomp filter)"
    if code == errno.EINVAL:
        return "io_uring needs Linux 6.1 or newer"
    return f"io_uring: {os.strerror(code)}"
