"""The compiler process: compiles the filter's C to BPF instructions with bcc, and writes them to standard output.

``python3 -I bcc_child.py FOLDER MAIN FUNCTION [-Dname=value ...]``, started by :mod:`klais.xdp.build` without
privileges, with an empty environment, by Debian's own Python: it imports only the standard library and bcc.
"""

import ctypes
import os
import sys

BCC = "/usr/lib/python3/dist-packages"  # Debian's python3-bpfcc; PyPI's package bcc is a different one
_PR_SET_DUMPABLE = 4


def main(folder: str, source: str, function: str, *flags: str) -> int:
    """Compile ``function`` of ``source``, a file in ``folder``."""
    # Root loads the output of this process, so no other process of this user may attach to it and change the output.
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    out = os.dup(1)
    os.dup2(2, 1)  # bcc and clang print to both
    sys.path.append(BCC)
    try:
        from bcc import BPF
    except ImportError as error:
        print(f"Debian's python3-bpfcc is not installed ({error})", file=sys.stderr)
        return 1
    if not hasattr(BPF, "XDP"):
        print("the Python package bcc found here is not the BPF Compiler Collection: uninstall it", file=sys.stderr)
        return 1
    try:
        code = BPF(src_file=f"{folder}/{source}".encode(), cflags=[f"-I{folder}", *flags]).dump_func(function.encode())
    except Exception as error:  # bcc raises bare Exception
        print(str(error), file=sys.stderr)
        return 1
    with os.fdopen(out, "wb") as file:
        file.write(code)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
