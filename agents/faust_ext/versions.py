"""The versions of the libraries whose private parts this project uses (see COMPAT.md)."""

from importlib.metadata import PackageNotFoundError, version

from packaging.specifiers import SpecifierSet

from klais.errors import SetupMissing

TESTED = {
    "faust-streaming": "==0.15.3",
    "mode-streaming": "==0.7.1",
    "aiokafka": ">=0.14,<0.15",
    "numba": ">=0.60,<0.69",
}
"""Distribution -> versions tested with ``tests/compat``; the same as in pyproject.toml."""


def assert_versions() -> None:
    """Check the installed versions.

    Raises
    ------
    SetupMissing
        Lists each distribution that is missing or has another version, with the fix.
    """
    wrong = [problem for name, wanted in TESTED.items() if (problem := _problem(name, wanted))]
    if wrong:
        raise SetupMissing(
            f"this worker cannot run with {'; '.join(wrong)}. It uses private parts of these libraries. "
            "Install the tested versions with `pip install .` in the folder of KLAIS. To move to newer ones, run "
            "`pytest tests/compat`, which lists the changes, then adapt the code in agents/faust_ext/COMPAT.md "
            "and agents/faust_ext/versions.py"
        )


def _problem(name: str, wanted: str) -> str | None:
    try:
        found = version(name)
    except PackageNotFoundError:
        return f"no {name} (needs {name}{wanted})"
    return None if SpecifierSet(wanted).contains(found, prereleases=True) else f"{name} {found} (needs {name}{wanted})"
