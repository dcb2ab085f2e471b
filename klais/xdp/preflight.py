"""Check by trying whether this machine can run the XDP filter: ``python -m klais.xdp.preflight [--rights]``.

Exit code 0 if it can, else 1 with the reason on standard output. ``--rights`` checks only kernel and rights, as the
set-up does before it installs the rest.
"""

import ctypes
import os
import platform
import re
import sys

from klais.errors import KlaisError
from klais.xdp import bpf
from klais.xdp.layout import ARRAY

MIN_KERNEL = (5, 15)
_CLONE_NEWNET = 0x40000000


def without_rights() -> str | None:
    """Why the kernel would not accept a filter from this process, or None."""
    numbers = tuple(int(part) for part in re.findall(r"\d+", platform.release())[:2])
    if platform.system() != "Linux" or numbers < MIN_KERNEL:
        return f"{platform.system()} {platform.release()} is older than Linux 5.15"
    if os.geteuid() != 0:
        return "this is not root"
    try:
        os.close(bpf.map_create(ARRAY, 4, 8, 1, 0, "klais_try"))
    except OSError as error:
        return f"bpf(2) is refused here ({error.strerror}), as in a container without CAP_BPF"
    return None


def why_not() -> str | None:
    """Why the filter and its tests cannot run here, or None."""
    return without_rights() or _without_namespaces() or _without_filter()


def _without_namespaces() -> str | None:
    pid = os.fork()
    if pid == 0:
        os._exit(0 if ctypes.CDLL(None).unshare(_CLONE_NEWNET) == 0 else 1)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        return "no network namespace can be created here (CAP_SYS_ADMIN)"
    return None


def _without_filter() -> str | None:
    from klais.xdp.limits import Limits
    from klais.xdp.test_run import loaded_filter

    try:
        with loaded_filter(Limits(1000, 1000, 1000, 1000)) as filter_:
            filter_.judge(bytes(64))
    except (KlaisError, OSError) as error:
        return str(error).splitlines()[0]
    return None


def main(arguments: list[str]) -> int:
    """Run the checks; see the module."""
    reason = without_rights() if "--rights" in arguments else why_not()
    if reason:
        print(reason)
    return 1 if reason else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
