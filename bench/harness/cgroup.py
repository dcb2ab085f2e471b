"""A control group with a fixed share of CPU time, for the part of the system whose capacity must stay constant
(cgroups(7)).
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.harness import BenchUnavailable

MOUNT = Path("/sys/fs/cgroup")
PERIOD_US = 10_000  # short: a process that has used its share waits a few ms, not the usual 100


@contextmanager
def cpu_limited(share: float, period_us: int = PERIOD_US) -> Iterator[Path]:
    """A group whose processes together get ``share`` of a CPU; move a process with :func:`enter`. Removed at the end.

    Raises
    ------
    BenchUnavailable
        If the group cannot be created: not root, or the controller is missing.
    """
    unified = (MOUNT / "cgroup.controllers").exists()
    base = MOUNT if unified else MOUNT / "cpu"
    group = base / f"klais-bench-{os.getpid()}"
    quota_us = max(1000, round(share * period_us))  # the kernel accepts no less than 1 ms
    try:
        if unified:
            (MOUNT / "cgroup.subtree_control").write_text("+cpu")
        group.mkdir()
        if unified:
            (group / "cpu.max").write_text(f"{quota_us} {period_us}")
        else:
            (group / "cpu.cfs_period_us").write_text(str(period_us))
            (group / "cpu.cfs_quota_us").write_text(str(quota_us))
    except OSError as error:
        if group.is_dir():
            group.rmdir()
        raise BenchUnavailable(
            f"no control group with a share of CPU can be made in {base}: {error}. Run it as root, outside a container"
        ) from error
    try:
        yield group
    finally:
        _remove(group)


def enter(group: Path, pid: int) -> None:
    """Move a process with all of its threads into the group."""
    (group / "cgroup.procs").write_text(str(pid))


def _remove(group: Path) -> None:
    """Remove the group; a process still in it is a child of ours that did not end."""
    until_s = time.monotonic() + 5.0
    while True:
        for pid in (group / "cgroup.procs").read_text().split():
            os.kill(int(pid), signal.SIGKILL)
        try:
            group.rmdir()
            return
        except OSError:
            if time.monotonic() > until_s:
                raise
            time.sleep(0.1)
