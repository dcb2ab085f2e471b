"""The bill of materials, CycloneDX 1.6: ``python -m deploy.sbom`` prints the image's packages, by version and hash.

It is built from the files that define the contents: the lock of the Python packages, the list of the vendored scripts
of the live page, and the jars of the embedded Apache Kafka (an image without it has none of them).
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from klais import __version__

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements.lock"
VENDORED = ROOT / "klais" / "ui" / "static" / "vendor" / "VENDOR.json"
JARS = ROOT / "klais" / "broker" / "jars.sha512"
_PACKAGE = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)((?:.*\\\n)*.*)$", re.MULTILINE)
_JAR = re.compile(r"^([0-9a-f]{128}) [ *](?:.*/)?(.+?)-(\d[^/]*)\.jar$")


def bill() -> dict[str, Any]:
    """The document; deterministic for the same files."""
    own = {"type": "application", "bom-ref": "klais", "name": "klais", "version": __version__}
    parts = [*packages(LOCK.read_text("utf-8")), *scripts(), *jars()]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": own | {"licenses": [{"license": {"id": "MIT"}}]}},
        "components": parts,
        "dependencies": [{"ref": "klais", "dependsOn": [part["bom-ref"] for part in parts]}],
    }


def packages(lock: str) -> list[dict[str, Any]]:
    """The Python packages of a lock file, each with the hashes of the files that may be installed."""
    return [
        _part("pypi", name, version, [("SHA-256", each) for each in re.findall(r"sha256:([0-9a-f]{64})", rest)])
        for name, version, rest in _PACKAGE.findall(lock)
    ]


def scripts() -> list[dict[str, Any]]:
    """The vendored packages of the page; each file of one is a part of it."""
    found: dict[str, dict[str, Any]] = {}
    for name, file in json.loads(VENDORED.read_text("utf-8")).items():
        package, _, version = file["package"].rpartition("@")
        licence = [{"license": {"id": file["licence"]}}]
        part = found.setdefault(package, _part("npm", package, version, []) | {"licenses": licence, "components": []})
        hashes = [{"alg": "SHA-256", "content": file["sha256"]}]
        ref = f"{part['bom-ref']}#{name}"
        part["components"].append({"type": "file", "bom-ref": ref, "name": name, "hashes": hashes})
    return [{key: value for key, value in part.items() if value} for part in found.values()]


def jars() -> list[dict[str, Any]]:
    """The jars of the embedded Apache Kafka. The list has no Maven groups, so they are named without one."""
    found = (_JAR.match(line) for line in JARS.read_text("utf-8").splitlines())
    return [_part("generic", jar[2], jar[3], [("SHA-512", jar[1])]) for jar in found if jar]


def _part(kind: str, name: str, version: str, hashes: list[tuple[str, str]]) -> dict[str, Any]:
    url = f"pkg:{kind}/{name.lower()}@{version.replace('+', '%2B')}"
    listed = [{"alg": algorithm, "content": content} for algorithm, content in hashes]
    return {"type": "library", "bom-ref": url, "name": name, "version": version, "purl": url, "hashes": listed}


if __name__ == "__main__":
    json.dump(bill(), sys.stdout, indent=1)
    print()
