"""Capabilities of this machine's CPU: its flags, and the instruction level that a library of kernels may use.

The levels of x86-64 are those of its psABI (https://gitlab.com/x86-psABIs/x86-64-ABI): v2 is any CPU since 2009, v3 has
AVX2, v4 AVX-512. Compilers use the same names.
"""

import platform

_V2 = frozenset(["cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"])
_V3 = _V2 | frozenset(["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"])
_V4 = _V3 | frozenset(["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"])
X86_LEVELS = {"x86-64-v4": _V4, "x86-64-v3": _V3, "x86-64-v2": _V2}  # best first


def cpu_flags() -> list[str]:
    """The flags of the first CPU, as named by Linux; the name of the processor if there are none."""
    try:
        with open("/proc/cpuinfo", "rb") as file:
            head = file.read(16_384).decode(errors="replace")
    except OSError:
        head = ""
    for line in head.splitlines():
        if line.startswith(("flags", "Features")):
            return line.partition(":")[2].split()
    return [platform.processor()]


def levels() -> list[str]:
    """The levels whose instructions this CPU has, best first; empty if kernels are not compiled ahead of time."""
    machine = platform.machine()
    if machine == "x86_64":
        flags = set(cpu_flags())
        return [name for name, needs in X86_LEVELS.items() if needs <= flags]
    return ["arm64"] if machine == "aarch64" else []


def target(level: str) -> tuple[str, str]:
    """LLVM's names of a level: CPU and features."""
    return ("generic", "+neon") if level == "arm64" else (level, "")
