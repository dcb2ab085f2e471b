"""The one way to compile a kernel: a typed loop over columns, written in Python, compiled by numba.

Compiled code is cached in a folder named by a hash of all kernel sources, numba's and numpy's version and the CPU,
because numba does not notice a change in a function of another file, and two processes that compile at once may
damage each other's files: every compilation here runs under one file lock. A cached kernel is code, and numba's index
files are pickles, so a folder that somebody else could have written is refused.
"""

import hashlib
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from klais.errors import SetupMissing
from klais.system.file_lock import lock_file
from klais.system.paths import cache_root
from klais.system.private_files import check_tree, named_folder, own_folder

COMPILE_WAIT_S = 900.0  # for one holder to compile one kernel


def _fingerprint() -> str:
    from importlib.metadata import version

    digest = hashlib.sha256()
    package = Path(__file__).parent.parent
    for name, text in sorted(_sources_of_kernels(package).items()):
        digest.update(name.encode() + b"\0" + text)
    flags = next((line for line in _cpuinfo() if line.startswith("flags")), platform.processor())
    checks = os.environ.get("NUMBA_BOUNDSCHECK", "")  # compiled differently, and numba's own index does not tell
    for fact in (version("numba"), version("numpy"), platform.machine(), flags, platform.python_version(), checks):
        digest.update(fact.encode())
    return digest.hexdigest()[:16]


def _sources_of_kernels(package: Path) -> dict[str, bytes]:
    """Modules with kernels and all modules of ours that they import: constants and layouts are compiled in."""
    texts = {
        ".".join((package.name, *path.relative_to(package).with_suffix("").parts)): path.read_bytes()
        for path in package.rglob("*.py")
    }
    wanted = [name for name, text in texts.items() if b"@kernel(" in text]
    found: dict[str, bytes] = {}
    while wanted:
        name = wanted.pop()
        if name not in found and name in texts:
            found[name] = texts[name]
            wanted += [module.decode() for module in re.findall(rb"^from (klais[\w.]*) import", texts[name], re.M)]
    return found


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []


def _cache_dir() -> Path:
    """The folder of this code's kernels, which nobody else can have written.

    Raises
    ------
    NotPrivate
        Somebody else owns it, or a part of it, or may write there.
    SetupMissing
        It cannot be made.
    """
    root = cache_root()
    try:
        named_folder(root, "KLAIS_CACHE_DIR")
        folder = own_folder(own_folder(root / "numba") / _fingerprint())
        check_tree(folder, root)
        named = Path(os.environ.get("NUMBA_CACHE_DIR") or folder)
        if named != folder:
            check_tree(named_folder(named, "NUMBA_CACHE_DIR"), named)
        os.environ["NUMBA_CACHE_DIR"] = str(named)
    except OSError as error:
        raise SetupMissing(
            f"compiled kernels cannot be kept in {root}: {error.strerror}. Name a folder that this user may write with "
            "KLAIS_CACHE_DIR"
        ) from error
    return folder


CACHE_DIR = _cache_dir()

import numba  # noqa: E402  (the cache folder must be named first)

numba.config.CACHE_DIR = os.environ["NUMBA_CACHE_DIR"]  # also where another module imported numba before this one


@contextmanager
def _compile_lock() -> Iterator[None]:
    fd = lock_file(CACHE_DIR / ".lock", f"the kernel cache {CACHE_DIR}", COMPILE_WAIT_S, _tell)
    try:
        # At its first kernel numba imports SciPy's linear algebra, which no kernel uses: 20 MB and 0.2 s of every
        # start. None is what the import system takes for "not installed". numba has imported the package itself by
        # now.
        known = {"scipy": sys.modules["scipy"]} if "scipy" in sys.modules else {}
        sys.modules["scipy"] = None  # type: ignore[assignment]
        try:
            yield
        finally:
            del sys.modules["scipy"]
            sys.modules.update(known)
    finally:
        os.close(fd)


def _tell(text: str) -> None:
    sys.stderr.write(f"klais: {text}\n")
    sys.stderr.flush()


def kernel(
    signature: Any = None, borrows: bool = False, inlined: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile ``function`` for ``signature`` now (or load it from the cache), without the GIL, without fast-math.

    Parameters
    ----------
    signature : str, numba signature, or list of them
        As for ``numba.njit``. None compiles at the first call: only for helpers that other kernels inline.
    borrows : bool
        The kernel only borrows its arrays: it makes none and returns none (numba refuses it otherwise), so it keeps no
        reference counts. Without this every call from another kernel costs two atomic operations for each array.
    inlined : bool
        Other kernels take it in whole, however long it is: a call passes each array as seven words.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        with _compile_lock():
            if signature is None:
                return numba.njit(cache=True, nogil=True, inline="never")(function)  # type: ignore[no-any-return]
            options = ({"_nrt": False} if borrows else {}) | ({"forceinline": True} if inlined else {})
            return numba.njit(signature, cache=True, nogil=True, **options)(function)  # type: ignore[no-any-return]

    return decorate


# Array types for signatures. BYTES takes read-only arrays too (a Kafka value is one); the others are C-contiguous
# columns.
BYTES = numba.types.Array(numba.uint8, 1, "C", readonly=True)
U8 = numba.uint8[::1]
U16 = numba.uint16[::1]
U32 = numba.uint32[::1]
U64 = numba.uint64[::1]
I32 = numba.int32[::1]
I64 = numba.int64[::1]
F64 = numba.float64[::1]
IDS = numba.uint64[:, ::1]
boolean, uint8, int32, int64, uint32, uint64, float64, void = (
    numba.boolean,
    numba.uint8,
    numba.int32,
    numba.int64,
    numba.uint32,
    numba.uint64,
    numba.float64,
    numba.void,
)
