"""``klais warm``: compile every kernel, so that no process compiles inside a consumer group."""

import importlib
import platform
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from klais.cli.printing import say, say_json, say_part
from klais.errors import SetupMissing
from klais.jit.cached import remove_unused
from klais.jit.library import NoLibrary, library_folder, open_library, shipped_folder
from klais.jit.machine import X86_LEVELS
from klais.jit.options import wants_jit
from klais.jit.sources import kernel_modules, package_folder
from klais.system.paths import cache_root


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object: total seconds, and the created files.")
@click.option("-q", "--quiet", is_flag=True, help="Print only the last line.")
@click.option(
    "--level",
    "wanted",
    multiple=True,
    type=click.Choice([*X86_LEVELS, "arm64", "all"]),
    help="A library for this CPU level, or all of this architecture; may be given several times. Default: this CPU's.",
)
def warm(as_json: bool, quiet: bool, wanted: tuple[str, ...]) -> None:
    """Compile the kernels into a library in the cache (KLAIS_CACHE_DIR, else ~/.cache/klais).

    It takes about a minute the first time and after an upgrade. An existing library is kept; kernels of other versions
    that no process used for 30 days are removed. Processes load the library and do not import numba. A linker must be
    installed (Debian's package binutils).

    Without a library, with KLAIS_JIT=1 and with bounds checks (NUMBA_BOUNDSCHECK=1), processes compile the kernels with
    numba, which has its own cache. With these variables, or without a linker, this command fills that cache.
    """
    began = time.perf_counter()
    try:
        about = _fill_cache(quiet or as_json) if wants_jit() else _make_library(wanted)
    except SetupMissing as error:
        if wanted:
            raise
        say(f"{error}. numba compiles into its cache, and processes start more slowly", err=True)
        about = _fill_cache(quiet or as_json)
    for folder in cache_root() / "kernels", cache_root() / "numba":
        remove_unused(folder, used=Path(about.get("library") or about["cache"]))
    about["seconds"] = round(time.perf_counter() - began, 3)
    if as_json:
        say_json(about)
    else:
        say(f"kernels ready in {about['seconds']:.1f} s: {about.get('library') or about['cache']}")


def _make_library(wanted: tuple[str, ...]) -> dict[str, Any]:
    """Create the library unless a matching one exists, or levels were requested by name."""
    if "all" in wanted:
        wanted = tuple(X86_LEVELS) if platform.machine() == "x86_64" else ("arm64",)
    if not wanted:
        with suppress(NoLibrary):
            open_library()
            made_here = library_folder(package_folder())
            found = made_here if made_here.exists() else shipped_folder(package_folder())
            return {"library": str(found), "made": False}
    from klais.jit.build import build_library

    return {"library": str(build_library(wanted, report_waiting=lambda text: say(text, err=True))), "made": True}


def _fill_cache(quiet: bool) -> dict[str, Any]:
    """Compile all kernels into numba's own cache."""
    names = kernel_modules(package_folder())
    seconds = {}
    for number, name in enumerate(names, 1):
        if not quiet:
            say_part(f"[{number}/{len(names)}] {name} ")
        start = time.perf_counter()
        importlib.import_module(name)
        seconds[name] = round(time.perf_counter() - start, 3)
        if not quiet:
            say(f"{seconds[name]:.1f} s")
    from klais.jit.compiler import CACHE_DIR

    return {"modules": seconds, "cache": str(CACHE_DIR)}
