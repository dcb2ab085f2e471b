"""``klais version``: installed versions, for bug reports and benchmarks. It imports none of the packages."""

import platform
from importlib import metadata

import click

from klais import __version__
from klais.cli.printing import say, say_json
from klais.system.paths import cache_root

PACKAGES = {
    "numpy": "numpy",
    "numba": "numba",
    "faust": "faust-streaming",
    "aiokafka": "aiokafka",
    "confluent-kafka": "confluent-kafka",
    "aiohttp": "aiohttp",
    "orjson": "orjson",
    "lz4": "lz4",
    "scikit-learn": "scikit-learn",
}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object; null = not installed.")
def version(as_json: bool) -> None:
    """Print the versions of klais and its libraries. Paste them into a bug report.

    \b
    Examples:
      klais version
      klais version --json | jq .kafka
    """
    found = versions()
    if as_json:
        say_json(found)
        return
    width = max(map(len, found))
    for name, text in found.items():
        say(f"{name:{width}}  {text or 'not installed'}")


def versions() -> dict[str, str | None]:
    """Name and version of klais, Python, the libraries, the kernel and Kafka's jars; None = not installed."""
    found: dict[str, str | None] = {"klais": __version__, "python": platform.python_version()}
    found |= {name: _package(distribution) for name, distribution in PACKAGES.items()}
    found["librdkafka"] = _librdkafka()
    found["kernel"] = f"{platform.system()} {platform.release()} {platform.machine()}"
    found["kafka"] = kafka_jar_version()
    return found


def _package(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _librdkafka() -> str | None:
    try:
        from confluent_kafka import libversion
    except ImportError:
        return None
    return str(libversion()[0])


def kafka_jar_version() -> str | None:
    """Version of the newest Kafka broker jar in the cache folder, from its file name."""
    found = [jar.stem.removeprefix("kafka_2.13-") for jar in cache_root().rglob("kafka_2.13-*.jar")]
    return max(found, key=_order, default=None)


def _order(text: str) -> list[int]:
    return [int(part) if part.isdigit() else -1 for part in text.split(".")]
