"""Count work instead of time: bytes that a kernel reads, lines that Python runs."""

import gc
import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType, ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

import klais.jit.kernel

KERNEL_MODULES = ("json_number", "frame", "json_scan", "json_locate")


class CountedBytes:
    """Bytes for an interpreted kernel that count each element read."""

    def __init__(self, data: bytes) -> None:
        self._data: npt.NDArray[np.uint8] = np.frombuffer(data, np.uint8)
        self.shape = self._data.shape
        self.reads = 0

    def __getitem__(self, at: int) -> np.uint8:
        assert 0 <= at < self.shape[0], f"read at {at} of {self.shape[0]} bytes"
        self.reads += 1
        return self._data[at]  # type: ignore[no-any-return]


def interpreted(names: Sequence[str] = KERNEL_MODULES) -> dict[str, ModuleType]:
    """Second copies of modules in ``klais.core.wire`` whose kernels are plain functions that call each other."""

    def plain(*_: Any, **__: Any) -> Callable[[Any], Any]:
        return lambda function: function

    full = [f"klais.core.wire.{name}" for name in names]
    kept = {name: sys.modules.get(name) for name in full}
    compiled, found = klais.jit.kernel.kernel, {}
    klais.jit.kernel.kernel = plain
    try:
        for name, whole in zip(names, full, strict=True):
            spec = importlib.util.find_spec(whole)
            assert spec is not None and spec.loader is not None
            sys.modules[whole] = found[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(found[name])
    finally:
        klais.jit.kernel.kernel = compiled
        for whole, module in kept.items():
            sys.modules.pop(whole, None)
            if module is not None:
                sys.modules[whole] = module
    return found


class Lines:
    """Number of executed lines of Python."""

    count = 0


@contextmanager
def lines_run(max_count: int) -> Iterator[Lines]:
    """Count the lines of Python that the block runs, in any file; raise AssertionError at more than ``max_count``."""
    lines = Lines()

    def trace(_frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "line":
            lines.count += 1
            assert lines.count <= max_count, f"more than {max_count} lines of Python"
        return trace

    before = sys.gettrace()
    gc.disable()  # calls from garbage collection are not work of the block
    sys.settrace(trace)
    try:
        yield lines
    finally:
        sys.settrace(before)
        gc.enable()
