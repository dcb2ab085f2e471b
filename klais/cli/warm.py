"""``klais warm``: compile every kernel into the cache, so that no process compiles inside a consumer group."""

import importlib
import time
from pathlib import Path

import click

import klais
from klais.cli.printing import say, say_json, say_part

_MARK = "@" + "kernel("  # in two parts: the kernel cache is named by all files that contain it


def kernel_modules() -> list[str]:
    """Names of all modules of klais that define a kernel, found by their text (importing them would compile them)."""
    package = Path(klais.__file__).parent
    found = []
    for path in sorted(package.rglob("*.py")):
        if any(line.startswith(_MARK) for line in path.read_text().splitlines()):
            found.append(".".join(["klais", *path.relative_to(package).with_suffix("").parts]))
    return found


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object: seconds in all and by module, cache folder.")
@click.option("-q", "--quiet", is_flag=True, help="Print only the last line.")
def warm(as_json: bool, quiet: bool) -> None:
    """Compile the kernels into the cache (KLAIS_CACHE_DIR, else ~/.cache/klais).

    Takes some ten seconds the first time and after an upgrade, about a second when the cache is complete. Edge and
    worker compile at their start; run it before, where they must start quickly (in an image, after an upgrade).
    """
    names = kernel_modules()
    began = time.perf_counter()
    seconds = {}
    for number, name in enumerate(names, 1):
        if not (as_json or quiet):
            say_part(f"[{number}/{len(names)}] {name} ")
        start = time.perf_counter()
        importlib.import_module(name)
        seconds[name] = round(time.perf_counter() - start, 3)
        if not (as_json or quiet):
            say(f"{seconds[name]:.1f} s")
    total = time.perf_counter() - began
    from klais.jit.kernel import CACHE_DIR

    if as_json:
        say_json({"seconds": round(total, 3), "modules": seconds, "cache": str(CACHE_DIR)})
    else:
        say(f"{len(names)} kernel modules ready in {total:.1f} s; cache: {CACHE_DIR}")
