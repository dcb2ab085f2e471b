"""A source that cannot be opened completely leaves nothing open: the edge goes on with another one."""

import errno
import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from klais.edge.sources.io_uring import ring as io_uring
from klais.edge.sources.ringbuf import ring as ringbuf
from klais.system.file_lock import try_lock


def no_memory(*_args: object, **_options: object) -> Any:
    raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


def test_an_io_uring_whose_rings_cannot_be_mapped_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []

    def set_up(_number: int, _entries: int, params: Any) -> int:
        params._obj[5] = io_uring._FEAT_SINGLE_MMAP | io_uring._FEAT_EXT_ARG
        opened.append(os.open(os.devnull, os.O_RDONLY))
        return opened[0]

    monkeypatch.setattr(io_uring, "_call", set_up)
    monkeypatch.setattr(io_uring.mmap, "mmap", no_memory)
    with pytest.raises(OSError, match="Cannot allocate memory"):
        io_uring.Uring(64)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened[0])


def test_a_ring_buffer_that_cannot_be_mapped_stays_free_for_another_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ringbuf, "reader_folder", lambda pin_dir: tmp_path)
    monkeypatch.setattr(ringbuf.bpf, "map_info", lambda fd: SimpleNamespace(id=1, entries=4096))
    maps = SimpleNamespace(fd=lambda name: 0, count_rows=no_memory)
    with pytest.raises(OSError, match="Cannot allocate memory"):
        ringbuf.SlotRing(SimpleNamespace(maps=maps, lock=threading.Lock(), pin_dir=tmp_path))
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        assert try_lock(folder)
    finally:
        os.close(folder)
