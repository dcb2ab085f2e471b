"""The files that compiled kernels depend on: their own, and all modules of ours that these import."""

import re
from pathlib import Path

_MARK = b"@kernel("
_IMPORT = re.compile(rb"^from (klais[\w.]*) import", re.M)


def package_folder() -> Path:
    """The folder of the klais package."""
    return Path(__file__).parent.parent


def sources_of_kernels(package: Path) -> dict[str, bytes]:
    """Modules with kernels and all modules of ours that they import: constants and layouts are compiled in.

    Returns
    -------
    dict of str to bytes
        Module name -> its text. Includes all of ``klais.jit``, which compiles, but not modules that only it imports.
    """
    texts = {
        ".".join((package.name, *path.relative_to(package).with_suffix("").parts)): path.read_bytes()
        for path in package.rglob("*.py")
    }
    compiler = f"{package.name}.jit."
    found = {name: text for name, text in texts.items() if name.startswith(compiler)}
    wanted = [name for name, text in texts.items() if _MARK in text and name not in found]
    while wanted:
        name = wanted.pop()
        if name not in found and name in texts:
            found[name] = texts[name]
            wanted += [module.decode() for module in _IMPORT.findall(texts[name])]
    return found


def kernel_modules(package: Path) -> list[str]:
    """Names of all modules that define a kernel, found by their text (importing them would compile the kernels)."""
    found = []
    for path in sorted(package.rglob("*.py")):
        if any(line.startswith(_MARK) for line in path.read_bytes().splitlines()):
            found.append(".".join((package.name, *path.relative_to(package).with_suffix("").parts)))
    return found
